"""Checkpoints that are whole or absent, and training that stops and resumes without a trace.

A checkpoint's name ends with the first digits of its SHA-256: `step_00000500-1a2b3c4d.ckpt`.
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
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from bort.errors import BortError
from bort.files.run_files import CHECKPOINT
from bort.files.untrusted import read_json
from bort.files.writing import replace_file

logger = logging.getLogger(__name__)

DIGITS = 16  # of the SHA-256 in a name
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint through one fsynced rename, without unpickling when it is read.

    Lightning's own save moves a file across file systems, without fsync, and hides a refused write.
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
    """Compute 16 digits that name the run of a folder by its settings, data and models."""
    data = read_json(folder / "corpus.json", "restore it or remove the run")
    noted = json.dumps([data.get("digest"), data.get("models")], sort_keys=True)
    content = (folder / "settings.json").read_bytes() + noted.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def find_newest_whole(folder: Path, identity: str | None = None) -> Path | None:
    """Find the newest checkpoint whose content has the digest of its name; None if none is there.

    identity: that of the run, which its checkpoints hold; None takes those of any run. Logs which
    damaged ones were passed over. Raises BortError when all are damaged, or the newest
    is another run's.
    """
    checkpoints = sorted(folder.glob(CHECKPOINT), reverse=True)
    for number, path in enumerate(checkpoints):
        if hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.split("-")[-1]):
            if identity is not None and _read_identity(path) != identity:
                raise BortError(
                    f"{path} is a checkpoint of another run; move it out of this folder, or start "
                    "again with resume=false"
                )
            for damaged in checkpoints[:number]:  # or its step would pass for saved
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


def _read_identity(path: Path) -> str | None:
    """Read which run a whole checkpoint was saved by; its tensors are not read."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content.get("bort", {}).get("run")


class Checkpoints(pl.Callback):
    """Saves every `every` steps and when it has to stop; keeps the newest two.

    SIGTERM and Ctrl-C are answered after the optimizer step in progress (and the validation that
    belongs to it): the checkpoint is completed, then the process ends with 143 or 130. A second
    signal ends it at once; earlier checkpoints stay whole. Before the first step and in a
    validation after the last one there is nothing to save, and the process ends there. A loader
    process that died ends a run in the same way, with BortError.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        identity: str | None = None,
        keep: int = 2,
        saved: int | None = None,
    ):
        """Save into `folder`.

        identity: that of the run, which its checkpoints hold, so that no other run resumes from
        them. saved: the step after which a resumed training stands; None: it starts anew.
        """
        self.folder, self.every, self.identity = folder, every, identity
        self.keep, self.saved = keep, saved
        self.signal: int | None = None
        self._due = False
        self._saves = True  # not in a validation of its own
        self._process = os.getpid()

    @contextmanager
    def catching(self, trainer: pl.Trainer) -> Iterator[None]:
        """In this block a signal sets a flag and does nothing else.

        From before the loader's processes start: an exception out of a handler is lost in some
        places of their start, and leaves a process that waits for ever in others.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # a launcher's; only the main one gets signals
            return
        before = {number: signal.getsignal(number) for number in EXIT_CODES}
        connector = trainer._signal_connector
        register = connector.register_signal_handlers

        def catch() -> None:
            for number in EXIT_CODES:
                signal.signal(number, self.answer_signal)

        def register_first() -> None:
            register()  # whose handler of SIGTERM ends a process with 0
            catch()

        connector.register_signal_handlers = register_first
        catch()
        try:
            yield
        finally:
            # Lightning's, left behind, would hold its trainer, and a sweep the models of all runs.
            del connector.register_signal_handlers
            for number, handler in before.items():
                signal.signal(number, handler)
        self._end_now()

    def answer_signal(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # A loader's process that has only begun; see loader.py.
        if self.signal is not None:
            print("\nstopped at once; the last whole checkpoint stays", file=sys.stderr, flush=True)
            os._exit(EXIT_CODES[number])
        self.signal = number
        if self._saves:
            print("\nstopping: saving a checkpoint after this step…", file=sys.stderr, flush=True)

    def on_train_start(self, trainer, module) -> None:
        """End the process if it was asked to before the first step."""
        self._end_now()

    def on_save_checkpoint(self, trainer, module, checkpoint: dict) -> None:
        """Say in the checkpoint whose it is."""
        checkpoint.setdefault("bort", {})["run"] = self.identity

    def on_validation_start(self, trainer, module) -> None:
        """Note whether this validation is part of a training."""
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
        """Save after an optimizer step where it is time for that."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():  # gradients of half a step are not in a checkpoint
            return
        if self._must_stop(trainer) or trainer.global_step % self.every == 0:
            # Validation that is due belongs to this step: saved before it, it would be left out by
            # the run that resumes.
            if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
                self._due = True
            else:
                self.save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        """Save what waited for this validation."""
        if self._due and trainer.state.fn == "fit":
            self._due = False
            self.save(trainer)

    def on_train_end(self, trainer, module) -> None:
        """Save the end of the training."""
        self.save(trainer)

    def save(self, trainer) -> None:
        """Save where training stands, drop what is too old, and end the process if asked to."""
        if self.saved != trainer.global_step:  # equal for a resumed run with nothing left to train
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")
            self.saved = trainer.global_step
        self.remove_old(trainer)  # only now that the new one is complete
        self._end(trainer)

    def remove_old(self, trainer) -> None:
        """Leave the newest `keep`; a process that was killed may have left one more."""
        if trainer.is_global_zero:
            for path in sorted(self.folder.glob(CHECKPOINT))[: -self.keep]:
                path.unlink(missing_ok=True)

    def _must_stop(self, trainer) -> bool:
        return self.signal is not None or find_loader_failure(trainer) is not None

    def _end(self, trainer) -> None:
        if self.signal is not None:
            raise SystemExit(EXIT_CODES[self.signal])
        if failure := find_loader_failure(trainer):
            raise BortError(f"{failure}; the same command resumes after step {trainer.global_step}")


def find_loader_failure(trainer) -> str | None:
    """Find why a loader of this trainer works without its processes; None when all have them."""
    for name in ("train_dataloader", "val_dataloaders"):
        loaders = getattr(trainer, name, None)
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if failure := getattr(loader, "failure", None):
                return failure
    return None
