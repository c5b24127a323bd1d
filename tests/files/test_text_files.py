"""Lines and Parquet rows are streamed as they stand, and what is no UTF-8 text is named."""

import zipfile

import pandas
import pytest

from bort.errors import BortError
from bort.files.text_files import (
    read_lines,
    read_parquet_rows,
    read_parquet_shape,
    read_raw_lines,
    read_whole_text,
)


def test_only_a_line_feed_ends_a_line(tmp_path):
    """U+2028 and a form feed stay inside; sizes count bytes, of ends and of the mark too."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "ö\r\na\u2028b\fc\n\nlast".encode())
    raw = [("ö\r\n", 1, 7), ("a\u2028b\fc\n", 2, 8), ("\n", 3, 1), ("last", 4, 4)]
    assert [tuple(line) for line in read_raw_lines(path)] == raw
    assert [line.text for line in read_lines(path)] == ["ö", "a\u2028b\fc", "", "last"]
    assert sum(line.size for line in read_lines(path)) == path.stat().st_size


def test_the_whole_text_has_no_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_whole_text(path) == "a\r\nb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.txt is empty"),
        (b"a\nb\0\n", "line 2: a NUL byte"),
        (b"a\nb\xe9c\n", r"not UTF-8 at byte 3; convert the file \(line 2\)"),
        ("ab".encode("utf-16"), "UTF-16, not UTF-8"),
        ("ab".encode("utf-16-be"), "UTF-16, not UTF-8"),
        ("ab".encode("utf-32"), "UTF-32, not UTF-8"),
        (b"\x1f\x8b\x08", "is not text"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BortError, match=message):
        read_whole_text(tmp_path / "a.txt")


def test_a_spreadsheet_is_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as file:
        file.writestr("sheet.xml", "<a/>")
    with pytest.raises(BortError, match="is not text"):
        list(read_lines(tmp_path / "a.csv"))


def test_parquet_agrees_with_pandas(tmp_path):
    path = tmp_path / "a.parquet"
    table = pandas.DataFrame({"text": ["a", None, "ö"] * 700, "x": range(2100), "y": 0.5})
    table.to_parquet(path)
    assert read_parquet_shape(path) == (2100, ["text", "x", "y"])
    rows = list(read_parquet_rows(path, ["x", "text"]))
    assert rows == list(zip(range(2100), ["a", None, "ö"] * 700, strict=True))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BortError, match="not a whole parquet file"):
        read_parquet_shape(path)
