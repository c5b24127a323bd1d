"""The rows of Agora: the split into D and E, and the rows that are generated and labelled by S.

D are the rows that the candidate trains on, E those held out of them, on which it is scored. The
generator τ makes rows from the best model's mistakes, the teacher S labels them, and D grows by
them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bort.console import counted, to_printable
from bort.errors import BortError
from bort.files.untrusted import json_object
from bort.tasks.task import Row, Task

ALIKE = 0.05  # difference of a label's shares in D and E
BATCH = 64  # rows that τ and S look at together

# ------------------------------------------------------------------------------------ D and E


def split_rows(task: Task, rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """D and E in the order of the file; of each label, about `fraction` of the rows is in E.

    Chosen by the hash of their texts, so that no seed changes it. Rows with equal texts (whatever
    their spaces and case), of one passage or of one group stay together. Raises BortError when
    E or D would lack one of the labels.
    """
    clusters = _cluster_rows(rows)
    wanted = {label: fraction * count for label, count in _count_strata(task, rows).items()}
    held, taken = set(), dict.fromkeys(wanted, 0)
    for cluster in sorted(clusters, key=lambda numbers: _hash_texts(rows[numbers[0]])):
        label = _get_stratum(task, rows[cluster[0]])
        if taken[label] < wanted[label]:
            held.update(cluster)
            for number in cluster:
                taken[_get_stratum(task, rows[number])] += 1
    parts = [row for k, row in enumerate(rows) if k not in held], [rows[k] for k in sorted(held)]
    for name, part in zip(("D", "E"), parts, strict=True):
        found = _count_strata(task, part)
        if task.kind == "regression" and len({row.label for row in part}) < 2:
            raise BortError(
                f"{name} would hold {counted(len(part), 'row')} of one number or none, which no "
                "score tells apart; give more training rows, or another agora.eval_fraction"
            )
        if len(found) < max(len(wanted), 1 if task.kind == "regression" else 2):
            labels = ", ".join(task.labels[label] for label in found if label is not None)
            labels = to_printable(labels)
            of = f" of the labels {labels} only" if labels else ""
            raise BortError(
                f"{name} would hold {counted(len(part), 'row')}{of}; give more training rows, or "
                "another agora.eval_fraction"
            )
    return parts


def describe_differences(task: Task, D: list[Row], E: list[Row]) -> Iterator[str]:
    """Lines about what the theory asks of D and E and they are not: balanced, and alike."""
    if task.kind == "regression":
        return
    shares = [{k: n / len(rows) for k, n in _count_strata(task, rows).items()} for rows in (D, E)]
    for label in sorted(shares[0]):
        own, other = (share[label] for share in shares)
        if abs(own - other) > ALIKE:
            yield f"'{to_printable(task.labels[label])}' is {own:.0%} of D and {other:.0%} of E"
    rarest = min(shares[0], key=shares[0].get)
    if shares[0][rarest] < 0.5 / len(shares[0]):
        yield (
            f"D is not balanced ('{to_printable(task.labels[rarest])}' is "
            f"{shares[0][rarest]:.0%}); the rows that are generated will be"
        )


def _hash_texts(row: Row) -> bytes:
    return hashlib.sha256("\0".join(normalize_texts(row)).encode()).digest()


def _get_stratum(task: Task, row: Row) -> int | None:
    return None if task.kind == "regression" else row.label


def _count_strata(task: Task, rows: list[Row]) -> Counter:
    return Counter(_get_stratum(task, row) for row in rows)


def _cluster_rows(rows: list[Row]) -> list[list[int]]:
    """Numbers of the rows that must not be torn apart, by the first of each."""
    parent = list(range(len(rows)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    first: dict = {}
    for number, row in enumerate(rows):
        keys = [("texts", normalize_texts(row))]
        if isinstance(row.index, tuple):  # several rows of one passage
            keys.append(("passage", row.index[0]))
        if row.group is not None:
            keys.append(("group", row.group))
        for key in keys:
            a, b = root(number), root(first.setdefault(key, number))
            parent[max(a, b)] = min(a, b)
    found: dict[int, list[int]] = {}
    for number in range(len(rows)):
        found.setdefault(root(number), []).append(number)
    return list(found.values())


def normalize_texts(row: Row) -> tuple[str, ...]:
    """Texts without what does not make them others: spaces and case."""
    return tuple(" ".join(text.split()).lower() for text in row.texts)


# ------------------------------------------------------------------------------------ Θ


# ------------------------------------------------------------------------------------ rounds


# ------------------------------------------------------------------------------------ labels by S


def compute_balanced_accuracy(labels: np.ndarray, found: np.ndarray) -> float:
    """Mean over the labels of the share of their rows (N,) that is right."""
    return float(np.mean([(found[labels == label] == label).mean() for label in np.unique(labels)]))


@dataclass(frozen=True)
class Generated:
    """A row that τ made and S labelled."""

    row: Row
    source: Row
    confidence: float  # S's probability of its answer; of a regression 1


def generate_rows(
    task: Task,
    sources: list[Row],
    count: int,
    make: Callable[[list[Row], np.random.Generator], list[Row | None]],
    judge: Callable[[list[Row]], np.ndarray],
    known: set[tuple[str, ...]],
    seed: tuple[int, ...],
    confidence: float,
    soft: bool,
) -> list[Generated]:
    """At most `count` rows made from `sources`, as many of each label by S as can be.

    make: τ, which gives None where it can change nothing. judge: S's outputs, probabilities
    (N, classes) or numbers (N, 1). known: normal texts that no row may have; those of the new rows
    are added. soft: labels are S's probabilities, and rows that S is unsure of are kept.
    """
    random = np.random.default_rng(seed)
    labels = 1 if task.kind == "regression" else len(task.labels)
    quota = np.array([count // labels + (k < count % labels) for k in range(labels)])
    found: list[Generated] = []
    for _ in range(20 * math.ceil(count / BATCH)):
        if not quota.any():
            break
        drawn = _draw_rows(task, sources, random)
        fresh = []
        for source, row in zip(drawn, make(drawn, random), strict=True):
            if row is not None and (key := normalize_texts(row)) not in known:
                known.add(key)
                fresh.append((source, row))
        if not fresh:
            continue
        for (source, row), output in zip(fresh, judge([row for _, row in fresh]), strict=True):
            label, sure = _choose_label(task, output)
            place = 0 if task.kind == "regression" else label
            if quota[place] and (soft or sure >= confidence):
                quota[place] -= 1
                given = tuple(map(float, output)) if soft and task.kind != "regression" else label
                found.append(Generated(_label_row(row, given, len(found)), source, sure))
    return found


def _draw_rows(task: Task, sources: list[Row], random: np.random.Generator) -> list[Row]:
    """BATCH rows, of each of their labels about as many."""
    by_label: dict = {}
    for row in sources:
        by_label.setdefault(_get_stratum(task, row), []).append(row)
    groups = list(by_label.values())
    chosen = (groups[k] for k in random.integers(len(groups), size=BATCH))
    return [group[random.integers(len(group))] for group in chosen]


def _choose_label(task: Task, output: np.ndarray) -> tuple[int | float, float]:
    """S's answer and its probability."""
    if task.kind == "regression":
        low, high = map(float, task.labels)
        return float(np.clip(output[0], low, high)), 1.0
    return int(output.argmax()), float(output.max())


def _label_row(row: Row, label: int | float | tuple, number: int) -> Row:
    return Row(("generated", number), row.texts, label, spans=row.spans)


def to_hard(label: int | float | tuple | list) -> int | float:
    """A label, or the most probable one."""
    return int(np.argmax(label)) if isinstance(label, (tuple, list)) else label


def soften_rows(task: Task, rows: list[Row]) -> list[Row]:
    """The rows, with probabilities in place of labels if one of them has some."""
    if not any(isinstance(row.label, tuple) for row in rows):
        return rows
    one_hot = [tuple(map(float, line)) for line in np.eye(len(task.labels))]
    return [r if isinstance(r.label, tuple) else replace(r, label=one_hot[r.label]) for r in rows]


def to_json(each: Generated) -> dict:
    """What `read_rows` reads, and what made it."""
    row = each.row
    return {
        "index": row.index[1],
        "texts": row.texts,
        "label": row.label,
        "spans": row.spans,
        "source": each.source.texts,
        "confidence": round(each.confidence, 6),
    }


def read_generated(path: Path, task: Task) -> list[Row]:
    """Generated rows from a file with an object on each line.

    Raises BortError, with the line, where the file is not as `written` left it.
    """
    found = []
    for number, line in enumerate(_read_lines(path), start=1):
        where = f"{path}, line {number}"
        row = json_object(line, where)
        try:
            label, texts = row["label"], tuple(row["texts"])
            label = tuple(map(float, label)) if isinstance(label, list) else label
            spans = tuple((int(start), int(end)) for start, end in row["spans"])
            _check_generated(task, texts, label)
            found.append(Row(("generated", row["index"]), texts, label, spans=spans))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BortError(f"{where}: no row of {task.name}; remove {path.parent}") from None
    return found


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise BortError(f"{path} cannot be read: {reason}; remove {path.parent}") from None


def _check_generated(task: Task, texts: tuple, label: object) -> None:
    """Raises ValueError for what no generated row of this task has."""
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
