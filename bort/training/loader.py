"""Data loaders that resume a training at any step and survive the death of their processes."""

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
    """Make one of a key's independent generators: Philox counts in the first of four words."""
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, stream)))


class ResumeSampler(Sampler):
    """Yields the numbers of one epoch's batches, starting where the training stands.

    position: returns how many batches this process has trained on; called when iteration starts.
    """

    def __init__(self, batches: int, position: Callable[[], int]):
        self.batches, self.position = batches, position

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[int]:
        start = self.position()
        yield from range(start, start + len(self))


class ResumableLoader(DataLoader):
    """A loader that resumes by the progress of the trainer, so that it has no state to save.

    Lightning treats a loader with `state_dict` and `load_state_dict` as resumable, and warns about
    any other. If one of its processes dies, this process makes the remaining batches itself, and
    `failure` says why, so that the training can finish its step, save and stop.
    """

    failure: str | None = None

    def state_dict(self) -> dict:
        """Return an empty state, because the trainer knows where the training stands."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Ignore the state, which is empty."""
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
        """Start the loader's processes without PyTorch's handler of SIGCHLD.

        That handler would raise in the middle of an optimizer step. Without it, the death of a
        process shows when the next batch is fetched.
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
    """Explain what ended a loader process; return None for an error in the data set itself."""
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
    """Raise BortError if shared memory has no room for the batches of the loader processes.

    Each process reads two batches ahead and keeps them in shared memory.
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
    """Make a loader process ignore signals, which the training answers after its step.

    Ctrl-C and the SIGTERM of a batch system reach all processes. A second SIGTERM ends the loader
    process, because an exiting process ends its children in this way.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))


def make_loader(dataset: Dataset, sampler: Sampler | None, workers: int) -> DataLoader:
    """Make a loader of whole batches that Lightning can resume.

    Raises BortError if shared memory has no room for its processes.
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
        # its own generator: otherwise each epoch would draw from torch's, and dropout after a
        # resume would differ from that of an uninterrupted run
        generator=torch.Generator(),
    )
