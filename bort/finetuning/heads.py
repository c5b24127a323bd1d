"""The head that a task puts on an encoder: fresh, with a regression's scale, and by its labels."""

import math
from collections.abc import Sequence

import numpy as np

from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.models.bert import Classifier, MaskedLM, build_classifier
from bort.tasks.task import Row, Task


def fresh_classifier(
    task: Task, body: MaskedLM, run: TrainConfig, train: Sequence[Row] = ()
) -> Classifier:
    """The task's head on a pre-trained encoder, with the run's dropout; CoLA has two linear layers.

    The last is the paper's. train: the rows that it will be trained on; of a regression they give
    the scale of the answers. What is saved says that it answers inputs of data.length: a predictor
    that cut them elsewhere would not give the answers that the run has scored.
    """
    body.config.dropout = body.config.attention_dropout = run.dropout
    body.config.length = run.data.length
    head = "linear2" if run.head == "linear" and task.name == "glue/cola" else run.head
    choices = task.kind == "choices"
    outputs = 1 if choices or task.kind == "regression" else len(task.labels)
    spans = 2 if task.kind == "spans" else 0
    scale = number_scale([row.label for row in train]) if task.kind == "regression" else None
    return build_classifier(body, outputs, head, spans, choices, run.seed, scale)


def number_scale(labels: Sequence[float]) -> tuple[float, float]:
    """Offset and factor that make these labels numbers of mean 0 and deviation 1, in float64.

    The factor's sign is that of the first label away from the mean, so that labels of the opposite
    sign are learnt by the same steps. Labels that are all the same have factor 1.
    """
    numbers = np.array(labels, dtype=np.float64)
    if not len(numbers) or np.ptp(numbers) == 0:
        return (float(numbers[0]), 1.0) if len(numbers) else (0.0, 1.0)
    mean, deviation = float(numbers.mean()), float(numbers.std())
    away = (numbers - mean)[np.abs(numbers - mean) > deviation / 2]
    return mean, math.copysign(deviation, away[0])


def output_order(
    task: Task, model: Classifier, labels: dict[int, str], named: str
) -> list[int] | None:
    """Which output of a model is the first label of the task, which the second, …

    labels: the names of the outputs, upper or lower case; None is returned where there is one
    output. named: the model, as the user gave it. Raises BortError if it answers another task.
    """
    first = f"fine-tune it on task={task.parent or task.name} first"
    if model.choices != (task.kind == "choices") or bool(model.spans) != (task.kind == "spans"):
        raise BortError(f"{named} is no model for a task of {task.kind}; {first}")
    if task.kind in ("choices", "regression"):
        if model.out.out_features != 1:
            raise BortError(f"{named} has several outputs, {task.name} needs one; {first}")
        return None
    for spelled in (str, str.lower):  # a task of the user's may have both A and a
        places = {spelled(str(label)): number for number, label in labels.items()}
        wanted = [spelled(label) for label in task.labels]
        if len(places) == len(labels) == len(wanted) and set(places) == set(wanted):
            return [places[label] for label in wanted]
    known = ", ".join(map(str, labels.values())) or "none"
    raise BortError(
        f"{named} has the labels {known}, {task.name} needs {', '.join(task.labels)}; {first}, "
        "or name its outputs so in id2label of its config.json"
    )


def label_names(task: Task) -> dict:
    """What config.json says about the task and its outputs."""
    own = {"bort_task": task.name, "bort_texts": min(len(task.columns), 2)}
    if task.cut is not None:
        own["bort_cut"] = task.cut  # which text is shortened in a row that is too long
    if task.kind == "regression":
        names = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        return own | names | {"problem_type": "regression"}
    if task.kind == "choices":
        return own
    names = {str(number): label for number, label in enumerate(task.labels)}
    return own | {
        "id2label": names,
        "label2id": {label: int(number) for number, label in names.items()},
        "problem_type": "single_label_classification",
    }
