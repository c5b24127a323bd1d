"""Students and teachers of unlike make: heads that read pairs apart, other families."""

import json
import shutil

import numpy as np
import pytest
from scipy.stats import pearsonr
from teacher_folders import make_folder
from tiny_runs import log_lines
from transformers import AutoModelForSequenceClassification

from bort.errors import BortError
from bort.finetuning.recipe import finetune
from bort.predictor import load
from bort.task_distillation.dry_run import show
from bort.task_distillation.recipe import distill_task

CAT, DOG = "purr meow claw paw whisker".split(), "bark woof wag howl fetch".split()


def make_pair(k: int) -> tuple[str, str]:
    """Two texts, of the same animal where k is even."""
    first, second = (CAT, DOG)[k // 2 % 2], (CAT, DOG)[(k // 2 + k) % 2]
    return (
        f"{first[k % 5]} and {first[k // 3 % 5]}",
        f"{second[k // 5 % 5]} in {second[k // 7 % 5]}",
    )


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory):
    """Settings of the task `classes` or `number`: whether both texts are of the same animal."""
    folder = tmp_path_factory.mktemp("pairs")
    kinds = {"classes": ("other", "same"), "number": (0.5, 4.5)}
    for kind, labels in kinds.items():
        for name, part in (("train", range(60)), ("val", range(60, 84)), ("pool", range(84, 150))):
            pairs = [(*make_pair(k), labels[k % 2 == 0]) for k in part]
            rows = [dict(zip(("a", "b", "label"), pair, strict=True)) for pair in pairs]
            lines = "\n".join(map(json.dumps, rows))
            (folder / f"{kind}_{name}.jsonl").write_text(lines)

    def make(kind: str) -> list[str]:
        files = [f"data.{name}={folder / kind}_{name}.jsonl" for name in ("train", "val")]
        return ["task=custom", *files, "data.text=[a,b]", f"data.kind={kind}", "data.length=12"]

    return folder, make


@pytest.fixture(scope="module")
def teachers(of_pairs, compose_run, encoder, tmp_path_factory):
    """S of a task, by its kind and its head, fine-tuned once."""
    folder, known = tmp_path_factory.mktemp("teachers"), {}

    def train(kind: str, head: str):
        path = folder / f"{kind}_{head}"
        if path not in known:
            words = ["experiment=finetune", f"model={encoder}", *of_pairs[1](kind), f"head={head}"]
            known[path] = finetune(compose_run(*words, "trainer.max_epochs=10"), path)
        return path, known[path]

    return train


def read_answers(folder) -> list[dict]:
    lines = (folder / "predictions" / "val.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("kind", ["classes", "number"])
@pytest.mark.parametrize(
    ("head", "of_teacher"), [("towers", "linear"), ("towers", "towers"), ("mean", "towers")]
)
def test_heads_of_student_and_teacher(
    kind, head, of_teacher, of_pairs, teachers, run_of, student, tmp_path
):
    """S is scored as it was by itself; the student's folder answers what was scored."""
    folder, make = of_pairs
    source, alone = teachers(kind, of_teacher)
    words = [*make(kind), f"teacher.name={source}", f"head={head}", "distill.guard=-1"]
    words += [f"data.unlabelled={folder / kind}_pool.jsonl", "trainer.max_epochs=10"]
    summary = distill_task(run_of(*words), tmp_path / "run")
    metric = "val/accuracy" if kind == "classes" else "val/r2"
    assert summary[f"teacher/{metric}"] == pytest.approx(alone[metric], abs=1e-5)
    assert (summary["labelled_rows"], summary["unlabelled_rows"]) == (60, 66)
    answers = read_answers(tmp_path / "run")
    pairs = [make_pair(k) for k in range(60, 84)]
    predicted = [line["score"] for line in load(tmp_path / "run").predict(pairs)]
    assert predicted == pytest.approx([line["score"] for line in answers], abs=1e-5)
    if head == of_teacher == "towers":
        taught, teaching = (list_scores(folder) for folder in (tmp_path / "run", source))
        assert pearsonr(taught, teaching).statistic > 0.7


def list_scores(folder) -> np.ndarray:
    """How surely the pairs of the validation rows are the same."""
    answers = read_answers(folder)
    return np.array([line.get("scores", {"same": line["score"]})["same"] for line in answers])


# ------------------------------------------------------------------------------ other families


def test_a_teacher_of_another_family_with_its_own_tokenizer(run_of, tmp_path):
    """The student learns from the logits of transformers, kept as any teacher's are."""
    names = {0: "dog", 1: "cat"}
    labels = {"id2label": names, "label2id": {name: k for k, name in names.items()}}
    source = tmp_path / "distilbert"
    make_folder(source, "distilbert", AutoModelForSequenceClassification, **labels)
    words = [f"teacher.name={source}", "distill.guard=-1", "trainer.max_epochs=2"]
    summary = distill_task(run_of(*words), tmp_path / "run")
    assert (summary["teacher"], summary["unlabelled_rows"]) == (str(source), 60)
    assert set(read_answers(tmp_path / "run")[0]["scores"]) == {"cat", "dog"}
    lines = log_lines()
    show(run_of(*words), tmp_path / "planned")
    assert f"  teacher     {source}" in lines
    shutil.rmtree(tmp_path / "run")
    distill_task(run_of(*words), tmp_path / "run")
    assert "teacher: 100 rows were labelled before" in lines


def test_a_teacher_of_another_family_without_a_head(run_of, tmp_path):
    make_folder(tmp_path / "mpnet", "mpnet")
    run = run_of(f"teacher.name={tmp_path / 'mpnet'}")
    for refuse in (distill_task, show):
        with pytest.raises(BortError, match="is MPNet without a fine-tuned head, and bort trains"):
            refuse(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
