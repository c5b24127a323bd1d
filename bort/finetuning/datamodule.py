"""Rows of a task as batches of similar length, the same ones when a training goes on.

Letters: B rows of a batch, C choices of a row (else 1), S tokens.
"""

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bort.console import counted
from bort.errors import BortError
from bort.tasks.encoding import Cast
from bort.tasks.task import Row
from bort.training.loader import ResumeSampler, make_generator, make_loader

POOL = 50  # batches of random rows that are sorted by length together


class RowBatches(Dataset):
    """Rows of similar length as batches, padded to their own longest input.

    Item `epoch · len + batch` has input_ids and attention_mask (B · C, S), labels (B,) (of soft
    ones (B, classes)), rows (B,), the rows' numbers in the split, and, where there are any,
    token_types and spans (B, 2, 2).
    seed: of the order, new in every epoch; None puts all rows in order of length, for evaluation.
    Of several processes, see `divide`, each has a part of every batch and an epoch all rows.
    """

    def __init__(self, inputs: Cast, rows: list[Row], batch_size: int, pad: int, seed: int | None):
        self.inputs, self.batch_size, self.pad, self.seed = inputs, batch_size, pad, seed
        kinds = {type(row.label) for row in rows}
        number = np.float64 if float in kinds else np.float32 if tuple in kinds else np.int64
        self.labels = np.array([0 if row.label is None else row.label for row in rows], number)
        self.lengths = inputs.lengths
        self.order: tuple[int, list[np.ndarray]] | None = None
        self.rank, self.processes = 0, 1

    def divide(self, rank: int, processes: int) -> None:
        """Give this process its part of each step's rows, those of one large batch.

        Raises BortError for fewer rows than processes.
        """
        if len(self.lengths) < processes:
            raise BortError(
                f"{counted(len(self.lengths), 'training row')} for {processes} processes; use "
                "fewer trainer.devices"
            )
        self.rank, self.processes, self.order = rank, processes, None

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size * self.processes)
        return max(1, full + (rest >= self.processes))  # fewer are in the batch before

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, batch = divmod(index, len(self))
        if self.seed is None and epoch:
            raise IndexError(index)  # which also ends `for batch in RowBatches(…)`
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, self._batches(epoch)
        return self._collate(self.order[1][batch][self.rank :: self.processes])

    def _batches(self, epoch: int) -> list[np.ndarray]:
        count = len(self.lengths)
        if self.seed is None:
            return self._cut(np.argsort(self.lengths, kind="stable"))
        random = make_generator((self.seed, epoch), 0)
        shuffled = random.permutation(count)
        size = self.batch_size * self.processes
        pools = self._cut(shuffled, POOL * size)
        by_length = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = [batch for pool in by_length for batch in self._cut(pool, size)]
        if len(batches[-1]) < self.processes:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return [batches[k] for k in random.permutation(len(batches))]

    def _cut(self, rows: np.ndarray, size: int | None = None) -> list[np.ndarray]:
        size = size or self.batch_size
        return [rows[k : k + size] for k in range(0, len(rows), size)]

    def _collate(self, rows: np.ndarray) -> dict[str, Tensor]:
        chosen = [ids for row in rows for ids in self.inputs.input_ids[row]]  # B · C
        length = max(map(len, chosen))
        batch = {
            "input_ids": _padded(chosen, length, self.pad),
            "attention_mask": _padded([np.ones_like(ids) for ids in chosen], length, 0),
            "labels": torch.from_numpy(self.labels[rows]),
            "rows": torch.from_numpy(rows),
        }
        if self.inputs.token_types is not None:
            types = [part for row in rows for part in self.inputs.token_types[row]]
            batch["token_types"] = _padded(types, length, 0)
        if self.inputs.spans is not None:
            batch["spans"] = torch.from_numpy(self.inputs.spans[rows])
        return batch


def _padded(rows: list[np.ndarray], length: int, value: int) -> Tensor:
    table = np.full((len(rows), length), value, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


class TaskDataModule(pl.LightningDataModule):
    """Training batches, and those of each validation set in the order of `vals`."""

    def __init__(self, train: RowBatches, vals: dict[str, RowBatches], workers: int):
        super().__init__()
        self.train, self.vals, self.workers = train, vals, workers
        self.val = next(iter(vals.values()))

    def train_dataloader(self):
        trainer = self.trainer
        self.train.divide(trainer.global_rank, trainer.world_size)
        progress = trainer.fit_loop.epoch_loop.batch_progress.total
        sampler = ResumeSampler(len(self.train), lambda: progress.processed)
        return make_loader(self.train, sampler, self.workers)

    def val_dataloader(self):
        return [make_loader(batches, None, self.workers) for batches in self.vals.values()]
