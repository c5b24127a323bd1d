"""Loaders of whole batches that resume a training at any step, and outlive their processes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bort.errors import BortError


def make_generator(key: tuple[int, int], stream: int) -> np.random.Generator:
    """Make one of the independent generators of a key: Philox counts in the first of four words."""
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, stream)))


class ResumeSampler(Sampler):
    """Gives as many batch numbers as an epoch has, from wherever training stands.

    position: returns how many batches this process has trained on, when the loader is iterated.
    """

    def __init__(self, batches: int, position: Callable[[], int]):
        self.batches, self.position = batches, position

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[int]:
        start = self.position()
        yield from range(start, start + len(self))


class ResumableLoader(DataLoader):
    """A loader whose place is in the trainer's own progress: nothing to save beside it.

    Lightning takes a loader with these two methods for resumable, and warns about any other. When
    one of its processes dies, the batches that are still asked for are made in this process, and
    `failure` says why: whoever trains can finish its step, save and stop.
    """

    failure: str | None = None

    def state_dict(self) -> dict:
        """Return nothing: the trainer knows where training stands."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take nothing from a checkpoint."""
        pass

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if not self.num_workers:
            yield from super().__iter__()
            return
        numbers, batches = list(self.sampler), None
        for number in numbers:
            if self.failure is None:
                try:
                    batches = self.start_processes() if batches is None else batches
                    yield next(batches)
                    continue
                except (RuntimeError, OSError, EOFError) as error:
                    self.failure = _explain_failure(error)
                    if self.failure is None:
                        raise
            yield self.dataset[number]

    def start_processes(self) -> Iterator[dict[str, torch.Tensor]]:
        """Start the loader's processes; the end of one of them is noticed when a batch is fetched.

        PyTorch's handler of SIGCHLD would raise at once, in the middle of an optimizer step.
        """
        if threading.current_thread() is not threading.main_thread():
            return super().__iter__()
        before = signal.getsignal(signal.SIGCHLD)
        try:
            return super().__iter__()
        finally:
            signal.signal(signal.SIGCHLD, before)


SHARED_MEMORY = ("unable to write to file", "shared memory", "unable to mmap", "No space left")


def _explain_failure(error: Exception) -> str | None:
    """Explain what ended a loader's process, in the start of a line; None for a data set's bug."""
    text = str(error)
    if any(part in text for part in SHARED_MEMORY):
        return "the loader's processes found no room in shared memory; use data.workers=0"
    # A process may also die while it hands a batch over.
    if "DataLoader worker (pid" in text or isinstance(error, ConnectionError | EOFError):
        return "a loader process was killed, perhaps for its memory; lower data.workers"
    if isinstance(error, OSError):
        return f"the loader's processes cannot work here ({error.strerror}); use data.workers=0"
    return None


def check_shared_memory(dataset: Dataset, workers: int, folder: Path = Path("/dev/shm")) -> None:
    """Raise BortError, before they start, where loader processes could not hand batches over.

    Each reads two batches ahead, and these lie in shared memory.
    """
    if workers == 0 or sys.platform != "linux":
        return
    if not os.access(folder, os.W_OK):
        raise BortError(f"data.workers={workers} needs {folder} to write to; use data.workers=0")
    size = sum(tensor.nbytes for tensor in dataset[0].values())
    state = os.statvfs(folder)
    free, needed = state.f_bavail * state.f_frsize, (2 * workers + 1) * size
    if free < needed:
        raise BortError(
            f"data.workers={workers} needs {needed:,} bytes of shared memory, {folder} has "
            f"{free:,} left; use data.workers=0"
        )


def _ignore_signals(worker: int) -> None:
    """Leave signals to the training, which answers them after its step.

    Ctrl-C and a batch system's SIGTERM reach all processes.

    A second SIGTERM ends the worker: that is how a process that exits ends its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))


def make_loader(dataset: Dataset, sampler: Sampler | None, workers: int) -> DataLoader:
    """Make a loader of whole batches that Lightning can resume.

    Raises BortError where there is no shared memory for its processes.
    """
    check_shared_memory(dataset, workers)
    return ResumableLoader(
        dataset,
        batch_size=None,  # an item is a whole batch
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_signals,
        pin_memory=torch.cuda.is_available(),
        # a generator of its own: else each epoch would draw from torch's, and dropout after a
        # resume would differ from that of an undisturbed run
        generator=torch.Generator(),
    )
