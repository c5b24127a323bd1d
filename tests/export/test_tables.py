"""The rules of tables that both predictors share: columns, answers beside cells, lines."""

import csv
import io
import itertools
import json

import pytest

from bort.export.tables import (
    LineWriter,
    answer_rows,
    choose_columns,
    flatten_answer,
    get_text,
    read_rows,
    spell_cell,
    split_names,
)
from bort.files.delimited import Mistake
from bort.files.tables import stream_rows

USUAL = ("text", "pair")


def test_the_names_of_columns():
    names = [split_names(text) for text in ("a,b", "[a, b]", "[a", "[a]")]
    assert names == [("a,b",), ("a", "b"), ("[a",), ("a",)]


@pytest.mark.parametrize(
    ("columns", "wanted", "expected"),
    [
        (["a", "text"], ("a",), ("a",)),
        (["a", "text"], ("b",), USUAL),
        (["text", "pair"], None, USUAL),
        (["q", "a"], ("a", "q"), ("a", "q")),
    ],
)
def test_the_columns_of_the_texts(columns, wanted, expected):
    assert choose_columns(columns, wanted, "a.csv", False) == expected


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ([], None, "a.csv is empty; give a file with rows"),
        (["a", "b", "a"], ("b",), "a.csv: two columns are named 'a'; rename one"),
        (["a"], None, "a.csv: no column 'text' (it has 'a'); give text=COLUMN"),
        (["a"], ("a", "b"), "a.csv: no column 'b' (it has 'a'); give text=[COLUMN,COLUMN]"),
        (["text"], ("b",), "a.csv: no column 'b' (it has 'text'); give text=COLUMN"),
    ],
)
def test_a_table_without_the_columns_is_one_line(columns, wanted, message):
    with pytest.raises(Mistake) as error:
        choose_columns(columns, wanted, "a.csv", is_explicit=True)
    assert str(error.value) == message


def test_texts_of_a_row():
    """A second usual column may be absent from a row; one that was chosen may not."""
    assert get_text({"text": "a", "pair": None}, USUAL, "here") == "a"
    assert get_text({"text": "a", "pair": ""}, USUAL, "here") == ("a", "")
    assert get_text({"text": "a", "b": "c"}, ("b", "text"), "here") == ("c", "a")
    for cells, message in (({"text": 3}, "'text' is 3, no text"), ({}, "'text' is absent")):
        with pytest.raises(Mistake, match=f"here: {message}; fix or drop the row"):
            get_text(cells, ("text",), "here")


def test_answers_meet_their_rows_whatever_is_read_ahead():
    rows = ((f"row {k}", {"text": str(k)}) for k in itertools.count())

    def answer(texts):
        while True:  # seven are read before the first is answered
            yield from [{"score": int(text)} for text in itertools.islice(texts, 7)]

    for k, (where, cells, result) in zip(range(30), answer_rows(rows, USUAL, answer), strict=False):
        assert (where, cells, result) == (f"row {k}", {"text": str(k)}, {"score": k})


ANSWER = {"label": "good", "score": 0.5, "scores": {"bad": 0.25, "good": 0.5}}


def test_an_answer_as_cells():
    assert flatten_answer(ANSWER) == {
        "answer_label": "good",
        "answer_score": 0.5,
        "answer_scores_bad": 0.25,
        "answer_scores_good": 0.5,
    }
    assert [spell_cell(v) for v in (None, "a", True, 1.5, ["ü"], {"a": 1})] == [
        *("", "a", "true", "1.5", '["ü"]', '{"a": 1}')
    ]


@pytest.mark.parametrize(("kind", "sign"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_lines_are_read_back_as_they_were(kind, sign):
    writer = LineWriter(kind, sign)
    cells = [{"a": 'x, "y"; z', "b": None}, {"a": "", "b": 2}]
    if kind == ".csv":
        cells.append({"a": "two\r\nlines\tü", "b": ""})
    text = "".join(writer.write("here", row, ANSWER) for row in cells)
    quoting = csv.QUOTE_NONE if kind == ".tsv" else csv.QUOTE_MINIMAL
    header, *lines = csv.reader(io.StringIO(text, newline=""), delimiter=sign, quoting=quoting)
    assert header == ["a", "b", *flatten_answer(ANSWER)]
    assert [line[:2] for line in lines] == [[spell_cell(v) for v in row.values()] for row in cells]
    assert [line[2:] for line in lines] == [["good", "0.5", "0.25", "0.5"]] * len(cells)


def test_lines_of_json():
    writer = LineWriter(".jsonl", encoding="cp1252")
    line = writer.write("here", {"text": "日", "more": [1]}, ANSWER)
    assert json.loads(line.encode("cp1252")) == {"text": "日", "more": [1], "answer": ANSWER}
    assert json.loads(writer.write("", None, ANSWER)) == ANSWER
    with pytest.raises(Mistake, match="here: the answers' own column is named 'answer'"):
        writer.write("here", {"answer": 1}, ANSWER)


ROWS = {
    ".csv": "a;text\n1;x\n",
    ".tsv": 'a\ttext\n"1\tx\n',
    ".jsonl": '\n{"a": 1, "text": "x"}\n\n{"b": 2}\n',
}


@pytest.mark.parametrize("kind", ROWS)
def test_both_readers_read_the_same_rows(tmp_path, kind):
    """That of the shipped predict.py, and that of the trainings."""
    path = tmp_path / f"a{kind}"
    path.write_text(ROWS[kind])
    lines = iter(ROWS[kind].splitlines(keepends=True))  # which can be read only once
    rows = read_rows(lines, str(path), kind, [["text"]])
    stream = stream_rows(path, [["text"]])
    assert (rows.columns, rows.separator) == (stream.columns, stream.separator)
    assert list(rows.rows) == [(stream.locate(number), cells) for number, cells in stream.rows]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "a, line 1: not JSON; fix it"), ("[1]", r"a, line 1: \[1\] is no object {…}; fix it")],
)
def test_lines_that_are_no_objects(line, message):
    with pytest.raises(Mistake, match=message):
        read_rows([line], "a", ".jsonl", [])
