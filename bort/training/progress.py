"""What a user sees while a run trains: one live line on a terminal, else a line every 30 s."""

import sys
import time
from collections.abc import Callable

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bort.console import clock

EVERY_S = 30.0  # between two lines when the output is not a terminal


class Throughput(pl.Callback):
    """Tokens per second and seconds of training, validation left out; `perf/…` every few seconds.

    clock: seconds from any start; a test passes its own.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, every_s: float = 5.0):
        self.clock, self.every_s = clock, every_s
        self.seconds = 0.0  # of training in all sessions of the run
        self.tokens_per_s = 0.0  # over the last few seconds
        self._mark: float | None = None  # when training was last seen to run; None: it does not
        self._window_tokens = self._window_s = 0.0

    def state_dict(self) -> dict:
        """Return the seconds for a checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        """Take the seconds from a checkpoint."""
        self.seconds = state["seconds"]

    def on_train_start(self, trainer, module) -> None:
        """Start the clock."""
        self._mark = self.clock()
        self._tokens = module.tokens

    def on_validation_start(self, trainer, module) -> None:
        """Stop the clock for a validation."""
        if self._mark is not None:  # else of its own, after training
            self._count()

    def on_validation_end(self, trainer, module) -> None:
        """Start the clock again after a validation."""
        if self._mark is not None:
            self._mark = self.clock()

    def on_train_end(self, trainer, module) -> None:
        """Stop the clock."""
        self._mark = None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Count a batch, and log the speed every few seconds."""
        self._count()
        self._window_tokens += module.tokens - self._tokens
        self._tokens = module.tokens
        if self._window_s >= self.every_s or not self.tokens_per_s:
            self.tokens_per_s = self._window_tokens / max(self._window_s, 1e-9)
            self._window_tokens = self._window_s = 0.0
            module.log_row({"perf/tokens_per_s": self.tokens_per_s}, trainer.global_step)

    def _count(self) -> None:
        now = self.clock()
        self.seconds += now - self._mark
        self._window_s += now - self._mark
        self._mark = now


class ProgressLine(pl.Callback):
    """Step, loss, last validation, tokens per second and time left.

    label: what is running. throughput: the callback that measures.
    """

    def __init__(self, label: str, throughput: Throughput, console: Console | None = None):
        self.label, self.throughput = label, throughput
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.bar: Progress | None = None
        self._last = 0.0

    def on_train_start(self, trainer, module) -> None:
        """Start the line."""
        self._start, self._first = time.monotonic(), trainer.global_step
        self._last = self._start
        if self.console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.fields[text]}"),
            ]
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=1.0, text="")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Show the line again, if it is time for that."""
        now = time.monotonic()
        if self.bar is None and now - self._last < EVERY_S:
            return
        if self.bar is not None and now - self._last < 0.2:
            return
        self._last = now
        text = self.text(trainer, module, now)
        if self.bar is None:
            self.console.print(f"{self.label}: {text}", soft_wrap=True)
        else:
            done = module.progress(trainer.global_step)
            self.bar.update(self.task, completed=done, text=text)

    def text(self, trainer, module, now: float) -> str:
        """Describe where the training stands."""
        row, step = module.last_row, trainer.global_step
        parts = [f"step {step:,}" + (f"/{trainer.max_steps:,}" if trainer.max_steps > 0 else "")]
        if "train/loss" in row:
            parts.append(f"{name_loss(row)} {row['train/loss']:.3f}")
        if "val/loss" in row:
            score = row.get(module.metric)
            parts.append(f"val {row['val/loss']:.3f}" + (f" ({score:.1%})" if score else ""))
        parts.append(f"{self.throughput.tokens_per_s:,.0f} tokens/s")
        first, done = module.progress(self._first), module.progress(step)
        if done > first:
            left = (now - self._start) * (1 - done) / (done - first)
            parts.append(f"{clock(left)} left")
        return " · ".join(parts)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer, module) -> None:
        """End the line."""
        self._stop()

    def on_exception(self, trainer, module, exception) -> None:
        """End the line."""
        self._stop()


def name_loss(row: dict[str, float]) -> str:
    """Name what train/loss in a row of metrics is; val/loss is always of the true words."""
    if "train/kd_loss" not in row:
        return "loss"
    return "kd+mlm loss" if "train/mlm_loss" in row else "kd loss"
