"""What a user sees: throughput by a fake clock, a line every 30 s, a live one on a terminal."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from bort.console import clock
from bort.training import progress
from bort.training.progress import EVERY_S, ProgressLine, Throughput


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Module:
    """Counts tokens and keeps the rows that a callback logs."""

    def __init__(self, total: int = 100):
        self.tokens, self.total, self.logged, self.last_row = 0, total, [], {}
        self.metric, self.scores = "val/mlm_accuracy", ["val/loss", "val/mlm_accuracy"]

    def log_row(self, row, step):
        self.logged.append((step, row))

    def progress(self, step):
        return step / self.total


@pytest.fixture
def run():
    """`run(seconds, tokens)`: one step of training."""
    time, trainer, module = Clock(), SimpleNamespace(global_step=0, max_steps=100), Module()
    throughput = Throughput(time, every_s=5.0)

    def step(seconds: float, tokens: int = 0) -> None:
        time.now += seconds
        trainer.global_step += 1
        module.tokens += tokens
        throughput.on_train_batch_end(trainer, module, None, None, 0)

    step.__dict__.update(time=time, trainer=trainer, module=module, throughput=throughput)
    return step


def test_tokens_per_second(run):
    run.module.tokens = 7_000_000  # seen before a resume: they are not of this session
    run.throughput.on_train_start(run.trainer, run.module)
    run(2.0, 1000)
    assert run.module.logged == [(1, {"perf/tokens_per_s": 500.0})]  # the first step at once
    run(2.0, 3000)
    run(2.0, 3000)
    assert len(run.module.logged) == 1  # then only every 5 s
    run(1.0, 1500)
    assert run.module.logged[1:] == [(4, {"perf/tokens_per_s": 1500.0})]
    assert run.throughput.tokens_per_s == 1500.0 and run.throughput.seconds == 7.0


def test_validation_is_left_out(run):
    run.throughput.on_train_start(run.trainer, run.module)
    run(1.0, 100)
    run.time.now += 0.5  # between the step and its validation
    run.throughput.on_validation_start(run.trainer, run.module)
    run.time.now += 60.0
    run.throughput.on_validation_end(run.trainer, run.module)
    run(4.5, 500)
    assert run.throughput.seconds == 6.0
    assert run.module.logged[-1] == (2, {"perf/tokens_per_s": 100.0})


def test_seconds_of_earlier_sessions_are_kept(run):
    run.throughput.on_train_start(run.trainer, run.module)
    run(3.0, 1)
    state = run.throughput.state_dict()
    assert state == {"seconds": 3.0}
    later = Throughput(run.time)
    later.load_state_dict(state)
    run.time.now += 9999.0  # not running
    later.on_train_start(run.trainer, run.module)
    run.time.now += 2.0
    later.on_train_batch_end(run.trainer, run.module, None, None, 0)
    assert later.seconds == 5.0


# ------------------------------------------------------------------------------------ the line


@pytest.fixture
def show(monkeypatch):
    """`show(terminal)`: a progress line, its clock, and the text that it printed."""
    time = Clock()
    monkeypatch.setattr(progress.time, "monotonic", time)

    def make(terminal: bool):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, highlight=False, width=120)
        throughput = SimpleNamespace(tokens_per_s=12345.6)
        return ProgressLine("train", throughput, console), time, out

    return make


def test_one_line_every_30_s_off_a_terminal(show):
    line, time, out = show(False)
    trainer, module = SimpleNamespace(global_step=20, max_steps=100), Module()
    line.on_train_start(trainer, module)  # resumed after step 20
    at = []
    for second in range(1, 101):
        time.now += 1.0
        trainer.global_step += 0.5
        before = out.tell()
        line.on_train_batch_end(trainer, module, None, None, 0)
        at += [second] if out.tell() > before else []
    assert EVERY_S == 30 and at == [30, 60, 90]
    assert len(out.getvalue().splitlines()) == 3 and "\x1b" not in out.getvalue()


def test_what_the_line_says(show):
    line, time, _ = show(False)
    trainer, module = SimpleNamespace(global_step=20, max_steps=1000), Module(total=1000)
    line.on_train_start(trainer, module)
    trainer.global_step, time.now = 220, time.now + 60
    assert line.text(trainer, module, time.now) == "step 220/1,000 · 12,346 tokens/s · 3:54 left"
    module.last_row = {"train/loss": 5.25, "val/loss": 6.5, "val/mlm_accuracy": 0.1234}
    assert line.text(trainer, module, time.now) == (
        "step 220/1,000 · loss 5.250 · val 6.500 (12.3%) · 12,346 tokens/s · 3:54 left"
    )  # 200 of 1,000 steps took 60 s, so 780 take 234 s
    module.last_row["train/kd_loss"] = 5.25
    assert "· kd loss 5.250 · val 6.500" in line.text(trainer, module, time.now)
    module.last_row["train/mlm_loss"] = 7.0
    assert "· kd+mlm loss 5.250 ·" in line.text(trainer, module, time.now)
    module.last_row = {"train/loss": 5.25}
    trainer.max_steps = -1  # a budget by the clock
    assert line.text(trainer, module, time.now).startswith("step 220 · loss")


def test_live_on_a_terminal(show):
    line, time, out = show(True)
    trainer, module = SimpleNamespace(global_step=0, max_steps=10), Module(total=10)
    line.on_train_start(trainer, module)
    for step in range(1, 11):
        trainer.global_step, time.now = step, time.now + 1
        line.on_train_batch_end(trainer, module, None, None, 0)
    line.bar.refresh()
    assert "step 10/10" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    line.on_train_end(trainer, module)
    assert line.bar is None
    line.on_train_start(trainer, module)
    line.on_exception(trainer, module, KeyboardInterrupt())
    assert line.bar is None and out.getvalue().count("\x1b[?25h") == 2  # the cursor is back


def test_clock():
    assert [clock(s) for s in (0, 0.4, 42, 59.6, 725, 3599.7, 11232)] == [
        *("0:00", "0:00", "0:42", "1:00", "12:05", "1:00:00", "3:07:12")
    ]


def test_lines_in_a_process_of_a_launcher(show, monkeypatch):
    """Several of them share the terminal, where live lines would overwrite each other."""
    monkeypatch.setattr(progress.current_process(), "name", "LokyProcess-1")
    line, time, out = show(True)
    trainer, module = SimpleNamespace(global_step=0, max_steps=100), Module()
    line.on_train_start(trainer, module)
    for _ in range(61):
        time.now += 1.0
        line.on_train_batch_end(trainer, module, None, None, 0)
    assert line.bar is None and out.getvalue().count("\n") == 2
