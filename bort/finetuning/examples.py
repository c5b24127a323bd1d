"""The examples of a task: its rows as text and as token ids."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

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


def hash_rows(rows: dict[str, list[Row]]) -> str:
    """Compute 16 hexadecimal digits that stand for the content of all rows."""
    content = {name: list(map(_list_content, split)) for name, split in rows.items()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _list_content(row: Row) -> list:
    return [row.texts, row.label, row.spans, str(row.index)]
