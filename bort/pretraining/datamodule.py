"""Batches for pre-training: masked sequences as a pure function of (seed, epoch, sequence).

Letters: B batch, S sequence, M masked positions of a batch, V vocabulary.
"""

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bort.config.data import DataConfig
from bort.pretraining.corpus import Corpus, count_sequences, pack_sequences
from bort.pretraining.masking import VAL_RATE, derive_row_keys, mask_tokens
from bort.pretraining.teacher_states import TeacherStates, WithTeacher
from bort.text.tokenizer import mark_special_ids
from bort.training.loader import ResumeSampler, make_generator, make_loader


class _Stream:
    """What both data sets need of a corpus split; cheap to send to a loader worker."""

    def __init__(self, corpus: Corpus, split: str, length: int):
        tokenizer = corpus.tokenizer
        self.file, self.dtype = corpus.folder / f"{split}.bin", corpus.info["dtype"]
        self.bos, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.mask, self.special = tokenizer.mask_token_id, mark_special_ids(tokenizer)
        self.length = length
        self.count = count_sequences(getattr(corpus, split), length)
        self.tokens = None

    def rows(self, rows: np.ndarray) -> np.ndarray:
        if self.tokens is None:  # opened in the worker: a memory map is pickled as a copy
            self.tokens = np.memmap(self.file, dtype=self.dtype, mode="r")
        return pack_sequences(self.tokens, rows, self.length, self.bos, self.sep)

    def masked(self, rows: np.ndarray, rate: float, key: int) -> dict[str, torch.Tensor]:
        """Sequences `rows` as a batch; what is masked in each is a function of its number."""
        ids, keys = self.rows(rows), derive_row_keys(key, rows)
        arrays = mask_tokens(ids, rate, self.special, self.mask, len(self.special), keys)
        names = ("input_ids", "positions", "labels")
        return {n: torch.from_numpy(array) for n, array in zip(names, arrays, strict=True)}


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
            random = make_generator((self.seed, number), 0)
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
        return make_loader(self.train, sampler, self.data.workers)

    def val_dataloader(self) -> DataLoader | list:
        return make_loader(self.val, None, self.data.workers) if len(self.val) else []
