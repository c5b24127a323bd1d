"""The user's own task: rows come from csv, tsv, jsonl or parquet files, and so do the labels."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bort.config.data import DataConfig
from bort.console import to_printable
from bort.errors import BortError, name_kind, quote, suggest_name
from bort.files.compressed import split_suffixes
from bort.files.tables import Table, read_table
from bort.tasks.labels import (
    MOST_CLASSES,
    LabelSets,
    check_number_of_labels,
    has_decimal_commas,
    parse_number,
    read_label,
    read_label_sets,
    replace_decimal_commas,
    sort_labels,
    warn_of_likeness,
)
from bort.tasks.task import Row, Split, Task

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
MOST, LEAST = 1e30, 1e-30  # size of a number, but for 0, that float32 holds with room to spare
HELD_OUT = 0.1  # of the distinct texts of data.train, when there is no data.val


def read_custom_task(data: DataConfig) -> tuple[Task, dict[str, list[Row]]]:
    """The task that data.{train,val,test,text,label} describe and its rows in file order.

    Labels are classes (in alphabetical or numerical order) or numbers, see `data.kind`, or a row
    has several of them, see `read_label_sets`; a test file may have none. Without data.val, a tenth
    of the distinct texts of data.train is held out, chosen by their hash. Raises BortError, with
    file and line, for what cannot be read as such.
    """
    paths = {"train": data.train, "val": data.val, "test": data.test}
    records = {
        split: _read_records(Path(path), split, data) for split, path in paths.items() if path
    }
    for column in data.texts:
        _check_text(column, records["train"])
    label_sets = read_label_sets(data, records)
    if label_sets is None:
        task, rows = _make_rows(data, records)
    else:
        task, rows = _make_rows_of_sets(data, records, label_sets)
    if "val" not in rows:
        rows = _hold_out(rows, data.train)
    return task, rows


def _make_rows_of_sets(
    data: DataConfig, records: dict[str, Table], label_sets: LabelSets
) -> tuple[Task, dict[str, list[Row]]]:
    """Make the task and the rows of labels of which a row may have several."""
    facts = {"label": ", ".join(data.labels), "notes": label_sets.notes}
    task = define_task("custom", "labels", data.texts, label_sets.labels, **facts)
    rows = {}
    for split, table in records.items():
        numbered = enumerate(zip(table, label_sets.sets[split], strict=True))
        rows[split] = [Row(k, _get_texts(task, *record), label) for k, (record, label) in numbered]
    return task, rows


def _make_rows(data: DataConfig, records: dict[str, Table]) -> tuple[Task, dict[str, list[Row]]]:
    """Make the task and the rows of labels of which each row has one."""
    labels = {split: _list_labels(table, data) for split, table in records.items()}
    task = _infer_task(data, labels, records)
    rows = {}
    for split, table in records.items():
        numbered = enumerate(zip(table, labels[split], strict=True))
        rows[split] = [_make_row(task, k, *record, label) for k, (record, label) in numbered]
    return task, rows


def _list_labels(table: Table, data: DataConfig) -> list:
    """List the labels of a file's records; None stands for one that is missing.

    Numbers with decimal commas are spelled by points. Raises BortError for them in a file where a
    comma may also stand between thousands, since nothing in it says which.
    """
    labels = [read_label(record, data.label, where) for record, where in table]
    if data.kind == "classes" or not has_decimal_commas(labels):
        return labels
    if table.has_decimal_commas:
        return replace_decimal_commas(labels)
    number = next(k for k, label in enumerate(labels) if label and "," in label)
    raise BortError(
        f"{table[number][1]}: '{data.label}' is {quote(labels[number])}; write numbers with a "
        "point, put semicolons between the cells of a csv, or set data.kind=classes"
    )


def _infer_task(data: DataConfig, labels: dict[str, list], records: dict[str, Table]) -> Task:
    """What the labels of the training rows are, as a row of the table of tasks."""
    for split in ("train", "val"):
        for label, (_, where) in zip(labels.get(split, ()), records.get(split, ()), strict=True):
            if label is None:
                raise BortError(f"{where}: no '{data.label}'; fix or drop the row")
    distinct = list(dict.fromkeys(labels["train"]))
    numbers = [parse_number(label) for label in distinct]
    if data.kind == "number" or (data.kind == "auto" and _are_mostly_numbers(numbers)):
        _check_numbers(distinct, numbers, labels["train"], records["train"], data)
    if len(distinct) == 1:
        where = f"{data.train}: '{data.label}'"
        raise BortError(f"{where} is {quote(distinct[0])} in every row; there is nothing to learn")
    notes = tuple(_compare_spellings(data.label, labels["train"], records["train"]))
    notes += tuple(_explain_commas(data.label, labels["train"], records["train"]))
    if data.kind == "number" or (data.kind == "auto" and _are_amounts(numbers)):
        ends = tuple(_spell_number(end) for end in (min(numbers), max(numbers)))
        notes += tuple(_explain_guess(data, numbers, len(labels["train"])))
        return define_task("custom", "regression", data.texts, ends, label=data.label, notes=notes)
    where = f"{data.train}: '{data.label}'"
    check_number_of_labels(distinct, len(labels["train"]), where, "classes")
    classes = sort_labels(distinct)
    return define_task("custom", "classes", data.texts, classes, label=data.label, notes=notes)


def _are_mostly_numbers(numbers: list[float | None]) -> bool:
    """Whether labels are amounts but for some that are mistakes: nan, inf, n/a."""
    amounts = [number for number in numbers if number is not None]
    return len(amounts) > len(numbers) / 2 and _are_amounts(amounts)


def _check_numbers(
    distinct: list[str], numbers: list, labels: list[str], records: Table, data: DataConfig
) -> None:
    """Raises BortError, with the row, for a label that is no number, or one out of range."""
    for label, number in zip(distinct, numbers, strict=True):
        where = records[labels.index(label)][1]
        if number is None:
            hint = "fix it" if data.kind == "number" else "fix it, or set data.kind=classes"
            raise BortError(f"{where}: '{data.label}' is {quote(label)}, not a number; {hint}")
        _check_range(number, data.label, where)


def _check_range(number: float, column: str, where: str) -> None:
    """Raises BortError for a number that a model in float32 cannot answer."""
    if number and not LEAST <= abs(number) <= MOST:
        raise BortError(
            f"{where}: '{column}' is {number:g}, beyond what a model can answer ({LEAST:g} to "
            f"{MOST:g}); use another unit"
        )


def _spell_number(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)


def _explain_guess(data: DataConfig, numbers: list[float], rows: int) -> Iterator[str]:
    """A note where the numbers that are taken as amounts may be names of classes."""
    are_whole = all(number.is_integer() for number in numbers)
    if data.kind == "auto" and are_whole and len(numbers) <= rows / 2:
        yield (
            f"warning: the {len(numbers):,} whole numbers of '{data.label}' are taken as a "
            "quantity; data.kind=classes makes classes of them, data.kind=number silences this"
        )


def _explain_commas(column: str, labels: list[str], records: Table) -> Iterator[str]:
    """A note where the commas of numbers were taken as decimal ones, with the first of them."""
    for label, (record, _) in zip(labels, records, strict=True):
        cell = record[column]
        if isinstance(cell, str) and "," in cell and "," not in label:
            yield f"'{column}' has decimal commas: {quote(cell)} is {label}"
            return


def _compare_spellings(column: str, labels: list[str], records: Table) -> Iterator[str]:
    """Notes about labels that are one although they are written in several ways, and the reverse.

    Spaces around a label, and whether 1 is a number or a text, make no difference; case does.
    """
    spellings: dict[str, dict] = {}
    for label, (record, _) in zip(labels, records, strict=True):
        spellings.setdefault(label, {})[repr(record.get(column))] = None
    for label, ways in spellings.items():
        if len(ways) > 1:
            written = to_printable(" and ".join(ways))
            yield f"'{column}': {written} are one label, {quote(label)}"
    yield from warn_of_likeness(column, spellings)


def define_task(name: str, kind: str, columns: tuple, labels: tuple, **facts: Any) -> Task:
    """A task of no suite; answers to a test set go to test.jsonl.

    Of numbers, the answers themselves are wanted, not their order: r2 chooses the checkpoint, since
    correlations are as high when the answers hardly leave the mean.
    """
    metrics = {
        "regression": ("r2", "pearson", "spearman"),
        "classes": ("accuracy", "macro_f1"),
        "labels": ("micro_f1", "macro_f1", "exact_match"),
    }
    return Task(
        name,
        folders=(),
        splits={
            "train": Split((), ""),
            "val": Split((), ""),
            "test": Split((), "", "test.jsonl"),
        },
        kind=kind,
        columns=columns,
        labels=labels,
        metrics=metrics[kind],
        hub="",
        config="",
        **facts,
    )


def _are_amounts(numbers: list[float | None]) -> bool:
    """Whether labels look like amounts rather than names of classes."""
    if None in numbers:
        return False
    return len(numbers) > MOST_CLASSES or any(not number.is_integer() for number in numbers)


def _make_row(task: Task, number: int, record: dict, where: str, label: str | None) -> Row:
    texts = _get_texts(task, record, where)
    if label is None:
        return Row(number, texts)
    if task.kind == "regression":
        value = parse_number(label)
        if value is None:
            raise BortError(f"{where}: '{task.label}' is {quote(label)}, not a number; fix it")
        _check_range(value, task.label, where)
        return Row(number, texts, value)
    if label not in task.labels:
        raise BortError(
            f"{where}: label {quote(label)} is none of those in the training rows "
            f"({quote(', '.join(task.labels))}){suggest_name(label, task.labels)}"
        )
    return Row(number, texts, task.labels.index(label))


def _hold_out(rows: dict[str, list[Row]], source: str) -> dict[str, list[Row]]:
    """Training rows split by the hash of their texts: equal texts stay together."""
    distinct = {row.texts for row in rows["train"]}
    order = sorted(distinct, key=lambda t: hashlib.sha256("\0".join(t).encode()).digest())
    if len(order) < 2:
        raise BortError(f"{source}: one distinct text; give more rows, or a file as data.val")
    held = set(order[: math.ceil(HELD_OUT * len(order))])
    parts = {
        "train": [row for row in rows["train"] if row.texts not in held],
        "val": [row for row in rows["train"] if row.texts in held],
    }
    return parts | {split: tests for split, tests in rows.items() if split == "test"}


# ------------------------------------------------------------------------------------ cells


def _get_texts(task: Task, record: dict, where: str) -> tuple[str, ...]:
    return tuple(_get_text(record, column, where) for column in task.columns)


def _get_text(record: dict, column: str, where: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        is_nested = isinstance(value, (dict, list))
        problem = name_kind(type(value)) if is_nested else quote(value)
        problem = "absent" if value is None else f"{problem}, not text"
        raise BortError(f"{where}: '{column}' is {problem}; fix or drop the row")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise BortError(f"{where}: '{column}' has half a character; fix it") from None
    return value


def _check_text(column: str, records: Table) -> None:
    """Raises BortError for a column of numbers: it is not the text that was meant."""
    values = [record.get(column) for record, _ in records]
    if all(isinstance(value, str) and not value.strip() for value in values):
        raise BortError(f"{records[0][1]}: '{column}' is empty in this and every other row")
    numbers = (v if isinstance(v, (int, float)) else parse_number(str(v)) for v in values)
    if all(number is not None for number in numbers):
        raise BortError(
            f"{records[0][1]}: '{column}' is {quote(values[0])}, and a number in every row; set "
            "data.text to the column with the text"
        )


# ------------------------------------------------------------------------------------ files


def check_files(data: Any) -> None:
    """Raises BortError, before anything is read, for a file that is not there or none of rows.

    data: the settings, or as much of them as the command line has.
    """
    for split in ("train", "val", "test"):
        if name := data.get(split):
            _check_file(Path(str(name)).expanduser(), split)


def _check_file(path: Path, split: str) -> None:
    if path.is_dir():
        raise BortError(f"data.{split}={path} is a folder; name one file ({', '.join(SUFFIXES)})")
    kind, compression = split_suffixes(path)
    if kind not in SUFFIXES or (compression and kind == ".parquet"):
        raise BortError(f"data.{split}={path} is none of {', '.join(SUFFIXES)}; convert it")
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise BortError(f"data.{split}={path} is not there{suggest_name(path.name, near)}")
    if not path.stat().st_size:
        raise BortError(f"data.{split}={path} is empty; give a file with rows")


def _read_records(path: Path, split: str, data: DataConfig) -> Table:
    """All records of a file; its columns are checked."""
    path = path.expanduser()
    _check_file(path, split)
    needed = [*data.texts, *([] if split == "test" else data.labels)]
    try:
        table = read_table(path, needed, [*data.texts, *data.labels])
    except OSError as error:
        raise BortError(f"data.{split}={path}: {error.strerror or error}") from error
    if not len(table):
        raise BortError(f"{path}: no rows in it, only the names of columns; give a file with rows")
    return table
