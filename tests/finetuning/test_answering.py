"""Answers of a fine-tuned model: those of Hugging Face, and of diagnostic sets."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn import metrics
from task_rows import few
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort import predictor
from bort.errors import BortError
from bort.finetuning import recipe as finetune
from bort.finetuning.datamodule import RowBatches
from bort.models.huggingface import load_classifier
from bort.tasks import reading, registry
from bort.tasks.encoding import encode_rows


@pytest.mark.parametrize(
    ("name", "parent", "file", "count"),
    [
        ("glue/ax", "glue/mnli", "AX.tsv", 1105),
        ("superglue/axb", "superglue/rte", "AX-b.jsonl", 1104),
        ("superglue/axg", "superglue/rte", "AX-g.jsonl", 356),
    ],
)
def test_diagnostic_sets(shared, run_of, tmp_path, monkeypatch, name, parent, file, count):
    """By the parent's model, whatever the order of its classifier's rows (case F2)."""
    few(monkeypatch, 32)  # of the parent; the diagnostic set is a test set, and whole
    suite = name.split("/")[0]
    finetune.finetune(run_of(parent, shared / "data" / suite), tmp_path / "parent")
    folder = tmp_path / "parent" / "model"
    found = []
    for place in ("one", "permuted"):
        run = run_of(name, shared / "data" / suite, f"model={folder}")
        summary = finetune.finetune(run, tmp_path / place)
        assert summary["task"] == name
        found.append((tmp_path / place / "predictions" / file).read_bytes())
        permute(folder)
    assert found[0] == found[1] and len(found[0].splitlines()) == count


def permute(folder: Path) -> None:
    """Turn the rows of the classifier and their names together."""
    weights = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].roll(1, 0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    names = list(settings["id2label"].values())
    names = names[-1:] + names[:-1]
    settings["id2label"] = {str(k): name for k, name in enumerate(names)}
    settings["label2id"] = {name: k for k, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(settings))


def test_a_model_with_other_labels_is_no_judge(shared, run_of, tmp_path, monkeypatch):
    few(monkeypatch, 32, 8)
    finetune.finetune(run_of("glue/mrpc", shared / "data/glue"), tmp_path / "mrpc")
    run = run_of("glue/ax", shared / "data/glue", f"model={tmp_path / 'mrpc'}")
    with pytest.raises(BortError, match="has the labels not_equivalent, equivalent, glue/ax needs"):
        finetune.finetune(run, tmp_path / "ax")
    with pytest.raises(BortError, match="is not a fine-tuned model"):
        finetune.finetune(run_of("glue/ax", shared / "data/glue"), tmp_path / "ax")


def test_predictions_are_those_of_hugging_face(shared, run_of, tmp_path, monkeypatch):
    """The saved folder through plain transformers, row by row: the same logits and answers."""
    few(monkeypatch, 60, 60)
    root = shared / "data" / "glue"
    finetune.finetune(run_of("glue/rte", root, "dropout=0"), tmp_path / "run")
    folder = tmp_path / "run" / "model"
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = registry.find_task("glue/rte")
    rows = reading.read_rows(task, root)["test"]
    ours, _ = load_classifier(folder)
    batches = RowBatches(encode_rows(task, rows, tokenizer, 512), rows, 8, 1, None)
    lines = (tmp_path / "run" / "predictions" / "RTE.tsv").read_text().splitlines()[1:]
    for batch in batches:
        with torch.no_grad():
            logits = ours(batch["input_ids"], batch["attention_mask"])
        for found, number in zip(logits, batch["rows"].tolist(), strict=True):
            text = tokenizer(*rows[number].texts, return_tensors="pt")
            if text.input_ids.shape[1] > 512:
                continue
            with torch.no_grad():
                expected = theirs(**text).logits[0]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
            assert lines[number].split("\t")[1] == task.labels[int(expected.argmax())]


def texts_of(folder: Path) -> list[str]:
    """The texts that the fine-tuning in a folder of `priced` has read."""
    lines = Path(f"{folder}.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_every_reader_answers_on_the_scale_of_the_labels(priced):
    """The saved folder through transformers and through bort, and losses in the labels' unit."""
    folder, summary, answers = priced(-1e3, 2e5)
    lines = (folder / "predictions" / "val.jsonl").read_text().splitlines()
    true = np.array([json.loads(line)["true"] for line in lines])
    texts = texts_of(folder)
    found = [answer["score"] for answer in predictor.load(folder).predict(texts)]
    np.testing.assert_allclose(found, answers, atol=1e-6 * np.ptp(answers))
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    with torch.no_grad():
        logits = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    np.testing.assert_allclose(logits, answers, atol=1e-4 * np.ptp(answers))
    assert summary["val/rmse"] == pytest.approx(metrics.root_mean_squared_error(true, answers))
    assert summary["val/mae"] == pytest.approx(metrics.mean_absolute_error(true, answers))
    assert summary["val/r2"] == pytest.approx(metrics.r2_score(true, answers))
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert min(losses) == pytest.approx(summary["val/rmse"] ** 2, rel=0.3)
    assert 0.01 < float(rows[-1]["train/loss"]) / losses[-1] < 10
