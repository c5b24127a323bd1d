"""The labels in the user's own files: what a cell says, and rows that have several labels at once.

A row has several labels as a list in one column, or as 0 and 1 in one column for each label.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bort.config.data import DataConfig
from bort.console import to_printable
from bort.errors import BortError, quote, suggest_name
from bort.files.tables import Table

MOST_CLASSES = 20  # different whole numbers that are classes unless data.kind says otherwise
# A list that is written as text, as csv files have it.
LIST_AS_TEXT = re.compile(r"\s*\[\s*(['\"\d].*)?\]\s*", re.DOTALL)
# A number as many languages write it, with a decimal comma, and one with points between thousands.
DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+),\d+")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+")
ONE_OF_SEVERAL = {"0": 0, "1": 1, "false": 0, "true": 1}  # cells of a label's own column
LabelSet = tuple[int, ...]  # for each label, 1 where the row has it, else 0


@dataclass(frozen=True)
class LabelSets:
    """The labels of rows that may have several: their names, and which of them each row has.

    sets: by split, in the order of the rows; None stands for a row whose labels are not known.
    notes: lines about the labels, to be told before the training.
    """

    labels: tuple[str, ...]
    sets: dict[str, list[LabelSet | None]]
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------ cells


def parse_number(label: str) -> float | None:
    """Parse a label as a number; None for one that is none, or not finite."""
    if "_" in label:  # float() reads 1_000, which nobody else does
        return None
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_label(record: dict, column: str, where: str) -> str | None:
    """Read a label as text: numbers and truth values are spelled one way in all formats.

    None stands for a cell without a label. Raises BortError for a cell that is no single label.
    """
    value = record.get(column)
    is_list = isinstance(value, str) and LIST_AS_TEXT.fullmatch(value)
    if is_list or isinstance(value, list | tuple | dict):
        raise BortError(
            f"{where}: '{column}' is {quote(value)}, not a class or a number; several at once "
            "cannot be learnt so: use lists in all rows of a jsonl file, or data.label=[a,b], "
            "columns of 0/1"
        )
    if value is not None and not isinstance(value, str | int | float):
        raise BortError(f"{where}: '{column}' is {quote(value)}, not a class or a number; fix it")
    return spell_label(value)


def spell_label(value: str | int | float | None) -> str | None:
    """Spell a label as text, without spaces around it; None for an empty one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # whole numbers of a column with gaps
        value = int(value)
    if isinstance(value, (int, float)):
        return None if isinstance(value, float) and math.isnan(value) else str(value)
    text = (value or "").strip()
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text) or None


def has_decimal_commas(labels: Iterable[str | None]) -> bool:
    """Whether some labels have a decimal comma, and the others are numbers."""
    distinct = {label for label in labels if label is not None}
    commas = {label for label in distinct if DECIMAL_COMMA.fullmatch(label)}
    return bool(commas) and None not in map(parse_number, distinct - commas)


def replace_decimal_commas(labels: Iterable[str | None]) -> list[str | None]:
    """Spell numbers with decimal commas by points: 3,5 is 3.5, and 1.250 then is 1250."""
    spelled = []
    for label in labels:
        if label is not None and (DECIMAL_COMMA.fullmatch(label) or THOUSANDS.fullmatch(label)):
            label = spell_label(label.replace(".", "").replace(",", "."))
        spelled.append(label)
    return spelled


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort distinct labels by their value where all are numbers, else by name."""
    labels = list(labels)
    in_order = None not in [parse_number(label) for label in labels]
    return tuple(sorted(labels, key=lambda label: (parse_number(label) if in_order else 0, label)))


def check_number_of_labels(labels: Iterable[str], rows: int, where: str, kind: str) -> None:
    """Raise BortError for so many labels in so few rows that they cannot be classes.

    kind: what they are, as in `classes`.
    """
    count = len(list(labels))
    if count > max(MOST_CLASSES, rows // 2):
        advice = ", or data.kind=number" if kind == "classes" else ""
        raise BortError(
            f"{where} has {count:,} different values in {rows:,} rows, too many for {kind}; set "
            f"data.label to another column{advice}"
        )


def warn_of_likeness(column: str, labels: Iterable[str]) -> Iterator[str]:
    """Warn of distinct labels that differ by case, spaces or invisible characters alone."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        normal = unicodedata.normalize("NFKC", label).casefold()
        visible = "".join(k for k in normal if unicodedata.category(k) not in ("Cf", "Cc"))
        alike.setdefault(" ".join(visible.split()), []).append(label)
    for similar in alike.values():
        if len(similar) > 1:
            case_alone = len(set(map(str.casefold, similar))) == 1
            names = to_printable(", ".join(map(repr if case_alone else ascii, similar)))
            yield f"warning: '{column}': {names} look alike and are {len(similar)} labels"


# ------------------------------------------------------------------------------------ several


def read_label_sets(data: DataConfig, tables: Mapping[str, Table]) -> LabelSets | None:
    """Read labels of which a row may have several, of all splits; None where rows have one each.

    They are the columns that `data.label` names, or, where it names one, the lists in it. A row of
    a test file may have none that are known. Raises BortError, with file and row, for a cell that
    is no such label, and for labels that nothing can be learnt from.
    """
    if len(data.labels) > 1:
        _check_kind(data, "names several columns")
        sets = {split: _read_columns(data, table, split) for split, table in tables.items()}
        if not any(map(any, sets["train"])):
            columns = to_printable(", ".join(data.labels))
            raise BortError(f"{data.train}: {columns} are 0 in every row; nothing can be learnt")
        return LabelSets(data.labels, sets)
    column = data.labels[0]
    first = next((record[column] for record, _ in tables["train"] if record[column]), None)
    if not isinstance(first, list | tuple) and not _are_lists(tables["train"], column):
        return None
    _check_kind(data, "holds lists")
    lists = {split: _read_lists(column, table, split) for split, table in tables.items()}
    labels = _collect_labels(data, lists["train"])
    sets = {}
    for split, table in tables.items():
        sets[split] = [
            None if names is None else _mark_labels(names, labels, where)
            for names, (_, where) in zip(lists[split], table, strict=True)
        ]
    return LabelSets(labels, sets, tuple(warn_of_likeness(column, labels)))


def _are_lists(table: Table, column: str) -> bool:
    """Whether a column without any content holds empty lists."""
    return any(isinstance(record[column], list | tuple) for record, _ in table) and not any(
        record[column] for record, _ in table
    )


def _check_kind(data: DataConfig, fact: str) -> None:
    """Raise BortError where the user says that rows have one label each; fact: why not."""
    if data.kind != "auto":
        names = to_printable(", ".join(data.labels))
        raise BortError(
            f"data.kind={data.kind} is for one label a row, and data.label={names} {fact}; leave "
            "data.kind out"
        )


def _read_columns(data: DataConfig, table: Table, split: str) -> list[LabelSet | None]:
    """Read a column of 0 and 1 for each label."""
    sets: list[LabelSet | None] = []
    for record, where in table:
        cells = [_read_bit(record, column, where) for column in data.labels]
        if None in cells and split != "test":
            column = data.labels[cells.index(None)]
            raise BortError(f"{where}: no '{column}', which is 0 or 1; fix or drop the row")
        sets.append(None if None in cells else tuple(cells))
    return sets


def _read_bit(record: dict, column: str, where: str) -> int | None:
    """Read whether a row has a label; None for an empty cell."""
    value = record.get(column)
    is_label = value is None or isinstance(value, str | int | float)
    text = spell_label(value) if is_label else ""
    if text is None:
        return None
    if text.lower() not in ONE_OF_SEVERAL:
        raise BortError(
            f"{where}: '{column}' is {quote(value)}, not 0 or 1 (or true, false); fix it"
        )
    return ONE_OF_SEVERAL[text.lower()]


def _read_lists(column: str, table: Table, split: str) -> list[list[str] | None]:
    """Read a list of labels for each row."""
    lists: list[list[str] | None] = []
    for record, where in table:
        value = record[column]
        if value is None and split != "test":
            raise BortError(f"{where}: no '{column}'; write [] for a row without a label")
        if value is None or isinstance(value, list | tuple):
            lists.append(None if value is None else _read_names(value, column, where))
        else:
            raise BortError(
                f"{where}: '{column}' is {quote(value)}, and a list in other rows; write a list"
            )
    return lists


def _read_names(cells: Iterable[Any], column: str, where: str) -> list[str]:
    """Read the labels in a list; raises BortError for one that is none, or stands there twice."""
    names = []
    for cell in cells:
        name = spell_label(cell) if isinstance(cell, str | int | float) else None
        if name is None:
            raise BortError(f"{where}: '{column}' holds {quote(cell)}, which is no label; fix it")
        if name in names:
            raise BortError(f"{where}: '{column}' holds {quote(name)} twice; name a label once")
        names.append(name)
    return names


def _collect_labels(data: DataConfig, lists: list[list[str]]) -> tuple[str, ...]:
    """Collect the distinct labels of the training rows, of which there must be two at least."""
    labels = sort_labels(dict.fromkeys(name for names in lists for name in names))
    where = f"{data.train}: '{data.label}'"
    if not labels:
        raise BortError(f"{where} is an empty list in every row; there is nothing to learn")
    if len(labels) == 1:
        raise BortError(
            f"{where} holds no label but {quote(labels[0])}; give two classes instead, one a row"
        )
    check_number_of_labels(labels, len(lists), where, "labels")
    return labels


def _mark_labels(names: list[str], labels: tuple[str, ...], where: str) -> LabelSet:
    """Turn the labels of a row into 0 and 1; raises BortError for one that training lacks."""
    for name in names:
        if name not in labels:
            raise BortError(
                f"{where}: label {quote(name)} is none of those in the training rows "
                f"({quote(', '.join(labels))}){suggest_name(name, labels)}"
            )
    return tuple(int(label in names) for label in labels)
