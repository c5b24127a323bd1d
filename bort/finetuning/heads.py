"""The head of a task: it is put on an encoder and fitted to the task's labels or scale."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from bort.config.data import DataConfig
from bort.errors import BortError, shorten
from bort.finetuning.examples import TaskExamples
from bort.models.bert import POOLED_HEADS, Classifier, MaskedLM
from bort.models.hf_config import PROBLEMS, WINDOW_STRIDE, read_window_stride
from bort.models.huggingface import read_config
from bort.models.initialization import build_classifier
from bort.tasks.task import Task
from bort.teachers.wrapped_teacher import WrappedTeacher


def arrange_texts(task: Task, head: str, overlap: int | None = None) -> Task:
    """Return the task with its texts encoded as a head reads them: in one sequence, or apart.

    overlap: tokens that neighbouring windows of a long text share; None: a long text is cut. Raises
    BortError for a task that has no such head, or no windows.
    """
    if overlap is not None:
        _check_windows(task, head)
    task = replace(task, overlap=overlap)
    use = "use head=linear or head=mean" if task.kind != "spans" else "use head=linear"
    if head in POOLED_HEADS and task.kind == "spans":
        raise BortError(f"head={head} takes no marked words, and {task.name} marks two; {use}")
    if head != "towers":
        return replace(task, apart=False)
    if task.kind == "choices":
        raise BortError(f"head=towers compares two texts, and {task.name} has choices; {use}")
    if len(task.columns) < 2:
        raise BortError(f"head=towers compares two texts, and {task.name} has one a row; {use}")
    return replace(task, apart=True)


def find_overlap(source: str, data: DataConfig | None = None) -> int | None:
    """Find how a fine-tuned model reads long texts: the overlap of its windows; None: it cuts them.

    source: its folder, which was opened before. data: settings that may ask for windows, which the
    model was not taught with.
    """
    overlap = None if data is None else data.overlap
    return read_window_stride(read_config(source)) if overlap is None else overlap


def _check_windows(task: Task, head: str) -> None:
    """Raise BortError for a task or a head whose rows are not divided into windows."""
    reasons = {
        "marks two words, which belong together": task.kind == "spans",
        "has choices, which are compared with each other": task.kind == "choices",
    }
    for reason, holds in reasons.items():
        if holds:
            raise BortError(f"data.windows=mean: {task.name} {reason}; leave it out")
    if head == "towers":
        raise BortError(
            "data.windows=mean: head=towers encodes each text once; leave it out, or use head=mean"
        )


def build_task_classifier(
    body: MaskedLM,
    examples: TaskExamples,
    head: str = "linear",
    dropout: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """Put a new head for a task on a pre-trained encoder; for CoLA it has two linear layers.

    CoLA's second layer is the paper's. body: the encoder, which is used as it is, not copied.
    examples: of the task as `arrange_texts` returns it. The length of their inputs is saved with
    the model, since a predictor that cut its texts elsewhere would not give the answers that were
    scored; of a regression, their training rows give the scale of the answers. head: linear, bort
    (the released code's), mean or towers.
    Raises BortError for examples that were encoded for another head.
    """
    task = examples.task
    if task.apart != (head == "towers"):
        raise BortError(f"the rows of {task.name} were not encoded for head={head}; name it there")
    body.config.dropout = body.config.attention_dropout = dropout
    body.config.length = examples.length
    kind = "linear2" if head == "linear" and task.name == "glue/cola" else head
    choices = task.kind == "choices"
    outputs = 1 if choices or task.kind == "regression" else len(task.labels)
    spans = 2 if task.kind == "spans" else 0
    scale = None
    numbers = [row.label for row in examples.rows.get("train", ())]
    if task.kind == "regression":
        scale = measure_scale(numbers)
    model = build_classifier(body, outputs, kind, spans, choices, seed, scale)
    model.multi_label = task.kind == "labels"
    if task.kind == "regression" and head == "towers":
        _span_labels(model, numbers)
    return model


@torch.no_grad()
def _span_labels(model: Classifier, labels: Sequence[float]) -> None:
    """Start the answers of cosines at the range of the labels: the lowest at 0, the highest at 1.

    From there the two numbers are learned with the encoder.
    """
    low, high = (min(labels), max(labels)) if labels else (0.0, 0.0)
    offset, factor = model.scale
    model.out.weight.fill_((high - low) / factor if high > low else 1.0)
    model.out.bias.fill_((low - offset) / factor)


def measure_scale(labels: Sequence[float]) -> tuple[float, float]:
    """Measure the offset and the factor that give labels a mean of 0 and a deviation of 1.

    Both are computed in float64. The factor's sign is that of the first label away from the mean,
    so that labels of the opposite sign are learnt by the same steps. The factor of labels that are
    all the same is 1.
    """
    numbers = np.array(labels, dtype=np.float64)
    if not len(numbers) or np.ptp(numbers) == 0:
        return (float(numbers[0]), 1.0) if len(numbers) else (0.0, 1.0)
    mean, deviation = float(numbers.mean()), float(numbers.std())
    away = (numbers - mean)[np.abs(numbers - mean) > deviation / 2]
    return mean, math.copysign(deviation, away[0])


def match_outputs(
    task: Task, model: Classifier | WrappedTeacher, labels: dict[int, str], named: str
) -> list[int] | None:
    """Find which output of a model is the first label of the task, which the second, …

    labels: the names of the outputs, in upper or lower case; None is returned where there is one
    output. named: the model as the user named it, for messages. Raises BortError if the model
    answers another task.
    """
    advice = f"fine-tune it on task={task.parent or task.name} first"
    if model.choices != (task.kind == "choices") or bool(model.spans) != (task.kind == "spans"):
        raise BortError(f"{named} is no model for a task of {task.kind}; {advice}")
    if task.kind in ("choices", "regression"):
        if model.output_count != 1:
            raise BortError(f"{named} has several outputs, {task.name} needs one; {advice}")
        return None
    if model.multi_label != (task.kind == "labels"):
        answers = "any number of labels" if model.multi_label else "one label"
        needed = "one" if model.multi_label else "any number"
        raise BortError(f"{named} gives {answers} a row, {task.name} needs {needed}; {advice}")
    for spell in (str, str.lower):  # a user's own task may have both A and a
        outputs = {spell(str(label)): number for number, label in labels.items()}
        names = [spell(label) for label in task.labels]
        if len(outputs) == len(labels) == len(names) and set(outputs) == set(names):
            return [outputs[name] for name in names]
    listed = shorten(", ".join(map(str, labels.values())) or "none", 60)
    raise BortError(
        f"{named} has the labels {listed}, {task.name} needs {', '.join(task.labels)}; {advice}, "
        "or name its outputs so in id2label of its config.json"
    )


def describe_outputs(task: Task) -> dict:
    """Describe the task and the model's outputs as config.json has them."""
    facts: dict = {"bort_task": task.name, "bort_texts": min(len(task.columns), 2)}
    if task.cut is not None and not task.apart:
        facts["bort_cut"] = task.cut  # which text is shortened in a row that is too long
    if task.overlap is not None:
        facts[WINDOW_STRIDE] = task.overlap  # a long text is divided, and answers are averaged
    if task.kind == "choices":
        return facts
    if task.kind == "regression":
        names = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        return facts | names | {"problem_type": "regression"}
    names = {str(number): label for number, label in enumerate(task.labels)}
    return facts | {
        "id2label": names,
        "label2id": {label: int(number) for number, label in names.items()},
        "problem_type": PROBLEMS[2 if task.kind == "labels" else 1],
    }
