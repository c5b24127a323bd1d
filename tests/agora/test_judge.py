"""S: how good it is, how sure, and where it comes from."""

from dataclasses import replace

import numpy as np
import pytest
from teacher_folders import make_folder
from transformers import AutoModelForSequenceClassification

from bort.agora import recipe as agora_run
from bort.agora.dataset import split_rows
from bort.agora.generated import read_generated
from bort.agora.judge import compute_balanced_accuracy, examine_judge, find_teacher_source
from bort.errors import BortError
from bort.files.writing import write_json
from bort.finetuning.judge import Judge, open_judge
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.tasks.custom import define_task
from bort.tasks.reading import load_task
from bort.tasks.task import Row

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))


def test_balanced_accuracy_is_that_of_scikit_learn():
    """Case F1: the majority answer on MRPC is right in 68% of rows, and worth one half."""
    labels, found = np.array([1] * 684 + [0] * 316), np.ones(1000)
    assert compute_balanced_accuracy(labels, found) == 0.5
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    labels, found = random.integers(3, size=200), random.integers(3, size=200)
    expected = metrics.balanced_accuracy_score(labels, found)
    assert compute_balanced_accuracy(labels, found) == pytest.approx(expected)


def test_how_sure_s_must_be(whole, run_of):
    """Of three quarters of E it is as sure, by its own answers."""
    folder, summary, _ = whole
    task, rows = load_task("custom", run_of().data)
    _, E = split_rows(task, rows["train"], 0.2)
    model, _ = load_classifier(folder / "teacher")
    sure = Judge(task, model, load_tokenizer(folder / "teacher"), [0, 1], 64)(E).max(-1)
    least = summary["teacher/eval/confidence"]
    assert (sure > least).mean() <= 0.75 <= (sure >= least).mean()  # equal rows are equally sure


def test_labels_are_those_of_s(whole, run_of):
    folder, _, _ = whole
    task, _ = load_task("custom", run_of().data)
    model, labels = load_classifier(folder / "teacher")
    s = Judge(task, model, load_tokenizer(folder / "teacher"), [0, 1], 64)
    rows = read_generated(folder / "rounds" / "2" / "rows.jsonl", TASK)
    assert labels == {0: "no", 1: "yes"}
    assert [row.label for row in rows] == s(rows).argmax(-1).tolist()


def test_s_is_the_teacher_of_the_pre_training(run_of, encoder, tmp_path):
    """Which the summary of the candidate's run names."""
    run = run_of(f"model={tmp_path / 'run'}", "teacher.name=null")
    write_json(tmp_path / "run" / "summary.json", {"teacher": str(encoder)})
    assert find_teacher_source(run) == str(encoder)
    assert find_teacher_source(replace(run, model=f"{run.model}/model")) == str(encoder)
    write_json(tmp_path / "run" / "summary.json", {"val/loss": 1.0})
    with pytest.raises(BortError, match="does not say who taught it; set agora.teacher="):
        find_teacher_source(run)


def test_an_s_that_is_no_judge(run_of, tmp_path, whole, shared):
    with pytest.raises(BortError, match=r"balanced accuracy of 0.\d+ on E \(chance is 0.500\)"):
        agora_run.agora(run_of("trainer.max_epochs=1", "agora.guard=0.99"), tmp_path / "a")
    run = run_of("task=glue/rte", f"data.root={shared / 'data/glue'}", f"agora.teacher={whole[0]}")
    with pytest.raises(BortError, match="has the labels no, yes, glue/rte needs entailment"):
        agora_run.agora(run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_encoder_of_another_family_is_no_start_of_s(run_of, tmp_path):
    make_folder(tmp_path / "mpnet", "mpnet")
    run = run_of(f"teacher.name={tmp_path / 'mpnet'}")
    line = "S cannot be fine-tuned from .*mpnet: bort does not train its family; set agora.teacher="
    with pytest.raises(BortError, match=line):
        find_teacher_source(run)
    with pytest.raises(BortError, match=line):
        agora_run.agora(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_judge_of_another_family(tmp_path):
    """Its confidence and its scores are those of its probabilities, as of any S."""
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    make_folder(tmp_path, "electra", AutoModelForSequenceClassification, **names)
    task = define_task("custom", "classes", ("text",), ("no", "yes"))
    rows = [Row(k, (f"Line {k}: the cube",), k % 2) for k in range(12)]
    judge = open_judge(task, str(tmp_path), 32, "cpu")
    scores = examine_judge(judge, rows, {"val": rows}, 0.0, "S")
    chances = judge(rows)
    right = (chances.argmax(-1) == [row.label for row in rows]).mean()
    assert scores.on_e["accuracy"] == scores.dev["val"]["accuracy"] == pytest.approx(right)
    assert scores.confidence == pytest.approx(np.quantile(chances.max(-1), 0.25))
