"""Every task on the real files, two steps each; batches, losses and scores against references."""

import csv
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from sklearn import metrics
from tiny_runs import log_lines, stopping
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort import predictor, report
from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.finetuning import dry_run as plan
from bort.finetuning import recipe as finetune
from bort.finetuning.datamodule import RowBatches
from bort.finetuning.heads import describe_outputs, match_outputs
from bort.finetuning.module import compute_loss
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_classifier, build_model
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer, save_model
from bort.pretraining import recipe as pretrain
from bort.runs.closing import print_result
from bort.runs.loaded import load_run
from bort.tasks import docstrings, reading, registry
from bort.tasks.encoding import encode_rows
from bort.tasks.registry import TASKS
from bort.text.tokenizer import train_tokenizer

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


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A pre-trained folder as small as can be."""
    words = [f"the {word} of line {k}, and so on." for k, word in enumerate(["cat", "dog"] * 40)]
    tokenizer = train_tokenizer(words, 320)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=512)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


def test_outputs_by_their_names():
    """In upper or lower case, but for a task that has a label in both."""
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=16)
    three, two = (build_classifier(build_model(sizes, "default", 0), count) for count in (3, 2))
    task = replace(TASKS["glue/sst2"], labels=("A", "a", "b"))
    assert match_outputs(task, three, {0: "b", 1: "A", 2: "a"}, "model=x") == [1, 2, 0]
    names = {0: "Positive", 1: "NEGATIVE"}
    assert match_outputs(TASKS["glue/sst2"], two, names, "model=x") == [1, 0]
    for labels in ({0: "A", 1: "B", 2: "b"}, {0: "a", 1: "b"}, {}):
        with pytest.raises(BortError, match="model=x has the labels .*, glue/sst2 needs A, a, b; "):
            match_outputs(task, three, labels, "model=x")


@pytest.fixture(scope="module")
def run_of(model):
    """Settings of a fine-tuning of two steps."""

    def make(task: str, root: Path | None, *overrides: str) -> TrainConfig:
        given = ["experiment=finetune", f"task={task}", f"model={model}"]
        given += [f"data.root={root}"] if root else []
        given += ["name=test", "output_dir=unused", "trainer=cpu", "trainer.max_steps=2"]
        given += ["data.length=512", "data.batch_size=4"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose("train", [*given, *overrides]))

    return make


def few(monkeypatch, count: int, tests: int | None = None) -> None:
    """Of every split the first `count` rows; of the test sets all, or `tests`."""
    read = reading.read_rows

    def some(task, root):
        found = read(task, root)
        return {k: v[:tests] if k.startswith("test") else v[:count] for k, v in found.items()}

    monkeypatch.setattr(reading, "read_rows", some)


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
    page = report.parts(load_run(tmp_path / "run"))
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
    monkeypatch.setattr(pretrain, "OWN_STEPS", 4)
    monkeypatch.setattr(pretrain, "DataConfig", lambda: settings_of().data)
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


@pytest.mark.parametrize("task", ["glue/rte", "glue/stsb", "superglue/copa"])
def test_the_plan_counts_what_there_is(shared, run_of, task):
    lines = log_lines()
    suite = task.split("/")[0]
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=3"]
    plan.show(run_of(task, shared / "data" / suite, *epochs), Path("nowhere"))
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}
    counts = {
        "glue/rte": ("train 2,490, val 277, test 3,000", 3 * 623),
        "glue/stsb": ("train 5,749, val 1,500, test 1,379", 3 * 1438),
        "superglue/copa": ("train 400, val 100, test 500", 300),
    }
    rows, steps = counts[task]
    assert found["rows"] == rows and found["steps"].startswith(f"{steps:,} of 4 rows")
    assert lines[-1] == "dry_run=true: nothing was started" and not Path("nowhere").exists()


# ------------------------------------------------------------------------------------ batches


def batches_of(shared, model, **options) -> tuple[RowBatches, list]:
    task = registry.find_task("glue/rte")
    rows = reading.read_rows(task, shared / "data" / "glue")["val"]
    tokenizer = load_tokenizer(model)
    return RowBatches(encode_rows(task, rows, tokenizer, 128), rows, 8, 1, **options), rows


def test_batches_hold_every_row_once_and_little_padding(shared, model):
    batches, rows = batches_of(shared, model, seed=0)
    for epoch in (0, 1):
        found = [batches[epoch * len(batches) + k] for k in range(len(batches))]
        order = torch.cat([batch["rows"] for batch in found]).tolist()
        assert sorted(order) == list(range(277)) and order != sorted(order)
        real = sum(int(batch["attention_mask"].sum()) for batch in found)
        assert real / sum(batch["input_ids"].numel() for batch in found) > 0.9
        for batch in found:
            expected = [rows[k].label for k in batch["rows"].tolist()]
            assert batch["labels"].tolist() == expected
    first, second = (
        torch.cat([batches[e * len(batches) + k]["rows"] for k in range(5)]) for e in (0, 1)
    )
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(("count", "processes"), [(277, 2), (277, 3), (277, 4), (17, 4), (5, 5)])
def test_processes_share_the_rows_of_a_step(shared, model, count, processes):
    """No row of an epoch is left out or read twice, and each process has some in every step.

    A step's rows are those of one process with batches as large as theirs together, but for a last
    batch of fewer rows than processes, which is in the batch before it.
    """
    whole, rows = batches_of(shared, model, seed=3)
    rows, inputs = rows[:count], whole.inputs.of(range(count))
    parts = [RowBatches(inputs, rows, 4, 1, seed=3) for _ in range(processes)]
    for rank, part in enumerate(parts):
        part.divide(rank, processes)
    large = RowBatches(inputs, rows, 4 * processes, 1, seed=3)
    for epoch in (0, 1):
        steps = [[part[epoch * len(part) + k] for part in parts] for k in range(len(parts[0]))]
        assert all(len(batch["labels"]) for step in steps for batch in step)
        found = [torch.cat([batch["rows"] for batch in step]).tolist() for step in steps]
        assert sorted(sum(found, [])) == list(range(count))
        if count % (4 * processes) >= processes:
            alone = [large[epoch * len(large) + k]["rows"].tolist() for k in range(len(large))]
            assert [sorted(step) for step in found] == [sorted(step) for step in alone]
    with pytest.raises(BortError, match=f"{count} training rows for {count + 1} processes; use f"):
        parts[0].divide(0, count + 1)


def test_evaluation_is_in_order_of_length(shared, model):
    batches, rows = batches_of(shared, model, seed=None)
    found = list(batches)
    assert len(found) == len(batches) == 35
    lengths = [batch["input_ids"].shape[1] for batch in found]
    assert lengths == sorted(lengths)
    assert sorted(torch.cat([b["rows"] for b in found]).tolist()) == list(range(277))
    for batch in found[:3]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ((ids != 1) == mask.bool()).all()


def test_losses_by_hand():
    """Case F3: for p = y = (1, 2, 3) it is 0, where a shape mistake gives 1.3333."""
    numbers = torch.tensor([1.0, 2.0, 3.0])
    assert compute_loss("regression", numbers[:, None], numbers) == 0
    assert compute_loss("regression", numbers[:, None] + 2, numbers) == 4
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    expected = (np.log(2) + np.log(4)) / 2
    assert float(compute_loss("classes", logits, torch.tensor([1, 1]))) == pytest.approx(expected)


def test_regression_scores_do_not_depend_on_the_batch(shared, run_of, tmp_path):
    """Case F3: evaluation batches of 4, 16 and 28 (four times data.batch_size)."""
    root = shared / "cases" / "F3-regression-shape" / "glue"
    found = []
    for size in (1, 4, 7):
        run = run_of("glue/stsb", root, f"data.batch_size={size}", "trainer.max_steps=1")
        run.optim.lr = 1e-12  # so that the batch of training does not matter
        found.append(finetune.finetune(run, tmp_path / str(size)))
    for key in ("val/pearson", "val/spearman"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-5)
        assert found[0][key] == pytest.approx(found[2][key], abs=1e-5)


@pytest.fixture(scope="module")
def priced(run_of, tmp_path_factory):
    """Fine-tunings on c · y + d with the same texts: (c, d) to (folder, summary, answers)."""
    folder = tmp_path_factory.mktemp("priced")
    texts = [f"{('cat', 'dog', 'line')[k % 3]} {'of ' * (k % 4)}" for k in range(60)]
    labels = [k % 3 + 0.1 * (k % 4) for k in range(60)]
    known = {}

    def train(c: float, d: float):
        if (c, d) not in known:
            place = folder / str(len(known))
            path = folder / f"{len(known)}.jsonl"
            rows = zip(texts, labels, strict=True)
            path.write_text(
                "".join(json.dumps({"text": t, "label": c * y + d}) + "\n" for t, y in rows)
            )
            given = [f"data.train={path}", f"data.val={path}", "data.kind=number"]
            given += ["data.root=null", "optim.lr=2e-2", "trainer.max_steps=90"]
            summary = finetune.finetune(run_of("custom", None, *given), place)
            lines = (place / "predictions" / "val.jsonl").read_text().splitlines()
            known[c, d] = place, summary, np.array([json.loads(line)["score"] for line in lines])
        return known[c, d]

    return train


def texts_of(folder: Path) -> list[str]:
    """The texts that the fine-tuning in a folder of `priced` has read."""
    lines = Path(f"{folder}.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.mark.parametrize(("c", "d"), [(1000.0, 0.0), (-1.0, 0.0), (1.0, 200_000.0), (-1e3, 2e5)])
def test_numbers_on_another_scale_are_learnt_as_well(priced, c, d):
    """Labels c · y + d are answered by c · p + d, to a thousandth of the spread."""
    _, plain, p = priced(1.0, 0.0)
    _, summary, answers = priced(c, d)
    assert np.std(p) > 0.1 and plain["val/r2"] > 0.3
    assert np.abs(answers - (c * p + d)).max() < 1e-3 * abs(c) * np.ptp(p)
    assert summary["val/pearson"] == pytest.approx(plain["val/pearson"], abs=1e-5)
    assert summary["val/rmse"] == pytest.approx(abs(c) * plain["val/rmse"], rel=1e-3)


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


def test_edited_scales_are_not_believed(priced, tmp_path):
    """What config.json says of the scale counts only where the weights agree with it."""
    folder, _, answers = priced(1.0, 200_000.0)
    texts = texts_of(folder)
    expected = predictor.load(folder).predict(texts[:5])
    for number, scale in enumerate(([1.0, 5.0], [math.nan, 1], "x", [10**400, 1], {"a": 1}, [1])):
        copy = tmp_path / str(number)
        shutil.copytree(folder / "model", copy)
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(settings | {"bort_scale": scale}))
        for a, b in zip(predictor.load(copy).predict(texts[:5]), expected, strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=0.02)  # float32 at 200,000


# ------------------------------------------------------------------------------------ mistakes


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
