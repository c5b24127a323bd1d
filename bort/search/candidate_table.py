"""A table of candidates as `python -m bort.fptas` reads it, each number of it checked."""

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bort.errors import BortError
from bort.models.arch import Arch
from bort.search.coefficient import Scale


@dataclass
class CandidateTable:
    """Candidates of a CSV, what is known of their errors, and T's numbers."""

    points: dict[Arch, tuple[float, float]] = field(default_factory=dict)
    errors: dict[Arch, float] = field(default_factory=dict)
    diverged: set[Arch] = field(default_factory=set)
    scale: Scale | None = None


NUMBERS = ("parameters", "latency", "error")


def read_candidates(path: Path) -> CandidateTable:
    """Read the table of a CSV file. Raises BortError with the line's number.

    Columns depth, heads, hidden, intermediate, parameters, latency, error, status; the row of T has
    the status `teacher`. A search's candidates.csv is one. An error may be missing: it is unknown,
    but for a candidate with the status `diverged`.
    """
    if not path.is_file():
        raise BortError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    table, lines = CandidateTable(), {}
    rows = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    try:
        columns = rows.fieldnames or []
        if missing := [c for c in (*Arch.KEYS, *NUMBERS, "status") if c not in columns]:
            header = ", ".join(columns)[:60] or "nothing"
            raise BortError(f"{path} has no column {missing[0]}; found {header}")
        for row in rows:
            if row["status"] != "invalid":  # heads that do not divide the width: no numbers
                with _name_line(path, rows.line_num):
                    lines[_add_row(table, row)] = rows.line_num
    except csv.Error as error:
        raise BortError(f"{path} is no table: {error}") from None
    if table.scale is None:
        raise BortError(f"{path} has no row with the status teacher, the maximum point")
    if not table.points:
        raise BortError(f"{path} has no candidates, only the row of the teacher")
    for xi, e in table.errors.items():
        with _name_line(path, lines[xi]):
            table.scale.compute_quality(e)  # it raises for an error that no candidate can have
    return table


def _read_text(path: Path) -> str:
    """Read a text file; raises BortError for one that is no text."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BortError(f"{path} is no text in UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise BortError(f"{path} is no text: it holds a zero byte")
    return text


@contextmanager
def _name_line(path: Path, number: int) -> Iterator[None]:
    """Put the line's number in front of what a BortError says."""
    try:
        yield
    except BortError as error:
        raise BortError(f"{path} line {number}: {error}") from None


def _add_row(table: CandidateTable, row: dict[str, str | None]) -> Arch | None:
    """Put a row into the table; returns its ξ, None for T's."""
    try:
        xi = Arch.from_table(row)
    except ValueError:
        sizes = ",".join(str(row[column]) for column in Arch.KEYS)
        raise BortError(f"{sizes} are not four whole numbers") from None
    if min(xi.to_json()) < 1:
        raise BortError(f"{xi} has a size below 1")
    p, i, e = (_parse_positive(row, column) for column in NUMBERS)
    if p is None or i is None:
        raise BortError(f"{xi} needs parameters and latency")
    if row["status"] == "teacher":
        if table.scale is not None:
            raise BortError("a second row has the status teacher")
        if e is None:
            raise BortError("the teacher needs an error, the entropy of its own output")
        table.scale = Scale(p, i, e)
        return None
    if xi in table.points:
        raise BortError(f"{xi} stands in the table twice")
    table.points[xi] = (p, i)
    if row["status"] == "diverged":
        table.diverged.add(xi)
    elif e is not None:
        table.errors[xi] = e
    return xi


def _parse_positive(row: dict[str, str | None], column: str) -> float | None:
    """Parse the number of a cell, None for an empty one; raises BortError for one not above 0."""
    if not (cell := (row[column] or "").strip()):
        return None
    try:
        value = float(cell)
    except ValueError as error:
        raise BortError(f"{str(error)[:80]} ({column})") from None
    if not 0 < value < math.inf:
        raise BortError(f"{column}={cell[:40]} must be a number above 0")
    return value
