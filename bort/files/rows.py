"""Rows in memory become a file, since files are what every recipe reads, records and resumes by.

The file is named after the digest of its content, so that equal rows give the same file.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bort.console import listed
from bort.errors import BortError, suggest_name
from bort.files.writing import replace_file

Record = dict[str, Any]


def store_rows(
    rows: Any, split: str, texts: Sequence[str], label: str | Sequence[str], folder: Path
) -> Path:
    """Return a file with these rows: a path as it is, or JSON lines in `folder`.

    rows: a path, a list of dicts, a pandas DataFrame or a datasets.Dataset. split: `train`, `val`
    or `test`, of which the last needs no labels. texts, label: the columns that are kept; label is
    one of them, or one for each of several labels. The classes of a datasets.ClassLabel, or of a
    list of them, are kept by their names, and missing values as null, as are numbers that are no
    class. Raises BortError for what cannot be rows.
    """
    if isinstance(rows, str | os.PathLike):
        return Path(rows)
    labels = [label] if isinstance(label, str) else label
    columns = [*dict.fromkeys([*texts, *labels])]
    names, records = _read_records(rows, split, columns)
    for column in (texts if split == "test" else columns) if names else ():
        if column not in names:
            hint = suggest_name(column, names) or f"; it has {listed(names, 100)}"
            raise BortError(f"{split} has no column '{column}'{hint}")
    if not records:
        raise BortError(f"{split} has no rows; give some")
    digest = hashlib.sha256()
    for line in _to_lines(records, split):
        digest.update(line)
    path = folder / f"{digest.hexdigest()[:16]}.jsonl"
    if not path.is_file():
        with replace_file(path) as file:
            file.writelines(_to_lines(records, split))
    return path


def name_rows(message: str, path: Path, split: str) -> str:
    """Return a message about a file of stored rows as one about the rows: `train, row 3: …`."""
    named = message.replace(f"{path}, line ", f"{split}, row ")
    return split + named.removeprefix(str(path)) if named.startswith(str(path)) else named


def _read_records(rows: Any, split: str, columns: list[str]) -> tuple[list[str], list[Record]]:
    """Return the names of all columns, and the rows with no others than `columns`."""
    if hasattr(rows, "features") and hasattr(rows, "select_columns"):
        return _read_dataset(rows, columns)
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):
        return [str(name) for name in rows.columns], _read_frame(rows, columns)
    kinds = "a path, a list of dicts, a DataFrame or a Dataset"
    if isinstance(rows, Mapping):  # a DatasetDict, or a table by column
        hint = f"; give one of its splits, as in {split}=dataset['{split}']" * (split in rows)
        raise BortError(f"{split} is of type {type(rows).__name__}, not rows: {kinds}{hint}")
    try:
        records = list(rows)
    except TypeError:
        raise BortError(f"{split} is of type {type(rows).__name__}, not rows: {kinds}") from None
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            kind = type(record).__name__
            raise BortError(f"{split}, row {number} is of type {kind}, not a dict of its columns")
    names = {str(name): None for record in records[:1] for name in record}
    return list(names), [_select_columns(record, columns) for record in records]


def _select_columns(record: Mapping[str, Any], columns: list[str]) -> Record:
    return {name: record[name] for name in columns if name in record}


def _read_dataset(dataset: Any, columns: list[str]) -> tuple[list[str], list[Record]]:
    """The same of a datasets.Dataset, with the names of its classes."""
    names = list(dataset.column_names or dataset.features or ())
    records = list(dataset.select_columns([name for name in columns if name in names]))
    for column, feature in (dataset.features or {}).items():
        inner = getattr(feature, "feature", feature)  # of a list, what stands in it
        if column in columns and hasattr(inner, "int2str"):
            classes = dict(enumerate(inner.names))
            records = [record | {column: _name(record[column], classes)} for record in records]
    return names, records


def _name(value: Any, classes: dict[int, str]) -> Any:
    """Name the class with a number, or the classes in a list."""
    if isinstance(value, list):
        return [classes.get(number) for number in value]
    return classes.get(value)


def _read_frame(frame: Any, columns: list[str]) -> list[Record]:
    """Read the rows of a pandas DataFrame, with None for its several kinds of missing values."""
    cells = {name: frame[name] for name in columns if name in frame.columns}
    filled = [cell.astype(object).where(cell.notna(), None).tolist() for cell in cells.values()]
    return [dict(zip(cells, values, strict=True)) for values in zip(*filled, strict=True)]


def _to_lines(records: list[Record], split: str) -> Iterator[bytes]:
    """Yield each row as a line of JSON."""
    for number, record in enumerate(records, start=1):
        cells = {
            name: _to_json(value, f"{split}, row {number}: '{name}'")
            for name, value in record.items()
        }
        yield json.dumps(cells).encode() + b"\n"


def _to_json(value: Any, where: str) -> Any:
    """Convert a cell to JSON; lists and dicts stay, to be read or refused with the file."""
    if isinstance(value, list | tuple | set | frozenset) or getattr(value, "ndim", 0) == 1:
        parts = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        return [_to_json(part, where) for part in parts]
    if value is None or isinstance(value, bool | int | dict):
        return value
    if isinstance(value, str):
        return str(value)  # also of numpy's kind
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if hasattr(value, "item"):  # a number of numpy, or a tensor of one
        return _to_json(value.item(), where)
    raise BortError(
        f"{where} is of type {type(value).__name__}; give text, a number or true and false"
    )
