"""Batches for pre-training: masked sequences as a pure function of (seed, epoch, sequence).

Letters: B batch, S sequence, M masked positions of a batch, V vocabulary.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset, Sampler

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.files.digests import read_array, write_array
from bort.pretraining.corpus import Corpus, pack, sequences
from bort.text.tokenizer import special_ids

logger = logging.getLogger(__name__)

VAL_RATE = 0.15  # every run is scored as BERT was, whatever it trains with
GOLDEN = 0x9E3779B97F4A7C15  # the step of SplitMix64, 2⁶⁴ divided by the golden ratio


def mix(bits: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers one to one: the output function of SplitMix64 (Steele et al. 2014).

    Of the multiples of GOLDEN, plus any key, it makes what no test tells from random bits.
    """
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    return bits ^ (bits >> 31)


def row_keys(key: int, rows: np.ndarray) -> np.ndarray:
    """The keys (B,) of the random bits of sequences `rows` (B,); key: of all of them, 64 bits."""
    return mix(rows.astype(np.uint64) * GOLDEN + key)


def mask_tokens(
    ids: np.ndarray,
    rate: float,
    special: np.ndarray,
    mask_id: int,
    vocab_size: int,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens to predict: of these 80% become `mask_id`, 10% a random word, 10% stay (BERT).

    ids: (B, S) int64; special: (V,) bool, ids that are never chosen nor drawn; keys: (B,) uint64,
    which decide all that is random, each in its own row. Each place is chosen with probability
    `rate`; a row in which none was chosen gets one at random. So every row with a place that can be
    masked has a masked one (and short rows are masked a little above `rate`).
    Returns inputs (B, S), flat positions (M,) in order, labels (M,), all int64.
    """
    steps = np.arange(1, ids.shape[1] + 1, dtype=np.uint64) * GOLDEN
    bits = mix(keys[:, None] + steps)  # (B, S)
    maskable = ~special[ids]
    chosen = (bits < int(rate * 2**64)) & maskable
    for row in np.flatnonzero(~chosen.any(axis=1)):
        places = np.flatnonzero(maskable[row])
        if len(places):  # the lowest of random numbers is at each place equally often
            chosen[row, places[bits[row, places].argmin()]] = True
    positions = np.flatnonzero(chosen)  # (M,)
    labels = ids.ravel()[positions]
    lot = mix(bits.ravel()[positions])
    words = np.flatnonzero(~special[:vocab_size])
    replaced = np.where(lot < int(0.8 * 2**64), mask_id, labels)
    random = lot >= int(0.9 * 2**64)
    replaced[random] = words[lot[random] % len(words)]
    inputs = ids.copy()
    inputs.ravel()[positions] = replaced
    return inputs, positions, labels


class _Stream:
    """What both data sets need of a corpus split; cheap to send to a loader worker."""

    def __init__(self, corpus: Corpus, split: str, length: int):
        tokenizer = corpus.tokenizer
        self.file, self.dtype = corpus.folder / f"{split}.bin", corpus.info["dtype"]
        self.bos, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.mask, self.special = tokenizer.mask_token_id, special_ids(tokenizer)
        self.length = length
        self.count = sequences(getattr(corpus, split), length)
        self.tokens = None

    def rows(self, rows: np.ndarray) -> np.ndarray:
        if self.tokens is None:  # opened in the worker: a memory map is pickled as a copy
            self.tokens = np.memmap(self.file, dtype=self.dtype, mode="r")
        return pack(self.tokens, rows, self.length, self.bos, self.sep)

    def masked(self, rows: np.ndarray, rate: float, key: int) -> dict[str, torch.Tensor]:
        """Sequences `rows` as a batch; what is masked in each is a function of its number."""
        ids, keys = self.rows(rows), row_keys(key, rows)
        arrays = mask_tokens(ids, rate, self.special, self.mask, len(self.special), keys)
        names = ("input_ids", "positions", "labels")
        return {n: torch.from_numpy(array) for n, array in zip(names, arrays, strict=True)}


def generator(key: tuple[int, int], stream: int) -> np.random.Generator:
    """Independent streams of one key: Philox counts in the first of the four words."""
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, stream)))


class TrainBatches(Dataset):
    """Item `epoch · len + batch` is a whole batch: input_ids (B, S), positions (M,), labels (M,).

    Each epoch is a new permutation with new masks; its last batch holds what is left. What is
    masked in a sequence depends on (seed, epoch, sequence) alone: not on batches or processes.
    """

    def __init__(self, corpus: Corpus, data: DataConfig, seed: int):
        self.stream = _Stream(corpus, "train", data.length)
        self.rate, self.batch_size, self.seed = data.mask_rate, data.batch_size, seed
        self.rank, self.processes = 0, 1
        self.epoch: tuple[int, np.ndarray, int] | None = None  # number, order and key of its masks

    def divide(self, rank: int, processes: int) -> None:
        """Give this process its part of each step's sequences, those of one large batch."""
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return -(-self.stream.count // (self.batch_size * self.processes))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, batch = divmod(index, len(self))
        if self.epoch is None or self.epoch[0] != number:
            random = generator((self.seed, number), 0)
            order = random.permutation(self.stream.count)
            self.epoch = number, order, int(random.integers(2**64, dtype=np.uint64))
        _, order, key = self.epoch
        size = self.batch_size * self.processes
        rows = order[batch * size : (batch + 1) * size]
        share = np.array_split(rows, self.processes)[self.rank]
        if len(share):
            return self.stream.masked(share, self.rate, key)
        # Fewer sequences are left than there are processes, which step together all the same.
        nothing = torch.empty(0, dtype=torch.int64)
        return self.stream.masked(rows[:1], self.rate, key) | dict.fromkeys(
            ("positions", "labels"), nothing
        )


class ValBatches(Dataset):
    """`data.val_sequences` sequences spread over the validation text, always with the same masks.

    A sequence's masks depend on its number alone, so that neither batch size nor seed moves them.
    """

    KEY = 0x626F7274  # not the run's seed: all runs are scored on the same masked positions

    def __init__(self, corpus: Corpus, data: DataConfig):
        self.stream = _Stream(corpus, "val", data.length)
        count = min(data.val_sequences, self.stream.count)
        self.chosen = np.arange(count) * self.stream.count // max(1, count)
        self.batch_size = 4 * data.batch_size  # no gradients to keep

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        if not 0 <= batch < len(self):
            raise IndexError(batch)  # which also ends `for batch in ValBatches(…)`
        rows = self.chosen[batch * self.batch_size : (batch + 1) * self.batch_size]
        return self.stream.masked(rows, VAL_RATE, self.KEY)

    def documents(self) -> np.ndarray:
        """The document of each masked position (N,), in the order of the batches.

        A sequence may hold parts of several documents; a separator belongs to the one it ends.
        """
        body = self.stream.length - 2
        if self.stream.tokens is None:
            self.stream.rows(self.chosen[:0])
        ends = np.flatnonzero(np.asarray(self.stream.tokens) == self.stream.sep)
        places = []
        for number in range(len(self)):
            rows = self.chosen[number * self.batch_size : (number + 1) * self.batch_size]
            row, column = np.divmod(self[number]["positions"].numpy(), self.stream.length)
            places.append(rows[row] * body + column - 1)
        return np.searchsorted(ends, np.concatenate(places))


class TeacherStates:
    """A teacher's head states at the masked positions of batches 0, 1, …, on disk.

    Half precision: 2 H_T bytes a position, where logits would be 4 V. The teacher's decoder makes
    logits of them at any temperature. Written in order, and gone on with after a kill. What follows
    a batch whose states are no longer those that were written is made again.
    """

    EVERY = 64  # batches between two records of how far it got

    def __init__(self, path: Path, hidden: int):
        self.states, self.index = path.with_suffix(".f16"), path.with_suffix(".npy")
        self.hidden = hidden
        self.ends, self.digests = self._whole()  # (batches + 1,), (batches,)
        self.rows: np.ndarray | None = None

    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends and digests of the batches on disk up to the first that is damaged."""
        if not self.index.exists():
            return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        self.states.touch()  # lost, it is a damaged one
        versions = ((s.st_size, s.st_ctime_ns) for s in (self.states.stat(), self.index.stat()))
        ends, digests, whole = _checked_states(self.states, self.index, self.hidden, *versions)
        if whole < len(digests) or len(ends) == 1:
            logger.info(
                f"teacher: its kept states in {self.states} are damaged; they are made again"
            )
        return ends[: whole + 1], digests[:whole]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, batch: int) -> np.ndarray:
        """(M, H_T) float16."""
        if self.rows is None:  # opened in the worker: a memory map is pickled as a copy
            self.rows = np.memmap(self.states, dtype=np.float16, mode="r").reshape(-1, self.hidden)
        return np.array(self.rows[self.ends[batch] : self.ends[batch + 1]])

    @torch.no_grad()
    def build(self, teacher, batches: Dataset, count: int, tick: Callable[[int, int], None]) -> int:
        """Run the teacher over batches 0 … count - 1 that are not there yet; returns how many."""
        done = len(self)
        if done >= count:
            return 0
        teacher.eval()  # its dropout would be in every candidate's target
        device = next(teacher.parameters()).device
        self.states.parent.mkdir(parents=True, exist_ok=True)
        ends, digests = self.ends.tolist(), self.digests.tolist()
        with self.states.open("ab") as file:
            file.truncate(ends[-1] * self.hidden * 2)
            for number in range(done, count):
                batch = batches[number]
                ids, positions = (batch[k].to(device) for k in ("input_ids", "positions"))
                rows = teacher.head_states(ids, positions=positions)
                content = rows.half().cpu().numpy().tobytes()
                file.write(content)
                ends.append(ends[-1] + len(rows))
                digests.append(xxhash.xxh3_64_intdigest(content))
                tick(number + 1, count)
                if (number + 1) % self.EVERY == 0 or number + 1 == count:
                    file.flush()
                    os.fsync(file.fileno())
                    write_array(self.index, np.array([ends, [0, *digests]], dtype=np.uint64).T)
        self.ends, self.digests = np.array(ends, dtype=np.int64), np.array(digests, dtype=np.uint64)
        self.rows = None
        return count - done


@lru_cache(maxsize=16)
def _checked_states(
    states: Path, index: Path, hidden: int, *versions: tuple
) -> tuple[np.ndarray, np.ndarray, int]:
    """Ends and digests of an index, and how many batches are as written; once in a process."""
    table = read_array(index)  # (batches + 1, 2): one past a batch's last position, its digest
    if table is None or table.ndim != 2:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint64), 0
    ends, digests = table[:, 0].astype(np.int64), table[1:, 1]
    with states.open("rb") as file:
        for batch, (size, digest) in enumerate(zip(np.diff(ends), digests, strict=True)):
            content = file.read(int(size) * hidden * 2)
            if xxhash.xxh3_64_intdigest(content) != digest:
                return ends, digests, batch
    return ends, digests, len(digests)


class WithTeacher(Dataset):
    """Batches that carry the teacher's head states (M, H_T) beside input, positions and labels."""

    def __init__(self, batches: Dataset, states: TeacherStates):
        self.batches, self.states = batches, states

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self.states):  # a worker reads ahead of the last step
            return self.batches[index]
        return self.batches[index] | {"teacher_states": torch.from_numpy(self.states[index])}


class ResumeSampler(Sampler):
    """The next epoch's worth of batch numbers from wherever training stands.

    position: () → batches that this process has trained on, asked when the loader is iterated.
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
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if not self.num_workers:
            yield from super().__iter__()
            return
        numbers, batches = list(self.sampler), None
        for number in numbers:
            if self.failure is None:
                try:
                    batches = self._start() if batches is None else batches
                    yield next(batches)
                    continue
                except (RuntimeError, OSError, EOFError) as error:
                    self.failure = _loader_failure(error)
                    if self.failure is None:
                        raise
            yield self.dataset[number]

    def _start(self) -> Iterator[dict[str, torch.Tensor]]:
        """The loader's processes; the end of one of them is noticed when a batch is fetched.

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


def _loader_failure(error: Exception) -> str | None:
    """What happened to a loader's process, as the start of a line; None for a bug in a data set."""
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
    """Raises BortError, before they start, where loader processes could not hand batches over.

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


def _leave_signals(worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach every process; training answers, after its step.

    A second SIGTERM ends the worker: that is how a process that exits ends its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))


def loader(dataset: Dataset, sampler: Sampler | None, workers: int) -> DataLoader:
    """A loader of whole batches that Lightning can resume.

    Raises BortError where there is no shared memory for its processes.
    """
    check_shared_memory(dataset, workers)
    return ResumableLoader(
        dataset,
        batch_size=None,  # an item is a whole batch
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
        pin_memory=torch.cuda.is_available(),
        # a generator of its own: else each epoch would draw from torch's, and dropout after a
        # resume would differ from that of an undisturbed run
        generator=torch.Generator(),
    )


class PackedDataModule(pl.LightningDataModule):
    """Training and validation batches of a corpus.

    A batch has input_ids (B, S), positions (M,) and labels (M,), int64, and no padding. The
    sequences of a step depend on (seed, epoch, step) alone, and what is masked in a sequence on
    (seed, epoch, sequence): not on workers, processes, or where training was resumed.

    states: a teacher's output for the training and the validation batches, to go with them.
    """

    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        seed: int,
        states: tuple[TeacherStates, TeacherStates] | None = None,
    ):
        super().__init__()
        self.data = data
        self.train, self.val = TrainBatches(corpus, data, seed), ValBatches(corpus, data)
        self._divide = self.train.divide
        if states is not None:
            self.train, self.val = (
                WithTeacher(batches, kept)
                for batches, kept in zip((self.train, self.val), states, strict=True)
            )

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        if trainer:
            self._divide(trainer.global_rank, trainer.world_size)
        # `processed` counts the batches trained on, over all epochs, in a checkpoint of any hook;
        # `ready` may run ahead of it there and `completed` behind it
        progress = trainer.fit_loop.epoch_loop.batch_progress.total if trainer else None
        sampler = ResumeSampler(len(self.train), lambda: progress.processed if progress else 0)
        return loader(self.train, sampler, self.data.workers)

    def val_dataloader(self) -> DataLoader | list:
        return loader(self.val, None, self.data.workers) if len(self.val) else []
