"""Rows of cells in csv and tsv files, as spreadsheets and programs write them.

It imports nothing of bort, since it is also a part of the predict.py that an export ships: both
read the same rows of the same file.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # the first line of a csv file, for a spreadsheet
LONGEST_CELL = 1 << 30  # characters; Python's csv refuses a text of 131,072 by default


class Mistake(ValueError):
    """A mistake of the user; the message is one line."""


class Cells(NamedTuple):
    """The header of a file with its line, what stands between cells, and the rows with theirs."""

    header: list[str]
    line: int  # from 1
    separator: str
    rows: Iterator[tuple[int, list[str]]]


def read_csv(lines: Iterable[str], name: str, choices: Sequence[Sequence[str]]) -> Cells:
    """Read rows whose cells are quoted as spreadsheets do it, where a quoted one may hold lines.

    Between cells stand commas, or what gives a header with all columns of one of `choices`:
    semicolons, as spreadsheets of many languages write them, tabs or bars. A first line `sep=;`
    says it, too. lines: with their ends; name: what mistakes begin with. Blank lines are no rows.
    Raises Mistake, with the line, for a row that is not whole.
    """
    csv.field_size_limit(LONGEST_CELL)
    lines, skipped, separator = iter(lines), 0, None
    for first in lines:
        if (match := SEPARATOR_LINE.fullmatch(first)) and separator is None:
            separator = match[1]
        elif first.strip():
            break
        skipped += 1
    else:
        return Cells([], 1, separator or ",", iter(()))
    separator = separator or _find_separator(first, choices)
    reader = csv.reader(chain([first], lines), strict=True, delimiter=separator)
    rows = _read_rows(reader, name, skipped)
    line, header = next(rows)
    header = [cell.strip() for cell in header]
    return Cells(header, line, separator, _check_widths(rows, header, name))


def _find_separator(first: str, choices: Sequence[Sequence[str]]) -> str:
    """Find what stands between the cells of a header: what gives the columns, else most cells."""
    headers = {}
    for sign in SEPARATORS:
        cells = next(csv.reader([first], delimiter=sign), [])
        headers[sign] = [cell.strip() for cell in cells]
    for sign, header in headers.items():
        if any(columns and set(columns) <= set(header) for columns in choices):
            return sign
    return max(SEPARATORS, key=lambda sign: len(headers[sign]))


def _read_rows(reader, name: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a reader of csv, and the line on which each starts."""
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if cells:
                yield start + skipped, cells
    except csv.Error as error:
        raise Mistake(
            f"{name}, line {line + skipped}: the row that starts here is not whole ({error}); fix "
            "its quotes"
        ) from error


def read_tsv(lines: Iterable[str], name: str) -> Cells:
    """Read rows of cells between tabs, one on each line; a quote is a letter like any other."""
    rows = _split_at_tabs(lines)
    line, header = next(rows, (1, []))
    return Cells(header, line, "\t", _check_widths(rows, header, name, "; is it a csv, in quotes?"))


def _split_at_tabs(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, raw in enumerate(lines, start=1):
        if line := raw.removesuffix("\n").removesuffix("\r"):
            yield number, line.split("\t")


def _check_widths(
    rows: Iterator[tuple[int, list[str]]], header: list[str], name: str, hint: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Raise Mistake for a row with another number of cells; hint: where one of them has a quote."""
    for number, cells in rows:
        if len(cells) != len(header):
            noun = "cell" if len(cells) == 1 else "cells"
            advice = hint if any(cell.startswith('"') for cell in cells) else ""
            raise Mistake(
                f"{name}, line {number}: {len(cells):,} {noun}, not {len(header)}; fix or drop the "
                f"line{advice}"
            )
        yield number, cells


def split_at_returns(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines with their ends, cut at a lone carriage return too, as old spreadsheets end them.

    lines: with their ends, which are line feeds.
    """
    for line in lines:
        yield from io.StringIO(line, newline="") if "\r" in line[:-2] else (line,)
