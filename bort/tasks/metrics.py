"""The scores of a task, computed as the official scorers compute them.

Predictions, one per row: a place in Task.labels; a number for a regression; for ReCoRD the score of
each entity, the largest of a query being its answer; where a row has several labels, 1 or 0 for
each of them. Letters: N rows, L labels.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bort.console import decimal, to_printable
from bort.errors import BortError, Diverged, suggest_name
from bort.tasks.task import Row, Task

ERRORS = ("rmse", "mae", "r2")  # of a regression, beside its official metrics
FALLING = ("rmse", "mae")  # scores that are the better the lower they are
NEARLY_ALL = 0.98  # of the rows with one answer
NARROW = 0.1  # deviation of the answers against that of the labels: r² is below 0.01


def compute_scores(
    task: Task, rows: list[Row], predictions: Sequence[float]
) -> dict[str, float | None]:
    """Task.metrics over all rows together, as fractions of 1; of a regression its ERRORS, too.

    None where a score is not defined, as a correlation with numbers that are all the same: see
    `doubt`. Raises BortError for rows without labels, Diverged for predictions that are no numbers.
    """
    answers = to_array(task, rows, predictions)
    if any(row.label is None for row in rows):
        raise BortError(f"{task.name}: rows without labels cannot be scored; use the val split")
    names = list_metrics(task)
    values = {name: METRICS[task.form, name](task, rows, answers) for name in names}
    return {name: None if value is None else float(value) for name, value in values.items()}


def list_metrics(task: Task) -> list[str]:
    """What `score` tells about a task, each once; the first one is the task's own choice."""
    extra = ERRORS if task.kind == "regression" else ()
    return list(dict.fromkeys((*task.metrics, *extra)))


def choose_metric(task: Task, name: str | None) -> Task:
    """Return the task with another first metric, which chooses the checkpoint; None keeps its own.

    Raises BortError, with those that are known, for a metric that is none of this task.
    """
    if name is None:
        return task
    known = list_metrics(task)
    if task.kind in ("classes", "spans") and task.form in ("tsv", "jsonl"):
        known += ["accuracy", "macro_f1", "matthews", *(["f1"] if len(task.labels) == 2 else [])]
    if name not in known:
        names = ", ".join(dict.fromkeys(known))
        raise BortError(
            f"data.metric={name} is no score of task={task.name}; use {names}"
            f"{suggest_name(name, known)}"
        )
    return replace(task, metrics=tuple(dict.fromkeys((name, *task.metrics))))


def is_falling(metric: str) -> bool:
    """Whether a score, such as `rmse` or `val/rmse`, is the better the lower it is."""
    return metric.rpartition("/")[2] in FALLING


def find_doubt(task: Task, rows: list[Row], predictions: Sequence[float]) -> str | None:
    """Why the answers may be worth nothing, in one line; None when nothing looks wrong."""
    answers = to_array(task, rows, predictions)
    labelled = all(row.label is not None for row in rows)
    scores = compute_scores(task, rows, predictions) if labelled else {}
    warning = describe_constant(task, rows, predictions)
    lines = [warning.removeprefix(f"{task.name}: ")] if warning else []
    if task.kind == "regression" and labelled:
        spread, metrics = answers.std(), _to_labels(rows).std()
        if not lines and spread < NARROW * metrics:
            lines.append(
                f"the answers hardly differ: their standard deviation is {spread:.2g}, that of the "
                f"labels {metrics:.2g}; the model has learnt little"
            )
        if len(rows) == 1:
            lines.append("there is one row only")
        elif metrics == 0:
            lines.append(f"all {len(rows):,} labels are {_to_labels(rows)[0]:.6g}")
    elif not lines and labelled and task.form != "record":
        lines += _describe_nearly_constant(task, rows, answers)
    if undefined := [name for name, value in scores.items() if value is None]:
        lines.append(f"{', '.join(undefined)} not defined")
    return "; ".join(lines) or None


def _describe_nearly_constant(task: Task, rows: list[Row], answers: np.ndarray) -> Iterator[str]:
    """A line when nearly all rows get one answer that many fewer of them have as their label."""
    answer, count = Counter(map(to_label, answers)).most_common(1)[0]
    share = count / len(rows)
    true = sum(to_label(row.label) == answer for row in rows) / len(rows)
    if share >= NEARLY_ALL and true < 0.9 * share:
        name = quote_label(task, answer)
        yield f"the model answers {name} to {share:.1%} of the rows, and {true:.1%} are that"


def describe_constant(task: Task, rows: list[Row], predictions: Sequence[float]) -> str | None:
    """A warning when all rows get one answer: which, and what that alone scores; else None."""
    answers = to_array(task, rows, predictions)
    if len(rows) < 2 or (answers != answers[0]).any():
        return None
    if task.form == "record":
        answer = "the same score for every entity"
    elif task.kind == "regression":
        answer = f"{answers[0]:.4g}"
    else:
        answer = quote_label(task, answers[0])
    alone = ""
    if all(row.label is not None for row in rows):
        scores = compute_scores(task, rows, predictions)
        alone = "; that alone scores " + ", ".join(f"{k} {decimal(v)}" for k, v in scores.items())
    return f"{task.name}: the model gives one answer for all {len(rows)} rows: {answer}{alone}"


def to_label(answer: Any) -> int | tuple[int, ...]:
    """Turn an answer, or a label, into one that can be counted: a class, or 1 or 0 for each."""
    return tuple(map(int, answer)) if np.ndim(answer) else int(answer)


def name_labels(task: Task, answer: Any) -> list[str]:
    """Name the labels in an answer: one, or any number of them where a row has several."""
    label = to_label(answer)
    numbers = [k for k, is_right in enumerate(label) if is_right] if np.ndim(label) else [label]
    return [str(task.labels[number]) for number in numbers]


def quote_label(task: Task, answer: Any) -> str:
    """Quote an answer in words, as a message shows it."""
    names = name_labels(task, answer)
    return f"'{to_printable(', '.join(names))}'" if names else "no label"


def to_array(task: Task, rows: list[Row], predictions: Sequence[float]) -> np.ndarray:
    """Predictions as an array (N,), or (N, L) where a row has several labels."""
    answers = np.asarray(predictions)
    shape = (len(rows), *([len(task.labels)] if task.kind == "labels" else []))
    assert answers.shape == shape, f"{answers.shape} predictions for {len(rows)} rows"
    if not len(rows):
        raise BortError(f"{task.name}: no rows to score")
    if not np.isfinite(answers).all():
        number = int(np.flatnonzero(~np.isfinite(answers))[0])
        raise Diverged(
            f"{task.name}: the answer to row {number} is {answers[number]}, not a number; "
            "the model has diverged, train it with a lower optim.lr"
        )
    return answers


# ------------------------------------------------------------------------------------ metrics


def _to_labels(rows: list[Row]) -> np.ndarray:
    return np.array([row.label for row in rows])


def _accuracy(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    return (answers == _to_labels(rows)).mean()


def _to_tensors(rows: list[Row], answers: np.ndarray):
    import torch

    return torch.from_numpy(answers.astype(np.int64)), torch.from_numpy(_to_labels(rows))


def _f1(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """F1 of the second label, over the whole set."""
    from torchmetrics.functional.classification import binary_f1_score

    return binary_f1_score(*_to_tensors(rows, answers))


def _macro_f1(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """Mean F1 of the labels that occur in rows or answers; of several labels a row, of all."""
    from torchmetrics.functional.classification import multiclass_f1_score

    if task.kind == "labels":
        return _score_sets(task, rows, answers, "macro")
    return multiclass_f1_score(*_to_tensors(rows, answers), len(task.labels), average="macro")


def _micro_f1(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """F1 of all decisions about a label of a row together; 0 where none is right."""
    return _score_sets(task, rows, answers, "micro")


def _score_sets(task: Task, rows: list[Row], answers: np.ndarray, average: str) -> float:
    """F1 of several labels a row; a label that no row and no answer has counts as 0."""
    from torchmetrics.functional.classification import multilabel_f1_score

    return multilabel_f1_score(*_to_tensors(rows, answers), len(task.labels), average=average)


def _exact_match(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """The share of rows with all their labels, and no others, as the answer."""
    return (answers == _to_labels(rows)).all(1).mean()


def _matthews(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """Matthews' correlation; 0 where answers or labels are all the same."""
    from torchmetrics.functional.classification import multiclass_matthews_corrcoef

    if len(set(answers)) == 1 or len(set(_to_labels(rows))) == 1:
        return 0.0
    return multiclass_matthews_corrcoef(*_to_tensors(rows, answers), len(task.labels))


def _pearson(task: Task, rows: list[Row], answers: np.ndarray) -> float | None:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, rows, answers)


def _spearman(task: Task, rows: list[Row], answers: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, rows, answers)


def _correlation(function: Callable, rows: list[Row], answers: np.ndarray) -> float | None:
    """A correlation; None where answers or labels are all the same."""
    labels, answers = _to_labels(rows).astype(np.float64), answers.astype(np.float64)
    if np.ptp(answers) == 0 or np.ptp(labels) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant input
        value = function(answers, labels).statistic
    return value if np.isfinite(value) else None


def _rmse(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """Root of the mean squared error, in the unit of the labels."""
    return np.sqrt(((answers - _to_labels(rows)) ** 2).mean())


def _mae(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """Mean absolute error, in the unit of the labels."""
    return np.abs(answers - _to_labels(rows)).mean()


def _r2(task: Task, rows: list[Row], answers: np.ndarray) -> float | None:
    """Share of the labels' variance that the answers explain; None where it is 0."""
    labels = _to_labels(rows)
    if np.ptp(labels) == 0:
        return None
    return 1 - ((answers - labels) ** 2).mean() / labels.var()


def _group_rows(rows: list[Row]) -> list[np.ndarray]:
    """Row numbers of each group, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group, []).append(number)
    return [np.array(numbers) for numbers in groups.values()]


def _question_exact(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """MultiRC: the share of questions with all answers right."""
    right = answers == _to_labels(rows)
    return np.mean([right[numbers].all() for numbers in _group_rows(rows)])


def _parity(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """AX-g: the share of pairs (two neighbouring rows) that get the same answer twice."""
    return np.mean([len(set(answers[numbers])) == 1 for numbers in _group_rows(rows)])


def find_best_rows(rows: list[Row], answers: np.ndarray) -> list[Row]:
    """ReCoRD: of each query the row with the largest score, the first of equal ones."""
    return [rows[numbers[answers[numbers].argmax()]] for numbers in _group_rows(rows)]


def _query_f1(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """ReCoRD: F1 of the entity's words with the answer that they match best."""
    scores = []
    for row in find_best_rows(rows, answers):
        scores.append(max(word_f1(row.texts[2], answer) for answer in row.answers))
    return np.mean(scores)


def _query_exact(task: Task, rows: list[Row], answers: np.ndarray) -> float:
    """ReCoRD: the share of queries whose entity is an answer."""
    are_right = []
    for row in find_best_rows(rows, answers):
        are_right.append(normalize(row.texts[2]) in map(normalize, row.answers))
    return np.mean(are_right)


def normalize(text: str) -> str:
    """As SQuAD's and ReCoRD's scorers compare: lower case, no punctuation, no articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(text: str, second: str) -> float:
    """F1 of the words that two texts share, in normal form."""
    words, other_words = normalize(text).split(), normalize(second).split()
    shared = sum((Counter(words) & Counter(other_words)).values())
    return 2 * shared / (len(words) + len(other_words)) if shared else 0.0


_COMMON = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "exact_match": _exact_match,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
    "parity": _parity,
}
METRICS: dict[tuple[str, str], Callable] = {  # by the layout of the task's files and the name
    **{(form, name): f for form in ("tsv", "jsonl", "race") for name, f in _COMMON.items()},
    ("multirc", "f1a"): _f1,
    ("multirc", "em"): _question_exact,
    ("record", "f1"): _query_f1,
    ("record", "em"): _query_exact,
}
