"""The examples of a task: its rows as text and as token ids."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bort.errors import BortError
from bort.tasks.encoding import EncodedRows, encode_rows
from bort.tasks.task import Row, Task


@dataclass(frozen=True)
class TaskExamples:
    """The rows of each split of a task, and what a model reads of them."""

    task: Task
    tokenizer: Any
    length: int  # tokens that an input has at most
    rows: dict[str, list[Row]]  # by split: train, val, …
    inputs: dict[str, EncodedRows]  # token ids, by split

    @property
    def pad_id(self) -> int:
        """The id of the token that fills up a batch."""
        return self.tokenizer.pad_token_id

    @property
    def validation_rows(self) -> dict[str, list[Row]]:
        """The rows of the validation sets alone; MNLI has two."""
        return {name: rows for name, rows in self.rows.items() if name.startswith("val")}


def encode_examples(
    task: Task, rows: dict[str, list[Row]], tokenizer: Any, length: int
) -> TaskExamples:
    """Encode all splits of a task with one tokenizer, at most `length` tokens an input.

    Raises BortError for a row that does not fit.
    """
    inputs = {name: encode_rows(task, split, tokenizer, length) for name, split in rows.items()}
    return TaskExamples(task, tokenizer, length, rows, inputs)


def check_class_weights(task: Task, class_weights: str | None) -> None:
    """Raise BortError for weights of classes where a task has none."""
    if class_weights and task.kind not in ("classes", "spans", "labels"):
        answers = "numbers" if task.kind == "regression" else task.kind
        raise BortError(
            f"optim.class_weights={class_weights} is for classes; task={task.name} has {answers}"
        )


def weigh_classes(examples: TaskExamples) -> Tensor:
    """Weigh the classes (classes,) so that each has the same share in the loss of training.

    A row of a class weighs what scikit-learn calls balanced: the number of training rows, divided
    by that of the rows of its class and that of the classes that they have. The mean weight of a
    row is 1. Where a row has several labels, a weight is that of a row with the label beside one
    without it: so many rows are without it for each with it.
    """
    check_class_weights(examples.task, "balanced")
    labels = torch.tensor([row.label for row in examples.rows["train"]])
    if examples.task.kind == "labels":
        present = labels.sum(0).double()
        is_skewed = (present > 0) & (present < len(labels))
        return torch.where(is_skewed, len(labels) / present.clamp(min=1) - 1, 1.0).float()
    counts = torch.bincount(labels, minlength=len(examples.task.labels)).double()
    share = len(labels) / (counts > 0).sum()
    return torch.where(counts > 0, share / counts.clamp(min=1), 0.0).float()


def hash_rows(rows: dict[str, list[Row]]) -> str:
    """Compute 16 hexadecimal digits that stand for the content of all rows."""
    content = {name: list(map(_list_content, split)) for name, split in rows.items()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _list_content(row: Row) -> list:
    return [row.texts, row.label, row.spans, str(row.index)]
