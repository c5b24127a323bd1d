"""Whole runs of Agora: what they leave, equal arms, other settings, official tasks."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bort.agora import recipe as agora_run
from bort.agora import report as agora_page
from bort.agora.generated import read_generated
from bort.agora.result import AgoraResult
from bort.errors import BortError
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import encode_examples
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.predictor import load
from bort.runs.folder import RunFolder
from bort.tasks import reading
from bort.tasks.custom import define_task
from bort.tasks.reading import load_task

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))

NUMBERS = define_task("numbers", "regression", ("text",), ("0", "1"))

WORDS = ("cat", "dog", "bird", "tree", "house", "river")


def test_what_a_run_leaves(whole, run_of, csv):
    folder, summary, lines = whole
    assert RunFolder(folder).find_summary() == summary
    assert summary["trainings"] == 3 and summary["rounds"] == 2 and summary["generated"] == 20
    assert {"majority/val/accuracy", "tfidf/val/accuracy"} <= set(summary)
    arms = ("default", "plain", "random", "agora")
    steps = {arm: summary[f"{arm}/steps"] for arm in arms}
    assert steps["plain"] == steps["random"] == steps["agora"] == summary["steps"]
    assert (
        steps["default"]
        == RunFolder(folder / "rounds/1/theta_1").find_summary()["steps"]
        < summary["steps"]
    )
    result = AgoraResult.from_json(summary)
    assert f"{steps['plain']:,} plain, all of Θ" in agora_page.judge_agora(result)
    kept = sorted(path.parent.relative_to(folder) for path in folder.rglob("model"))
    assert Path() in kept
    model, labels = load_classifier(folder)
    assert labels == {0: "no", 1: "yes"}
    task, rows = load_task("custom", run_of().data)
    examples = encode_examples(task, rows, load_tokenizer(folder), 64)
    found = answer_split(model, examples, "val")
    labels = np.array([row.label for row in rows["val"]])
    assert summary["val/accuracy"] == (found == labels).mean()
    made = [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]
    assert len(made) == 20 and {row["label"] for row in made} <= {"yes", "no"}
    assert any(line.startswith("  round 2, θ 1 of 1") for line in lines)


def test_a_run_in_bf16_has_one_precision(run_of, tmp_path, output_types):
    """The steps of all its trainings are bf16, their validations float32, and so is every score."""
    folder = tmp_path / "run"
    run = run_of("trainer.precision=bf16-mixed", "trainer.max_epochs=2")
    summary = agora_run.agora(run, folder)
    assert output_types == {"training": {torch.bfloat16}, "validation": {torch.float32}}
    assert summary["precision"] == "bf16-mixed"
    trainings = [path.parent for path in folder.rglob("settings.json")]
    assert len(trainings) > 1
    assert {RunFolder(path).precision for path in trainings} == {"bf16-mixed"}
    model, _ = load_classifier(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    task, rows = load_task("custom", run.data)
    found = answer_split(model, encode_examples(task, rows, load_tokenizer(folder), 64), "val")
    assert summary["val/accuracy"] == (found == [row.label for row in rows["val"]]).mean()


def test_data_that_changed_after_the_end(whole, run_of, csv, tmp_path):
    """A finished run is not one on other rows; a file that was only touched changes nothing."""
    folder, path = tmp_path / "run", csv / "train.csv"
    shutil.copytree(whole[0], folder)
    content = path.read_text()
    try:
        os.utime(path, (1, 1))
        assert agora_run.agora(run_of(), folder) == whole[1]
        path.write_text(content.replace("train the", "train one", 1))
        with pytest.raises(BortError, match="was started on other text"):
            agora_run.agora(run_of(), folder)
    finally:
        path.write_text(content)
        os.utime(path, (1, 1))


def test_a_callback_that_watches_no_score(run_of, tmp_path):
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/los"}
    with pytest.raises(BortError, match="callbacks.a.monitor=val/los is no score of this run; did"):
        agora_run.agora(replace(run_of(), callbacks={"a": stop}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_arms_have_equal_steps_and_the_same_d_and_e(whole):
    """Steps of each arm as its own trainings counted them."""
    folder, summary, _ = whole
    steps = {
        arm: sum(
            RunFolder(path.parent).find_summary()["steps"]
            for path in folder.glob(f"{arm}/**/summary.json")
        )
        for arm in ("rounds", "plain", "random", "default")
    }
    assert steps["rounds"] == steps["plain"] == steps["random"] == summary["steps"]
    rows = [each["rows"] for each in json.loads((folder / "rounds.json").read_text())["rounds"]]
    assert steps["default"] == 0  # it is θ 1 of round 1, as its scores say
    own = RunFolder(folder / "rounds/1/theta_1").find_summary()
    assert summary["default/eval/accuracy"] == own["eval/accuracy"]
    assert own["steps"] == 3 * math.ceil(rows[0] / 4)
    assert rows[1] == rows[0] + 20
    for arm in ("default", "plain", "random"):
        assert {f"{arm}/val/accuracy", f"{arm}/eval/accuracy"} <= set(summary)


@pytest.mark.parametrize(
    "overrides",
    [
        ["agora.labels=soft", "agora.generator=edit", "agora.prune=lcs"],
        ["agora.generator=nearest", "agora.mistakes=eval", "agora.replays=0"],
    ],
)
def test_other_settings(run_of, tmp_path, overrides):
    summary = agora_run.agora(run_of(*overrides), tmp_path / "run")
    assert summary["generated"] == 20 and 0 <= summary["val/accuracy"] <= 1
    rows = read_generated(tmp_path / "run" / "rounds" / "2" / "rows.jsonl", TASK)
    soft = "agora.labels=soft" in overrides
    assert all(isinstance(row.label, tuple if soft else int) for row in rows)


def test_numbers(encoder, tmp_path, run_of):
    """Regression: S is not guarded, its numbers are the labels, cut to the scale."""
    text = "".join(f"the {WORDS[k % 6]} were good {k},{k / 40}\n" for k in range(120))
    (tmp_path / "a.csv").write_text("text,label\n" + text)
    run = run_of(f"data.train={tmp_path / 'a.csv'}", "data.val=null", "data.kind=number")
    summary = agora_run.agora(run, tmp_path / "run")
    assert "teacher/eval/balanced_accuracy" not in summary and "val/pearson" in summary
    rows = read_generated(tmp_path / "run" / "rounds" / "2" / "rows.jsonl", NUMBERS)
    assert rows and all(isinstance(r.label, float) and 0 <= r.label <= 119 / 40 for r in rows)


@pytest.mark.parametrize(
    ("name", "file", "lines"),
    [
        ("glue/rte", "RTE.tsv", 61),
        ("superglue/wic", "WiC.jsonl", 60),
        ("superglue/copa", "COPA.jsonl", 60),
    ],
)
def test_official_tasks(shared, run_of, tmp_path, monkeypatch, name, file, lines):
    """Pairs, spans and choices through a whole run, each with its submission file."""
    read = reading.read_rows
    monkeypatch.setattr(
        reading, "read_rows", lambda *given: {k: v[:60] for k, v in read(*given).items()}
    )
    run = run_of(
        *(f"task={name}", f"data.root={shared / 'data' / name.split('/')[0]}", "agora.guard=0"),
        *("trainer.max_epochs=1", "data.length=160"),
    )
    summary = agora_run.agora(run, tmp_path / "run")
    assert summary["generated"] > 0
    assert len((tmp_path / "run" / "predictions" / file).read_text().splitlines()) == lines


def test_all_of_agora_reads_long_texts_in_windows(run_of, tmp_path):
    """S, the rounds and the answers: the word that decides is the last one of eleven."""
    run = run_of("data.length=8", "data.windows=mean", "agora.rounds=1", "agora.guard=0.5")
    summary = agora_run.agora(run, tmp_path / "run")
    for name in ("teacher/model", "model"):
        settings = json.loads((tmp_path / "run" / name / "config.json").read_text())
        assert settings["bort_window_stride"] == 2
    _, rows = load_task("custom", run.data)
    answers = load(tmp_path / "run").predict([row.texts for row in rows["val"]])
    right = [
        answer["label"] == ("no", "yes")[row.label]
        for answer, row in zip(answers, rows["val"], strict=True)
    ]
    assert summary["val/accuracy"] == np.mean(right)
