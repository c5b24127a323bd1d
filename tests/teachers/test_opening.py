"""From a folder to its teacher."""

import pytest
from safetensors.torch import load_file, save_file
from teacher_folders import make_folder

from bort.errors import BortError
from bort.teachers.opening import open_teacher


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("bert", "cls."),
        ("distilbert", "vocab_"),
        ("electra", "generator_"),
        ("deberta-v2", "cls."),
    ],
)
def test_a_head_that_is_missing_counts_as_none(kind, head, tmp_path):
    make_folder(tmp_path, kind)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    assert [name for name in weights if name.startswith(head)]
    left = {name: weight for name, weight in weights.items() if not name.startswith(head)}
    save_file(left, path, metadata={"format": "pt"})
    assert open_teacher(tmp_path).gives == {"hidden", "relations"}


def test_a_weight_of_the_encoder_that_is_missing_is_an_error(tmp_path):
    make_folder(tmp_path, "mpnet")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = "mpnet.encoder.layer.1.attention.attn.q.weight"
    weights.pop(name)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BortError, match=f"lacks the weight {name}; fetch the model again"):
        open_teacher(tmp_path)


def test_pickled_weights_of_other_families_are_not_read(tmp_path):
    make_folder(tmp_path, "distilbert")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BortError, match="holds no safetensors, and no other weights are read"):
        open_teacher(tmp_path)
