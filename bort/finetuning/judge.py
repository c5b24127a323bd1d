"""The judge S: a fine-tuned teacher that labels rows for a smaller model."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bort.finetuning.answering import compute_outputs
from bort.finetuning.heads import arrange_texts, match_outputs
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.tasks.encoding import encode_rows
from bort.tasks.task import Row, Task


@dataclass
class Judge:
    """S: a fine-tuned model that labels rows."""

    task: Task
    model: Classifier
    tokenizer: object
    order: list[int] | None  # which output is the first label of the task, …
    length: int

    def __call__(self, rows: list[Row]) -> np.ndarray:
        """Compute the probabilities (N, classes) of the labels, or numbers (N, 1)."""
        outputs = self.answer(rows)
        if self.task.kind == "labels":
            return outputs.sigmoid().numpy()
        return (outputs if self.task.kind == "regression" else outputs.softmax(-1)).numpy()

    def answer(self, rows: list[Row]) -> Tensor:
        """Compute the logits (N, classes) of the labels, or numbers (N, 1)."""
        inputs = encode_rows(self.task, rows, self.tokenizer, self.length)
        pad = self.tokenizer.pad_token_id
        return compute_outputs(self.model, rows, inputs, pad, self.order)


def open_judge(
    task: Task, source: str, length: int, device: str, key: str = "agora.teacher"
) -> Judge:
    """Open a fine-tuned model as S; raises BortError if it answers another task.

    source: its folder. length: tokens of a row at most. device: where it answers. key: the setting
    that names it, for messages.
    """
    model, labels = load_classifier(source)
    order = match_outputs(task, model, labels, f"{key}={source}")
    task = arrange_texts(task, model.head)
    model.to(device)
    return Judge(task, model, load_tokenizer(source), order, min(length, model.config.limit))
