"""Readers of csv, tsv, jsonl and Parquet files, which keep the needed columns only.

All but Parquet files may be compressed, as in `rows.csv.gz`.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bort.errors import BortError, quote, suggest_name
from bort.files import delimited
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
    """The records of a file, kept by column: 8 bytes a cell beside its text.

    unit: line or row. has_decimal_commas: whether a comma in a number is a decimal one.
    """

    def __init__(self, path: Path, unit: str, columns: list[str], has_decimal_commas: bool = False):
        self.path, self.unit, self.has_decimal_commas = path, unit, has_decimal_commas
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
    stream = stream_rows(path, [needed], columns)
    if stream.columns:
        check_columns(stream.columns, needed, stream.header)
    table = Table(path, stream.unit, list(dict.fromkeys(columns)), stream.has_decimal_commas)
    for number, cells in stream.rows:
        if stream.kind == ".jsonl":
            check_columns(list(cells), needed, stream.locate(number))
        table.add(number, cells)
    return table


@dataclass(frozen=True)
class RowStream:
    """The rows of a file, which are read once, one after another, with their lines or numbers.

    columns: those of the header, and of a jsonl file those of its first object; none where the file
    is empty. header: where they are, as lines about mistakes say it. separator: what stands between
    the cells of a csv or tsv file.
    """

    path: Path
    kind: str
    columns: list[str]
    header: str
    rows: Iterator[tuple[int, dict[str, Any]]]
    separator: str | None = None

    @property
    def unit(self) -> str:
        """What rows are counted in."""
        return "row" if self.kind == ".parquet" else "line"

    @property
    def has_decimal_commas(self) -> bool:
        """Whether a comma in a number is a decimal one, since none stands between cells."""
        return self.separator in (";", "\t")

    def locate(self, number: int) -> str:
        """Return `FILE, line N`, with which a line about a mistake begins."""
        return f"{self.path}, {self.unit} {number}"


def stream_rows(
    path: Path,
    choices: Sequence[Sequence[str]],
    columns: list[str] | None = None,
    kind: str | None = None,
) -> RowStream:
    """Open a csv, tsv, jsonl or Parquet file, whose rows are read one after another.

    choices: the columns that are looked for, all of one of them, by which the separator of a csv
    file is known. columns: those that are read of a Parquet file; None: all. kind: the ending that
    says what a file is whose name does not. Raises BortError, there or with a row, for what cannot
    be read.
    """
    kind = kind or split_suffixes(path)[0]
    if kind == ".parquet":
        _, names = read_parquet_shape(path)
        present = [name for name in dict.fromkeys(columns or names) if name in names]
        return RowStream(path, kind, names, str(path), _read_parquet(path, present))
    if kind == ".jsonl":
        lines = read_json_lines(path, skips_blank=True)
        first = next(lines, None)
        names = list(first.record) if first else []
        rows = ((line.number, line.record) for line in chain([first] if first else [], lines))
        return RowStream(path, kind, names, first.where if first else str(path), rows)
    with translate_mistakes():
        lines = _read_lines(path)
        if kind == ".csv":
            cells = delimited.read_csv(delimited.split_at_returns(lines), str(path), choices)
        else:
            cells = delimited.read_tsv(lines, str(path))
    header, where = cells.header, f"{path}, line {cells.line}"
    return RowStream(path, kind, header, where, _name_cells(cells), cells.separator)


def check_columns(
    has: list[str], needed: Sequence[str], where: str, hint: str = "set data.text and data.label"
) -> None:
    """Raise BortError, which begins with `where`, unless each column needed is there, and once.

    hint: what to do where one is missing that resembles none.
    """
    for column in needed:
        if column not in has:
            advice = suggest_name(column, has) or f"; {hint}"
            names = quote(", ".join(has))
            raise BortError(f"{where}: no column '{column}' (it has {names}){advice}")
    twice = [name for name, count in Counter(has).items() if count > 1 and name in needed]
    if twice:
        raise BortError(f"{where}: two columns are named '{twice[0]}'; rename one")


@contextmanager
def translate_mistakes() -> Iterator[None]:
    """Raise the mistakes of the rules that are shared with predict.py as BortError."""
    try:
        yield
    except delimited.Mistake as error:
        raise BortError(str(error)) from None


def _name_cells(cells: delimited.Cells) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the cells of rows by column."""
    with translate_mistakes():
        for number, row in cells.rows:
            yield number, dict(zip(cells.header, row, strict=True))


def _read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends."""
    for line, number, _ in read_raw_lines(path):
        check_no_nul(line, f"{path}, line {number}")
        yield line


def _read_parquet(path: Path, columns: list[str]) -> Iterator[tuple[int, dict]]:
    for number, cells in enumerate(read_parquet_rows(path, columns), start=1):
        yield number, dict(zip(columns, cells, strict=True))
