"""Parquet files of answers, in blocks, with the types of what was read or of the first block."""

from contextlib import closing

import pyarrow
import pytest
from pyarrow import parquet

from bort.errors import BortError
from bort.export.tables import LineWriter
from bort.predict.writing import BLOCK, LineSink, ParquetSink


def write(path, rows, source=None):
    with path.open("wb") as file, closing(ParquetSink(file, source)) as sink:
        for number, (cells, answer) in enumerate(rows, start=1):
            sink.add(f"row {number}", cells, answer)
        sink.finish()


def test_blocks_of_rows_are_one_table(tmp_path):
    """A column that is empty in the first block is text, and lists may begin empty."""
    rows = [({"n": k, "late": None}, {"labels": []}) for k in range(BLOCK)]
    rows.append(({"n": BLOCK, "late": "x"}, {"labels": ["a"]}))
    write(tmp_path / "a.parquet", rows)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.schema.names == ["n", "late", "answer_labels"]
    assert table["n"].to_pylist() == list(range(BLOCK + 1))
    assert table["late"].to_pylist()[-2:] == [None, "x"]
    assert table["answer_labels"].to_pylist()[-2:] == [[], ["a"]]


def test_types_are_those_of_the_file_that_is_read(tmp_path):
    schema = pyarrow.schema([("n", pyarrow.int16()), ("tag", pyarrow.string())])
    parquet.write_table(pyarrow.table({"n": [1], "tag": [None]}, schema), tmp_path / "in.parquet")
    rows = [({"n": 1, "tag": None}, {"score": 0.5})]
    write(tmp_path / "out.parquet", rows, tmp_path / "in.parquet")
    after = parquet.read_schema(tmp_path / "out.parquet")
    assert after.types == [pyarrow.int16(), pyarrow.string(), pyarrow.float64()]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"n": "many"}, f"row {BLOCK + 1} and on: cells of other types than before"),
        ({"n": 1, "more": 2}, f"row {BLOCK + 1} and on: 'more' is no column of the first rows"),
        ({"answer_score": 1}, "own column is named 'answer_score'; rename yours"),
    ],
)
def test_rows_that_do_not_fit_are_one_line(tmp_path, cells, message):
    rows = [({"n": k}, {"score": 0.5}) for k in range(BLOCK)] + [(cells, {"score": 0.5})]
    with pytest.raises(BortError, match=message) as error:
        write(tmp_path / "a.parquet", rows)
    assert "\n" not in str(error.value)


def test_lines_are_handed_on_at_once():
    lines = []
    sink = LineSink(LineWriter(".csv", ";"), lines.append)
    sink.add("row 1", {"a": "x"}, {"score": 0.5})
    assert lines == ["a;answer_score\nx;0.5\n"]
    sink.finish()
    assert len(lines) == 1
    with pytest.raises(BortError, match="row 2: 'b' is no column of the first row"):
        sink.add("row 2", {"a": "x", "b": "y"}, {"score": 0.5})
