"""Checkpoints: a training that was stopped resumes bit by bit.

A checkpoint is either whole or absent. Its name ends with the first digits of its SHA-256:
`step_00000500-1a2b3c4d.ckpt`.
"""

import hashlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from bort.config.optim import OptimConfig
from bort.console import is_called_from_python
from bort.errors import BortError
from bort.files.run_files import CHECKPOINT, INPUTS, SETTINGS
from bort.files.untrusted import read_json
from bort.files.writing import replace_file

logger = logging.getLogger(__name__)

DIGITS = 16  # of the SHA-256 in a name
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Leg:
    """A training as one leg of a longer one, which goes on from a state of it.

    start: the checkpoint of the leg before, None to start anew. keep: the step after which the
    state is kept for the next leg, None for no step. optim: the optimizer, whose rates are those of
    the other legs up to that step; None for that of the settings.
    """

    start: Path | None = None
    keep: int | None = None
    optim: OptimConfig | None = None


class AtomicCheckpointIO(CheckpointIO):
    """Saves checkpoints by one fsynced rename, and loads them without unpickling objects.

    Lightning's own save moves a file across file systems without fsync, and hides a failed write.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        """Write a checkpoint, with the first digits of its SHA-256 in its name."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getbuffer()
        path = Path(path)
        digits = hashlib.sha256(content).hexdigest()[:DIGITS]
        with replace_file(path.with_name(f"{path.stem}-{digits}{path.suffix}")) as file:
            file.write(content)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        """Read a checkpoint without unpickling objects."""
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def read_run_identity(folder: Path) -> str:
    """Compute 16 digits that identify the run of a folder by its settings, data and models."""
    data = read_json(folder / INPUTS, "restore it or remove the run")
    noted = json.dumps([data.get("digest"), data.get("models")], sort_keys=True)
    content = (folder / SETTINGS).read_bytes() + noted.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def find_newest_whole(folder: Path, identity: str | None = None) -> Path | None:
    """Find the newest checkpoint whose content matches the digest in its name; None if none exists.

    identity: the identity of the run that the checkpoint must belong to; None accepts any run. Logs
    the damaged checkpoints that were skipped. Raises BortError if all of them are damaged, or if
    the newest whole one belongs to another run.
    """
    checkpoints = sorted(folder.glob(CHECKPOINT), reverse=True)
    for number, path in enumerate(checkpoints):
        if hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.split("-")[-1]):
            if identity is not None and _read_identity(path) != identity:
                raise BortError(
                    f"{path} is a checkpoint of another run; move it out of this folder, or start "
                    "again with resume=false"
                )
            for damaged in checkpoints[:number]:  # otherwise their steps would count as saved
                damaged.unlink()
            return path
        logger.info(
            f"resume: {path} is damaged (its content does not match its name); trying an older one"
        )
    if checkpoints:
        raise BortError(
            f"{folder} holds no whole checkpoint ({len(checkpoints)} damaged); "
            "start again with resume=false or another name="
        )
    return None


def read_step(path: Path) -> int:
    """Read the number of steps before a checkpoint out of its name."""
    return int(path.stem.split("_")[1].split("-")[0])


def _read_identity(path: Path) -> str | None:
    """Read the identity of the run that saved a checkpoint, without reading its tensors."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content.get("bort", {}).get("run")


class Checkpoints(pl.Callback):
    """Saves a checkpoint every `every` steps and when the run is stopped; keeps the newest two.

    SIGTERM and Ctrl-C take effect after the current optimizer step (and the validation that belongs
    to it): a checkpoint is saved, then the process ends with exit code 143 or 130. A second signal
    ends it at once, and earlier checkpoints stay whole. Where a Python program called bort, only
    the training ends, by SystemExit with the same code. Before the first step, and in a validation
    after the last one, there is nothing to save, and the process ends right there. If a loader
    process dies, the run is saved in the same way and ends with a BortError.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        identity: str | None = None,
        keep: int = 2,
        saved: int | None = None,
        milestone: int | None = None,
    ):
        """Save into `folder`.

        identity: identifies the run; it is saved in the checkpoints, so that no other run resumes
        from them. keep: how many checkpoints are kept. saved: the step of the checkpoint that a
        training resumes from; None for a new training. milestone: a step after which a checkpoint
        is saved that is never removed here.
        """
        self.folder, self.every, self.identity = folder, every, identity
        self.keep, self.saved, self.milestone = keep, saved, milestone
        self.signal: int | None = None
        self._due = False
        self._saves = True  # False in a validation outside of the training
        self._process = os.getpid()

    @contextmanager
    def catching(self, trainer: pl.Trainer) -> Iterator[None]:
        """Let signals only set a flag within this block.

        The block must begin before the loader's processes start: an exception raised by a handler
        during their start may be lost, or leave a process that waits forever.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # a thread of a launcher; only the main thread gets signals
            return
        before = {number: signal.getsignal(number) for number in EXIT_CODES}
        connector = trainer._signal_connector
        register = connector.register_signal_handlers

        def catch() -> None:
            for number in EXIT_CODES:
                signal.signal(number, self.answer_signal)

        def register_first() -> None:
            register()  # Lightning's handler of SIGTERM would end the process with exit code 0
            catch()

        connector.register_signal_handlers = register_first
        catch()
        try:
            yield
        finally:
            # Lightning's handlers keep their trainer alive; a sweep would keep those of all runs.
            del connector.register_signal_handlers
            for number, handler in before.items():
                signal.signal(number, handler)
        self._end_now()

    def answer_signal(self, number: int, frame) -> None:
        """Note the first signal, and end the process, or the training, at the second one."""
        if os.getpid() != self._process:
            return  # This is a loader process that has just started; see loader.py.
        if self.signal is not None:
            print("\nstopped at once; the last whole checkpoint stays", file=sys.stderr, flush=True)
            if is_called_from_python():
                raise SystemExit(EXIT_CODES[number])  # Lightning would turn Ctrl-C into code 1
            os._exit(EXIT_CODES[number])
        self.signal = number
        if self._saves:
            print("\nstopping: saving a checkpoint after this step…", file=sys.stderr, flush=True)

    def on_train_start(self, trainer, module) -> None:
        """End the process if a signal came before the first step."""
        self._end_now()

    def on_save_checkpoint(self, trainer, module, checkpoint: dict) -> None:
        """Add the identity of the run to a checkpoint."""
        checkpoint.setdefault("bort", {})["run"] = self.identity

    def on_validation_start(self, trainer, module) -> None:
        """Record whether this validation is part of a training."""
        self._saves = trainer.state.fn == "fit"

    def on_validation_batch_end(self, trainer, *_) -> None:
        """End the process at once in a validation that follows the training."""
        if not self._saves:
            self._end_now()

    def _end_now(self) -> None:
        if self.signal == signal.SIGINT and not self._saves:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(EXIT_CODES[self.signal])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Save after an optimizer step if a checkpoint is due."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():  # a checkpoint holds no gradients of an unfinished step
            return
        step = trainer.global_step
        if self._must_stop(trainer) or step % self.every == 0 or step == self.milestone:
            # A validation that is due belongs to this step. A checkpoint saved before it would make
            # the resumed run skip it.
            if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
                self._due = True
            else:
                self.save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        """Save the checkpoint that waited for this validation."""
        if self._due and trainer.state.fn == "fit":
            self._due = False
            self.save(trainer)

    def on_train_end(self, trainer, module) -> None:
        """Save a checkpoint at the end of the training."""
        self.save(trainer)

    def save(self, trainer) -> None:
        """Save a checkpoint, remove the old ones, and end the process if it was told to stop."""
        if self.saved != trainer.global_step:  # equal if a resumed run has nothing left to train
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")
            self.saved = trainer.global_step
        self.remove_old(trainer)  # only now that the new one is complete
        self._end(trainer)

    def remove_old(self, trainer) -> None:
        """Remove all but the newest `keep` checkpoints; a killed process may have left one more."""
        if trainer.is_global_zero:
            for path in sorted(self.folder.glob(CHECKPOINT))[: -self.keep]:
                if read_step(path) != self.milestone:
                    path.unlink(missing_ok=True)

    def _must_stop(self, trainer) -> bool:
        return self.signal is not None or find_loader_failure(trainer) is not None

    def _end(self, trainer) -> None:
        if self.signal is not None:
            raise SystemExit(EXIT_CODES[self.signal])
        if failure := find_loader_failure(trainer):
            raise BortError(f"{failure}; the same command resumes after step {trainer.global_step}")


def find_loader_failure(trainer) -> str | None:
    """Return why a loader of this trainer lost its processes; None if none of them did."""
    for name in ("train_dataloader", "val_dataloaders"):
        loaders = getattr(trainer, name, None)
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if failure := getattr(loader, "failure", None):
                return failure
    return None
