"""Runs that are stopped, killed or crash resume bit by bit, whatever stops them."""

import csv
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from pretraining_helpers import rows
from tiny_runs import log_lines, open_batches, stopping

from bort.errors import BortError
from bort.pretraining.recipe import prepare, pretrain, train
from bort.runs.folder import RunFolder
from bort.training.loader import ResumableLoader


def validated(folder: Path) -> list[int]:
    """Steps whose row has a validation."""
    return [int(row["step"]) for row in rows(folder) if row["val/loss"]]


def last_checkpoint(folder: Path) -> dict:
    path = sorted((folder / "checkpoints").glob("step_*.ckpt"))[-1]
    return torch.load(path, weights_only=True)


def same(a, b) -> bool:
    """Equal bit by bit, tensors and all that holds them."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def differences(folder: Path, reference: Path) -> list[str]:
    """What is not bit by bit the same in two finished runs."""
    found = [
        name
        for name in ("metrics.csv", "model/model.safetensors", "samples.txt")
        if (folder / name).read_bytes() != (reference / name).read_bytes()
    ]
    ours, theirs = last_checkpoint(folder), last_checkpoint(reference)
    state = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "bort")
    return found + [name for name in state if not same(ours[name], theirs[name])]


@pytest.fixture(scope="module")
def undisturbed(settings_of, tmp_path_factory):
    """`make(dropout, workers, accumulation, kd)`: settings, inputs and folder of 30 steps."""
    made = {}

    def make(dropout=0.1, workers=0, accumulation=1, kd=False):
        key = (dropout, workers, accumulation, kd)
        if key not in made:
            run = settings_of(
                f"dropout={dropout}",
                f"data.workers={workers}",
                f"trainer.accumulate_grad_batches={accumulation}",
                "trainer.max_steps=30",
                "trainer.val_check_interval=5",
                "checkpoint_every=1000",
                "optim.lr=4e-3",
                experiment="kd_pretrain" if kd else "mlm_pretrain",
            )
            corpus, teacher = prepare(run)
            assert len(open_batches(corpus, run.data, run.seed).train) == 7  # batches per epoch
            folder = tmp_path_factory.mktemp("undisturbed")
            train(run, folder, corpus, teacher)
            made[key] = run, corpus, teacher, folder
        return made[key]

    return make


def stop_and_resume(undisturbed, step: int, folder: Path, **variant) -> Path:
    """A run in `folder` that was stopped in step `step` and continued by the same call."""
    run, corpus, teacher, reference = undisturbed(**variant)
    with pytest.raises(SystemExit) as stopped:
        train(stopping(run, step), folder, corpus, teacher)
    assert stopped.value.code == 143 and not multiprocessing.active_children()
    assert last_checkpoint(folder)["global_step"] == step
    assert RunFolder(folder).find_summary() is None and not (folder / "model").exists()
    assert len(rows(folder)) == step
    if run.trainer["accumulate_grad_batches"] == 1:  # else it is due between two steps
        # validation that is due with the step is done before the stop
        assert validated(folder) == [s for s in validated(reference) if s <= step]
    lines = log_lines()
    train(run, folder, corpus, teacher)
    assert [line for line in lines if f"resumes after step {step} " in line]
    return reference


def test_undisturbed_run(undisturbed):
    *_, folder = undisturbed()
    table = rows(folder)
    assert [int(row["step"]) for row in table] == list(range(1, 31))
    assert [int(row["train/epoch"]) for row in table] == [k // 7 for k in range(30)]
    assert validated(folder) == [5, 10, 15, 20, 25, 30]
    rates = [float(row["train/lr"]) for row in table]
    # 30 of 31 parts of the budget; warm-up over 5%, then down: (1 − k/31) / 0.95 of 4e-3
    assert rates[0] == pytest.approx(4e-3 * (1 / 31) / 0.05)
    assert rates[-1] == pytest.approx(4e-3 * (1 - 30 / 31) / 0.95)
    losses = [float(row["train/loss"]) for row in table]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


@pytest.mark.parametrize("step", range(1, 30))
def test_stopped_after_any_step(undisturbed, tmp_path, step):
    """Case R1: 7 batches per epoch, so 7, 14, 21 and 28 are borders; dropout, dynamic masks."""
    reference = stop_and_resume(undisturbed, step, tmp_path / "run")
    assert not differences(tmp_path / "run", reference)


# All pairs of dropout, loader workers, accumulation (three steps an epoch) and loss.
@pytest.mark.parametrize("step", [3, 7, 20])
@pytest.mark.parametrize(
    ("dropout", "workers", "accumulation", "kd"),
    [(0, 0, 1, False), (0, 2, 3, True), (0.1, 0, 3, True), (0.1, 2, 1, True), (0.1, 2, 3, False)],
)
def test_stopped_variants(undisturbed, tmp_path, step, dropout, workers, accumulation, kd):
    variant = {"dropout": dropout, "workers": workers, "accumulation": accumulation, "kd": kd}
    reference = stop_and_resume(undisturbed, step, tmp_path / "run", **variant)
    assert not differences(tmp_path / "run", reference)


def test_a_difference_would_be_seen(undisturbed):
    """The comparison of the tests above can fail: each of its parts differs for another dropout."""
    names = differences(undisturbed(dropout=0.1)[-1], undisturbed(dropout=0, kd=False)[-1])
    assert {"metrics.csv", "model/model.safetensors", "state_dict", "optimizer_states"} <= {*names}


def test_stopped_twice_and_by_another_signal(undisturbed, tmp_path):
    run, corpus, teacher, reference = undisturbed()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for step, number, code in ((4, signal.SIGINT, 130), (19, signal.SIGTERM, 143)):
        with pytest.raises(SystemExit) as stopped:
            train(stopping(run, step, number), tmp_path, corpus, teacher)
        assert stopped.value.code == code
        assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(run, tmp_path, corpus, teacher)
    assert not differences(tmp_path, reference)


def test_killed_between_checkpoints(undisturbed, tmp_path):
    """A crash leaves rows after the last checkpoint; they are written again, once."""
    run, corpus, teacher, reference = undisturbed()
    crash = {"crash": {"_target_": f"{__name__}.Crash", "step": 18}}
    with pytest.raises(RuntimeError, match="crash"):
        train(
            replace(run, callbacks=crash, checkpoint_every=4),
            tmp_path,
            corpus,
            teacher,
        )
    assert len(rows(tmp_path)) == 18 and last_checkpoint(tmp_path)["global_step"] == 16
    kept = sorted(path.name[:13] for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_00000012", "step_00000016"]
    train(run, tmp_path, corpus, teacher)
    assert not differences(tmp_path, reference)


def test_killed_before_the_first_checkpoint(undisturbed, tmp_path):
    """Rows of steps that are made again are not there twice, nor are those of another curve."""
    run, corpus, teacher, reference = undisturbed()
    crash = {"crash": {"_target_": f"{__name__}.Crash", "step": 3}}
    with pytest.raises(RuntimeError, match="crash"):
        train(replace(run, callbacks=crash), tmp_path, corpus, teacher)
    assert len(rows(tmp_path)) == 3 and not list(tmp_path.glob("checkpoints/*"))
    train(run, tmp_path, corpus, teacher)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(1, 31))
    assert not differences(tmp_path, reference)
    with (tmp_path / "perf.csv").open(newline="") as file:
        steps = [row["step"] for row in csv.DictReader(file)]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize(("accumulation", "kd"), [(1, True), (3, True)])
def test_a_loader_process_that_is_killed(undisturbed, tmp_path, monkeypatch, accumulation, kd):
    """One line after a checkpoint of the last whole step; the same call then resumes."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    variant = {
        "dropout": 0.1 if accumulation == 1 else 0,
        "workers": 2,
        "accumulation": accumulation,
        "kd": kd,
    }
    run, corpus, teacher, reference = undisturbed(**variant)
    kill = {"kill": {"_target_": f"{__name__}.KillWorker", "step": 3}}
    message = r"a loader process was killed.* the same command resumes after step \d+$"
    with pytest.raises(BortError, match=message):
        train(replace(run, callbacks=kill), tmp_path, corpus, teacher)
    assert not multiprocessing.active_children()
    assert last_checkpoint(tmp_path)["global_step"] == len(rows(tmp_path)) >= 3
    train(run, tmp_path, corpus, teacher)
    assert not differences(tmp_path, reference)


class KillWorker(pl.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step - 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_loader_starts(undisturbed, tmp_path, monkeypatch, number):
    """It sets a flag: an exception in there may be lost, or leave a process that waits for ever."""
    run, corpus, teacher, reference = undisturbed(workers=2, dropout=0.1, kd=True)
    start = ResumableLoader.start_processes

    def start_and_signal(loader):
        signal.raise_signal(number)
        return start(loader)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(ResumableLoader, "start_processes", start_and_signal)
        train(run, tmp_path, corpus, teacher)
    assert stopped.value.code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert not multiprocessing.active_children() and len(rows(tmp_path)) == 1
    train(run, tmp_path, corpus, teacher)
    assert not differences(tmp_path, reference)


class Crash(pl.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


def test_text_that_changed_between_stop_and_resume(settings_of, text, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(text.read_text())
    run = settings_of(f"data.path={source}", "trainer.max_steps=4")
    with pytest.raises(SystemExit):
        pretrain(stopping(run, 2), tmp_path / "run")
    weights = sorted((tmp_path / "run" / "checkpoints").iterdir())
    source.write_text(text.read_text() + "One more document, which nobody has seen before.\n")
    with pytest.raises(BortError, match=r"started on other text \(corpus \w+, now \w+\)"):
        pretrain(run, tmp_path / "run")
    assert weights and sorted((tmp_path / "run" / "checkpoints").iterdir()) == weights
    source.write_text(text.read_text())
    assert pretrain(run, tmp_path / "run")["steps"] == 4


def test_text_that_changed_after_the_end(settings_of, text, tmp_path, monkeypatch):
    """A finished run is not one on the new text; a file that was only touched changes nothing."""
    source = tmp_path / "texts" / "text.txt"
    source.parent.mkdir()
    source.write_text(text.read_text())
    run, lines = settings_of(f"data.path={source.parent}", "trainer.max_steps=2"), log_lines()
    summary = pretrain(run, tmp_path / "run")
    os.utime(source, (1, 1))
    assert pretrain(run, tmp_path / "run") == summary
    with monkeypatch.context() as patch:  # what was looked at once is known by its time
        patch.setattr("bort.pretraining.recipe.prepare", lambda *_: pytest.fail("read again"))
        lines.clear()
        assert pretrain(run, tmp_path / "run") == summary
        assert len(lines) == 1 and "is finished" in lines[0]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    (source.parent / "more.txt").write_text("One more document, which nobody has seen before.\n")
    for _ in range(2):
        with pytest.raises(BortError, match=r"started on other text \(corpus \w+, now \w+\)"):
            pretrain(run, tmp_path / "run")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert before == after
    (source.parent / "more.txt").unlink()
    shutil.move(source.parent, tmp_path / "elsewhere")  # nothing to compare with
    assert pretrain(run, tmp_path / "run") == summary


@pytest.mark.parametrize("lost", [["summary.json"], ["summary.json", "model"]])
def test_killed_after_the_last_step(undisturbed, tmp_path, lost):
    run, corpus, teacher, reference = undisturbed()
    folder = shutil.copytree(reference, tmp_path / "run")
    for name in lost:
        (shutil.rmtree if name == "model" else os.remove)(folder / name)
    train(run, folder, corpus, teacher)
    assert not differences(folder, reference)
    ours, theirs = RunFolder(folder).find_summary(), RunFolder(reference).find_summary()
    assert ours.keys() == theirs.keys() and ours["val/loss"] == theirs["val/loss"]
    assert all(ours[key] == theirs[key] for key in ("steps", "tokens", "seconds", "tokens_per_s"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_last_validation(undisturbed, tmp_path, number):
    """After the last step there is nothing to save: Ctrl-C is Python's own, SIGTERM the shell's."""
    run, corpus, teacher, _ = undisturbed()
    # 7 does not divide 30: the last step's validation is one of its own, after training
    run = replace(run, trainer={**run.trainer, "val_check_interval": 7})
    train(run, tmp_path / "whole", corpus, teacher)
    stop = {"stop": {"_target_": f"{__name__}.StopInLastValidation", "number": int(number)}}
    before = [signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))]
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
            train(replace(run, callbacks=stop), tmp_path / "run", corpus, teacher)
    finally:
        signal.signal(signal.SIGTERM, before[0])
    expected = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
    assert type(stopped.value) is expected[number]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(run, tmp_path / "run", corpus, teacher)
    assert not differences(tmp_path / "run", tmp_path / "whole")
    assert rows(tmp_path / "run")[-1]["val/loss"]
    measured = last_checkpoint(tmp_path / "run")["callbacks"]["Throughput"]["seconds"]
    assert (
        RunFolder(tmp_path / "run").find_summary()["seconds"] == measured < 60
    )  # and not how long the machine is on


class StopInLastValidation(pl.Callback):
    def __init__(self, number: int):
        self.number = number

    def on_validation_start(self, trainer, module) -> None:
        if trainer.state.fn == "validate":
            signal.raise_signal(self.number)


def test_tokens_and_seconds_add_up_over_a_stop(undisturbed, tmp_path):
    stop_and_resume(undisturbed, 11, tmp_path / "run")
    summary, reference = (
        RunFolder(tmp_path / "run").find_summary(),
        RunFolder(undisturbed()[-1]).find_summary(),
    )
    assert summary["tokens"] == reference["tokens"] and summary["steps"] == 30
    assert summary["seconds"] > last_checkpoint(tmp_path / "run")["callbacks"]["Throughput"][
        "seconds"
    ] * (11 / 30)


@pytest.mark.parametrize("override", ["max_steps=0", "limit_train_batches=0", "max_epochs=0"])
def test_no_step_takes_no_time(settings_of, tmp_path, override):
    summary = pretrain(settings_of(f"trainer.{override}"), tmp_path / "run")
    assert (summary["steps"], summary["tokens"], summary["seconds"]) == (0, 0, 0.0)


# ------------------------------------------------------------------------------------ budgets


def test_a_clock_goes_on_where_it_was_stopped(settings_of, tmp_path):
    """Time that was used before the stop is not given again."""
    run = settings_of("trainer.max_steps=-1", "trainer.max_time='00:00:00:03'")
    with pytest.raises(SystemExit):
        pretrain(stopping(run, 20), tmp_path / "run")
    used = last_checkpoint(tmp_path / "run")["callbacks"]["Timer"]["time_elapsed"]["train"]
    start = time.monotonic()
    summary = pretrain(run, tmp_path / "run")
    assert summary["steps"] > 20
    assert 0 < used < 3 and time.monotonic() - start < 3 - used + 2.5


def test_early_stopping_ends_and_resumes_alike(settings_of, tmp_path):
    """Stopped in between or not: the same last step, and a finished run."""
    early = {
        "_target_": "lightning.pytorch.callbacks.EarlyStopping",
        **{"monitor": "val/loss", "patience": 2, "min_delta": 0.5},
    }
    run = settings_of("trainer.max_steps=60", "trainer.val_check_interval=4")
    run = replace(run, callbacks={"early": early})
    whole = pretrain(run, tmp_path / "whole")
    assert whole["steps"] < 60
    stop = stopping(run, 7).callbacks
    with pytest.raises(SystemExit):
        pretrain(replace(run, callbacks={**run.callbacks, **stop}), tmp_path / "run")
    assert pretrain(run, tmp_path / "run")["steps"] == whole["steps"]
    assert not differences(tmp_path / "run", tmp_path / "whole")
