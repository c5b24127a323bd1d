"""Generated rows: their number per label, the labels that S gives them, and their files.

τ, the generator, makes a row from another one; S, the judge, labels it.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bort.errors import BortError
from bort.files.json_lines import read_json_lines
from bort.files.writing import replace_file
from bort.finetuning.held_out import get_stratum, normalize_texts
from bort.tasks.task import Row, Task

BATCH = 64  # rows that τ and S look at together


@dataclass(frozen=True)
class Generated:
    """A row that τ made and S labelled."""

    row: Row
    source: Row  # from which it was made
    confidence: float  # S's probability of its answer; of a regression 1

    def to_json(self) -> dict:
        """Spell the row as its file has it: what `read_generated` reads, and what made it."""
        return {
            "index": self.row.index[1],
            "texts": self.row.texts,
            "label": self.row.label,
            "spans": self.row.spans,
            "source": self.source.texts,
            "confidence": round(self.confidence, 6),
        }


@dataclass(frozen=True)
class Labelling:
    """How generated rows get their labels."""

    judge: Callable[[list[Row]], np.ndarray]  # rows → probabilities (N, classes) or numbers (N, 1)
    confidence: float  # the least probability with which a hard label is kept
    is_soft: bool  # labels are S's probabilities, and rows that S is unsure of are kept


def generate_rows(
    task: Task,
    sources: list[Row],
    count: int,
    make: Callable[[list[Row], np.random.Generator], list[Row | None]],
    labelling: Labelling,
    existing: set[tuple[str, ...]],
    seed: tuple[int, ...],
) -> list[Generated]:
    """Generate at most `count` rows from `sources`, of each label by S as equal a number as can be.

    make: τ, which gives None for a row in which it can change nothing. existing: normal texts
    that no new row may have; those of the new rows are added to it.
    """
    random = np.random.default_rng(seed)
    labels = 1 if task.kind == "regression" else len(task.labels)
    quota = np.array([count // labels + (k < count % labels) for k in range(labels)])
    generated: list[Generated] = []
    for _ in range(20 * math.ceil(count / BATCH)):
        if not quota.any():
            break
        drawn = _draw_rows(task, sources, random)
        fresh = []
        for source, row in zip(drawn, make(drawn, random), strict=True):
            if row is not None and (texts := normalize_texts(row)) not in existing:
                existing.add(texts)
                fresh.append((source, row))
        if not fresh:
            continue
        outputs = labelling.judge([row for _, row in fresh])
        for (source, row), output in zip(fresh, outputs, strict=True):
            label, confidence = _choose_label(task, output)
            group = 0 if task.kind == "regression" else label
            if quota[group] and (labelling.is_soft or confidence >= labelling.confidence):
                quota[group] -= 1
                if labelling.is_soft and task.kind != "regression":
                    label = tuple(map(float, output))
                index = ("generated", len(generated))
                labelled = Row(index, row.texts, label, spans=row.spans)
                generated.append(Generated(labelled, source, confidence))
    return generated


def _draw_rows(task: Task, sources: list[Row], random: np.random.Generator) -> list[Row]:
    """Draw BATCH rows, of each of their labels about as many."""
    by_label: dict = {}
    for row in sources:
        by_label.setdefault(get_stratum(task, row), []).append(row)
    groups = list(by_label.values())
    chosen = (groups[k] for k in random.integers(len(groups), size=BATCH))
    return [group[random.integers(len(group))] for group in chosen]


def _choose_label(task: Task, output: np.ndarray) -> tuple[int | float, float]:
    """Choose S's answer, and give its probability."""
    if task.kind == "regression":
        low, high = map(float, task.labels)
        return float(np.clip(output[0], low, high)), 1.0
    return int(output.argmax()), float(output.max())


def to_hard(label: int | float | tuple | list) -> int | float:
    """Turn a label into a hard one: of probabilities, the most probable class."""
    return int(np.argmax(label)) if isinstance(label, (tuple, list)) else label


def soften_rows(task: Task, rows: list[Row]) -> list[Row]:
    """Give all rows probabilities in place of labels if one of them has some."""
    if not any(isinstance(row.label, tuple) for row in rows):
        return rows
    one_hot = [tuple(map(float, line)) for line in np.eye(len(task.labels))]
    return [r if isinstance(r.label, tuple) else replace(r, label=one_hot[r.label]) for r in rows]


def write_generated(path: Path, generated: list[Generated]) -> None:
    """Write generated rows into a file with an object on each line."""
    with replace_file(path) as file:
        for row in generated:
            file.write(json.dumps(row.to_json()).encode() + b"\n")


def read_generated(path: Path, task: Task) -> list[Row]:
    """Read generated rows from a file with an object on each line.

    Raises BortError, with the line, where the file is not as `write_generated` left it.
    """
    rows, remedy = [], f"remove {path.parent}"
    try:
        lines = list(read_json_lines(path, remedy))
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    for line in lines:
        row = line.record
        try:
            label, texts = row["label"], tuple(row["texts"])
            label = tuple(map(float, label)) if isinstance(label, list) else label
            spans = tuple((int(start), int(end)) for start, end in row["spans"])
            _check_generated(task, texts, label)
            rows.append(Row(("generated", row["index"]), texts, label, spans=spans))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BortError(f"{line.where}: no row of {task.name}; {remedy}") from None
    return rows


def _check_generated(task: Task, texts: tuple, label: object) -> None:
    """Raise ValueError for what no generated row of this task has."""
    if len(texts) != len(task.columns) or not all(isinstance(text, str) for text in texts):
        raise ValueError(texts)
    if task.kind == "regression":
        if not isinstance(label, float | int) or not math.isfinite(label):
            raise ValueError(label)
    elif isinstance(label, tuple):
        if len(label) != len(task.labels):
            raise ValueError(label)
    elif type(label) is not int or not 0 <= label < len(task.labels):
        raise ValueError(label)
