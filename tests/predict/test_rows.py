"""Tables and texts that bort.predict reads: opened more than once, streams once."""

import gzip
import lzma
import os
import threading

import pytest

from bort.errors import BortError
from bort.predict.rows import TableFile, check_texts, read_texts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\n\nfour", ["one", "two", "", "four"]),
        ("a.txt", b"", []),
        ("a.txt", b"ab\xff", "not UTF-8 at byte 2"),
        ("a.txt", b"a\nb\0", "line 2: a NUL byte"),
        ("a.txt", "one".encode("utf-16"), "UTF-16, not UTF-8"),
        ("a.txt", None, "No such file"),
        # Without the time of day, by which two processes that run the tests would differ.
        ("a.txt.gz", gzip.compress(b"one\ntwo", mtime=0), ["one", "two"]),
        ("a.txt.xz", lzma.compress(b"one\n"), ["one"]),
        ("a.txt.gz", gzip.compress(b"one\n", mtime=0)[:-4], "a.txt.gz is cut"),
        ("a.txt.zst", None, "No such file"),
    ],
)
def test_texts_of_a_file(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert list(read_texts(tmp_path / name)) == expected
        return
    with pytest.raises(BortError, match=expected):
        list(read_texts(tmp_path / name))
    with pytest.raises(BortError, match=expected):
        check_texts(tmp_path / name)


def test_a_table_is_opened_as_often_as_its_file_can_be_read(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id;review\n1;a\n2;b\n", mtime=0))
    table = TableFile(path, ".csv", ("review",), False)
    table.check()
    for _ in range(2):
        opened = table.open_rows()
        assert opened.columns == ("review",) and opened.separator == ";"
        assert opened.has_decimal_commas
        assert list(opened.rows) == [
            (f"{path}, line 2", {"id": "1", "review": "a"}),
            (f"{path}, line 3", {"id": "2", "review": "b"}),
        ]


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"text": "a"}\n',))
    writer.start()
    table = TableFile(path, ".jsonl", None, False)
    table.check()  # which would wait for ever, or take the rows away
    assert [cells for _, cells in table.open_rows().rows] == [{"text": "a"}]
    writer.join()


def test_columns_of_labels_are_looked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,stars\na,1\n")
    assert TableFile(path, ".csv", None, False, ("stars",)).open_rows().columns == ("text", "pair")
    with pytest.raises(BortError, match="no column 'star' .*did you mean 'stars'"):
        TableFile(path, ".csv", None, False, ("star",)).open_rows()
