"""Whole searches in process and by the command line."""

import csv
import itertools
import json
import math
import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny_runs import log_lines, sweep, table

from bort.errors import BortError, Diverged
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.recipe import prepare
from bort.trials import training
from bort.trials.records import read_records

# One width and depth, nothing trained again.
ALONE = ["grid.depth=[1]", "grid.hidden=[16]", "search.seeds=1", "search.finalists=1"]


ROOT = Path(__file__).resolve().parents[2]


def test_one_teacher_pass_for_the_sweep(done):
    """6 training batches and those of validation once, and 6 for the finalists' second seed."""
    run, folder, summary, _, passes = done
    corpus, _ = prepare(run)
    val = len(ValBatches(corpus, replace(run.data, val_sequences=10**6)))
    assert len(passes) == 6 + val + 6
    assert summary["teacher_batches"] == 12


def test_a_second_call_trains_nothing(done):
    run, folder, summary, _, _ = done
    before = {p: p.stat().st_mtime_ns for p in folder.glob("D*/**/*") if p.is_file()}
    lines = log_lines()
    assert sweep(run, folder) == summary
    assert len(before) > 50
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("D*/**/*") if p.is_file()}
    assert "search: 10 recorded already" in lines


def failing(monkeypatch, reasons: dict[int, Exception]) -> None:
    """Trainings of candidates with this intermediate size raise."""
    train = training.train_leg

    def broken(job, *inputs, **options):
        if job.arch.intermediate in reasons:
            raise reasons[job.arch.intermediate]
        return train(job, *inputs, **options)

    monkeypatch.setattr(training, "train_leg", broken)


def test_failures_are_results(search_of, tmp_path, monkeypatch):
    """Case S1: one diverges, one finds no memory, one has no whole heads; the others finish."""
    failing(monkeypatch, {32: Diverged("the loss became nan at step 3"), 48: MemoryError()})
    run = search_of(
        "grid={depth: [1], hidden: [16], heads: [1, 3], intermediate: [16, 24, 32, 48]}",
        "grid.head_size=null",
        *("search.exponents=[0,0,1]", "search.seeds=1"),
    )
    lines = log_lines()
    summary = sweep(run, tmp_path / "run")
    assert (summary["trained"], summary["failed"], summary["invalid"]) == (2, 2, 4)
    assert "search: ⟨1,1,16,32⟩ failed: the loss became nan at step 3" in lines
    assert summary["diverged"] == 1
    # every bound is 1: the one without memory could have been better by all that is left
    assert summary["regret_bound"] == pytest.approx(1 - summary["w"])
    statuses = {row["intermediate"]: row["status"] for row in table(tmp_path / "run")[:4]}
    assert (statuses["32"], statuses["48"]) == ("diverged", "failed")
    reasons = {row["reason"] for row in table(tmp_path / "run")}
    assert {"out of memory", "heads=3 does not divide hidden=16"} <= reasons
    errors = {r.xi: r.error for r in read_records(tmp_path / "run")}
    best = min((xi for xi in errors if errors[xi]), key=errors.get)
    assert summary["optimum"] == best.to_json()


def test_a_failed_finalist_is_said(search_of, tmp_path, monkeypatch):
    """A further seed that fails takes nothing from the candidate's own error."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.seeds=2")
    train = training.train_leg

    def broken(job, *inputs, **options):
        if job.seed == 1:
            raise Diverged("the loss became nan at step 3")
        return train(job, *inputs, **options)

    monkeypatch.setattr(training, "train_leg", broken)
    lines = log_lines()
    summary = sweep(run, tmp_path / "run")
    assert (summary["trained"], summary["failed"], summary["further_failed"]) == (2, 0, 1)
    assert summary["regret_bound"] == 0 and summary["seed_spread"] is None
    assert any("finalist" in x and "with seed 1" in x and "failed: the loss" in x for x in lines)


def test_all_fail(search_of, tmp_path, monkeypatch):
    failing(monkeypatch, {16: Diverged("the loss became inf"), 32: Diverged("the loss became inf")})
    with pytest.raises(BortError, match="all 8 candidates failed; the first one: the loss became"):
        sweep(search_of(), tmp_path / "run")
    assert not (tmp_path / "run" / "optimum.yaml").exists()


def test_a_bug_ends_the_search(search_of, tmp_path, monkeypatch):
    failing(monkeypatch, {16: RuntimeError("mat1 and mat2 shapes cannot be multiplied")})
    with pytest.raises(RuntimeError, match="mat1"):
        sweep(search_of(), tmp_path / "run")


def test_sigkill_at_random_moments(done, search_of, tmp_path):
    """Case S2: nothing that was recorded is trained again; the optimum is that of `done`."""
    run, folder = done[0], tmp_path / "run"
    rng = random.Random(0)
    context = multiprocessing.get_context("fork")
    before, kills = {}, 0
    for attempt in range(100):
        process = context.Process(target=sweep, args=(run, folder))
        process.start()
        process.join(rng.uniform(0.05, 0.7) if attempt < 8 else 120)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        now = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("D*/point.json")}
        assert all(now.get(path) == value for path, value in before.items())
        before = now
        if process.exitcode == 0:
            break
    assert kills >= 3 and len(before) == 10
    summary = json.loads((folder / "summary.json").read_text())
    same = ("optimum", "w", "w_interval", "trained", "teacher_batches", "train_flops")
    assert {key: summary[key] for key in same} == {key: done[2][key] for key in same}


def sweep_until(run, folder, moves: int) -> None:
    """Search until so many files have got their final names, and die there; 0: to the end."""
    replace, count = os.replace, itertools.count(1)

    def replace_and_die(*args, **options):
        replace(*args, **options)
        if next(count) == moves:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die
    sweep(run, folder)


def test_sigkill_inside_rungs_and_branches(halved, tmp_path):
    """A search by halving that is killed, again and again, has the records of one that was not."""
    run, whole, summary = halved
    folder, rng, kills = tmp_path / "run", random.Random(1), 0
    context = multiprocessing.get_context("fork")
    for attempt in range(100):
        moves = rng.randint(1, 12) if attempt < 8 else 0
        process = context.Process(target=sweep_until, args=(run, folder, moves))
        process.start()
        process.join(280)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    ours, theirs = (
        {r.job: (r.error, r.flops, r.kl_by_step) for r in read_records(path)}
        for path in (folder, whole)
    )
    assert ours == theirs
    result = json.loads((folder / "summary.json").read_text())
    timed = {"seconds"}
    assert {k: v for k, v in result.items() if k not in timed} == {
        k: v for k, v in summary.items() if k not in timed
    }


def test_two_workers_halve_as_one_does(search_of, tiny_search, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [*ALONE, "grid.intermediate=[16,24,32]", "search.exponents=[0,0,1]"]
    words += ["search.halving=true", "search.n=16"]
    alone = sweep(search_of(*words), tmp_path / "one")
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "search.parallel=2", "name=two"]
    result = by_hand("search.py", *tiny_search, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "search" / "two"
    ours, theirs = (
        {r.job: (r.error, r.flops) for r in read_records(path)}
        for path in (folder, tmp_path / "one")
    )
    assert ours == theirs and len(ours) == 9
    summary = json.loads((folder / "summary.json").read_text())
    same = ("optimum", "w", "trained", "dropped", "regret_bound_curves", "crossings", "train_flops")
    assert {key: summary[key] for key in same} == {key: alone[key] for key in same}
    assert "search: to 4 of 16 steps: ⟨1,1,16,16⟩, ⟨1,1,16,24⟩" in result.stdout


def test_further_rates_count_by_their_best(search_of, tmp_path):
    run = search_of("search.lrs=[1e-3,1e-2]", "search.seeds=1", "search.finalists=1")
    summary = sweep(run, tmp_path / "run")
    found = read_records(tmp_path / "run")
    assert {1e-3, 1e-2, 4e-3} <= {r.job.lr for r in found}
    best = min(r.error for r in found if r.xi.to_json() == summary["optimum"])
    assert summary["error"] == best


def by_hand(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        **dict(cwd=cwd, env=environment, stdin=subprocess.DEVNULL, timeout=200),
        **dict(capture_output=True, text=True),
    )


def test_search_by_hand(printed, done):
    """The same as in process, and its optimum is a setting of train.py."""
    cwd, result = printed
    assert result.stderr == ""
    folder = cwd / "runs" / "search" / "first"
    command = result.stdout.splitlines()[-1].split("next")[1].split()
    assert command[:2] == ["python", "train.py"]
    summary = json.loads((folder / "summary.json").read_text())
    errors = {r.xi: r.error for r in read_records(done[1]) if r.job.seed == 0}
    for record in read_records(folder):
        if record.job.seed == 0:
            assert record.error == errors[record.xi]
    assert summary["pruned"] > 0
    line = next(x for x in result.stdout.splitlines() if x.startswith("search: of 8 points"))
    assert f"{summary['trained']} trained, {summary['pruned']} pruned by proof" in line


def test_the_optimum_is_trained_by_the_printed_command(printed, text):
    cwd, result = printed
    command = shlex.split(result.stdout.splitlines()[-1].split("train.py", 1)[1])
    tiny = [f"data.path={text}", "data=text", "data.length=16", "data.vocab_size=280"]
    tiny += ["data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=2", "teacher.max_steps=5"]
    tiny += ["teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}", "name=found"]
    trained = by_hand("train.py", *command, *tiny, cwd=cwd)
    assert trained.returncode == 0, trained.stderr
    made = json.loads((cwd / "runs/kd_pretrain/found/model/config.json").read_text())
    best = OmegaConf.load(cwd / "runs" / "search" / "first" / "optimum.yaml")
    assert (made["num_hidden_layers"], made["hidden_size"]) == (best.depth, best.hidden)


def test_another_launcher_finds_the_same(printed, tiny_search, tmp_path):
    """Submitit's; joblib's is tried with halving above."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    result = by_hand(
        *("search.py", *tiny_search, *launcher, "name=far", "search.parallel=2"),
        *("search.seeds=1",),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        {r.xi: r.error for r in read_records(folder) if r.job.seed == 0}
        for folder in (tmp_path / "runs/search/far", printed[0] / "runs/search/first")
    )
    assert theirs.items() <= ours.items()
    summaries = [
        json.loads((folder / "summary.json").read_text())
        for folder in (tmp_path / "runs/search/far", printed[0] / "runs/search/first")
    ]
    assert summaries[0]["optimum"] == summaries[1]["optimum"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["search.epsilon=9"], "search.epsilon=9 must be at most the 8 candidates of the grid"),
        (["search.epsilon=0"], "search.epsilon=0 must be at least 1"),
        (["search.n=0"], "search.n=0 must be at least 1"),
        (
            ["search.max_params=5"],
            "no candidate is left of 8; the nearest miss is ⟨1,1,16,16⟩ with",
        ),
        (["grid.head_size=5"], "grid: no number of heads divides any hidden size"),
        (["grid.depth=[]"], "grid.depth is empty"),
        (["latency=table", "latency.path=no.csv"], "latency.path=no.csv does not exist"),
        (["latency=table"], "latency=table needs latency.path=FILE"),
        (["search.max_latency_ms=3"], "search.max_latency_ms needs milliseconds; use latency=mea"),
        (["arch.depth=1,2"], "search.py chooses the points itself: instead of arch.depth=1,2 set"),
        (["arch=bort"], "arch=bort: search.py chooses the architecture; set grid= instead"),
        (["search.nn=3"], "search.nn is not a setting; did you mean 'search.n'?"),
        (["epsilon=0.1"], "epsilon is not a setting; did you mean 'search.epsilon'?"),
        (["grid=tinny"], "grid=tinny is unknown; did you mean 'tiny'?"),
        (["distill.w_kd=0", "distill.w_mlm=1"], "search.py needs distill.w_kd above 0"),
        (["trainer.devices=2"], "search.py trains a candidate on one device"),
    ],
)
def test_mistakes(tiny_search, tmp_path, arguments, line):
    result = by_hand("search.py", *tiny_search, *arguments, "name=wrong", cwd=tmp_path)
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith(f"search.py: {line}") and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_other_search_in_the_same_folder(printed, tiny_search):
    result = by_hand("search.py", *tiny_search, "name=first", "search.n=7", cwd=printed[0])
    assert result.returncode == 1
    assert "runs/search/first holds a run with other settings (search.n=6, now 7)" in result.stderr


def test_plan_of_a_budget_that_leaves_none(tmp_path):
    result = by_hand("search.py", "search.max_params=10", "dry_run=true", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "no candidate is left of 21; the nearest miss is ⟨" in result.stderr  # as the search


def test_plan_without_a_download(tmp_path):
    """350 points of the paper's grid, RoBERTa-large as T: sizes, bounds, hours, cache."""
    result = by_hand(
        *("search.py", "grid=paper", "teacher.name=roberta-large", "dry_run=true"), cwd=tmp_path
    )
    assert result.returncode == 0 and result.stderr == ""
    out = result.stdout
    assert "T           ⟨24,16,1024,4096⟩" in out and "of 420 points: 70 without" in out
    for word in ("bounds      W⁺ from", "B of teacher states", "time        at most"):
        assert word in out
    assert list(tmp_path.iterdir()) == []


def test_a_plain_sweep_is_gathered(text, tmp_path):
    """`train.py -m` over two sizes: a sorted table, summary.csv, the W-optimum."""
    tiny = [f"data.path={text}", "data=text", "data.length=16", "data.vocab_size=280"]
    tiny += ["data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=4", "teacher.max_steps=5"]
    tiny += ["teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}", "name=sweep"]
    sizes = ["arch.depth=1,2", "arch.heads=1", "arch.hidden=16,32", "arch.intermediate=16"]
    result = by_hand("train.py", "-m", "experiment=kd_pretrain", *sizes, *tiny, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    folder = tmp_path / "runs" / "kd_pretrain" / "sweep"
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    weights = [float(row["w"]) for row in rows]
    assert weights == sorted(weights, reverse=True)
    summary = json.loads((folder / rows[0]["job"] / "summary.json").read_text())
    p = 1 - summary["parameters"] / summary["teacher_parameters"]
    teacher = 2 * (2 * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 16 * 32) * 16  # operations, two layers
    i = 1 - float(rows[0]["operations"]) / teacher
    e = summary["val/teacher_entropy"]
    expected = p * i * e / (e + summary["val/kd_loss"])
    assert weights[0] == pytest.approx(expected, rel=1e-4)
    best = OmegaConf.load(folder / "optimum.yaml")
    assert (str(best.depth), str(best.hidden)) == (rows[0]["depth"], rows[0]["hidden"])
    assert math.isfinite(float(rows[0]["val/loss"])) and "sweep: 4 runs" in result.stdout


def test_start_is_light(tmp_path):
    """`--cfg job` in about a second: neither torch nor lightning."""
    code = "import sys; sys.modules.update(torch=None, lightning=None, transformers=None)\n"
    code += (
        f"import runpy; sys.argv = ['search.py', '--cfg', 'job']; sys.path.insert(0, '{ROOT}')\n"
    )
    code += f"runpy.run_path('{ROOT / 'search.py'}', run_name='__main__')"
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "head_size: 32" in result.stdout and time.monotonic() - start < 10
