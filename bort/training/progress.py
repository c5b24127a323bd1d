"""The progress of a training: one live line on a terminal, otherwise a line every 30 seconds."""

import sys
import time
from collections.abc import Callable
from multiprocessing import current_process

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bort.console import clock

EVERY_S = 30.0  # seconds between two lines if the output is not a terminal


class Throughput(pl.Callback):
    """Measures tokens per second and seconds of training without validations; logs `perf/…`.

    clock: returns seconds since any fixed time. every_s: seconds between two logged rows.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, every_s: float = 5.0):
        self.clock, self.every_s = clock, every_s
        self.seconds = 0.0  # of training, including before a resume
        self.tokens_per_s = 0.0  # over the last few seconds
        self._mark: float | None = None  # when time was last counted; None while no training runs
        self._window_tokens = self._window_s = 0.0

    def state_dict(self) -> dict:
        """Return the seconds for a checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        """Restore the seconds from a checkpoint."""
        self.seconds = state["seconds"]

    def on_train_start(self, trainer, module) -> None:
        """Start the clock."""
        self._mark = self.clock()
        self._tokens = module.tokens

    def on_validation_start(self, trainer, module) -> None:
        """Stop the clock for a validation."""
        if self._mark is not None:  # None in a validation after the training
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
    """Shows the step, loss, last validation, tokens per second and time left.

    label: the name of the training. throughput: the callback that measures the speed.
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
        # Processes of a launcher share the terminal, where each prints lines.
        if self.console.is_terminal and current_process().name == "MainProcess":
            columns = [
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.fields[text]}"),
            ]
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=1.0, text="")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Update the line, if it is time to."""
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
        """Describe the state of the training in one line."""
        row, step = module.last_row, trainer.global_step
        parts = [f"step {step:,}" + (f"/{trainer.max_steps:,}" if trainer.max_steps > 0 else "")]
        if "train/loss" in row:
            parts.append(f"{name_loss(row)} {row['train/loss']:.3f}")
        judged = "val/loss" if "val/loss" in module.scores else module.metric
        if judged in row:
            score = row.get(module.metric) if judged != module.metric else None
            parts.append(f"val {row[judged]:.3f}" + (f" ({score:.1%})" if score else ""))
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
    """Return the name of the loss in train/loss; val/loss is always that of the true words."""
    kinds = [name for name in ("kd", "mlm", "hidden", "relation") if f"train/{name}_loss" in row]
    return "loss" if kinds in ([], ["mlm"]) else f"{'+'.join(kinds)} loss"
