"""Readers of csv, tsv, jsonl and Parquet files, which keep the needed columns only.

All but Parquet files may be compressed, as in `rows.csv.gz`.
"""

import csv
import io
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bort.console import counted
from bort.errors import BortError, quote, suggest_name
from bort.files.compressed import split_suffixes
from bort.files.json_lines import read_json_lines
from bort.files.text_files import (
    check_no_nul,
    read_parquet_rows,
    read_parquet_shape,
    read_raw_lines,
)

SHARED = 10_000  # So many texts, labels above all, are one object wherever they are equal.
Record = tuple[dict[str, Any], str]  # cells by column, and where they are


class Table(Sequence[Record]):
    """The records of a file, kept by column: 8 bytes a cell beside its text."""

    def __init__(self, path: Path, unit: str, columns: list[str]):
        self.path, self.unit = path, unit  # line or row
        self.cells: dict[str, list] = {name: [] for name in columns}
        self.numbers = array("q")  # of the line or row, from 1
        self.shared: dict[str, str] = {}

    def add(self, number: int, cells: dict[str, Any]) -> None:
        """Add a record; a column that it lacks is None."""
        self.numbers.append(number)
        for name, column in self.cells.items():
            cell = cells.get(name)
            if isinstance(cell, str):
                cell = self.shared.get(cell, cell)
                if len(self.shared) < SHARED:
                    self.shared[cell] = cell
            column.append(cell)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        record = {name: column[index] for name, column in self.cells.items()}
        return record, f"{self.path}, {self.unit} {self.numbers[index]}"


def read_table(path: Path, needed: list[str], columns: list[str]) -> Table:
    """Read these columns of a file, and check that those of `needed` are there.

    Raises BortError, with the line or row, for what cannot be read; OSError for a file that cannot.
    """
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_tsv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    suffix, _ = split_suffixes(path)
    table = Table(path, "row" if suffix == ".parquet" else "line", list(dict.fromkeys(columns)))
    for number, cells in readers[suffix](path, needed, columns):
        table.add(number, cells)
    return table


def _check_columns(has: list[str], needed: list[str], where: str) -> None:
    for column in needed:
        if column not in has:
            hint = suggest_name(column, has) or "; set data.text and data.label"
            raise BortError(f"{where}: no column '{column}' (it has {quote(', '.join(has))}){hint}")
    twice = [name for name, count in Counter(has).items() if count > 1 and name in needed]
    if twice:
        raise BortError(f"{where}: two columns are named '{twice[0]}'; rename one")


def _read_csv(path: Path, needed: list[str], columns: list[str]) -> Iterator[tuple[int, dict]]:
    """Read rows of cells that are quoted as spreadsheets do it, where a quoted one may hold lines.

    Between cells stand commas, or what else gives a header with the columns needed: semicolons or
    tabs, as spreadsheets of other languages write them.
    """
    csv.field_size_limit(1 << 30)  # the default refuses a text of 131,072 characters
    reader = csv.reader(_split_lines(path), strict=True, delimiter=_find_delimiter(path, needed))
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue  # a blank line
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_columns(header, needed, f"{path}, line {start}")
                continue
            yield start, _match_cells(header, cells, f"{path}, line {start}")
    except csv.Error as error:
        raise BortError(
            f"{path}, line {line}: the row that starts here is not whole ({error}); fix its quotes"
        ) from error


def _find_delimiter(path: Path, needed: list[str]) -> str:
    first = next((line for line in _split_lines(path) if line.strip()), "")
    for sign in (",", ";", "\t"):
        header = next(csv.reader([first], delimiter=sign), [])
        if set(needed) <= {cell.strip() for cell in header}:
            return sign
    return ","


def _split_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends, cut at a carriage return too."""
    for _, line in _read_lines(path):
        yield from io.StringIO(line, newline="") if "\r" in line[:-2] else (line,)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, and the line with its end."""
    for line, number, _ in read_raw_lines(path):
        check_no_nul(line, f"{path}, line {number}")
        yield number, line


def _read_tsv(path: Path, needed: list[str], columns: list[str]) -> Iterator[tuple[int, dict]]:
    """Read rows of cells between tabs, one on each line; a quote is a letter like any other."""
    header: list[str] = []
    for number, raw in _read_lines(path):
        line = raw.removesuffix("\n").removesuffix("\r")
        cells = line.split("\t")
        if not header:
            header = cells
            _check_columns(header, needed, f"{path}, line {number}")
        elif line:
            yield number, _match_cells(header, cells, f"{path}, line {number}")


def _match_cells(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise BortError(
            f"{where}: {counted(len(cells), 'cell')}, not {len(header)}; fix or drop the line"
        )
    return dict(zip(header, cells, strict=True))


def _read_jsonl(path: Path, needed: list[str], columns: list[str]) -> Iterator[tuple[int, dict]]:
    """Read one JSON object a line."""
    for line in read_json_lines(path, skips_blank=True):
        _check_columns(list(line.record), needed, line.where)
        yield line.number, line.record


def _read_parquet(path: Path, needed: list[str], columns: list[str]) -> Iterator[tuple[int, dict]]:
    _, names = read_parquet_shape(path)
    _check_columns(names, needed, str(path))
    present = [name for name in dict.fromkeys(columns) if name in names]
    for number, cells in enumerate(read_parquet_rows(path, present), start=1):
        yield number, dict(zip(present, cells, strict=True))
