"""The student's trainings: killed and repeated, by a launcher, and tasks that it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import stopping

from bort.agora import recipe as agora_run
from bort.agora import student as candidate
from bort.errors import BortError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("step", [2, 8, 27])
def test_killed_and_repeated(whole, run_of, tmp_path, monkeypatch, step):
    """In S, in a round, or before a control arm: the model of the undisturbed run."""
    folder, summary, _ = whole
    fit, count = candidate.train_classifier, iter(range(99))

    def dying(run, *args):
        if next(count) == step // 6:
            run = stopping(run, step % 6 + 1)
        return fit(run, *args)

    monkeypatch.setattr(candidate, "train_classifier", dying)
    with pytest.raises(SystemExit):
        agora_run.agora(run_of(), tmp_path / "run")
    monkeypatch.undo()
    again = agora_run.agora(run_of(), tmp_path / "run")
    for name in ("model/model.safetensors", "rounds.json", "generated.jsonl", "metrics.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()
    times = {"seconds", "tokens_per_s"}
    assert {k: v for k, v in again.items() if k not in times} == {
        k: v for k, v in summary.items() if k not in times
    }


def test_a_launcher_finds_the_same(whole, given, tmp_path):
    """Trainings of a round in processes of joblib's launcher, by the command line."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=far"]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "train.py"), *given, *launcher],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 trainings go to the launcher") == 2  # both controls
    assert "what did Agora bring?" in result.stdout
    for name in ("model/model.safetensors", "rounds.json", "generated.jsonl", "metrics.csv"):
        found = tmp_path / "runs" / "agora" / "far" / name
        assert found.read_bytes() == (whole[0] / name).read_bytes()


def test_tasks_that_cannot_be_generated(run_of, tmp_path, shared):
    roots = {suite: f"data.root={shared / 'data' / suite}" for suite in ("glue", "superglue")}
    for task, message in (
        ("glue/ax", "task=glue/ax has no training rows; use task=glue/mnli"),
        ("superglue/record", "agora cannot make rows of superglue/record"),
    ):
        with pytest.raises(BortError, match=message):
            agora_run.agora(run_of(f"task={task}", roots[task.split("/")[0]]), tmp_path / "x")
    with pytest.raises(BortError, match="data.metric=rmse cannot be used: Agora compares scores"):
        run = run_of("task=glue/stsb", roots["glue"], "data.metric=rmse")
        agora_run.agora(run, tmp_path / "x")


def test_several_labels_a_row_are_refused(run_of, tmp_path):
    rows = [f'{{"text": "text {k}", "tags": ["{"ab"[k % 2]}"]}}' for k in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    words = ["task=custom", f"data.train={tmp_path / 'rows.jsonl'}", "data.label=tags"]
    with pytest.raises(BortError, match="experiment=agora makes rows of one label each, and these"):
        agora_run.agora(run_of(*words, "data.val=null"), tmp_path / "x")
