"""The texts and tables that bort.predict reads: row after row, and once more for their mistakes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bort.errors import BortError
from bort.export.tables import USUAL, choose_columns, get_text
from bort.files.tables import check_columns, stream_rows, translate_mistakes
from bort.files.text_files import check_no_nul, read_lines
from bort.files.writing import is_stream

Row = tuple[str, dict[str, Any]]  # where it is, and its cells


@dataclass(frozen=True)
class OpenTable:
    """A table whose rows are read once: the columns of its texts, and its separator if it has one.

    has_decimal_commas: whether a comma in a number is a decimal one.
    """

    rows: Iterator[Row]
    columns: tuple[str, ...]
    separator: str | None
    has_decimal_commas: bool


@dataclass(frozen=True)
class TableFile:
    """A table of any length, which can be opened as often as its file can be read."""

    path: Path
    kind: str
    wanted: tuple[str, ...] | None  # columns of the texts, where they are known
    is_explicit: bool  # whether the user names them
    labels: tuple[str, ...] = ()  # columns that must be there beside them

    def open_rows(self) -> OpenTable:
        """Open the file; raises BortError, there or with a row, for what cannot be read."""
        try:
            stream = stream_rows(self.path, [self.wanted or (), USUAL[:1]], kind=self.kind)
        except OSError as error:
            raise BortError(f"input={self.path}: {error.strerror or error}") from None
        with translate_mistakes():
            columns = choose_columns(stream.columns, self.wanted, str(self.path), self.is_explicit)
        check_columns(stream.columns, self.labels, stream.header, "set label=COLUMN")
        rows = ((stream.locate(number), _clean(cells)) for number, cells in stream.rows)
        return OpenTable(rows, columns, stream.separator, stream.has_decimal_commas)

    def check(self) -> None:
        """Read all rows for their mistakes, unless they can be read only once.

        Raises BortError for one, and for a table without rows.
        """
        if is_stream(self.path):
            return
        table, count = self.open_rows(), 0
        with translate_mistakes():
            for where, cells in table.rows:
                get_text(cells, table.columns, where)
                count += 1
        if not count:
            raise BortError(f"{self.path}: only the names of columns are in it; give some rows")


def _clean(cells: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of a row, with nothing for a number that is none, as Parquet files have."""
    for name, cell in cells.items():
        if isinstance(cell, float) and math.isnan(cell):
            cells[name] = None
    return cells


def read_texts(path: Path) -> Iterator[str]:
    """Yield the lines of a file, which may be compressed; a blank line is a text, too.

    Raises BortError, with the line, for what is no text.
    """
    try:
        for line in read_lines(path):
            check_no_nul(line.text, f"{path}, line {line.number}")
            yield line.text
    except OSError as error:
        raise BortError(f"input={path}: {error.strerror or error}") from None


def check_texts(path: Path) -> None:
    """Read all lines for their mistakes; raises BortError for one, and for an empty file."""
    if not is_stream(path) and not sum(1 for _ in read_texts(path)):
        raise BortError(f"input={path} is empty; put a text on each line")
