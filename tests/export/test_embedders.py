"""Models that embed texts, exported: the pooling is in the graph, and the layout in the folder."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import torch
from export_models import body
from sklearn.metrics.pairwise import cosine_similarity
from teacher_folders import make_folder

import bort
from bort.embeddings.embedder import make_embedder, save_embedder
from bort.errors import BortError
from bort.export import run as export
from bort.files.ownership import read_exported_names

TEXTS = ["the cat of line 3", " a dog ", "", "and so on, the dog of the cat " * 30, "the cat"]


@pytest.fixture(scope="module")
def source(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("embedder") / "model"
    encoder = body(3).encoder
    encoder.config.length = 24
    save_embedder(make_embedder(encoder.eval()), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    root = tmp_path_factory.mktemp("exports")
    return {form: (root / form, export.export(str(source), form, root / form)) for form in FORMS}


FORMS = ("hf", "onnx", "onnx-int8")


def test_every_form_embeds_as_the_model_does(source, exported):
    expected = bort.load(source).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    for form, (folder, result) in exported.items():
        vectors = bort.load(folder).encode(TEXTS, batch_size=2)
        assert vectors.dtype == np.float32 and vectors.shape == expected.shape
        cosines = np.diag(cosine_similarity(vectors, expected))
        assert cosines.min() > (0.95 if form == "onnx-int8" else 1 - 1e-6)
        if form != "onnx-int8":
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
            assert result.largest_difference < 1e-4
    result = exported["onnx-int8"][1]
    assert 0.95 < result.cosine <= 1 and "mean cosine" in result.describe_agreement()


def test_the_graph_takes_ids_and_a_mask(exported):
    """One output of E numbers a text, which padding does not change."""
    session = onnxruntime.InferenceSession(exported["onnx"][0] / "model.onnx")
    assert [item.name for item in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [item.name for item in session.get_outputs()] == ["sentence_embedding"]
    ids = np.array([[5, 6, 7, 8]])
    padded = np.array([[5, 6, 7, 8, 1, 1]])
    rows = [
        session.run(None, {"input_ids": row, "attention_mask": (row != 1).astype(np.int64)})[0]
        for row in (ids, padded)
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    assert rows[0].shape == (1, 32)


def test_the_shipped_predictor_embeds(source, exported):
    folder = exported["onnx"][0]
    spec = importlib.util.spec_from_file_location("shipped", folder / "predict.py")
    shipped = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shipped)
    model = shipped.Model()
    answers = model.predict(TEXTS)
    expected = bort.load(source)
    np.testing.assert_allclose([a["embedding"] for a in answers], expected.encode(TEXTS), atol=1e-5)
    assert json.loads(shipped.to_json_line(answers[0], "utf-8")) == answers[0]
    assert expected.predict(TEXTS[:1])[0].keys() == {"embedding"}
    assert model.encode([]).shape == (0, 32)
    for wrong, message in (("a text", "takes a list"), (["a", ("b", "c")], "row 2: .* is no text")):
        with pytest.raises(shipped.Mistake, match=message):
            model.encode(wrong)
        for folder_of_model in (source, folder):
            with pytest.raises(BortError, match=message):
                bort.load(folder_of_model).encode(wrong)
    with pytest.raises(BortError, match="batch_size=0"):
        bort.load(folder).encode(TEXTS, batch_size=0)


def test_the_layout_is_that_of_its_form(exported, source):
    """PyTorch's folder is one of sentence-transformers; ONNX has no weights for that."""
    folder = exported["hf"][0]
    assert "1_Pooling/config.json" in read_exported_names(folder)
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert json.loads((folder / name).read_text()) == json.loads((source / name).read_text())
    assert "SentenceTransformer" in (folder / "README.md").read_text()
    assert "library_name: sentence-transformers" in (folder / "README.md").read_text()
    names = {path.name for path in exported["onnx"][0].iterdir()}
    assert "predict.py" in names and not names & {"modules.json", "1_Pooling"}
    assert read_exported_names(exported["onnx"][0]) == names


def test_a_second_export_keeps_what_the_user_added(source, tmp_path):
    out = tmp_path / "out"
    export.export(str(source), "hf", out)
    (out / "1_Pooling" / "mine.txt").write_text("mine")
    export.export(str(source), "onnx", out)
    assert (out / "1_Pooling" / "mine.txt").read_text() == "mine"
    assert not (out / "1_Pooling" / "config.json").exists() and (out / "model.onnx").exists()
    export.export(str(source), "hf", out)
    assert (out / "1_Pooling" / "config.json").exists() and not (out / "model.onnx").exists()
    assert (out / "1_Pooling" / "mine.txt").read_text() == "mine"


def test_what_cannot_be_exported_is_one_line(source, tmp_path, tokenizer):
    with pytest.raises(BortError, match="task=glue/rte is for a model with answers"):
        export.export(str(source), "hf", tmp_path / "out", task="glue/rte")
    lowered = tmp_path / "lowered"
    save_embedder(make_embedder(body(1).encoder.eval()), tokenizer, lowered)
    (lowered / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(BortError, match="no place for the lower case of a text; use format=hf"):
        export.export(str(lowered), "onnx", tmp_path / "out")
    export.export(str(lowered), "hf", tmp_path / "kept")
    assert np.allclose(*bort.load(tmp_path / "kept").encode(["The CAT", "the cat"]))
    assert not (tmp_path / "out").exists()


def test_other_families_embed_too(tmp_path):
    """MPNet by transformers, with the pooling that its folder asks for."""
    make_folder(tmp_path, "mpnet")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": p} for kind, p in modules]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    model = bort.load(tmp_path)
    ids = model.tokenizer("the cube", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model.model.compute_states(ids)[:, 0].numpy()
    np.testing.assert_allclose(model.encode(["the cube"]), expected, atol=1e-5)
