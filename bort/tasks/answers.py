"""The file of a model's answers to labelled rows, which people and the report read."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bort.files.writing import replace_file, write_csv
from bort.tasks.metrics import name_labels
from bort.tasks.task import Row, Task

SHOWN = 400  # characters of a text that is answered wrongly


@dataclass(frozen=True)
class Answer:
    """A row's true label and the answer to it; of a regression both are numbers.

    Where a row has several labels, both are all of them, and the score is how likely the least sure
    of the decisions about a label is.
    """

    true: str | float | tuple[str, ...]
    score: float  # how likely the answer is; of a regression the answer
    tokens: int  # of the row's longest input
    label: str | tuple[str, ...] | None = None  # the answer; None of a regression
    scores: dict[str, float] | None = None  # how likely each label is; None of a regression
    texts: tuple[str, ...] = ()  # shortened; only where the answer is not the true label
    index: Any = None  # the row's name in its file

    def to_json(self) -> dict[str, Any]:
        """Spell the answer as a line of the file has it."""
        line: dict[str, Any] = {"index": self.index, "true": self.true}
        if isinstance(self.label, tuple):
            line |= {"true": list(self.true), "labels": list(self.label)}
        elif self.label is not None:
            line["label"] = self.label
        line["score"] = self.score
        if self.scores is not None:
            line["scores"] = self.scores
        line["tokens"] = self.tokens
        return line | ({"texts": list(self.texts)} if self.texts else {})

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Answer":
        """Read the answer from a line of the file; raises ValueError for anything else."""
        kinds: dict[str, type] = {"true": float, "score": float, "tokens": int}
        if "label" in line:
            kinds = {"true": str, "label": str, "score": float, "scores": dict, "tokens": int}
        elif "labels" in line:
            kinds = {"true": list, "labels": list, "score": float, "scores": dict, "tokens": int}
        if not all(isinstance(line.get(key), kind) for key, kind in kinds.items()):
            raise ValueError("a value is missing, or of another kind")
        values = {key: line[key] for key in kinds} | {"texts": line.get("texts", [])}
        if "labels" in values:
            values["label"] = values.pop("labels")
        for key, value in values.items():
            if isinstance(value, list) or key == "texts":
                values[key] = _to_texts(key, value)
        return cls(**values, index=line.get("index"))


def _to_texts(key: str, value: Any) -> tuple[str, ...]:
    """Turn a list of texts into a tuple; raises ValueError for anything else."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{key} is no list of texts")
    return tuple(value)


def to_readable(task: Task, value: Any) -> str:
    """Spell a label, several of a row, or an answer in words; of a regression as a number."""
    if value is None:
        return ""
    if task.kind == "labels":
        return ", ".join(name_labels(task, value)) or "no label"
    if task.kind == "regression" or float(value) not in range(len(task.labels)):
        return f"{value:.4g}"
    return str(task.labels[int(value)])


def list_answers(
    task: Task, rows: list[Row], lengths: np.ndarray, outputs: np.ndarray
) -> list[Answer]:
    """List the answers of a model to the rows of a set with labels.

    lengths: tokens (N,). outputs: the model's, (N, classes). The scores are those of bort.predict.
    """
    if task.kind == "labels":
        return _list_sets(task, rows, lengths, outputs)
    exp = np.exp(outputs.astype(float) - outputs.max(1, keepdims=True))
    chances = (exp / exp.sum(1, keepdims=True)).round(6)
    answers = []
    for row, tokens, output, chance in zip(rows, lengths, outputs, chances, strict=True):
        texts = _shorten_texts(row)
        facts: dict[str, Any] = {"tokens": int(tokens), "index": row.index}
        if task.kind == "regression":
            true, score = float(row.label), float(output[0])
            answers.append(Answer(true, score, texts=texts, **facts))
            continue
        best, true = int(output.argmax()), task.labels[row.label]
        facts |= {"label": task.labels[best], "scores": dict(zip(task.labels, chance, strict=True))}
        answers.append(
            Answer(true, chance[best], texts=() if best == row.label else texts, **facts)
        )
    return answers


def _list_sets(
    task: Task, rows: list[Row], lengths: np.ndarray, outputs: np.ndarray
) -> list[Answer]:
    """List the answers to rows with several labels: those that are at least as likely as not."""
    chances = (0.5 * (1 + np.tanh(0.5 * outputs.astype(float)))).round(6)
    answers = []
    for row, tokens, output, chance in zip(rows, lengths, outputs, chances, strict=True):
        label = tuple(name_labels(task, output >= 0))
        true = tuple(name_labels(task, row.label))
        answers.append(
            Answer(
                true,
                float(np.maximum(chance, 1 - chance).min()),
                int(tokens),
                label,
                dict(zip(task.labels, chance.tolist(), strict=True)),
                () if label == true else _shorten_texts(row),
                row.index,
            )
        )
    return answers


def _shorten_texts(row: Row) -> tuple[str, ...]:
    return tuple(text[:SHOWN] + "…" * (len(text) > SHOWN) for text in row.texts)


@dataclass(frozen=True)
class ClassScore:
    """How well the rows of one class are recognised; None stands for a score of no rows."""

    label: str
    precision: float | None  # share of the rows with this answer whose label it is
    recall: float | None  # share of the rows with this label that are answered so
    f1: float | None  # harmonic mean of both, 0 where one is 0 or not defined
    rows: int  # with this label

    def to_json(self) -> dict[str, Any]:
        """Spell the scores as a line of the table has them."""
        return asdict(self)


def score_classes(answers: list[Answer]) -> list[ClassScore]:
    """Score each class over all rows, in the order of the task's labels; nothing of numbers.

    A row with several labels counts for each of them.
    """
    if not answers or answers[0].scores is None:
        return []
    rows, answered, right = Counter(), Counter(), Counter()
    for answer in answers:
        true, labels = (
            set(part) if isinstance(part, tuple) else {part} for part in (answer.true, answer.label)
        )
        rows.update(true)
        answered.update(labels)
        right.update(true & labels)

    def divide(part: int, count: int) -> float | None:
        return part / count if count else None

    return [
        ClassScore(
            label,
            divide(right[label], answered[label]),
            divide(right[label], rows[label]),
            divide(2 * right[label], rows[label] + answered[label]),
            rows[label],
        )
        for label in answers[0].scores
    ]


def write_class_scores(path: Path, answers: list[Answer]) -> None:
    """Write a table with a line for each class; nothing for answers that are numbers."""
    if scores := score_classes(answers):
        columns = [item.name for item in fields(ClassScore)]
        write_csv(path, columns, [score.to_json() for score in scores])


def write_answers(path: Path, answers: list[Answer]) -> None:
    """Write an object per answer, each on a line of its own."""
    with replace_file(path) as file:
        for answer in answers:
            line = json.dumps(answer.to_json(), ensure_ascii=False)
            file.write(f"{line}\n".encode())
