"""Whole fine-tunings: every task on its real files, resumed, stopped early, and refused."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from report_helpers import words
from safetensors.torch import load_file
from task_rows import few
from tiny_runs import log_lines, stopping

from bort import report
from bort.config.compose import parse_settings
from bort.errors import BortError
from bort.finetuning import recipe as finetune
from bort.finetuning.heads import describe_outputs
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer, save_model
from bort.models.initialization import build_classifier
from bort.runs.closing import print_result
from bort.runs.loaded import load_run
from bort.tasks import reading, registry
from bort.tasks.registry import TASKS
from bort.tasks.task import Row
from bort.text import docstrings

ROOT = Path(__file__).resolve().parents[2]


def test_wrong_names_come_before_missing_files(tmp_path, monkeypatch):
    """Of a task first, then of a model; rows are read after both."""
    with pytest.raises(BortError, match="task=glue/rtee is no known task; did you mean 'glue/rte'"):
        registry.check_task_name("glue/rtee")
    words = ["experiment=finetune", "task=glue/rte", "data.root=nowhere", "output_dir=unused"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = parse_settings(compose("train", [*words, "model=runs/nope", "name=x", "trainer=cpu"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetune, "load_task", lambda *_: pytest.fail("rows are read"))
    with pytest.raises(BortError, match="runs/nope does not exist"):
        finetune.finetune(run, tmp_path / "run")


MAIN = [name for name, task in TASKS.items() if task.parent is None]


@pytest.mark.parametrize("name", MAIN)
def test_every_task(shared, run_of, tmp_path, monkeypatch, name):
    """Two steps on the official files: scores by name, and a submission with all test rows."""
    few(monkeypatch, 64)
    task, suite = registry.find_task(name), name.split("/")[0]
    root = shared / "data" / suite
    summary = finetune.finetune(run_of(name, root), tmp_path / "run")
    assert summary["steps"] == 2 and summary["task"] == name
    for metric in task.metrics:
        value = summary[f"val/{metric}"]
        assert -1 <= value <= 1 if value is not None else "not defined" in summary["doubt"]
    rows = reading.read_rows(task, root)
    for split, place in task.splits.items():
        if place.submission and split in rows:
            lines = (tmp_path / "run/predictions" / place.submission).read_text().splitlines()
            tsv = place.submission.endswith(".tsv")
            nested = task.form in ("multirc", "record")  # a line holds a whole passage
            asked = {row.index[0] if nested else row.index for row in rows[split]}
            assert len(lines) - tsv == len(asked)
    settings = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    if task.kind == "classes":
        assert list(settings["id2label"].values()) == list(task.labels)


def test_the_best_epoch_is_kept(shared, run_of, tmp_path, monkeypatch):
    """`model/` and the scores are of the best validation, not of the last."""
    few(monkeypatch, 100, 8)
    run = run_of("glue/rte", shared / "data/glue", "trainer.max_steps=-1", "trainer.max_epochs=5")
    run.optim.lr = 1e-2
    summary = finetune.finetune(run, tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        scores = [float(r["val/accuracy"]) for r in csv.DictReader(file) if r["val/accuracy"]]
    assert len(scores) == 5 and len(set(scores)) > 1
    assert summary["val/accuracy"] == pytest.approx(max(scores), abs=0.011)


def test_patience_and_what_the_run_says(shared, run_of, tmp_path, monkeypatch):
    """Stops two validations after the best one; a new head is said, also on a fine-tuned model."""
    few(monkeypatch, 40, 8)
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=9", "patience=2", "optim.lr=1e-9"]
    lines = log_lines()
    run = run_of("glue/rte", shared / "data/glue", *epochs)
    summary = finetune.finetune(run, tmp_path / "rte")
    assert summary["steps"] == 3 * 10
    assert f"model: the encoder of {run.model}, a new head with 2 outputs" in lines
    assert "val: the model gives one answer for all" in summary["doubt"]
    assert (
        summary["rows/val"] == 40 and "val: only 40 rows; one of them is 2.5%" in summary["doubt"]
    )
    assert "that alone scores accuracy" in summary["doubt"]
    print_result(run, tmp_path / "rte", summary, "finetune")
    assert f"warning: {summary['doubt']}" in lines
    assert any("; 40 rows of val (the best epoch" in line for line in lines)
    trained = load_classifier(tmp_path / "rte" / "model")[0]
    assert summary["parameters"] == sum(weight.numel() for weight in trained.parameters())
    lines.clear()
    other = run_of("glue/stsb", shared / "data/glue", f"model={tmp_path / 'rte'}")
    finetune.finetune(other, tmp_path / "stsb")
    assert f"model: the encoder of {tmp_path / 'rte'}, a new head with 1 output" in lines


@pytest.mark.parametrize("step", [3, 10, 15])
def test_stopped_and_continued(shared, run_of, tmp_path, monkeypatch, step):
    """In the middle of an epoch, and at its border: the weights of the undisturbed run."""
    few(monkeypatch, 40, 8)
    run = run_of("glue/rte", shared / "data/glue", "trainer.max_steps=-1", "trainer.max_epochs=2")
    finetune.finetune(run, tmp_path / "whole")
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, step), tmp_path / "run")
    finetune.finetune(run, tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors", "predictions/RTE.tsv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_bf16_is_stopped_and_continued(run_of, tmp_path, output_types):
    """Steps are bf16, validations and weights float32; a resumed run has the same bits."""
    rows = [{"text": f"the {('cat', 'dog')[k % 2]} of line {k}", "label": k % 2} for k in range(40)]
    for name, part in (("train", rows[:30]), ("val", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    files = [f"data.{name}={tmp_path / name}.jsonl" for name in ("train", "val")]
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=2", "data.length=32", "dropout=0.1"]
    run = run_of("custom", None, *files, *epochs, "trainer.precision=bf16-mixed")
    summary = finetune.finetune(run, tmp_path / "whole")
    assert summary["precision"] == "bf16-mixed"
    assert output_types == {"training": {torch.bfloat16}, "validation": {torch.float32}}
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, 5), tmp_path / "run")
    finetune.finetune(run, tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_a_regression_is_stopped_and_continued(shared, run_of, tmp_path):
    """Bit by bit, best score included: the scale is that of the same training rows again."""
    root = shared / "cases" / "F3-regression-shape" / "glue"
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=3", "optim.lr=1e-2"]
    run = run_of("glue/stsb", root, *epochs)
    finetune.finetune(run, tmp_path / "whole")
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, 3), tmp_path / "run")
    finetune.finetune(run, tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_model_of_scores_that_are_never_defined(run_of, tmp_path):
    """Validation labels that are all the same: the lowest loss chooses, and null is in the JSON."""
    rows = [{"text": f"row {'cat' if k % 2 else 'dog'}", "label": k % 2 + 0.5} for k in range(40)]
    for name, some in (("train", rows), ("val", rows[1:12:2])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    given = [f"data.{name}={tmp_path}/{name}.jsonl" for name in ("train", "val")]
    given += ["data.root=null", "trainer.max_steps=-1", "trainer.max_epochs=9", "patience=2"]
    summary = finetune.finetune(run_of("custom", None, *given), tmp_path / "run")
    assert summary["val/pearson"] is summary["val/r2"] is None and summary["steps"] == 2 * 10
    assert summary["doubt"].endswith("all 6 labels are 1.5; r2, pearson, spearman not defined")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert summary["val/rmse"] ** 2 == pytest.approx(min(losses), rel=1e-4)
    assert "NaN" not in (tmp_path / "run" / "summary.json").read_text()
    page = report.build_parts(load_run(tmp_path / "run"))
    texts = [part for part in page if isinstance(part, str)]
    warned = next(k for k, part in enumerate(texts) if "not defined" in part)
    assert warned < next(k for k, part in enumerate(texts) if "class=big" in part)


def test_mnli_says_what_chooses_its_checkpoint(shared, run_of, tmp_path):
    lines, root = log_lines(), shared / "cases" / "F2-label-names" / "glue"
    summary = finetune.finetune(run_of("glue/mnli", root), tmp_path / "run")
    chosen = "the checkpoint is chosen by accuracy on dev_matched.tsv; dev_mismatched.tsv is scored"
    assert any(line.startswith(f"model: {chosen}") for line in lines)
    assert summary["selected_by"].startswith(chosen) and "val_mm/accuracy" in summary


def test_mnli_answers_the_diagnostic_set_beside_it(shared, run_of, tmp_path, monkeypatch):
    """As task=glue/ax does afterwards by the same model, row by row."""
    few(monkeypatch, 32)
    root, lines = shared / "data" / "glue", log_lines()
    finetune.finetune(run_of("glue/mnli", root), tmp_path / "mnli")
    assert "data: glue/ax is there too, and answered by this model" in lines
    run = run_of("glue/ax", root, f"model={tmp_path / 'mnli'}")
    finetune.finetune(run, tmp_path / "ax")
    found = [(tmp_path / name / "predictions" / "AX.tsv").read_bytes() for name in ("mnli", "ax")]
    assert found[0] == found[1] and len(found[0].splitlines()) == 1105


def test_own_files(run_of, tmp_path):
    """Classes that a word gives away are learnt from a CSV; a test file gets its answers."""
    rows = [
        (f"row {k} is {'good' if k % 3 else 'bad'}", "yes" if k % 3 else "no") for k in range(90)
    ]
    path = tmp_path / "a.csv"
    path.write_text("review,verdict\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (tmp_path / "t.csv").write_text("review\nrow 5 is good\nrow 6 is bad\n")
    given = [f"data.train={path}", f"data.test={tmp_path / 't.csv'}", "data.text=review"]
    given += ["data.label=verdict", "data.root=null", "trainer.max_steps=300", "optim.lr=1e-2"]
    lines = log_lines()
    summary = finetune.finetune(run_of("custom", None, *given), tmp_path / "run")
    assert summary["val/accuracy"] == 1.0 and summary["lr"] == 1e-2
    counts = re.search(r"labels of train: yes: (\d+) \(\d+%\), no: (\d+)", "\n".join(lines))
    assert int(counts[1]) + int(counts[2]) == 81  # a tenth of 90 is held out
    answers = (tmp_path / "run" / "predictions" / "test.jsonl").read_text().splitlines()
    expected = [{"idx": 0, "label": "yes"}, {"idx": 1, "label": "no"}]
    assert list(map(json.loads, answers)) == expected
    names = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["id2label"]
    assert names == {"0": "no", "1": "yes"}


def test_simple_answers_stand_beside_a_model(run_of, tmp_path, monkeypatch):
    """On the screen, in the summary and on the page; a finished run does not compute them again."""
    path, folder = tmp_path / "a.csv", tmp_path / "run"
    rows = [f"row {k} is {'good,yes' if k % 3 else 'bad,no'}" for k in range(90)]
    path.write_text("\n".join(["text,label", *rows]))
    run = run_of("custom", None, f"data.train={path}", "data.root=null", "optim.lr=1e-9")
    summary = finetune.finetune(run, folder)
    assert summary["majority/note"] == "'yes' for every row" and summary["val/accuracy"] < 1
    table = (folder / "predictions" / "val_classes.csv").read_text().splitlines()
    assert table[0] == "label,precision,recall,f1,rows"
    assert [line.split(",")[0] for line in table[1:]] == ["no", "yes"]
    assert sum(int(line.split(",")[-1]) for line in table[1:]) == summary["rows/val"]
    assert summary["data/train/rows"] == 81 and summary["data/val/in_train"] == 0
    assert summary["data/kind"] == "classes" and "is read as 2 classes" in summary["data/labels"]
    assert summary["tfidf/val/accuracy"] == 1 > summary["majority/val/accuracy"] > 0
    assert summary["tfidf/note"] == "TF-IDF, logistic regression on 81 rows"
    assert "is below 1.0000 of TF-IDF and a linear model" in summary["doubt"]
    monkeypatch.setattr(finetune, "compute_baselines", lambda *_: pytest.fail("once more"))
    assert finetune.finetune(run, folder) == summary
    os.utime(path)  # then the rows are read again
    assert finetune.finetune(run, folder) == summary
    lines = log_lines()
    print_result(run, folder, summary, "finetune")
    shown = [line.split(maxsplit=2) for line in lines[:4]]
    assert [line[0] for line in shown] == ["finetune:", "majority", "tfidf", "warning:"]
    scores = f"1.0000, val/macro_f1 1.0000 ({summary['tfidf/note']})"
    assert shown[2][1:] == ["val/accuracy", scores]
    page = "".join(part for part in report.build_parts(load_run(folder)) if isinstance(part, str))
    table = words(page[page.index("Beside simple answers") : page.index("Curves")])
    assert re.search(r"this model +0\.\d{4}.*most frequent label.*TF-IDF and .* 1\.0000", table)
    older = {key: summary[key] for key in summary if not key.startswith(("majority", "tfidf"))}
    (folder / "summary.json").write_text(json.dumps(older))
    settings = json.loads((folder / "settings.json").read_text())
    del settings["optim.class_weights"], settings["data.metric"]
    (folder / "settings.json").write_text(json.dumps(settings))
    assert finetune.finetune(run, folder) == older
    page = report.build_parts(load_run(folder))
    assert not any("simple answers" in part for part in page if isinstance(part, str))


@pytest.mark.parametrize(
    ("metric", "is_lowest"), [("mae", True), ("rmse", True), ("spearman", False), (None, False)]
)
def test_another_score_chooses_the_checkpoint(run_of, tmp_path, metric, is_lowest):
    """Errors are best where they are lowest, all other scores where they are highest."""
    lines = [
        f'{{"text": "{"cat " * (k % 7)}of line {k}", "label": {k % 7 + 0.5}}}' for k in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=6", "optim.lr=5e-2", "patience=5"]
    files = [f"data.train={tmp_path}/a.jsonl", "data.root=null"]
    run = run_of("custom", None, *files, *epochs, f"data.metric={metric or 'null'}")
    summary = finetune.finetune(run, tmp_path / "run")
    key = f"val/{metric or 'r2'}"
    assert summary.metric == key
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        scores = [float(row[key]) for row in csv.DictReader(file) if row[key]]
    best = min(scores) if is_lowest else max(scores)
    assert len(set(scores)) > 2
    assert summary[key] == pytest.approx(best, rel=1e-5)


def test_an_unknown_score_is_one_line_before_anything_is_written(run_of, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nx,yes\ny,no\nz,no\n")
    run = run_of("custom", None, f"data.train={tmp_path}/a.csv", "data.root=null")
    run.data.metric = "macro-f1"
    line = "data.metric=macro-f1 is no score of task=custom; use accuracy, macro_f1, matthews, f1"
    with pytest.raises(BortError, match=f"{line}; did you mean 'macro_f1'"):
        finetune.finetune(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_skewed_classes_are_weighed(run_of, tmp_path):
    """Of the rows with some texts, a quarter is of a rare class: only weights bring it up."""
    labels = ["rare" if k % 40 < 2 else "usual" for k in range(200)]
    rows = [f"the {('cat', 'dog')[k % 2]} of line {k % 5},{labels[k]}\n" for k in range(200)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(rows))
    given = [f"data.train={tmp_path}/a.csv", f"data.val={tmp_path}/a.csv", "data.root=null"]
    given += ["trainer.max_steps=120", "optim.lr=1e-2", "data.batch_size=20"]
    given += ["data.metric=macro_f1"]
    plain = finetune.finetune(run_of("custom", None, *given), tmp_path / "plain")
    assert "one answer for all 200 rows: 'usual'" in plain["doubt"]
    run = run_of("custom", None, *given, "optim.class_weights=balanced")
    weighed = finetune.finetune(run, tmp_path / "weighed")
    table = (tmp_path / "weighed" / "predictions" / "val_classes.csv").read_text().splitlines()
    precision, recall = map(float, table[1].split(",")[1:3])
    assert table[1].startswith("rare,") and recall > 0.2 and 0 < precision < 0.5
    assert weighed["val/macro_f1"] > plain["val/macro_f1"]
    with pytest.raises(BortError, match=r"optim.class_weights=None, now balanced"):
        finetune.finetune(run, tmp_path / "plain")
    numbers = run_of("glue/stsb", tmp_path, "optim.class_weights=balanced")
    few = [Row(k, ("x", "y"), k + 0.5) for k in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            finetune, "load_task", lambda *_: (TASKS["glue/stsb"], {"train": few, "val": few})
        )
        with pytest.raises(BortError, match="is for classes; task=glue/stsb has numbers"):
            finetune.finetune(numbers, tmp_path / "numbers")
    assert not (tmp_path / "numbers").exists()


def test_own_numbers(run_of, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "row {k}", "label": {k / 8}}}\n' for k in range(40)))
    given = [f"data.train={path}", f"data.test={path}", "data.root=null"]
    summary = finetune.finetune(run_of("custom", None, *given), tmp_path / "run")
    assert -1 <= summary["val/pearson"] <= 1 and "test/spearman" in summary
    assert summary["lr"] == pytest.approx(0.064 / 16)
    answers = (tmp_path / "run" / "predictions" / "test.jsonl").read_text().splitlines()
    assert [type(json.loads(line)["label"]) for line in answers] == [float] * 40


def test_the_embedded_task_needs_nothing(run_of, tmp_path, monkeypatch, settings_of):
    """Neither model nor data: an encoder is pre-trained the first time, and found the second."""
    monkeypatch.setattr(docstrings, "CLASSES", ("python", "numpy"))
    monkeypatch.setattr(docstrings, "ROWS", {"train": 8, "val": 4, "test": 4})
    monkeypatch.setattr("bort.pretraining.teacher.OWN_STEPS", 4)
    monkeypatch.setattr("bort.pretraining.teacher.DataConfig", lambda: settings_of().data)
    given = ["model=null", "data.root=null", "data.length=16"]
    given += ["arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}"]
    for name in ("first", "second"):
        lines = log_lines()
        run = run_of("docstrings", None, *given)
        summary = finetune.finetune(run, tmp_path / name)
        assert set(summary) > {"val/accuracy", "test/macro_f1"}
        said = [line for line in lines if line.startswith("model: none given; pre-training")]
        assert len(said) == (name == "first")
        assert finetune.finetune(run, tmp_path / name) == summary  # as it was started
    weights = [
        (tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("first", "second")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("glue/rtee", [], "task=glue/rtee is no known task; did you mean 'glue/rte'?"),
        (
            "glue/rte",
            ["data.length=600"],
            "data.length=600 is longer than the 512 tokens of model=",
        ),
        ("glue/rte", ["model=nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_mistakes(shared, run_of, tmp_path, task, overrides, message):
    with pytest.raises(BortError) as error:
        finetune.finetune(run_of(task, shared / "data/glue", *overrides), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_data_is_refused(shared, run_of, tmp_path, monkeypatch):
    run = run_of("glue/rte", shared / "data/glue")
    few(monkeypatch, 64, 8)
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, 1), tmp_path / "run")
    monkeypatch.undo()
    few(monkeypatch, 63, 8)
    with pytest.raises(BortError, match="was started on other text"):
        finetune.finetune(run, tmp_path / "run")


@pytest.fixture
def changeable(tmp_path) -> list[str]:
    """Settings that name three tables of ten rows, each in a file of its own."""
    lines = [f"row {k} is {k % 3},{'yes' if k % 3 else 'no'}\n" for k in range(10)]
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    words = [f"data.{split}={tmp_path / split}.csv" for split in ("train", "val", "test")]
    return [*words, "data.root=null", "trainer.max_steps=1", "data.length=32"]


def test_a_callback_that_watches_no_score(run_of, changeable, tmp_path):
    """One line before anything is written; the names are those of the task's validation sets."""
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/mlm_accuracy"}
    run = run_of("custom", None, *changeable)
    with pytest.raises(BortError, match="mlm_accuracy is no score of this run; did you mean 'val/"):
        finetune.finetune(replace(run, callbacks={"a": stop}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_changed_after_the_end(run_of, changeable, tmp_path, monkeypatch):
    """A finished run is not one on other rows; a file that was only touched changes nothing."""
    run, lines = run_of("custom", None, *changeable), log_lines()
    summary = finetune.finetune(run, tmp_path / "run")
    os.utime(tmp_path / "val.csv", (1, 1))
    assert finetune.finetune(run, tmp_path / "run") == summary
    with monkeypatch.context() as patch:  # what was looked at once is known by its time
        lines.clear()
        patch.setattr(finetune, "load_task", lambda *_: pytest.fail("read again"))
        assert finetune.finetune(run, tmp_path / "run") == summary
        assert len(lines) == 1 and "is finished" in lines[0]
    for split in ("train", "val", "test"):
        path = tmp_path / f"{split}.csv"
        content = path.read_text()
        path.write_text(content.replace("row 3", "row three"))
        for _ in range(2):
            with pytest.raises(BortError, match=r"started on other text \(corpus \w+, now \w+\)"):
                finetune.finetune(run, tmp_path / "run")
        path.write_text(content)
    assert finetune.finetune(run, tmp_path / "run") == summary


def test_a_diagnostic_set_that_changed_after_the_end(shared, run_of, model, tmp_path):
    """Its answers are those to the rows that were there."""
    root = tmp_path / "superglue"
    shutil.copytree(shared / "data/superglue/AX-g", root / "AX-g")
    classes = build_classifier(load_masked_lm(model), 2)
    names = describe_outputs(TASKS["superglue/rte"])
    save_model(classes, load_tokenizer(model), tmp_path / "judge", names)
    run = run_of("superglue/axg", root, f"model={tmp_path / 'judge'}")
    summary = finetune.finetune(run, tmp_path / "run")
    assert finetune.finetune(run, tmp_path / "run") == summary
    (path,) = (root / "AX-g").glob("*.jsonl")
    path.write_text(path.read_text().replace("The", "Then", 1))
    with pytest.raises(BortError, match="was started on other text"):
        finetune.finetune(run, tmp_path / "run")


# ------------------------------------------------------------------------------------ pooled heads
