"""Models of other families as they come: fine-tuned, headless, outside of the table, damaged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from teacher_folders import make_folder
from transformers import AutoModel, AutoModelForSequenceClassification

from bort.errors import BortError
from bort.teachers.opening import open_teacher

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS != 0).long()


@pytest.mark.parametrize(
    "kind", ["bert", "xlm-roberta", "camembert", "distilbert", "albert", "deberta-v2", "modernbert"]
)
def test_a_fine_tuned_model_answers_its_task(kind, tmp_path):
    model = make_folder(tmp_path, kind, AutoModelForSequenceClassification, num_labels=3)
    teacher = open_teacher(tmp_path)
    assert teacher.gives == {"hidden", "relations", "task"}
    ids = torch.where(MASK.bool(), IDS, teacher.pad_id)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=MASK).logits
    answers = teacher.compute_answers(ids, MASK, torch.zeros_like(ids))
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(BortError, match="gives hidden and relations and task, but no logits"):
        teacher.compute_logits(ids, torch.tensor([1]), MASK)


def test_a_classifier_whose_head_is_missing_is_an_encoder(tmp_path):
    make_folder(tmp_path, "distilbert", AutoModelForSequenceClassification)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    left = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    assert len(left) < len(weights)
    save_file(left, path, metadata={"format": "pt"})
    assert open_teacher(tmp_path).gives == {"hidden", "relations"}


def test_a_family_outside_of_the_table_is_tried(tmp_path):
    make_folder(tmp_path / "squeezed", "squeezebert", embedding_size=16)
    teacher = open_teacher(tmp_path / "squeezed")
    assert teacher.gives == {"logits", "hidden"}
    make_folder(tmp_path / "fnet", "fnet")  # it mixes all tokens, those of padding too
    with pytest.raises(BortError, match=r"\('fnet'\) cannot teach: padding changes its states"):
        open_teacher(tmp_path / "fnet")


def test_a_bare_encoder_without_a_masked_lm_of_its_family_gives_states(tmp_path):
    make_folder(tmp_path, "splinter", AutoModel)
    assert open_teacher(tmp_path).gives == {"hidden"}


def test_weights_that_are_no_numbers_are_named(tmp_path):
    model = make_folder(tmp_path, "mpnet")
    with torch.no_grad():
        model.lm_head.bias[3] = torch.inf
    model.save_pretrained(tmp_path)
    with pytest.raises(BortError, match="lm_head.bias holds numbers that are infinite"):
        open_teacher(tmp_path)


def test_nothing_of_transformers_is_on_the_screen(tmp_path, capfd):
    """Neither a bar, nor a list of missing weights, nor notes on ids in config.json."""
    make_folder(tmp_path, "modernbert")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    weights.pop("decoder.bias")
    save_file(weights, path, metadata={"format": "pt"})
    capfd.readouterr()
    assert "logits" not in open_teacher(tmp_path).gives
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 32, "hidden_dim": 48}, "cannot be opened as distilbert: "),
        ({"vocab_size": 10**9}, "but its config.json asks for"),
        ({"n_layers": 3}, r"lacks the weight distilbert.transformer.layer.2\S+; fetch"),
        ({"n_layers": 900, "hidden_dim": 10**6}, "but its config.json asks for"),
        ({"activation": "nothing"}, "cannot be opened as distilbert: "),
        ({"n_heads": 3}, "arch.heads=3 does not divide"),
    ],
)
def test_sizes_that_are_not_those_of_the_file_are_one_line(change, message, tmp_path):
    """Before memory is taken for weights that are not there."""
    make_folder(tmp_path, "distilbert")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BortError, match=message) as error:
        open_teacher(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(tmp_path)) + 150
