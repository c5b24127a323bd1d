"""The file of a model's answers to labelled rows, which people and the report read."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bort.files.writing import replace_file, write_csv
from bort.tasks.task import Row, Task

SHOWN = 400  # characters of a text that is answered wrongly


@dataclass(frozen=True)
class Answer:
    """A row's true label and the answer to it; of a regression both are numbers."""

    true: str | float
    score: float  # how likely the answer is; of a regression the answer
    tokens: int  # of the row's longest input
    label: str | None = None  # the answer; None of a regression
    scores: dict[str, float] | None = None  # how likely each label is; None of a regression
    texts: tuple[str, ...] = ()  # shortened; only where the answer is not the true label
    index: Any = None  # the row's name in its file

    def to_json(self) -> dict[str, Any]:
        """Spell the answer as a line of the file has it."""
        line: dict[str, Any] = {"index": self.index, "true": self.true}
        if self.label is not None:
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
        texts = line.get("texts", [])
        if not all(isinstance(line.get(key), kind) for key, kind in kinds.items()):
            raise ValueError("a value is missing, or of another kind")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("texts is no list of texts")
        values = {key: line[key] for key in kinds}
        return cls(**values, texts=tuple(texts), index=line.get("index"))


def to_readable(task: Task, value: float | None) -> str:
    """Spell a label or an answer in words; of a regression as a number."""
    if value is None:
        return ""
    if task.kind == "regression" or float(value) not in range(len(task.labels)):
        return f"{value:.4g}"
    return str(task.labels[int(value)])


def list_answers(
    task: Task, rows: list[Row], lengths: np.ndarray, outputs: np.ndarray
) -> list[Answer]:
    """List the answers of a model to the rows of a set with labels.

    lengths: tokens (N,). outputs: the model's, (N, classes). The scores are those of bort.predict.
    """
    exp = np.exp(outputs.astype(float) - outputs.max(1, keepdims=True))
    chances = (exp / exp.sum(1, keepdims=True)).round(6)
    answers = []
    for row, tokens, output, chance in zip(rows, lengths, outputs, chances, strict=True):
        texts = tuple(text[:SHOWN] + "…" * (len(text) > SHOWN) for text in row.texts)
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
    """Score each class over all rows, in the order of the task's labels; nothing of numbers."""
    if not answers or answers[0].scores is None:
        return []
    rows = Counter(answer.true for answer in answers)
    answered = Counter(answer.label for answer in answers)
    right = Counter(answer.true for answer in answers if answer.true == answer.label)

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
