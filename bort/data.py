"""Batches for pre-training: masked sequences as a pure function of (seed, epoch, batch).

Letters: B batch, S sequence, M masked positions of a batch, V vocabulary.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bort.config import Data
from bort.corpus import Corpus, pack, sequences
from bort.files import replacing
from bort.tokenizer import special_ids

VAL_RATE = 0.15  # every run is scored as BERT was, whatever it trains with
VAL_KEY = (0x626F7274, 0)  # not the run's seed: all runs are scored on the same masked positions


def mask_tokens(
    ids: np.ndarray,
    rate: float,
    special: np.ndarray,
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens to predict: of these 80% become `mask_id`, 10% a random word, 10% stay (BERT).

    ids: (B, S) int64; special: (V,) bool, ids that are never chosen nor drawn. Each place is chosen
    with probability `rate`; a row in which none was chosen gets one at random. So every row with a
    place that can be masked has a masked one (and short rows are masked a little above `rate`).
    Returns inputs (B, S), flat positions (M,) in order, labels (M,), all int64.
    """
    maskable = ~special[ids]  # (B, S)
    chosen = (rng.random(ids.shape, dtype=np.float32) < rate) & maskable
    for row in np.flatnonzero(~chosen.any(axis=1)):
        places = np.flatnonzero(maskable[row])
        if len(places):
            chosen[row, rng.choice(places)] = True
    positions = np.flatnonzero(chosen)  # (M,)
    labels = ids.ravel()[positions]
    lot = rng.random(len(positions), dtype=np.float32)
    words = np.flatnonzero(~special[:vocab_size])
    replaced = np.where(lot < 0.8, mask_id, labels)
    random = np.flatnonzero(lot >= 0.9)
    replaced[random] = words[rng.integers(len(words), size=len(random))]
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

    def masked(self, ids: np.ndarray, rate: float, rng: np.random.Generator):
        return mask_tokens(ids, rate, self.special, self.mask, len(self.special), rng)


def generator(key: tuple[int, int], stream: int) -> np.random.Generator:
    """Independent streams of one key: Philox counts in the first of the four words."""
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, stream)))


def _batch(
    inputs: np.ndarray, positions: np.ndarray, labels: np.ndarray
) -> dict[str, torch.Tensor]:
    arrays = {"input_ids": inputs, "positions": positions, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TrainBatches(Dataset):
    """Item `epoch · len + batch` is a whole batch: input_ids (B, S), positions (M,), labels (M,).

    Each epoch is a new permutation with new masks; its last batch holds what is left.
    """

    def __init__(self, corpus: Corpus, data: Data, seed: int):
        self.stream = _Stream(corpus, "train", data.length)
        self.rate, self.batch_size, self.seed = data.mask_rate, data.batch_size, seed
        self.order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return -(-self.stream.count // self.batch_size)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, batch = divmod(index, len(self))
        key = (self.seed, epoch)
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, generator(key, 0).permutation(self.stream.count)
        rows = self.order[1][batch * self.batch_size : (batch + 1) * self.batch_size]
        ids = self.stream.rows(rows)
        return _batch(*self.stream.masked(ids, self.rate, generator(key, batch + 1)))


class ValBatches(Dataset):
    """`data.val_sequences` sequences spread over the validation text, always with the same masks.

    A sequence's masks depend on its number alone, so that neither batch size nor seed moves them.
    """

    def __init__(self, corpus: Corpus, data: Data):
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
        ids = self.stream.rows(rows)
        masked = [
            self.stream.masked(ids[k : k + 1], VAL_RATE, generator(VAL_KEY, int(row)))
            for k, row in enumerate(rows)
        ]
        inputs, positions, labels = zip(*masked, strict=True)
        offsets = [k * self.stream.length + places for k, places in enumerate(positions)]
        return _batch(np.concatenate(inputs), np.concatenate(offsets), np.concatenate(labels))

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
    logits of them at any temperature. Written in order, and gone on with after a kill.
    """

    EVERY = 64  # batches between two records of how far it got

    def __init__(self, path: Path, hidden: int):
        self.states, self.index = path.with_suffix(".f16"), path.with_suffix(".npy")
        self.hidden = hidden
        self.ends = np.load(self.index) if self.index.exists() else np.zeros(1, dtype=np.int64)
        self.rows: np.ndarray | None = None

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
        ends = self.ends.tolist()
        with self.states.open("ab") as file:
            file.truncate(ends[-1] * self.hidden * 2)
            for number in range(done, count):
                batch = batches[number]
                ids, positions = (batch[k].to(device) for k in ("input_ids", "positions"))
                rows = teacher.head_states(ids, positions=positions)
                file.write(rows.half().cpu().numpy().tobytes())
                ends.append(ends[-1] + len(rows))
                tick(number + 1, count)
                if (number + 1) % self.EVERY == 0 or number + 1 == count:
                    file.flush()
                    os.fsync(file.fileno())
                    with replacing(self.index) as index:
                        np.save(index, np.array(ends, dtype=np.int64))
        self.ends, self.rows = np.array(ends, dtype=np.int64), None
        return count - done


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
    Of several processes each takes every world_size-th batch; what does not divide is left out.
    """

    def __init__(
        self, batches: int, position: Callable[[], int], rank: int = 0, world_size: int = 1
    ):
        self.batches, self.position = batches, position
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(1, self.batches // self.world_size)

    def __iter__(self) -> Iterator[int]:
        start = self.position()
        for step in range(start, start + len(self)):
            epoch, batch = divmod(step, len(self))
            yield epoch * self.batches + (batch * self.world_size + self.rank) % self.batches


class ResumableLoader(DataLoader):
    """A loader whose place is in the trainer's own progress: nothing to save beside it.

    Lightning takes a loader with these two methods for resumable, and warns about any other.
    """

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def _leave_signals(worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach every process; training answers, after its step.

    A second SIGTERM ends the worker: that is how a process that exits ends its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))


def loader(dataset: Dataset, sampler: Sampler | None, workers: int) -> DataLoader:
    """A loader of whole batches that Lightning can resume."""
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


class PackedData(pl.LightningDataModule):
    """Training and validation batches of a corpus.

    A batch has input_ids (B, S), positions (M,) and labels (M,), int64, and no padding. Batches
    depend on (seed, epoch, batch number) alone, not on workers or on where training was resumed.

    states: a teacher's output for the training and the validation batches, to go with them.
    """

    def __init__(
        self,
        corpus: Corpus,
        data: Data,
        seed: int,
        states: tuple[TeacherStates, TeacherStates] | None = None,
    ):
        super().__init__()
        self.data = data
        self.train, self.val = TrainBatches(corpus, data, seed), ValBatches(corpus, data)
        if states is not None:
            self.train, self.val = (
                WithTeacher(batches, kept)
                for batches, kept in zip((self.train, self.val), states, strict=True)
            )

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        place = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        # `processed` counts the batches trained on, over all epochs, in a checkpoint of any hook;
        # `ready` may run ahead of it there and `completed` behind it
        progress = trainer.fit_loop.epoch_loop.batch_progress.total if trainer else None
        sampler = ResumeSampler(
            len(self.train), lambda: progress.processed if progress else 0, *place
        )
        return loader(self.train, sampler, self.data.workers)

    def val_dataloader(self) -> DataLoader | list:
        return loader(self.val, None, self.data.workers) if len(self.val) else []
