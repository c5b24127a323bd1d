"""The score of a task before and after an export."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import bort
from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export import run as export
from bort.tasks import reading, registry


def test_the_score_before_and_after(shared, folders, tmp_path):
    """As counted by hand from the model's answers; a drop beyond the limit is refused."""
    data = DataConfig(root=str(shared / "data" / "glue"), length=64)
    source = str(folders / "glue-rte")
    found = export.export(source, "onnx", tmp_path / "out", task="glue/rte", data=data)
    rows = reading.read_rows(registry.find_task("glue/rte"), shared / "data" / "glue")["val"]
    ours = bort.load(source).predict([row.texts for row in rows])
    labels = registry.find_task("glue/rte").labels
    right = [a["label"] == labels[r.label] for a, r in zip(ours, rows, strict=True)]
    assert found.scores["before/accuracy"] == pytest.approx(np.mean(right), abs=1e-3)
    assert found.scores["after/accuracy"] == found.scores["before/accuracy"]
    with pytest.raises(BortError, match="falls from .* by more than drop=-1"):
        export.export(source, "onnx", tmp_path / "no", drop=-1, task="glue/rte", data=data)
    assert not (tmp_path / "no").exists()


def test_outputs_in_another_order_score_the_same(shared, folders, tmp_path):
    """A hub's model names its outputs in its own order and in capitals; the score goes by names."""
    labels = ["NOT_ENTAILMENT", "ENTAILMENT"]
    shutil.copytree(folders / "glue-rte", tmp_path / "turned")
    settings = json.loads((tmp_path / "turned" / "config.json").read_text())
    settings["id2label"] = dict(enumerate(labels))
    (tmp_path / "turned" / "config.json").write_text(json.dumps(settings))
    weights = load_file(tmp_path / "turned" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, tmp_path / "turned" / "model.safetensors", {"format": "pt"})
    data = DataConfig(root=str(shared / "data" / "glue"), length=64)
    found = [
        export.export(str(place), "onnx", tmp_path / "out", task="glue/rte", data=data)
        for place in (folders / "glue-rte", tmp_path / "turned")
    ]
    assert found[0].scores == found[1].scores and 0.2 < found[0].scores["after/accuracy"] < 0.8


def test_a_task_that_the_model_was_not_made_for(shared, folders, tmp_path):
    """One line before anything is written, never a score of the wrong rows."""
    cases = [
        ("glue-sst2", "glue/rte", "has the labels negative, positive, glue/rte needs entailment"),
        ("glue-sst2", "glue/ax", "task=glue/ax has no rows with labels; use task=glue/mnli"),
        ("glue-stsb", "glue/rte", "has the labels score, glue/rte needs"),
        ("glue-rte", "glue/stsb", "has several outputs, glue/stsb needs one"),
        ("superglue-copa", "glue/stsb", "is no model for a task of regression"),
        ("glue-rte", "superglue/wic", "is no model for a task of spans"),
    ]
    for model, task, message in cases:
        data = DataConfig(root=str(shared / "data" / task.split("/")[0]))
        with pytest.raises(BortError, match=message):
            place = str(folders / model)
            export.export(place, "hf", tmp_path / "out", task=task, data=data)
    assert not list(tmp_path.iterdir())


def test_rows_without_labels_are_refused_before_the_work(folders, tmp_path):
    source = str(folders / "glue-sst2")
    (tmp_path / "train.csv").write_text("text,label\n" + "a cat,positive\na dog,negative\n" * 9)
    for content, message in (("a cat,\n", "no 'label'"), ("", "no rows in it")):
        (tmp_path / "val.csv").write_text(f"text,label\n{content}")
        data = DataConfig(train=str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"))
        with pytest.raises(BortError, match=message):
            export.export(source, "hf", tmp_path / "out", task="custom", data=data)
    long = DataConfig(train=str(tmp_path / "train.csv"), length=100)
    with pytest.raises(BortError, match="data.length=100 is longer than the model's 64 tokens"):
        export.export(source, "hf", tmp_path / "out", task="custom", data=long)
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_defined(folders, tmp_path):
    """One label in all validation rows: the score has no value, or one; it is no crash."""
    (tmp_path / "train.csv").write_text("text,label\n" + "a cat,positive\na dog,negative\n" * 9)
    (tmp_path / "val.csv").write_text("text,label\na cat,positive\na dog so on,positive\n")
    data = DataConfig(train=str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"), length=32)
    found = export.export(
        *(str(folders / "glue-sst2"), "hf", tmp_path / "out"), task="custom", data=data
    )
    assert found.scores["before/accuracy"] == found.scores["after/accuracy"]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["scores"] == found.scores
