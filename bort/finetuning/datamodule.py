"""The batches of fine-tuning: rows of similar length, which are the same after a resume.

Letters: B rows of a batch, C choices, windows or texts that are apart of a row (else 1), S tokens.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bort.config.data import DataConfig
from bort.console import counted
from bort.errors import BortError
from bort.finetuning.examples import TaskExamples, encode_examples
from bort.finetuning.heads import arrange_texts
from bort.models.huggingface import load_tokenizer
from bort.tasks.encoding import EncodedRows
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.loader import ResumeSampler, make_generator, make_loader

POOL = 50  # batches of random rows that are sorted by length together
MOST_WINDOWS = 8  # of a row in a training step, which keeps the states of all of them


class RowBatches(Dataset):
    """Rows of similar length as batches, each padded to its own longest input.

    Item `epoch · len + batch` has input_ids and attention_mask (B · C, S), labels (B,) (or
    (B, classes) where labels are probabilities, or several of them are right), rows (B,), the rows'
    numbers in the split, and,
    where there are any, token_types and spans (B, 2, 2). With a teacher's outputs (N, classes),
    `teacher` are those to the rows of the batch (B, classes), and `is_labelled` (B,) tells which of
    these rows have a label of their own. Where long texts are divided, `windows` (B,) says how many
    inputs a row has: in training at most MOST_WINDOWS, which each epoch draws anew, and in
    evaluation all; such a batch has about as many inputs as another one has rows.
    seed: of the order, which is new in every epoch; None puts all rows in the order of their
    lengths, for evaluation. Where several processes train, see `divide`, each has a part of every
    batch, and an epoch has all rows.
    """

    def __init__(
        self,
        inputs: EncodedRows,
        rows: list[Row],
        batch_size: int,
        pad: int,
        seed: int | None,
        teacher: np.ndarray | None = None,
    ):
        self.teacher = teacher
        self.is_labelled = np.array([row.label is not None for row in rows])
        self.inputs, self.batch_size, self.pad, self.seed = inputs, batch_size, pad, seed
        kinds = {type(row.label) for row in rows}
        number = np.float64 if float in kinds else np.float32 if tuple in kinds else np.int64
        absent = next(((0,) * len(row.label) for row in rows if isinstance(row.label, tuple)), 0)
        labels = [absent if row.label is None else row.label for row in rows]
        self.labels = np.array(labels, number)
        self.lengths, self.windows = inputs.lengths, inputs.windows
        self.order: tuple[int, list[np.ndarray]] | None = None
        self.rank, self.processes = 0, 1

    def divide(self, rank: int, processes: int) -> None:
        """Take this process's part of each step's rows, which are those of one large batch.

        Raises BortError for fewer rows than processes.
        """
        if len(self.lengths) < processes:
            raise BortError(
                f"{counted(len(self.lengths), 'training row')} for {processes} processes; use "
                "fewer trainer.devices"
            )
        self.rank, self.processes, self.order = rank, processes, None

    def __len__(self) -> int:
        if self.seed is None:
            return max(1, len(self._in_order))
        full, remainder = divmod(len(self.lengths), self.batch_size * self.processes)
        return max(1, full + (remainder >= self.processes))  # fewer are in the batch before

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, batch = divmod(index, len(self))
        if self.seed is None and epoch:
            raise IndexError(index)  # which also ends `for batch in RowBatches(…)`
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, self._order_batches(epoch)
        return self._collate(self.order[1][batch][self.rank :: self.processes], epoch)

    def _order_batches(self, epoch: int) -> list[np.ndarray]:
        """Divide all rows into the batches of an epoch."""
        count = len(self.lengths)
        if self.seed is None:
            return self._in_order
        random = make_generator((self.seed, epoch), 0)
        shuffled = random.permutation(count)
        size = self.batch_size * self.processes
        batches = []
        for pool in _cut(shuffled, POOL * size):
            batches += _cut(pool[self._sort_by_length(pool)], size)
        if len(batches[-1]) < self.processes:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return [batches[k] for k in random.permutation(len(batches))]

    @cached_property
    def _in_order(self) -> list[np.ndarray]:
        """All rows, by length, in batches with so many inputs; a row with more is alone."""
        order = self._sort_by_length(np.arange(len(self.lengths)))
        if not self.inputs.has_windows:
            return _cut(order, self.batch_size)
        batches, room = [], 0
        for row in order:
            if self.windows[row] > room:
                batches.append([])
                room = self.batch_size
            batches[-1].append(row)
            room -= self.windows[row]
        return list(map(np.array, batches))

    def _sort_by_length(self, rows: np.ndarray) -> np.ndarray:
        """Return the order of rows by their windows, and among equals by their length."""
        return np.lexsort((self.lengths[rows], self.windows[rows]))

    def _draw_windows(self, row: int, epoch: int) -> Sequence[int]:
        """Return which inputs of a row are read: all, or in training at most MOST_WINDOWS."""
        count = len(self.inputs.input_ids[row])
        if self.seed is None or self.windows[row] <= MOST_WINDOWS:
            return range(count)
        random = make_generator((self.seed, epoch), 1 + int(row))
        return np.sort(random.choice(count, MOST_WINDOWS, replace=False))

    def _collate(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """Pad the inputs of some rows to one length."""
        chosen = [(row, number) for row in rows for number in self._draw_windows(row, epoch)]
        inputs = [self.inputs.input_ids[row][number] for row, number in chosen]  # B · C
        length = max(map(len, inputs))
        batch = {
            "input_ids": _pad(inputs, length, self.pad),
            "attention_mask": _pad([np.ones_like(ids) for ids in inputs], length, 0),
            "labels": torch.from_numpy(self.labels[rows]),
            "rows": torch.from_numpy(rows),
        }
        if self.inputs.token_types is not None:
            types = [self.inputs.token_types[row][number] for row, number in chosen]
            batch["token_types"] = _pad(types, length, 0)
        if self.inputs.spans is not None:
            batch["spans"] = torch.from_numpy(self.inputs.spans[rows])
        if self.inputs.has_windows:
            most = len(inputs) if self.seed is None else MOST_WINDOWS
            batch["windows"] = torch.from_numpy(np.minimum(self.windows[rows], most))
        if self.teacher is not None:
            batch["teacher"] = torch.from_numpy(self.teacher[rows])
            batch["is_labelled"] = torch.from_numpy(self.is_labelled[rows])
        return batch


def measure_inputs(inputs: EncodedRows) -> tuple[int, int]:
    """Count the tokens of an epoch of training, and those of its longest row."""
    most = MOST_WINDOWS if inputs.has_windows else None
    rows = [list(map(len, row)) for row in inputs.input_ids]
    tokens = [sum(row) * len(row[:most]) / len(row) for row in rows]  # windows are much alike
    return round(sum(tokens)), max(max(row) * len(row[:most]) for row in rows)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[k : k + size] for k in range(0, len(rows), size)]


def _pad(rows: list[np.ndarray], length: int, value: int) -> Tensor:
    table = np.full((len(rows), length), value, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


class TaskDataModule(pl.LightningDataModule):
    """The training and validation batches of a task.

    task: suite/name, as in glue/rte; custom for a table of one's own; docstrings, which needs no
    files. tokenizer: a folder, a hub name, or a tokenizer of transformers. data: `root`, the
    folder of the suite's files, or `train`, `val`, `text` and `label` of one's own table; `length`,
    `batch_size` and `workers`. seed: of the order of the training rows. head: what will read the
    rows, since `towers` needs the two texts of each apart.

    The rows are read and encoded by `setup`; after it, `examples` has them. Raises BortError there
    for an unknown task, wrong files, or a row that does not fit.
    """

    def __init__(
        self, task: str, tokenizer: Any, data: DataConfig, seed: int = 0, head: str = "linear"
    ):
        super().__init__()
        self.name, self.tokenizer, self.data, self.seed = task, tokenizer, data, seed
        self.head = head
        self.examples: TaskExamples | None = None
        self.teacher: np.ndarray | None = None
        self.train: RowBatches | None = None
        self.validation: dict[str, RowBatches] = {}

    @classmethod
    def from_examples(
        cls,
        examples: TaskExamples,
        data: DataConfig,
        seed: int = 0,
        teacher: np.ndarray | None = None,
    ) -> "TaskDataModule":
        """Make the batches of examples that are read and encoded already.

        data: of which only `batch_size` and `workers` matter here. teacher: a teacher's outputs
        (N, classes) to the training rows, where a model learns from them.
        """
        module = cls(examples.task.name, examples.tokenizer, data, seed)
        module.teacher = teacher
        module._set_examples(examples)
        return module

    @property
    def task(self) -> Task:
        """The facts of the task, after `setup`."""
        return self.examples.task

    @property
    def val(self) -> RowBatches:
        """The batches of the first validation set, after `setup`."""
        return next(iter(self.validation.values()))

    def prepare_data(self) -> None:
        """Let one process fill the caches of what is no local file: docstrings, and hub data."""
        if self.examples is None and self.name != "custom" and self.data.root is None:
            load_task(self.name, self.data)

    def setup(self, stage: str | None = None) -> None:
        """Read the rows and encode them, once."""
        if self.examples is None:
            tokenizer = self.tokenizer
            if isinstance(tokenizer, str | Path):
                tokenizer = load_tokenizer(tokenizer)
            task, rows = load_task(self.name, self.data)
            task = arrange_texts(task, self.head, self.data.overlap)
            self._set_examples(encode_examples(task, rows, tokenizer, self.data.length))

    def _set_examples(self, examples: TaskExamples) -> None:
        self.examples, size = examples, self.data.batch_size
        self.train = self._batch("train", size, self.seed, self.teacher)
        self.validation = {
            name: self._batch(name, 4 * size, None) for name in examples.validation_rows
        }

    def _batch(
        self, split: str, size: int, seed: int | None, teacher: np.ndarray | None = None
    ) -> RowBatches:
        examples = self.examples
        rows, inputs = examples.rows[split], examples.inputs[split]
        return RowBatches(inputs, rows, size, examples.pad_id, seed, teacher)

    def train_dataloader(self) -> DataLoader:
        """Load the training batches from where the trainer stands."""
        progress = None
        if trainer := self.trainer:
            self.train.divide(trainer.global_rank, trainer.world_size)
            progress = trainer.fit_loop.epoch_loop.batch_progress.total
        sampler = ResumeSampler(len(self.train), lambda: progress.processed if progress else 0)
        return make_loader(self.train, sampler, self.data.workers)

    def val_dataloader(self) -> list[DataLoader]:
        """Load the batches of each validation set, in the order of `validation`."""
        sets = self.validation.values()
        return [make_loader(batches, None, self.data.workers) for batches in sets]
