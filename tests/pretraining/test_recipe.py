"""Whole runs on a tiny text, in this process: exact resume, what a run leaves, its mistakes."""

import csv
import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from pretraining_helpers import rows
from safetensors.torch import load_file
from tiny_runs import log_lines, offline_log, open_batches, stopping
from transformers import AutoModelForMaskedLM, AutoTokenizer

from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.files.run_files import make_run_record
from bort.pretraining.datamodule import TrainBatches
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.recipe import build_student, prepare, pretrain, train
from bort.runs.closing import print_result
from bort.runs.folder import RunFolder
from bort.text.tokenizer import build_encoder, encode_texts
from bort.training.loader import ResumableLoader

SUMMARY = ["parameters", "tokens", "steps", "tokens_per_s", "seconds", "seed"]  # spec: stable keys


def validated(folder: Path) -> list[int]:
    """Steps whose row has a validation."""
    return [int(row["step"]) for row in rows(folder) if row["val/loss"]]


# ------------------------------------------------------------------------------------ resume (R1)


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


# ------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def done(settings_of, tmp_path_factory):
    """A finished run: its settings, folder and lines."""
    run, folder, lines = settings_of(), tmp_path_factory.mktemp("runs") / "done", log_lines()
    pretrain(run, folder, {"config.yaml": "x: 1\n"})
    return run, folder, lines


def test_what_a_run_leaves(done):
    run, folder, _ = done
    assert {path.name for path in folder.iterdir()} == {
        *(".hydra", "checkpoints", "metrics.csv", "model", "perf.csv", "samples.txt"),
        *("corpus.json", "settings.json", "summary.json"),
    }
    text = (folder / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in summary.json"))
    assert {"val/loss", "val/mlm_accuracy", *SUMMARY} <= summary.keys()
    assert not [value for value in summary.values() if isinstance(value, dict | list)]
    assert (summary["steps"], summary["seed"]) == (5, 0)
    assert summary["tokens"] == 5 * 8 * 16
    assert rows(folder)[-1]["val/loss"] == repr(summary["val/loss"])
    assert (folder / ".hydra" / "config.yaml").read_text() == "x: 1\n"
    weights = load_file(folder / "model" / "model.safetensors")
    token_type = 16  # Hugging Face's format has one token type; ours is without
    assert sum(w.numel() for w in weights.values()) == summary["parameters"] + token_type


def test_validation_is_the_sum_over_masked_places(settings_of, tmp_path):
    """`val/loss` by Hugging Face: −log p summed over all masked places, divided by their number."""
    run = settings_of("data.batch_size=1")  # four rows in a batch of validation
    summary = pretrain(run, tmp_path / "run")
    corpus, _ = prepare(run)
    batches = list(open_batches(corpus, run.data, run.seed).val)
    assert len(batches) == 4 and len({len(batch["labels"]) for batch in batches}) > 1
    reference = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model").double().eval()
    total = correct = count = 0.0
    with torch.no_grad():
        for batch in batches:
            logits = reference(batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]]
            places = torch.arange(len(logits))
            total -= logits.log_softmax(-1)[places, batch["labels"]].sum().item()
            correct += (logits.argmax(-1) == batch["labels"]).sum().item()
            count += len(places)
    assert summary["val/loss"] == pytest.approx(total / count, abs=1e-5)
    assert summary["val/mlm_accuracy"] == pytest.approx(correct / count, abs=1e-6)


def test_a_finished_run_returns_at_once(done, monkeypatch):
    run, folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / ".lock").touch()  # of a process that was killed when all but this was done
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work on a finished run")
    )
    lines = log_lines()
    assert pretrain(run, folder) == RunFolder(folder).find_summary()
    assert len(lines) == 1 and "is finished" in lines[0] and "resume=false" in lines[0]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_other_settings_are_refused_by_name(done, tmp_path, monkeypatch):
    run, folder, _ = done
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work before the refusal")
    )
    lr = run.optim.lr
    changed = replace(run, seed=3, optim=replace(run.optim, lr=1e-3))
    with pytest.raises(BortError) as error:
        pretrain(changed, folder)
    message = str(error.value)
    assert f"(optim.lr={lr}, now 0.001, seed=0, now 3)" in message
    assert str(folder) in message and "resume=false" in message and "\n" not in message
    many = replace(changed, dropout=0.5, compile=True, data=replace(run.data, length=12))
    with pytest.raises(BortError, match="and 2 more"):
        pretrain(many, folder)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    for resume in (True, False):  # nor is a folder of the user emptied
        with pytest.raises(BortError, match="holds files but no run"):
            pretrain(replace(run, resume=resume), other)
    assert (other / "chapter.txt").read_text() == "mine"


def test_settings_that_change_no_weight_may_change(done):
    run, folder, _ = done
    free = replace(run, name="x", checkpoint_every=7, data=replace(run.data, workers=1))
    assert pretrain(free, folder) == RunFolder(folder).find_summary()


def test_start_again(settings_of, tmp_path):
    run = settings_of("trainer.max_steps=2")
    pretrain(run, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("of the user")
    (tmp_path / "run" / "model" / "mine.txt").write_text("of the user")
    (tmp_path / "run" / "samples.txt").write_text("of the first run")
    again = replace(run, seed=1, resume=False)
    pretrain(again, tmp_path / "run")
    assert RunFolder(tmp_path / "run").find_summary()["seed"] == 1
    assert len(rows(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "samples.txt").read_text() != "of the first run"
    for name in ("notes.txt", "model/mine.txt"):  # only what a run makes was removed
        assert (tmp_path / "run" / name).read_text() == "of the user"
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["seed"] == 1


def test_one_process_in_a_folder(settings_of, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recorded = make_run_record(flatten_settings(settings_of()))
        (folder / "settings.json").write_text(json.dumps(recorded, default=str))
        with pytest.raises(BortError, match="another process is training in"):
            pretrain(settings_of(), folder)
    pretrain(settings_of(), folder)  # the lock went with its owner
    assert not (folder / ".lock").exists()


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path):
    """Two wait for a third; it removes the lock file, and they must not work at once."""
    inside, most = [], []

    def work():
        with RunFolder(tmp_path / "run").lock(True):
            inside.append(1)
            most.append(len(inside))
            (tmp_path / "run" / "summary.json").write_text("{}")  # or the folder would be removed
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_without_validation_says_why(settings_of, tmp_path):
    """In the summary and in the last lines, whoever reads `val/loss` then."""
    for number, (overrides, reason) in enumerate(
        [
            (["data.val_fraction=0"], "0 tokens are held out, one sequence needs 14"),
            (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0"),
        ]
    ):
        run = settings_of(*overrides, "trainer.max_steps=2")
        summary = pretrain(run, tmp_path / f"run{number}")
        lines = log_lines()
        assert "val/loss" not in summary and summary["no_validation"] == reason
        print_result(run, tmp_path / f"run{number}", summary, "mlm_pretrain")
        assert f"mlm_pretrain: no validation ({reason}) after 0:0" in lines[0]
        watched = settings_of(*overrides, "callbacks=early_stopping")
        with pytest.raises(BortError, match="early_stopping watches val/loss, and nothing is vali"):
            pretrain(watched, tmp_path / f"watched{number}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.check_val_every_n_epoch=1", "trainer.max_epochs=1"],
            "trainer: `val_check_interval` (200) must be less than or equal to the number of the",
        ),
        (["trainer.limit_train_batches=0.01"], "trainer: You requested to check 0.01 of the"),
    ],
)
def test_settings_that_only_the_data_show_wrong(settings_of, tmp_path, overrides, message):
    with pytest.raises(BortError) as error:
        pretrain(settings_of(*overrides), tmp_path / "run")
    assert str(error.value).startswith(message) and len(str(error.value)) <= 200


def test_nothing_is_left_of_a_run_that_could_not_start(settings_of, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = settings_of("logger=wandb", "logger.mode=online")
    with pytest.raises(BortError, match="needs a wandb key"):
        pretrain(run, tmp_path / "runs" / "mlm" / "x")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short", "one sequence of data.length=128 needs 126"),
        ("nothing", "no text in it"),
        ("latin", "cafe.txt: not UTF-8 at byte 6"),
        ("badrows", "docs.jsonl, line 2: not JSON"),
        ("goood", "did you mean 'good'?"),
    ],
)
def test_nothing_is_left_of_a_text_that_cannot_be_used(
    shared, settings_of, cache, tmp_path, path, message
):
    """Case D5 through a run."""
    folder = shared / "cases" / "D5-file-folder" / path
    before = sorted((cache / "corpora").glob("*"))
    with pytest.raises(BortError) as error:
        pretrain(settings_of(f"data.path={folder}", "data.length=128"), tmp_path / "r" / "x")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert sorted((cache / "corpora").glob("*")) == before


def test_a_folder_that_cannot_be_made(settings_of, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BortError, match="runs/x cannot be written: "):
        pretrain(settings_of(), tmp_path / "runs" / "x")


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


# ------------------------------------------------------------------------------------ experiments


@pytest.mark.parametrize(
    "experiment", ["kd_pretrain", "kd_vs_mlm", "mlm_pretrain", "paper", "teacher_pretrain"]
)
def test_every_experiment_runs_one_step(settings_of, tmp_path, experiment):
    """With debug=default; tiny, and with a trained teacher in the paper's too."""
    tiny = ["trainer.max_steps=1", "teacher.max_steps=1", "teacher.name=null"]
    run = settings_of("debug=default", *tiny, experiment=experiment)
    assert run.trainer["limit_val_batches"] == 1  # of debug=default
    summary = (compare if run.job == "compare" else pretrain)(run, tmp_path / "run")
    assert summary["steps"] == 1 and math.isfinite(summary["val/loss"])


def test_one_batch_by_heart(settings_of, tmp_path):
    """debug=overfit: the same batch again and again, so that the loss goes to the ground."""
    run = settings_of("debug=overfit", "trainer.max_steps=120", "arch.hidden=32", "optim.lr=0.02")
    pretrain(run, tmp_path / "run")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run")]
    assert len(losses) == 120 and losses[0] > 5 and np.mean(losses[-10:]) < 1


def test_profile(settings_of, tmp_path):
    lines = log_lines()
    run = settings_of("debug=profiler", "trainer.max_steps=2")
    pretrain(run, tmp_path / "run")
    assert [line for line in lines if "run_training_batch" in line]


# ------------------------------------------------------------------------------------ teachers


def test_student_may_start_from_the_teacher(settings_of, tmp_path):
    run = settings_of("init=teacher", "arch.hidden=32", experiment="kd_pretrain")
    corpus, teacher = prepare(run)
    student = build_student(run, corpus, teacher)
    words = [model.encoder.embeddings.words.weight for model in (student, teacher)]
    assert torch.equal(*words)
    assert pretrain(run, tmp_path / "run")["steps"] == 5


# ------------------------------------------------------------------------------------ cases


def test_no_masked_place_is_no_nan(shared, settings_of, tmp_path):
    """Case M1: 6 maskable places a batch, rate 0.15."""
    run = settings_of(
        f"data.path={shared}/cases/M1-nothing-masked/text.txt",
        *("data.length=8", "data.batch_size=1", "data.mask_rate=0.15", "data.val_fraction=0"),
        *("data.vocab_size=261", "trainer.max_steps=200"),
    )
    summary = pretrain(run, tmp_path / "run")
    numbers = [float(value) for row in rows(tmp_path / "run") for value in row.values() if value]
    assert len(rows(tmp_path / "run")) == 200
    assert np.isfinite(numbers).all()
    assert not [value for value in summary.values() if isinstance(value, float) and value != value]


@pytest.mark.parametrize("teacher", [None, "roberta-tiny", "bert-tiny"])
def test_special_words_in_the_text(shared, settings_of, tmp_path, teacher):
    """Case T1: special ids stand first and last in a sequence and nowhere else (one document)."""
    overrides = [
        f"data.path={shared}/cases/T1-special-words/text.txt",
        *("data.length=32", "data.val_fraction=0", "data.mask_rate=0.3"),
    ]
    if teacher:
        overrides.append(f"teacher.name={shared}/cases/models/{teacher}")
    run = settings_of(*overrides, experiment="kd_pretrain" if teacher else "mlm_pretrain")
    assert pretrain(run, tmp_path / "run")["steps"] == 5
    corpus, _ = prepare(run)
    batches = TrainBatches(corpus, run.data, run.seed)
    ids = torch.cat([unmasked(batches[k]) for k in range(len(batches))])
    tokenizer = corpus.tokenizer
    special = torch.isin(ids, torch.tensor(sorted({*tokenizer.all_special_ids})))
    if teacher == "bert-tiny":  # its 48 words do not spell this text
        special &= ids != tokenizer.unk_token_id
    assert special[:, 0].all() and special[:, -1].all() and not special[:, 1:-1].any()
    if teacher != "bert-tiny":
        whole = (shared / "cases" / "T1-special-words" / "text.txt").read_text()
        assert tokenizer.decode(corpus.train).strip() == whole.strip()


def unmasked(batch: dict) -> torch.Tensor:
    ids = batch["input_ids"].clone()
    ids.view(-1)[batch["positions"]] = batch["labels"]
    return ids


def test_tokenizer_of_the_model_folder(shared, done):
    """Case T2: the ids of training are those of AutoTokenizer on the folder a run leaves."""
    run, folder, _ = done
    corpus, _ = prepare(run)
    strings = json.loads((shared / "cases" / "T2-tokenizer-reload" / "strings.json").read_text())
    assert len(strings) == 24
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trained = encode_texts(build_encoder(corpus.tokenizer), strings)
    for string, ids in zip(strings, trained, strict=True):
        if "<mask>" not in string:  # a mask to be filled in use, a word in a training text
            assert tokenizer(string).input_ids == [0, *ids.tolist(), 2]
            assert tokenizer.decode(tokenizer(string).input_ids, skip_special_tokens=True) == string
        assert tokenizer.decode(ids) == string
    a, b = (tokenizer(word, add_special_tokens=False).input_ids for word in ("one", "two"))
    assert tokenizer("one", "two").input_ids == [0, *a, 2, 2, *b, 2]
    assert tokenizer.model_max_length == run.data.length  # at which it was trained


def test_packing_edges(shared, settings_of, tmp_path):
    """Case M2: 98 bytes of one token each in sequences of 14."""
    path = shared / "cases" / "M2-packing-edges" / "text.txt"
    run = settings_of(
        *(f"teacher.name={shared}/cases/models/roberta-tiny", f"data.path={path}"),
        *("data.val_fraction=0", "data.batch_size=3", "trainer.max_steps=1"),
        experiment="kd_pretrain",
    )
    lines = log_lines()
    summary = pretrain(run, tmp_path / "run")
    assert "val/loss" not in summary and summary["steps"] == 1
    assert [line for line in lines if "no validation" in line]
    batches = TrainBatches(prepare(run)[0], run.data, run.seed)
    found = sorted(row.tolist() for k in range(len(batches)) for row in unmasked(batches[k]))
    text = path.read_bytes()
    expected = [[0, *(4 + byte for byte in text[14 * k : 14 * k + 14]), 2] for k in range(7)]
    assert found == sorted(expected)


def test_repeated_documents(shared, settings_of, tmp_path):
    """Case D4 through a run: 40 of 100 records are dropped and the run says so."""
    path = shared / "cases" / "D4-split-duplicates" / "docs.jsonl"
    run = settings_of(f"data.path={path}", "trainer.max_steps=2")
    lines = log_lines()
    pretrain(run, tmp_path / "run")
    assert [line for line in lines if "60 documents (40 duplicates dropped)" in line]
    corpus, _ = prepare(run)
    split = [set(corpus.tokenizer.decode(s).split("</s>")) for s in (corpus.train, corpus.val)]
    assert not split[0] & split[1]
    assert len({text.strip() for text in split[0] | split[1]}) == 60


# ------------------------------------------------------------------------------------ wandb (G1)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No account, no key, no network, standard input closed."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("sys.stdin", None)


@pytest.mark.filterwarnings("default")  # wandb warns about its own use of pydantic
def test_wandb_offline(settings_of, tmp_path, offline):
    """Case G1: two jobs of one process are two runs; each panel's key is in the log."""
    for seed in (1, 2):
        run = settings_of(
            *("logger=wandb", f"seed={seed}", "trainer.val_check_interval=2"),
            *("trainer.max_steps=3", "logger.tags=[a,b]"),
        )
        pretrain(run, tmp_path / "runs" / f"s{seed}")
    panels = {
        *("train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_s"),
        *("val/loss", "val/mlm_accuracy", "samples/predictions"),
    }
    for seed in (1, 2):
        history, config = offline_log(tmp_path / "runs" / f"s{seed}")
        assert config["seed"] == str(seed) and config["arch.hidden"] == "16"
        assert panels <= {key for row in history for key in row}
        table = rows(tmp_path / "runs" / f"s{seed}")
        steps = [row["trainer/global_step"] for row in history if "train/loss" in row]
        assert steps == [1, 2, 3]
        losses = [row["train/loss"] for row in history if "train/loss" in row]
        assert losses == pytest.approx([float(row["train/loss"]) for row in table])
