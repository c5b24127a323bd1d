"""Rows of csv and tsv, as Python's own writer and pandas put them there."""

import ast
import csv
import io
from pathlib import Path

import pandas
import pytest

from bort.files import delimited
from bort.files.delimited import Mistake, read_csv, read_tsv

ROWS = [
    ["review", "stars"],
    ['it\'s 5;5, "really"|\tgood', "3,5"],
    ["two\r\nlines", ""],
    ["", "4"],
]


def read(text: str, *choices: list[str]) -> tuple[list[str], str, list[tuple[int, list[str]]]]:
    lines = io.StringIO(text, newline="")
    cells = read_csv(lines, "a.csv", choices)
    return cells.header, cells.separator, list(cells.rows)


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("choices", [[], [["text"], ["stars", "review"]]])
def test_what_stands_between_cells_is_seen(sign, choices):
    """With no columns to look for, too; the independent writer is Python's, the reader pandas'."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=sign).writerows(ROWS)
    header, separator, rows = read(buffer.getvalue(), *choices)
    assert (header, separator) == (ROWS[0], sign)
    frame = pandas.read_csv(io.StringIO(buffer.getvalue()), sep=sign, keep_default_na=False)
    assert [cells for _, cells in rows] == frame.astype(str).to_numpy().tolist() == ROWS[1:]
    assert [line for line, _ in rows] == [2, 3, 5]


def test_the_columns_decide_where_a_header_could_be_read_in_two_ways():
    """Of `a,b;c,d` commas give three cells, and semicolons the column that is looked for."""
    text = "a,b;c,d\n1,2;3,4\n"
    assert read(text)[:2] == (["a", "b;c", "d"], ",")
    assert read(text, ["a,b"])[:2] == (["a,b", "c,d"], ";")


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "\nsep=;\n"])
def test_the_line_that_tells_a_spreadsheet_its_separator(first):
    header, separator, rows = read(f"{first}a,b;c\n1;2\n", ["a,b"])
    line = first.count("\n") + 2
    assert (header, separator, rows) == (["a,b", "c"], ";", [(line, ["1", "2"])])


def test_blank_lines_and_files_without_rows():
    assert read("\n\na,b\n\n1,2\n")[2] == [(5, ["1", "2"])]
    assert read("") == read("\n \n") == ([], ",", [])
    assert read("a,b\n") == (["a", "b"], ",", [])
    assert list(read_tsv(iter(()), "a.tsv").rows) == []


def test_quotes_of_a_tsv_are_letters():
    cells = read_tsv(["a\tb\n", '"x\t"y"\r\n'], "a.tsv")
    assert cells.header == ["a", "b"] and list(cells.rows) == [(2, ['"x', '"y"'])]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_csv, 'a,b\n1,2\n"3,4\n5,6\n', "a.x, line 3: the row that starts here is not whole"),
        (read_csv, "a;b\n1;2;3\n", "a.x, line 2: 3 cells, not 2; fix or drop the line$"),
        (read_csv, "sep=;\na;b\n1\n", "a.x, line 3: 1 cell, not 2"),
        (
            read_tsv,
            'a\tb\n"two\nlines"\t1\n',
            "line 2: 1 cell, not 2; .*; is it a csv, in quotes.$",
        ),
        (read_tsv, "a\tb\n1\n", "line 2: 1 cell, not 2; fix or drop the line$"),
    ],
)
def test_a_mistake_is_named_with_its_line(reader, text, message):
    arguments = [[["a", "b"]]] if reader is read_csv else []
    with pytest.raises(Mistake, match=message):
        list(reader(text.splitlines(keepends=True), "a.x", *arguments).rows)


def test_a_lone_carriage_return_ends_a_line():
    lines = ["a,b\r1,2\r\n", "3,4\n"]
    assert list(delimited.split_at_returns(lines)) == ["a,b\r", "1,2\r\n", "3,4\n"]


def test_nothing_of_bort_is_imported():
    tree = ast.parse(Path(delimited.__file__).read_text("utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules and not [name for name in modules if name.startswith("bort")]
