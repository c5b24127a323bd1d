"""The examples of a task: its rows as text, and as the token ids of one tokenizer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bort.config.data import DataConfig
from bort.files.cache import cache_folder
from bort.tasks import custom, docstrings, registry
from bort.tasks.encoding import Cast, cast
from bort.tasks.task import Row, Task


@dataclass(frozen=True)
class TaskExamples:
    """The rows of each split of a task, and what a model reads of them."""

    task: Task
    tokenizer: Any
    length: int  # tokens that an input has at most
    rows: dict[str, list[Row]]  # by split: train, val, …
    inputs: dict[str, Cast]  # token ids, by split

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
    inputs = {name: cast(task, split, tokenizer, length) for name, split in rows.items()}
    return TaskExamples(task, tokenizer, length, rows, inputs)


def load_task(name: str, data: DataConfig) -> tuple[Task, dict[str, list[Row]]]:
    """Read a task and all its rows; raises BortError for an unknown task or wrong files."""
    if name == "custom":
        return custom.read(data)
    if name == "docstrings":
        return docstrings.read(cache_folder())
    task = registry.find(name)
    return task, registry.read(task, Path(data.root) if data.root else None)


def hash_rows(rows: dict[str, list[Row]]) -> str:
    """Compute 16 hexadecimal digits that stand for the content of all rows."""
    content = {name: [_list_content(row) for row in split] for name, split in rows.items()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _list_content(row: Row) -> list:
    return [row.texts, row.label, row.spans, str(row.index)]
