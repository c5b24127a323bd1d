"""The judge S: a fine-tuned teacher, of any family, that labels rows for a smaller model."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bort.errors import BortError
from bort.finetuning.answering import compute_outputs
from bort.finetuning.heads import arrange_texts, find_overlap, match_outputs
from bort.models import hf_config
from bort.models.bert import Classifier
from bort.models.hub import fetch_model
from bort.models.huggingface import load_classifier, load_tokenizer, read_config
from bort.tasks.encoding import encode_rows
from bort.tasks.task import Row, Task
from bort.teachers.opening import is_own_family, open_teacher
from bort.teachers.wrapped_teacher import WrappedTeacher


@dataclass
class Judge:
    """S: a fine-tuned model that labels rows."""

    task: Task
    model: Classifier | WrappedTeacher
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
        pad, is_wrapped = self.tokenizer.pad_token_id, isinstance(self.model, WrappedTeacher)
        model = self._ask_teacher if is_wrapped else self.model
        return compute_outputs(model, rows, inputs, pad, self.order)

    def _ask_teacher(
        self, input_ids: Tensor, attention_mask: Tensor, token_types: Tensor | None = None
    ) -> Tensor:
        """Compute the outputs of a model of another family, on its device."""
        types = None if token_types is None else token_types.to(self.model.device)
        inputs = (tensor.to(self.model.device) for tensor in (input_ids, attention_mask))
        return self.model.compute_answers(*inputs, types)


def load_fine_tuned(source: str, key: str) -> tuple[Classifier | WrappedTeacher, dict[int, str]]:
    """Load a fine-tuned model of any family, and the names of its outputs.

    Families that are not our own are opened by transformers. key: the setting that names it, for
    messages. Raises BortError for a model without a head that answers a task.
    """
    if is_own_family(source):
        return load_classifier(source)
    teacher = open_teacher(source)
    if "task" not in teacher.gives:
        raise BortError(
            f"{key}={source} is {teacher.family.title} without a fine-tuned head, and bort trains "
            "none on this family; fine-tune it in transformers (ForSequenceClassification) first"
        )
    settings, path = read_config(source), fetch_model(source) / "config.json"
    hf_config.read_problem_type(settings, teacher.output_count, path)
    return teacher, hf_config.read_output_names(settings, teacher.output_count, path)


def open_judge(
    task: Task, source: str, length: int, device: str, key: str = "agora.teacher"
) -> Judge:
    """Open a fine-tuned model as S; raises BortError if it answers another task.

    source: its folder. length: tokens of the student's inputs at most; S reads no more of a text,
    so two texts that the student reads apart may be twice as long together. device: where it
    answers. key: the setting that names it, for messages. A long text is divided into windows where
    the task's or those that S was fine-tuned on are.
    """
    model, labels = load_fine_tuned(source, key)
    order = match_outputs(task, model, labels, f"{key}={source}")
    joins_texts = task.apart and model.head != "towers"
    overlap = find_overlap(source)
    task = arrange_texts(task, model.head, task.overlap if overlap is None else overlap)
    model.to(device)
    limit = model.limit if isinstance(model, WrappedTeacher) else model.config.limit
    length = min(length * (2 if joins_texts else 1), limit)
    return Judge(task, model, load_tokenizer(source), order, length)
