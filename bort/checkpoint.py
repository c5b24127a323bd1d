"""Checkpoints that are whole or absent, and training that stops and goes on without a trace.

A checkpoint's name ends with the first digits of its SHA-256: `step_00000500-1a2b3c4d.ckpt`.
"""

import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from bort.errors import BortError
from bort.files import replacing

DIGITS = 16  # of the SHA-256 in a name
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint through one fsynced rename, without unpickling when it is read.

    Lightning's own save moves a file across file systems, without fsync, and hides a refused write.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getbuffer()
        path = Path(path)
        digits = hashlib.sha256(content).hexdigest()[:DIGITS]
        with replacing(path.with_name(f"{path.stem}-{digits}{path.suffix}")) as file:
            file.write(content)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


def newest_whole(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose content has the digest in its name; None where there is none yet.

    Says which damaged ones were passed over. Raises BortError when all are damaged.
    """
    found = sorted(folder.glob("step_*.ckpt"), reverse=True)
    for number, path in enumerate(found):
        if hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.split("-")[-1]):
            for damaged in found[:number]:  # or its step would pass for saved
                damaged.unlink()
            return path
        say(f"resume: {path} is damaged (its content does not match its name); trying an older one")
    if found:
        raise BortError(
            f"{folder} holds no whole checkpoint ({len(found)} damaged); "
            "start again with resume=false or another name="
        )
    return None


class Checkpoints(pl.Callback):
    """Saves every `every` steps and when asked to stop; keeps the newest two.

    SIGTERM and Ctrl-C are answered after the optimizer step in progress (and the validation that
    belongs to it): the checkpoint is completed, then the process ends with 143 or 130. A second
    signal ends it at once; earlier checkpoints stay whole.
    """

    def __init__(self, folder: Path, every: int, keep: int = 2):
        self.folder, self.every, self.keep = folder, every, keep
        self.signal: int | None = None
        self._due = False
        self._handlers: dict = {}

    def on_train_start(self, trainer, module) -> None:
        if threading.current_thread() is threading.main_thread():
            # Here and not earlier: Lightning sets its own SIGTERM handler before this hook.
            self._handlers = {s: signal.signal(s, self._on_signal) for s in EXIT_CODES}

    def teardown(self, trainer, module, stage: str) -> None:
        for number, handler in self._handlers.items():
            # Lightning may have put back what was there before its own: that one would come back
            # here, hold its trainer, and a sweep would keep the models of all its runs.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame) -> None:
        if self.signal is not None:
            print("\nstopped at once; the last whole checkpoint stays", file=sys.stderr, flush=True)
            os._exit(EXIT_CODES[number])
        self.signal = number
        print("\nstopping: saving a checkpoint after this step…", file=sys.stderr, flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():  # gradients of half a step are not in a checkpoint
            return
        if self.signal is not None or trainer.global_step % self.every == 0:
            # Validation that is due belongs to this step: saved before it, it would be left out by
            # the run that resumes.
            if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
                self._due = True
            else:
                self.save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        if self._due and trainer.state.fn == "fit":
            self._due = False
            self.save(trainer)

    def on_train_end(self, trainer, module) -> None:
        self.save(trainer)

    def save(self, trainer) -> None:
        """Save where training stands, drop what is too old, and end the process if asked to."""
        if list(self.folder.glob(f"step_{trainer.global_step:08d}-*.ckpt")):
            return self._end()  # a resumed run that had nothing left to do
        old = sorted(self.folder.glob("step_*.ckpt"))
        trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")
        if trainer.is_global_zero:  # the old ones go only now that the new one is complete
            new = set(self.folder.glob("step_*.ckpt")) - set(old)
            for path in old[: max(0, len(old) + len(new) - self.keep)] if new else []:
                path.unlink(missing_ok=True)
        self._end()

    def _end(self) -> None:
        if self.signal is not None:
            raise SystemExit(EXIT_CODES[self.signal])
