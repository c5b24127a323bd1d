"""Cases R1 and R3 by the real command line: signals, exit codes, and the same command again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bort.training.checkpoint import find_newest_whole

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("runs/mlm_pretrain/run")


class Command:
    """`python train.py …` in a process group of its own, as a terminal starts it."""

    def __init__(self, cwd: Path, arguments: list[str]):
        cwd.mkdir(exist_ok=True)
        self.folder, self.start = cwd / RUN, len(steps(cwd / RUN))
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=cwd,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, ready) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "too slow"
            time.sleep(0.01)

    def after(self, step: int) -> None:
        """Wait until this process has finished step `step`."""
        self.until(lambda: (found := steps(self.folder)) and found[-1] >= step > self.start)

    def send(self, *numbers: int, group: bool = True) -> None:
        for number in numbers:
            (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def steps(folder: Path) -> list[int]:
    """The steps in metrics.csv, in order."""
    if not (folder / "metrics.csv").exists():
        return []
    lines = (folder / "metrics.csv").read_text().split("\n")[1:-1]
    return [int(line.split(",")[0]) for line in lines]


def whole(folder: Path) -> dict:
    """The newest checkpoint; fails if any is damaged."""
    return torch.load(find_newest_whole(folder / "checkpoints"), weights_only=True)


@pytest.fixture
def start():
    """Starts commands; none of them outlives its test."""
    started = []

    def make(cwd: Path, arguments: list[str]) -> Command:
        started.append(Command(cwd, arguments))
        return started[-1]

    yield make
    for run in started:
        if run.process.poll() is None:
            run.send(signal.SIGKILL)
        run.process.communicate()


@pytest.fixture(scope="module")
def command(text) -> list[str]:
    """240 steps, two loader workers, dropout, dynamic masks, validation and checkpoints between."""
    return [
        *("experiment=mlm_pretrain", "data=text", f"data.path={text}", "data.length=16"),
        *("data.vocab_size=280", "data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=240"),
        *("arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}", "dropout=0.1"),
        *("data.workers=2", "trainer.val_check_interval=25", "checkpoint_every=15", "name=run"),
    ]


def stopped(result: tuple[int, str, str], code: int, step: int, folder: Path) -> None:
    """The process ended by itself, after the step in progress, and said how to resume."""
    returned, _, err = result
    assert returned == code, err
    lines = [line for line in err.splitlines() if line]
    assert lines == [
        "stopping: saving a checkpoint after this step…",
        "train.py: stopped; the same command with name=run resumes",
    ]
    found = whole(folder)["global_step"]
    assert found == steps(folder)[-1] and step <= found < 240
    assert not (folder / "summary.json").exists() and not (folder / "model").exists()


def test_five_stops(start, command, tmp_path):
    """Of one run, each followed by the same command; in the end, bit by bit the undisturbed run."""
    undisturbed, cwd = start(tmp_path / "a", command), tmp_path / "b"
    folder = cwd / RUN

    run = start(cwd, command)
    run.after(20)
    run.send(signal.SIGTERM, group=False)
    stopped(run.end(), 143, 20, folder)

    run = start(cwd, command)
    run.after(50)
    run.send(signal.SIGINT)  # as Ctrl-C: the loader workers get it too
    stopped(run.end(), 130, 50, folder)

    run = start(cwd, command)
    run.after(90)
    run.send(signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    assert whole(folder)["global_step"] % 15 == 0

    run = start(cwd, command)
    run.after(130)
    run.send(signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT)  # two at once
    code, _, err = run.end()
    assert code == 143 and "stopped at once; the last whole checkpoint stays" in err
    assert whole(folder)["global_step"] % 15 == 0

    run = start(cwd, command)
    run.after(170)
    run.send(signal.SIGTERM)  # of a batch system: to all processes
    stopped(run.end(), 143, 170, folder)
    step = whole(folder)["global_step"]

    code, out, err = start(cwd, command).end()
    assert code == 0 and err == ""
    assert f"resumes after step {step} (" in out
    code, _, err = undisturbed.end()
    assert code == 0, err
    assert steps(folder) == list(range(1, 241))
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "a" / RUN / name).read_bytes()
    optimizers = [whole(tmp_path / name / RUN)["optimizer_states"] for name in "ab"]
    assert all(
        torch.equal(value, optimizers[1][0]["state"][key][name])
        for key, state in optimizers[0][0]["state"].items()
        for name, value in state.items()
    )


def test_second_ctrl_c_ends_at_once(start, command, tmp_path):
    """In steps of seconds: the first Ctrl-C waits for the end of one, the second does not."""
    large = "arch={depth: 12, heads: 4, hidden: 384, intermediate: 1536}"
    run = start(tmp_path, [*command, large, "data.batch_size=64", "data.workers=0"])
    run.until(lambda: (tmp_path / RUN / "perf.csv").exists())  # after its first batch
    run.send(signal.SIGINT)
    time.sleep(0.2)
    assert run.process.poll() is None
    before = time.monotonic()
    run.send(signal.SIGINT)
    code, _, err = run.end()
    assert code == 130, err
    assert time.monotonic() - before < 5
    assert (
        err.split("\n\n")[-1].strip().endswith("stopped at once; the last whole checkpoint stays")
    )


def test_ctrl_c_before_the_first_step(start, command, tmp_path):
    """While torch is loaded: one line, and no run folder."""
    run = start(tmp_path, command)
    run.process.stdout.readline()  # what will run
    time.sleep(0.2)
    run.send(signal.SIGINT)
    code, _, err = run.end()
    assert code == 130 and "Traceback" not in err
    assert (
        err.strip() == "train.py: stopped; the same command with the same name= starts or resumes"
    )
    assert not list(tmp_path.iterdir())
