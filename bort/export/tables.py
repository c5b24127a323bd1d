"""Tables in, tables out: the texts of rows, and the same rows with answers beside their cells.

`bort.predict` and the predict.py of an exported folder, which this file becomes a part of, share
these rules: which columns hold the texts, what an answer's columns are called, and how cells are
spelled.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bort.export.rules import Text, shorten, to_json_line
from bort.files.delimited import Mistake, read_csv, read_tsv, split_at_returns

USUAL = ("text", "pair")  # columns of the texts where nothing says more; the second may be absent
ANSWER = "answer"  # the key of what is added to a row, and the beginning of its columns' names
TSV_SIGNS = frozenset("\t\r\n")  # which a cell of a tsv file cannot hold
KINDS = (".csv", ".tsv", ".jsonl", ".txt")


class Rows(NamedTuple):
    """The rows of a table, and what stands between the cells of a csv or tsv file.

    columns: those of the header, or of the first row. rows: of each, where it is and its cells.
    """

    columns: list[str]
    rows: Iterator[tuple[str, dict[str, Any]]]
    separator: str | None = None


def read_rows(lines: Iterable[str], name: str, kind: str, choices: Sequence[Sequence[str]]) -> Rows:
    """Read the rows of a csv, tsv or jsonl file.

    lines: with their ends. name: what mistakes begin with. kind: the ending of a file of this kind.
    choices: the columns that are looked for, by which the separator of a csv file is known.
    """
    if kind == ".jsonl":
        objects = _read_objects(lines, name)
        first = next(objects, None)
        columns = list(first[1]) if first else []
        return Rows(columns, chain([first] if first else [], objects))
    if kind == ".csv":
        table = read_csv(split_at_returns(lines), name, choices)
    else:
        table = read_tsv(lines, name)
    rows = (
        (f"{name}, line {number}", dict(zip(table.header, cells, strict=True)))
        for number, cells in table.rows
    )
    return Rows(table.header, rows, table.separator)


def _read_objects(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the object on each line that is not blank, and where it is."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise Mistake(f"{where}: not JSON; fix it or get the file again") from None
        if not isinstance(record, dict):
            raise Mistake(f"{where}: {shorten(record)} is no object {{…}}; fix it")
        yield where, record


def split_names(text: str) -> tuple[str, ...]:
    """Split the names of columns: one, or several as in [a,b]."""
    if not (text.startswith("[") and text.endswith("]")):
        return (text,)
    return tuple(name.strip() for name in text[1:-1].split(","))


def choose_columns(
    columns: Sequence[str], wanted: Sequence[str] | None, name: str, is_explicit: bool
) -> tuple[str, ...]:
    """Choose the columns of the texts: those wanted, else the usual ones.

    wanted: those that the user names (`is_explicit`), or that the model was trained on, if they are
    known. Raises Mistake for a table that has neither, that has no rows, or a column twice.
    """
    if not columns:
        raise Mistake(f"{name} is empty; give a file with rows")
    twice = [column for number, column in enumerate(columns) if column in columns[:number]]
    if twice:
        raise Mistake(f"{name}: two columns are named {shorten(twice[0])}; rename one")
    if wanted and set(wanted) <= set(columns):
        return tuple(wanted)
    if not is_explicit and USUAL[0] in columns:
        return USUAL
    missing = next(column for column in (wanted or USUAL) if column not in columns)
    names = "[COLUMN,COLUMN]" if wanted and len(wanted) == 2 else "COLUMN"
    raise Mistake(
        f"{name}: no column {shorten(missing)} (it has {shorten(', '.join(columns), 60)}); give "
        f"text={names}"
    )


def get_text(cells: dict[str, Any], columns: tuple[str, ...], where: str) -> Text:
    """Return the text of a row, or its two texts; raises Mistake for a cell that is none."""
    if columns == USUAL and cells.get(USUAL[1]) is None:
        columns = USUAL[:1]
    texts = tuple(cells.get(column) for column in columns)
    for column, text in zip(columns, texts, strict=True):
        if not isinstance(text, str):
            problem = "absent" if text is None else f"{shorten(text)}, no text"
            raise Mistake(f"{where}: {shorten(column)} is {problem}; fix or drop the row")
    return texts if len(texts) > 1 else texts[0]


def answer_rows(
    rows: Iterable[tuple[str, dict[str, Any]]],
    columns: tuple[str, ...],
    answer: Callable[[Iterable[Text]], Iterator[dict]],
) -> Iterator[tuple[str, dict[str, Any], dict]]:
    """Yield each row with where it is and its answer, in order; a block of them is in memory.

    answer: yields an answer for each text of an iterable, which it may read ahead.
    """
    waiting: deque[tuple[str, dict[str, Any]]] = deque()

    def take_texts() -> Iterator[Text]:
        for where, cells in rows:
            waiting.append((where, cells))
            yield get_text(cells, columns, where)

    for result in answer(take_texts()):
        where, cells = waiting.popleft()
        yield where, cells, result


def flatten_answer(answer: dict, prefix: str = ANSWER) -> dict[str, Any]:
    """Return an answer as cells: `answer_label`, `answer_score`, `answer_scores_good` and so on."""
    cells = {}
    for key, value in answer.items():
        name = f"{prefix}_{key}"
        cells |= flatten_answer(value, name) if isinstance(value, dict) else {name: value}
    return cells


def join_cells(cells: dict[str, Any], added: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the cells of a row and those of its answer; raises Mistake where they share a name."""
    if shared := next((column for column in added if column in cells), None):
        raise Mistake(f"{where}: the answers' own column is named {shorten(shared)}; rename yours")
    return cells | added


class LineWriter:
    """Turns rows and their answers into the lines of a csv, tsv or jsonl file."""

    def __init__(self, kind: str, separator: str | None = None, encoding: str | None = "utf-8"):
        """separator: of the csv file that is read. encoding: that of a screen, for jsonl."""
        self.kind, self.encoding = kind, encoding
        self.separator = "\t" if kind == ".tsv" else separator or ","
        self.columns: list[str] | None = None

    def write(self, where: str, cells: dict[str, Any] | None, answer: dict) -> str:
        """Return the lines of a row, the header before the first; their ends included.

        cells: None for a text that is no row of a table. Raises Mistake for a row that has other
        columns than the first one, or that a tsv file cannot hold.
        """
        if self.kind == ".jsonl":
            row = answer if cells is None else join_cells(cells, {ANSWER: answer}, where)
            return to_json_line(row, self.encoding) + "\n"
        row, lines = join_cells(cells or {}, flatten_answer(answer), where), ""
        if self.columns is None:
            self.columns = list(row)
            lines = self._join(self.columns, where)
        if list(row) != self.columns:
            if more := [column for column in row if column not in self.columns]:
                raise Mistake(
                    f"{where}: {shorten(more[0])} is no column of the first row; use out=FILE.jsonl"
                )
        return lines + self._join([spell_cell(row.get(name)) for name in self.columns], where)

    def _join(self, cells: list[str], where: str) -> str:
        if self.kind == ".csv":
            line = io.StringIO()
            csv.writer(line, delimiter=self.separator, lineterminator="\n").writerow(cells)
            return line.getvalue()
        if wrong := [cell for cell in cells if not TSV_SIGNS.isdisjoint(cell)]:
            raise Mistake(
                f"{where}: {shorten(wrong[0])} has a tab or ends a line, for which a tsv has no "
                "sign; use out=FILE.csv"
            )
        return "\t".join(cells) + "\n"


def spell_cell(value: Any) -> str:
    """Spell a value as the cell of a csv file: numbers, lists and the like as JSON."""
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)
