"""Rows that are held out of the training rows: whole documents, chosen by their texts.

Rows of one document, passage or question stay together, so that a model is not asked what it has
read. Agora's E is chosen by the same rule.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from bort.tasks.task import Row, Task

WORDS = 3  # in sequence, which two phrases of one sentence share
HELD_OUT, MOST_HELD_OUT = 0.1, 1000  # the share of the training rows that is held out; at most


def divide_rows(task: Task, rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Divide training rows into those that are learnt and those that are held out, with a limit.

    Returns their numbers, in order. Rows without a label are learnt. Where rows are phrases of
    fewer sentences, those that share words with a row that is held out are in neither part.
    """
    labelled = [k for k, row in enumerate(rows) if row.label is not None]
    fraction = min(HELD_OUT, MOST_HELD_OUT / len(labelled))
    chosen = choose_held_out(task, [rows[k] for k in labelled], fraction)
    held = [labelled[k] for k in chosen]
    others = sorted(set(range(len(rows))) - set(held))
    if task.phrases:
        texts = [" ".join(rows[k].texts) for k in others]
        apart = find_apart(texts, [" ".join(rows[k].texts) for k in held])
        others = [others[k] for k in apart] or others
    return others, held


def choose_held_out(task: Task, rows: Sequence[Row], fraction: float) -> list[int]:
    """Choose about `fraction` of the rows of each label; return their numbers in order.

    Rows are chosen by the hash of their texts, so that no seed changes it. Rows with equal texts
    (whatever their spaces and case), of one passage or of one group stay together.
    """
    quota = {label: fraction * count for label, count in count_strata(task, rows).items()}
    held, taken = set(), dict.fromkeys(quota, 0)
    for cluster in sorted(_cluster_rows(rows), key=lambda numbers: _hash_texts(rows[numbers[0]])):
        label = get_stratum(task, rows[cluster[0]])
        if taken[label] < quota[label]:
            held.update(cluster)
            for number in cluster:
                taken[get_stratum(task, rows[number])] += 1
    return sorted(held)


def find_apart(texts: Sequence[str], held: Sequence[str]) -> list[int]:
    """Find the texts that share no WORDS words in sequence with one that is held out.

    Where rows are phrases of fewer sentences, as those of SST-2, the others are parts of what is
    asked. Returns their numbers in order.
    """
    held_sequences = set().union(*map(_list_sequences, held))
    return [k for k, text in enumerate(texts) if held_sequences.isdisjoint(_list_sequences(text))]


def _list_sequences(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return set(zip(*(words[k:] for k in range(WORDS)), strict=False))


def get_stratum(task: Task, row: Row) -> int | tuple[float, ...] | None:
    """Get the group that a row is drawn from: its label, or None of a regression."""
    return None if task.kind == "regression" else row.label


def count_strata(task: Task, rows: Sequence[Row]) -> Counter:
    """Count the rows of each group."""
    return Counter(get_stratum(task, row) for row in rows)


def _hash_texts(row: Row) -> bytes:
    return hashlib.sha256("\0".join(normalize_texts(row)).encode()).digest()


def _cluster_rows(rows: Sequence[Row]) -> list[list[int]]:
    """Group the numbers of the rows that must stay together."""
    parent = list(range(len(rows)))

    def find_root(k: int) -> int:
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
            a, b = find_root(number), find_root(first.setdefault(key, number))
            parent[max(a, b)] = min(a, b)
    clusters: dict[int, list[int]] = {}
    for number in range(len(rows)):
        clusters.setdefault(find_root(number), []).append(number)
    return list(clusters.values())


def normalize_texts(row: Row) -> tuple[str, ...]:
    """Normalize a row's texts: spaces and case do not make a text another one."""
    return tuple(" ".join(text.split()).lower() for text in row.texts)
