"""Whole runs with `head=mean` and `head=towers`: trained, saved, answered and refused."""

import json

import pytest
from task_rows import few
from tiny_runs import log_lines, stopping

from bort.errors import BortError
from bort.finetuning import dry_run as plan
from bort.finetuning import recipe as finetune
from bort.predictor import load
from bort.runs.closing import print_result


@pytest.fixture
def pairs(tmp_path) -> list[str]:
    """Settings of a task of one's own: pairs that name the same animal or not."""
    rows = [
        {"a": f"the {('cat', 'dog')[k % 2]} of line {k}", "b": f"a {('cat', 'dog')[k // 2 % 2]}"}
        for k in range(40)
    ]
    for k, row in enumerate(rows):
        row |= {"same": ("no", "yes")[k % 2 == k // 2 % 2], "likeness": 1.5 * (k % 2) - k % 3}
    for name, part in (("train", rows[:30]), ("val", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    files = [f"data.{name}={tmp_path / name}.jsonl" for name in ("train", "val")]
    return [*files, "data.text=[a,b]", "trainer.max_steps=-1", "trainer.max_epochs=2"]


@pytest.mark.parametrize("head", ["mean", "towers"])
@pytest.mark.parametrize("label", ["same", "likeness"])
def test_pooled_heads_in_a_whole_run(run_of, pairs, tmp_path, head, label):
    """Trained, stopped and resumed to the same bits, and answering as the run has scored it."""
    overrides = [
        f"head={head}",
        f"data.label={label}",
        "data.length=9",
        "dropout=0.1",
        "optim.lr=1e-2",
    ]
    overrides += ["data.kind=number"] if label == "likeness" else []
    run = run_of("custom", None, *pairs, *overrides)
    summary = finetune.finetune(run, tmp_path / "whole")
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, 5), tmp_path / "run")
    finetune.finetune(run, tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors", "predictions/val.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    stored = (tmp_path / "run" / "predictions" / "val.jsonl").read_text().splitlines()
    answers = load(tmp_path / "run").predict([(row["a"], row["b"]) for row in rows])
    for answer, line in zip(answers, map(json.loads, stored), strict=True):
        assert answer["score"] == pytest.approx(line["score"], abs=1e-5)
        assert answer.get("label") == line.get("label")
    lines = log_lines()
    print_result(run, tmp_path / "run", summary, "finetune")
    assert any(f"(for bort: head={head}; AutoModel opens the encoder)" in line for line in lines)
    assert any("-m bort.predict" in line and "pair='…'" in line for line in lines)
    again = run_of("custom", None, *pairs, *overrides, f"model={tmp_path / 'run'}", "head=linear")
    assert finetune.finetune(again, tmp_path / "again")["steps"] > 0  # its encoder is fine-tuned on


def test_towers_of_one_text_are_refused_and_nothing_is_written(run_of, pairs, shared, tmp_path):
    root = shared / "data" / "glue"
    for job in (finetune.finetune, plan.show):
        with pytest.raises(BortError, match="head=towers compares two texts, and glue/cola"):
            job(run_of("glue/cola", root, "head=towers"), tmp_path / "run")
    one_text = [*pairs, "data.text=a", "data.label=same"]
    for task, settings in (("custom", one_text), ("docstrings", [])):
        with pytest.raises(BortError, match=f"compares two texts, and task={task} has one a row"):
            run_of(task, None, *settings, "head=towers")
    assert not (tmp_path / "run").exists()


def test_towers_of_mnli_answer_the_diagnostic_set(shared, run_of, tmp_path, monkeypatch):
    """Beside its own run, and later from its folder."""
    few(monkeypatch, 40, 8)
    root = shared / "data" / "glue"
    finetune.finetune(run_of("glue/mnli", root, "head=towers"), tmp_path / "mnli")
    beside = (tmp_path / "mnli" / "predictions" / "AX.tsv").read_bytes()
    run = run_of("glue/ax", root, f"model={tmp_path / 'mnli'}")
    finetune.finetune(run, tmp_path / "ax")
    assert (tmp_path / "ax" / "predictions" / "AX.tsv").read_bytes() == beside
