"""What the checks of an export refuse, and what int8 leaves in float32."""

import json
import runpy

import numpy as np
import onnxruntime
import pytest
import torch
from export_models import body, trained
from tiny_runs import log_lines
from transformers import AutoModelForMaskedLM

import bort
from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export import agreement, checks
from bort.export import run as export
from bort.models import onnx
from bort.models.huggingface import load_model, save_model
from bort.tasks import reading, registry


def spoiled(model):
    """One large weight in some matrices, as case E2 has."""
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.up.weight[3, 5] = 60.0
    return model


def test_matrices_that_int8_would_ruin_stay(tmp_path, tokenizer):
    save_model(spoiled(body()), tokenizer, tmp_path / "bad")
    lines = log_lines()
    found = export.export(str(tmp_path / "bad"), "onnx-int8", tmp_path / "out", agreement=0.9)
    assert found.float32 == ["encoder.layers.0.up", "encoder.layers.1.up"]
    assert any(
        "matrices stay float32: encoder.layers.0.up, encoder.layers.1.up" in x for x in lines
    )
    names = {name for name, _ in onnx.list_matrices(tmp_path / "out" / "model.onnx").values()}
    assert names == {"encoder.layers.0.up", "encoder.layers.1.up"}  # what is float32 in the file


def test_the_printed_agreement_is_what_anybody_finds(folders, tmp_path, tokenizer):
    lines = log_lines()
    found = export.export(str(folders / "mlm"), "onnx-int8", tmp_path / "out", agreement=0.5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    theirs = AutoModelForMaskedLM.from_pretrained(folders / "mlm").eval()
    same = count = 0
    for sample in agreement.draw_samples(load_model(folders / "mlm")[0], tokenizer)[1]:
        (logits,) = session.run(None, sample.inputs)
        with torch.no_grad():
            expected = theirs(**{k: torch.from_numpy(v) for k, v in sample.inputs.items()}).logits
        equal = (logits.argmax(-1) == expected.numpy().argmax(-1)).ravel()[sample.positions]
        same, count = same + equal.sum(), count + len(equal)
    assert found.agreement == pytest.approx(same / count, abs=2e-3) and count > 300
    assert any(
        f"int8: {found.agreement:.1%} of {count:,} top answers are equal" in x for x in lines
    )
    assert found.answers == "masked words of docstrings"
    assert (
        json.loads((tmp_path / "out" / "export.json").read_text())["agreement"] == found.agreement
    )


def test_int8_is_refused_when_it_changes_answers(folders, tmp_path, monkeypatch):
    half = agreement.Agreement(compared=200, largest=1.0, equal=0.5)
    monkeypatch.setattr(checks, "compare_answers", lambda *_: half)
    message = r"int8: 50.0% of 200 top answers are equal, less than agreement=0.95 asks, even with"
    with pytest.raises(BortError, match=message):
        export.export(str(folders / "glue-sst2"), "onnx-int8", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_numbers_in_int8(shared, settings_of, tmp_path):
    """STS-B, with its rows and without them."""
    trained("glue/stsb", shared, settings_of, tmp_path, 12)
    data, source = DataConfig(root=str(tmp_path), length=96), str(tmp_path / "run")
    with_rows = {"task": "glue/stsb", "data": data}
    for given in ({}, with_rows):
        found = export.export(source, "onnx-int8", tmp_path / "out", **given)
        assert found.agreement is None and found.largest_difference > 1e-4
        assert 0 < found.error <= 0.05 and found.spread > 0
        text = (tmp_path / "out" / "README.md").read_text()
        assert "of the answers' spread" in text and "top answers" not in text
    session = runpy.run_path(str(tmp_path / "out" / "predict.py"))["Model"](tmp_path / "out")
    rows = reading.read_rows(registry.find_task("glue/stsb"), tmp_path)["val"][
        ::2
    ]  # as the export takes them
    texts = [row.texts for row in rows]
    before = np.array([answer["score"] for answer in bort.load(source).predict(texts)])
    after = np.array([answer["score"] for answer in session.predict(texts)])
    assert found.compared == len(texts) and found.spread == pytest.approx(before.std(), rel=0.01)
    error = np.sqrt(np.mean((before - after) ** 2)) / before.std()
    assert found.error == pytest.approx(error, abs=0.02)


def test_a_difference_is_an_error(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "run_onnx", lambda path: lambda inputs: np.zeros((1, 1)) + 9.0)
    with pytest.raises(BortError, match="check: at 1 × 2 tokens the export's logits differ by"):
        export.export(str(folders / "glue-stsb"), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())
