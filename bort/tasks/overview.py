"""DataReport: what the rows of a task are like, told before anything is trained on them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bort.console import counted, to_printable
from bort.tasks.encoding import EncodedRows
from bort.tasks.task import Row, Task

PREFIX = "data/"  # of its keys in summary.json


@dataclass(frozen=True)
class SplitFacts:
    """How many rows a split has, how long they are, and which of them say nothing new.

    Texts are the same where they differ by case and spaces alone; of marked words, these must be
    the same, too.
    """

    rows: int
    tokens_median: int  # of an input
    tokens_95: int  # of which 95% of the inputs have no more
    cut: int  # rows that are shorter than their text
    divided: int  # rows whose text is divided into windows
    windows: int  # of these rows together
    duplicates: int  # rows whose texts an earlier row of the split has
    relabelled: int  # of the duplicates, those with another label than the first such row
    in_train: int  # rows whose texts a training row has; 0 of the training rows themselves

    def describe(self, name: str) -> str:
        """Describe the split in a line; duplicates are told of training rows alone."""
        line = (
            f"{name} {counted(self.rows, 'row')}, {self.tokens_median} tokens (95% up to "
            f"{self.tokens_95})"
        )
        if self.cut:
            line += f", {self.cut:,} cut at the limit ({self.cut / self.rows:.1%})"
        if self.divided:
            line += f", {self.divided:,} divided into {self.windows / self.divided:.1f} windows"
        if self.duplicates and name == "train":
            line += f", {counted(self.duplicates, 'duplicate')}"
            line += f" ({self.relabelled:,} with another label)" if self.relabelled else ""
        if self.in_train:
            line += f", {self.in_train:,} of them in train, too ({self.in_train / self.rows:.1%})"
        return line


@dataclass(frozen=True)
class DataReport:
    """What the rows of a task are like.

    splits: by name. labels: those of the training rows, in words. kind: what they are. notes: lines
    about the labels, of which those that begin with `warning: ` are warnings.
    """

    splits: dict[str, SplitFacts]
    labels: str
    kind: str
    notes: tuple[str, ...] = ()

    def list_lines(self) -> list[str]:
        """List the lines that a run begins with."""
        lines = [facts.describe(name) for name, facts in self.splits.items()]
        lines += [f"labels of train: {self.labels}", *self.notes]
        return [line if line.startswith("warning: ") else f"data: {line}" for line in lines]

    def to_json(self) -> dict[str, Any]:
        """Give its part of the flat summary: `data/SPLIT/rows` and so on, `data/labels`."""
        flat: dict[str, Any] = {}
        for name, facts in self.splits.items():
            flat |= {f"{PREFIX}{name}/{key}": value for key, value in asdict(facts).items()}
        return flat | {f"{PREFIX}labels": self.labels, f"{PREFIX}kind": self.kind}


def examine_data(
    task: Task, rows: Mapping[str, list[Row]], inputs: Mapping[str, EncodedRows]
) -> DataReport:
    """Examine the rows of a task, of which those of `train` have labels.

    inputs: the same rows as token ids.
    """
    seen: dict[tuple, Any] = {}
    for row in rows["train"]:
        seen.setdefault(_normalize(row), row.label)
    splits = {name: _examine_split(name, rows[name], inputs[name], seen) for name in rows}
    notes = task.notes
    if task.kind != "regression":
        notes = (*_warn_of_absent_labels(task, rows), *notes)
    names = {"regression": "numbers", "spans": "classes", "labels": "several a row"}
    kind = names.get(task.kind, task.kind)
    return DataReport(splits, _describe_labels(task, rows["train"]), kind, notes)


def _normalize(row: Row) -> tuple:
    """What is equal of rows that say the same."""
    return *(" ".join(text.casefold().split()) for text in row.texts), row.spans


def _examine_split(
    name: str, rows: list[Row], inputs: EncodedRows, seen: dict[tuple, Any]
) -> SplitFacts:
    """Count what a split has; seen: the first label of all texts of the training rows."""
    lengths = [len(ids) for choices in inputs.input_ids for ids in choices]
    middle, top = np.quantile(lengths, (0.5, 0.95)).astype(int)
    first: dict[tuple, Any] = {}
    duplicates = relabelled = in_train = 0
    for row in rows:
        texts = _normalize(row)
        in_train += name != "train" and texts in seen
        if texts in first:
            duplicates += 1
            relabelled += first[texts] != row.label
        else:
            first[texts] = row.label
    windows = inputs.windows[inputs.windows > 1]
    return SplitFacts(
        rows=len(rows),
        tokens_median=int(middle),
        tokens_95=int(top),
        cut=inputs.cut,
        divided=len(windows),
        windows=int(windows.sum()),
        duplicates=duplicates,
        relabelled=relabelled,
        in_train=in_train,
    )


def _describe_labels(task: Task, rows: list[Row]) -> str:
    """Describe the labels of rows; of the user's own table also as what they were read."""
    column = f"; '{to_printable(task.label)}' is read as " if task.name == "custom" else ""
    if task.kind == "regression":
        labels = np.array([row.label for row in rows])
        return (
            f"{labels.min():.6g} to {labels.max():.6g}, mean {labels.mean():.6g} ± "
            f"{labels.std():.3g}; losses are mean squares in their unit"
            + (f"{column}numbers" if column else "")
        )
    read_as = "labels, of which a row has any number" if task.kind == "labels" else "classes"
    shares = _describe_shares(task, rows)
    return shares + (f"{column}{len(task.labels)} {read_as}" if column else "")


def _list_numbers(row: Row) -> list[int]:
    """List the numbers of a row's labels: one, or any number where it is 1 or 0 for each."""
    if isinstance(row.label, tuple):
        return [number for number, is_right in enumerate(row.label) if is_right]
    return [row.label]


def _warn_of_absent_labels(task: Task, rows: Mapping[str, list[Row]]) -> Iterator[str]:
    """Warnings about labels that no row of training or of a validation set has."""
    for name, split in rows.items():
        if not name.startswith("test"):
            present = {number for row in split for number in _list_numbers(row)}
            if absent := [label for k, label in enumerate(task.labels) if k not in present]:
                yield f"warning: no row of {name} has the label {to_printable(' or '.join(absent))}"


def _describe_shares(task: Task, rows: list[Row], most: int = 8) -> str:
    """`entailment: 1,249 (50%), not_entailment: 1,241 (50%)`, the most frequent first."""
    counts = Counter(number for row in rows for number in _list_numbers(row))
    parts = [
        f"{to_printable(task.labels[k])}: {n:,} ({n / len(rows):.0%})"
        for k, n in counts.most_common(most)
    ]
    more = len(counts) - len(parts)
    line = ", ".join(parts) + (f" and {more} more" if more > 0 else "")
    if empty := sum(not _list_numbers(row) for row in rows):
        line += f"; no label: {empty:,} ({empty / len(rows):.0%})"
    return line
