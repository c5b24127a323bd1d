"""The table of families, and what is refused before any weight is read."""

import re
from pathlib import Path

import pytest

from bort.errors import BortError
from bort.models.hf_config import OWN_FAMILIES
from bort.teachers.families import FAMILIES, build_config, measure_config

TINY = {"vocab_size": 30, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no model_type"),
        ({"model_type": "gpt2"}, r"\(gpt2\) is a decoder; a teacher is an encoder"),
        ({"model_type": "llama"} | TINY, r"\(llama\) is a decoder"),
        ({"model_type": "electra", "is_decoder": True} | TINY, r"\(electra\) is a decoder"),
        ({"model_type": "t5"}, r"\(t5\) is an encoder-decoder"),
        ({"model_type": "bart"}, r"\(bart\) is an encoder-decoder"),
        ({"model_type": "vit"}, r"\(vit\) is no encoder of texts"),
        ({"model_type": "distillbert"}, "model_type=distillbert, which is unknown; did you mean"),
        (
            {"model_type": "new", "auto_map": {"AutoModel": "modeling.New"}},
            "'new', which needs code from its folder; that is never run",
        ),
        ({"model_type": "mpnet", "quantization_config": {"bits": 4}}, "is quantized"),
        ({"model_type": "electra", "hidden_size": "wide"}, "cannot be read as electra"),
    ],
)
def test_what_cannot_teach_is_one_line(settings, message, tmp_path):
    with pytest.raises(BortError, match=message) as error:
        path = tmp_path / "config.json"
        measure_config(build_config(settings, path), path)
    assert "\n" not in str(error.value)


def test_a_shape_is_read_without_weights(tmp_path):
    settings = {"model_type": "electra", "pad_token_id": 3, "max_position_embeddings": 20} | TINY
    shape = measure_config(build_config(settings, tmp_path), tmp_path)
    assert str(shape.arch) == "⟨1,2,8,1024⟩"
    assert (shape.vocab_size, shape.limit, shape.pad_id) == (30, 20, 3)


def test_the_page_shows_the_table():
    """Each row of docs/teachers.md, in the order of the code: name, who opens it, relations."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "teachers.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| `([\w-]+)` \| (\w+) \| (yes|no) \|", page, re.MULTILINE)
    expected = []
    for kind, family in FAMILIES.items():
        is_ours = kind in OWN_FAMILIES
        gives = "yes" if is_ours or family.projections else "no"
        expected.append((family.title, kind, "bort" if is_ours else "transformers", gives))
    assert rows == expected
