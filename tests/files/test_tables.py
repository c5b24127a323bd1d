"""Tables agree with independent readers, name the place of an error and take little memory."""

import json
import tracemalloc
from pathlib import Path

import pandas
import pytest

from bort.errors import BortError
from bort.files.tables import read_table, stream_rows


def test_a_table_takes_little_memory_beside_its_texts(tmp_path):
    """50,000 rows of 16 equal letters and a column that nobody needs: 16 bytes and a pointer."""
    path = tmp_path / "a.csv"
    path.write_text("review,label,other\n" + f"{'a' * 16},x,{'b' * 200}\n" * 50_000)
    tracemalloc.start()
    table = read_table(path, ["review", "label"], ["review", "label"])
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 50_000 and table[49_999][1].endswith("a.csv, line 50001")
    assert peak < 50_000 * 40


def read_cells(path: Path, columns: list[str]) -> list[dict]:
    return [cells for cells, _ in read_table(path, columns, columns)]


def test_csv_agrees_with_pandas(tmp_path):
    path = tmp_path / "a.csv"
    frame = pandas.DataFrame({"a": ['say "hi"', "x,y", "line\nbreak"], "b": ["1", "ö", ""]})
    frame.to_csv(path, index=False)
    assert read_cells(path, ["a", "b"]) == frame.to_dict("records")
    places = [place for _, place in read_table(path, ["a"], ["a"])]
    assert places == [f"{path}, line {number}" for number in (2, 3, 4)]


def test_only_wanted_columns_are_kept_and_equal_texts_are_one_object(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"a": f"text {k}", "label": "yes", "more": k} for k in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_table(path, ["a"], ["a", "label", "absent"])
    assert [cells for cells, _ in table] == [
        {"a": f"text {k}", "label": "yes", "absent": None} for k in range(3)
    ]
    assert table[0][0]["label"] is table[2][0]["label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,c\n1,2\n", "line 1: no column 'b'"),
        ("a.csv", "a,b,b\n1,2,3\n", "two columns are named 'b'"),
        ("a.csv", 'a,b\n1,2\n"3,4\n', "line 3: the row that starts here is not whole"),
        ("a.tsv", "a\tb\n1\t2\n3\n", "line 3: 1 cell, not 2"),
        ("a.jsonl", '{"a": 1, "b": 2}\n{"a": 1}\n', "line 2: no column 'b'"),
        ("a.csv", "a,b\n1,\0\n", "line 2: a NUL byte"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BortError, match=message):
        read_table(tmp_path / name, ["a", "b"], ["a", "b"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_of_any_length_are_read_one_after_another(tmp_path, suffix):
    """All columns, in the order of the file, and memory for a few rows: the file has 4 MB."""
    path = tmp_path / f"a{suffix}"
    frame = pandas.DataFrame({"b": [f"{k} {'x' * 200}" for k in range(20_000)], "a": "y"})
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep={".csv": ";", ".tsv": "\t"}[suffix])
    stream = stream_rows(path, [["a"]])
    assert stream.columns == ["b", "a"] and stream.has_decimal_commas == (
        suffix in (".csv", ".tsv")
    )
    tracemalloc.start()
    count = 0
    for _, cells in stream.rows:
        count += cells == {"b": f"{count} {'x' * 200}", "a": "y"}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 1_500_000
    unit = "row" if suffix == ".parquet" else "line"
    assert stream.locate(7) == f"{path}, {unit} 7" and stream.header.startswith(str(path))


def test_a_file_whose_name_does_not_say_what_it_is(tmp_path):
    path = tmp_path / "stdin"
    path.write_text('{"a": 1}\n\n{"a": 2, "b": 3}\n')
    stream = stream_rows(path, [], kind=".jsonl")
    assert stream.columns == ["a"]
    assert list(stream.rows) == [(1, {"a": 1}), (3, {"a": 2, "b": 3})]
    path.write_bytes(b"")
    assert stream_rows(path, [], kind=".csv").columns == []
    assert stream_rows(path, [], kind=".jsonl").columns == []
