"""Several labels a row from the settings to the answers, as bort and as transformers give them."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.exceptions import UndefinedMetricWarning
from tiny_runs import plan_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export.run import export
from bort.finetuning import recipe
from bort.finetuning.examples import TaskExamples, check_class_weights, weigh_classes
from bort.finetuning.heads import describe_outputs, match_outputs
from bort.finetuning.module import compute_loss, to_answers
from bort.models.huggingface import load_classifier
from bort.predictor import load
from bort.report import write_page
from bort.tasks.custom import define_task, read_custom_task
from bort.tasks.task import Row

TASK = define_task("custom", "labels", ("text",), ("cat", "dog", "line"))
NAMES = list(TASK.labels)


def list_rows(count: int) -> list[dict]:
    """Rows whose words are their labels: none, one, two or three of them."""
    rows = []
    for k in range(count):
        names = [name for bit, name in enumerate(NAMES) if k >> bit & 1]
        rows.append({"text": "the " + " and ".join([*names, f"of {k % 5}"]), "tags": names})
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    for name, count in (("train", 64), ("val", 24), ("test", 8)):
        lines = [json.dumps(row) for row in list_rows(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def settings(run_of, table):
    """Settings of a fine-tuning on the table."""

    def make(*overrides: str):
        words = [f"data.{name}={table / name}.jsonl" for name in ("train", "val", "test")]
        words += [
            "data.label=tags",
            "data.root=null",
            "data.length=32",
            "data.batch_size=8",
            "dropout=0",
        ]
        words += [
            "trainer.max_epochs=12",
            "trainer.max_steps=-1",
            "optim.lr=2e-2",
            "trainer.precision=32-true",
        ]
        return run_of("custom", None, *words, *overrides)

    return make


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, recipe.finetune(settings(), folder)


def read_answers(folder) -> list[dict]:
    lines = (folder / "predictions" / "val.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def mark(answers: list[list[str]]) -> np.ndarray:
    return np.array([[name in answer for name in NAMES] for answer in answers]).astype(int)


def test_scores_are_those_of_scikit_learn(done):
    folder, summary = done
    answers = read_answers(folder)
    true, given = (mark([line[key] for line in answers]) for key in ("true", "labels"))
    assert true.tolist() == mark([row["tags"] for row in list_rows(24)]).tolist()
    for average in ("micro", "macro"):
        expected = metrics.f1_score(true, given, average=average, zero_division=0)
        assert summary[f"val/{average}_f1"] == pytest.approx(expected)
    assert summary["val/exact_match"] == pytest.approx(metrics.accuracy_score(true, given))
    assert summary["metric"] == "val/micro_f1" and summary["val/micro_f1"] > 0.7
    with (folder / "predictions" / "val_classes.csv").open() as file:
        lines = list(csv.DictReader(file))
    scores = metrics.precision_recall_fscore_support(true, given, zero_division=0)
    for number, line in enumerate(lines):
        assert line["label"] == NAMES[number]
        for key, values in zip(("precision", "recall", "f1", "rows"), scores, strict=True):
            assert float(line[key]) == pytest.approx(values[number])


def test_a_label_is_answered_from_a_probability_of_one_half_on(done):
    """In the file of answers, and the score is that of the least sure decision."""
    for line in read_answers(done[0]):
        assert line["labels"] == [name for name, p in line["scores"].items() if p >= 0.5]
        sure = [max(p, 1 - p) for p in line["scores"].values()]
        assert line["score"] == pytest.approx(min(sure))
        assert ("texts" in line) == (line["labels"] != line["true"])
    outputs = torch.tensor([[0.0, -0.0, -1e-9], [3.0, -3.0, 1e-9]])
    assert to_answers(TASK, outputs).tolist() == [[1, 1, 0], [1, 0, 1]]


def test_transformers_gives_the_same_logits_and_the_same_loss(done):
    folder = done[0] / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "line"}
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours, labels = load_classifier(folder)
    assert ours.multi_label and list(labels.values()) == NAMES
    rows = list_rows(20)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    targets = torch.tensor(mark([row["tags"] for row in rows]))
    with torch.no_grad():
        expected = theirs(**batch, labels=targets.float())
        outputs = ours(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(outputs, expected.logits, atol=1e-5, rtol=1e-5)
    loss = compute_loss("labels", outputs, targets)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert compute_loss("labels", outputs, targets, "sum") == pytest.approx(20 * float(loss))
    assert compute_loss("labels", outputs, targets, "none").shape == (20,)


def test_weights_of_the_loss_are_those_of_torch():
    outputs, targets = torch.randn(6, 3), torch.randint(2, (6, 3))
    weights = torch.tensor([1.0, 3.0, 0.5])
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(outputs, targets.float())
    torch.testing.assert_close(compute_loss("labels", outputs, targets, "mean", weights), expected)


def test_balanced_labels_weigh_rows_with_them_as_much_as_rows_without(settings, tmp_path):
    """Of a label that all rows have, or none, the weight is 1."""
    labels = [(1, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0)]
    rows = [Row(k, ("x",), label) for k, label in enumerate(labels)]
    weights = weigh_classes(TaskExamples(TASK, None, 64, {"train": rows}, {}))
    assert weights.tolist() == [3.0, 1.0, 1.0]
    check_class_weights(TASK, "balanced")
    run = settings("optim.class_weights=balanced", "trainer.max_steps=4")
    assert recipe.finetune(run, tmp_path / "run")["steps"] == 4


def test_baselines_and_the_report_of_the_data(done):
    """The most frequent set of the training rows, and TF-IDF with a model for each label."""
    _, summary = done
    assert summary["majority/note"] == "no label for every row"
    assert summary["majority/val/micro_f1"] == 0 and summary["majority/val/exact_match"] == 1 / 8
    assert summary["tfidf/val/micro_f1"] == 1.0  # its words are the labels
    assert summary["data/kind"] == "several a row" and summary["data/train/rows"] == 64
    assert summary["data/labels"].startswith("cat: 32 (50%), dog: 32 (50%), line: 32 (50%); no la")
    assert "'tags' is read as 3 labels, of which a row has any number" in summary["data/labels"]


def test_the_answers_to_a_test_file_are_lists(done):
    lines = (done[0] / "predictions" / "test.jsonl").read_text().splitlines()
    assert [json.loads(line)["idx"] for line in lines] == list(range(8))
    expected = load(done[0]).predict([row["text"] for row in list_rows(8)])
    assert [json.loads(line)["label"] for line in lines] == [line["labels"] for line in expected]


def test_the_page_shows_each_label(done):
    write_page(done[0])
    page = (done[0] / "report.html").read_text()
    for part in ("Rows with each label", "Each class", "<td>line</td>", "several a row"):
        assert part in page


@pytest.mark.parametrize("form", ["hf", "onnx", "onnx-int8"])
def test_exports_answer_as_the_run_did(done, table, tmp_path, form):
    """The checks count whole answers, and the score of the task is compared, too."""
    folder, rows = done[0], list_rows(24)
    data = DataConfig(
        train=str(table / "train.jsonl"), val=str(table / "val.jsonl"), label="tags", length=32
    )
    result = export(str(folder), form, tmp_path / "out", task="custom", data=data)
    assert set(result.scores) >= {"before/micro_f1", "after/exact_match"}
    texts = [row["text"] for row in rows]
    expected = load(folder).predict(texts)
    assert all(set(line) == {"labels", "label", "score", "scores"} for line in expected)
    assert [line["labels"] for line in expected] == [
        line["labels"] for line in read_answers(folder)
    ]
    if form == "hf":
        assert load(tmp_path / "out").predict(texts) == expected
        return
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    script = [sys.executable, str(tmp_path / "out" / "predict.py"), f"input={tmp_path}/texts.txt"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    answers = [json.loads(line) for line in printed.splitlines()]
    near = 1e-5 if form == "onnx" else 0.1
    for answer, line in zip(answers, expected, strict=True):
        assert answer["scores"] == pytest.approx(line["scores"], abs=near)
        assert answer["labels"] == [name for name, p in answer["scores"].items() if p >= 0.5]


def test_the_mean_of_all_tokens_as_head_and_columns_of_0_and_1(settings, table, tmp_path):
    for name, count in (("train", 64), ("val", 24)):
        lines = ["text,cat,dog,line"]
        lines += [
            ",".join([row["text"], *(str(int(label in row["tags"])) for label in NAMES)])
            for row in list_rows(count)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    words = ["head=mean", "data.label=[cat,dog,line]", "data.test=null"]
    words += [f"data.{name}={tmp_path / name}.csv" for name in ("train", "val")]
    assert plan_of(settings(*words))["rows"] == "train 64, val 24"
    summary = recipe.finetune(settings(*words), tmp_path / "run")
    assert summary["val/micro_f1"] > 0.95
    answers = load(tmp_path / "run").predict([row["text"] for row in list_rows(24)])
    assert [a["labels"] for a in answers] == [a["labels"] for a in read_answers(tmp_path / "run")]
    with pytest.raises(BortError, match="head=towers compares two texts"):
        settings("head=towers")


def test_another_kind_of_model_is_refused(done, shared):
    ours = load_classifier(done[0] / "model")
    assert match_outputs(TASK, *ours, "S") == [0, 1, 2]
    swapped = define_task("custom", "labels", ("text",), ("line", "cat", "dog"))
    assert match_outputs(swapped, *ours, "S") == [2, 0, 1]
    classes = define_task("custom", "classes", ("text",), TASK.labels)
    with pytest.raises(BortError, match="S gives any number of labels a row, custom needs one; fi"):
        match_outputs(classes, *ours, "S")
    ours[0].multi_label = False
    with pytest.raises(BortError, match="S gives one label a row, custom needs any number; fine-t"):
        match_outputs(TASK, *ours, "S")
    theirs = shared / "cases" / "N" / "N07-multilabel" / "model"
    assert load_classifier(theirs)[0].multi_label
    assert describe_outputs(classes)["problem_type"] == "single_label_classification"


def test_rows_that_all_have_the_same_labels_are_doubted(settings, table, tmp_path):
    """A model that has learnt nothing gives all rows one answer, and that is said."""
    run = settings("trainer.max_steps=1", "optim.lr=1e-9", "data.test=null")
    summary = recipe.finetune(run, tmp_path / "run")
    assert "the model gives one answer for all 24 rows" in summary["doubt"]


def test_rows_of_similar_data_with_and_without_labels(table, tmp_path):
    """A test file whose rows have no labels gets answers and no scores."""
    (tmp_path / "test.jsonl").write_text('{"text": "the cat"}\n{"text": "a dog", "tags": ["dog"]}')
    paths = {name: str(table / f"{name}.jsonl") for name in ("train", "val")}
    data = DataConfig(**paths, test=str(tmp_path / "test.jsonl"), label="tags")
    _, rows = read_custom_task(data)
    assert [row.label for row in rows["test"]] == [None, (0, 1, 0)]
    shutil.copy(table / "val.jsonl", tmp_path)
    with pytest.warns(UndefinedMetricWarning):  # what the scores of an empty answer are there
        metrics.f1_score([[0, 1]], [[0, 0]], average="macro")


def test_long_texts_in_windows(settings, tmp_path):
    """The outputs of a text's windows are averaged before a label is answered."""
    words = ["data.windows=mean", "data.length=6", "data.test=null", "trainer.max_epochs=2"]
    recipe.finetune(settings(*words), tmp_path / "run")
    predictor = load(tmp_path / "run")
    answers, expected = read_answers(tmp_path / "run"), []
    for row in list_rows(24):
        expected += predictor.predict([row["text"]])
    assert max(line["tokens"] for line in answers) <= 6
    for answer, line in zip(answers, expected, strict=True):
        assert answer["labels"] == line["labels"]
        assert answer["scores"] == pytest.approx(line["scores"], abs=1e-5)
