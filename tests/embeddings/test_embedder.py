"""The model that embeds texts: what it computes, what is opened as one, what a folder keeps."""

import json

import pytest
import torch
from embeddings_layout import write_layout
from transformers import AutoModel

from bort.embeddings.embedder import (
    find_embedder,
    load_embedder_tokenizer,
    load_shippable,
    make_embedder,
    save_embedder,
)
from bort.errors import BortError
from bort.files.ownership import list_own_names
from bort.files.run_files import make_run_record
from bort.models.bert import Classifier, MaskedLM
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.models.initialization import build_classifier


@pytest.fixture
def embedder(student):
    return make_embedder(load_masked_lm(student, head_required=False).encoder)


def test_mean_states_of_length_one(embedder, student):
    tokenizer = load_tokenizer(student)
    inputs = tokenizer(["the cat", "a fox sees an owl"], return_tensors="pt", padding=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    model = AutoModel.from_pretrained(student, add_pooling_layer=False)
    with torch.no_grad():
        states = model(ids, mask).last_hidden_state
        vectors = embedder.eval()(ids, mask)
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_a_folder_opens_with_the_same_embeddings(embedder, student, tmp_path):
    embedder.config.length = 12
    save_embedder(embedder.eval(), load_tokenizer(student), tmp_path / "model")
    opened = find_embedder(str(tmp_path / "model"))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(opened(ids), embedder(ids))
    assert opened.config.limit == 12 and opened.pooling.is_unit
    assert load_embedder_tokenizer(opened).model_max_length == 12
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["bort_kind"] == "Embedding" and settings["architectures"] == ["BertModel"]


def test_other_folders_embed_nothing(student, teacher, tmp_path):
    """A bare encoder, a classifier by mean states; MPNet's layers are not ours."""
    assert find_embedder(str(student)) is None and find_embedder(str(teacher)) is not None
    body = load_masked_lm(student, head_required=False)
    tokenizer = load_tokenizer(student)
    save_model(build_classifier(body, 2, "mean"), tokenizer, tmp_path / "mean")
    save_model(body, tokenizer, tmp_path / "masked")
    assert find_embedder(str(tmp_path / "mean")) is None
    kinds = [type(load_shippable(str(tmp_path / name))[0]) for name in ("mean", "masked")]
    assert kinds == [Classifier, MaskedLM]
    with pytest.raises(BortError, match="is an encoder without a trained head"):
        load_shippable(str(student))


def test_the_users_files_stay_in_the_folder(embedder, student, tmp_path):
    """Replaced by a classifier, the folder loses what bort wrote, and nothing else."""
    folder, tokenizer = tmp_path / "run" / "model", load_tokenizer(student)
    save_embedder(embedder, tokenizer, folder)
    (tmp_path / "run" / "settings.json").write_text(json.dumps(make_run_record({"job": "x"})))
    (folder / "notes.txt").write_text("mine")
    (folder / "1_Pooling" / "mine.txt").write_text("mine")
    (folder / "2_Mine").mkdir()
    (folder / "2_Mine" / "config.json").write_text("mine")
    assert "1_Pooling/config.json" in list_own_names(folder)
    save_embedder(embedder, tokenizer, folder)
    assert find_embedder(str(folder)) is not None
    body = load_masked_lm(student, head_required=False)
    save_model(body, tokenizer, folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"notes.txt", "1_Pooling/mine.txt", "2_Mine/config.json"} <= names
    assert not names & {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"}
    # What bort did not write is not replaced either: this modules.json is the user's.
    write_layout(folder, mean_tokens=True)
    before = (folder / "modules.json").read_bytes()
    save_model(body, tokenizer, folder)
    assert (folder / "modules.json").read_bytes() == before
    with pytest.raises(BortError, match=r"holds a 1_Pooling/config.json that bort did not write"):
        save_embedder(embedder, tokenizer, folder)
    assert (folder / "modules.json").read_bytes() == before


def test_a_file_in_the_place_of_a_folder_stays(embedder, student, tmp_path):
    folder = tmp_path / "run" / "model"
    save_model(embedder.encoder, load_tokenizer(student), folder)
    (tmp_path / "run" / "settings.json").write_text(json.dumps(make_run_record({"job": "x"})))
    (folder / "1_Pooling").write_text("mine")
    with pytest.raises(BortError, match=r"1_Pooling/config.json that bort did not write"):
        save_embedder(embedder, load_tokenizer(student), folder)
    assert (folder / "1_Pooling").read_text() == "mine"
