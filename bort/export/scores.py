"""The score of a task before and after an export: its validation rows, which any form answers."""

import logging
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch

from bort.config.data import DataConfig
from bort.console import decimal
from bort.errors import BortError
from bort.export.forms import Form
from bort.finetuning.answering import compute_outputs
from bort.finetuning.heads import arrange_texts, find_overlap, match_outputs
from bort.finetuning.module import to_answers
from bort.models.bert import MaskedLM
from bort.tasks import encoding, metrics
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task

logger = logging.getLogger(__name__)

MOST_ROWS = 1000  # that int8's answers are compared on


@dataclass(frozen=True)
class TaskRows:
    """The validation rows of a task, which any form of the model can answer."""

    task: Task
    rows: list[Row]
    inputs: encoding.EncodedRows
    pad: int
    has_types: bool  # whether the model has token types
    order: list[int] | None  # which output of the model is the first label of the task, …
    outputs: dict[Form, np.ndarray] = field(default_factory=dict)  # of the forms that answered

    @classmethod
    def load(cls, model, labels, tokenizer, source: str, name: str, data: DataConfig) -> Self:
        """Read and encode the rows.

        Raises BortError for rows that cannot be read and a model that cannot answer them.
        """
        if isinstance(model, MaskedLM):
            raise BortError(f"task={name} is for a fine-tuned model; this one fills masks")
        task, rows = load_task(name, data)
        true = [row.label for row in rows.get("val", [])]
        if not true or None in true:
            use = f"; use task={task.parent}" if task.parent else ""
            raise BortError(f"task={name} has no rows with labels{use}")
        order = match_outputs(task, model, labels, f"model={source}")
        task = arrange_texts(task, model.head, find_overlap(source))
        room = model.config.limit
        if data.length > room and data.length != DataConfig.length:
            raise BortError(f"data.length={data.length} is longer than the model's {room} tokens")
        if model.config.length is None or data.length != DataConfig.length:
            room = min(data.length, room)  # else as in the run whose scores are compared
        inputs = encoding.encode_rows(task, rows["val"], tokenizer, room)
        has_types = model.config.type_vocab > 0
        return cls(task, rows["val"], inputs, tokenizer.pad_token_id, has_types, order)

    def select(self, most: int = MOST_ROWS) -> "TaskRows":
        """Return at most that many of the rows, from all over the set."""
        if len(self.rows) <= most:
            return self
        chosen = range(0, len(self.rows), -(-len(self.rows) // most))
        rows = [self.rows[k] for k in chosen]
        return replace(self, rows=rows, inputs=self.inputs.of(chosen), outputs={})

    def answers(self, form: Form) -> list[np.ndarray]:
        """Return one array (rows, classes): of a task with choices, their scores side by side."""

        def call(input_ids, attention_mask, token_types=None, spans=None) -> torch.Tensor:
            tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "spans": spans}
            if self.has_types:
                absent = token_types is None
                tensors["token_type_ids"] = torch.zeros_like(input_ids) if absent else token_types
            arrays = {name: x.numpy() for name, x in tensors.items() if x is not None}
            return torch.from_numpy(form(arrays))

        if form not in self.outputs:
            outputs = compute_outputs(call, self.rows, self.inputs, self.pad, self.order)
            self.outputs[form] = outputs.numpy()
        return [self.outputs[form]]


def compare_scores(
    rows: TaskRows, reference: Form, exported: Form, drop: float
) -> dict[str, float | None]:
    """Return the task's metrics on its validation set, `before/METRIC` and `after/METRIC`.

    Raises BortError when the first metric falls by more than `drop`.
    """
    task = rows.task
    scores = {}
    for when, form in (("before", reference), ("after", exported)):
        (outputs,) = rows.answers(form)
        answers = to_answers(task, torch.from_numpy(outputs))
        values = metrics.compute_scores(task, rows.rows, answers)
        scores |= {f"{when}/{metric}": value for metric, value in values.items()}
    for metric in task.metrics:
        before, after = scores[f"before/{metric}"], scores[f"after/{metric}"]
        logger.info(
            f"score: {task.name} val/{metric} {decimal(before)} before, {decimal(after)} after"
        )
    first = task.metrics[0]
    before, after = scores[f"before/{first}"], scores[f"after/{first}"]
    if before is not None and (after is None or before - after > drop):
        raise BortError(
            f"{task.name}: val/{first} falls from {decimal(before)} to {decimal(after)}, by more "
            f"than drop={drop:g}; use format=onnx"
        )
    return scores
