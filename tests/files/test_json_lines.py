"""JSON lines are read as they stand, and a damaged line is named."""

import pytest

from bort.errors import BortError
from bort.files.json_lines import read_json_lines

GOOD = b'{"a": 1}\n'


def test_objects_have_their_line_and_size(tmp_path):
    """A mark at the start, CRLF, U+2028 inside a text, and no line feed at the end."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"a": "ö"}\r\n{"a": "x\u2028y"}\n{"a": 3}'.encode())
    lines = list(read_json_lines(path))
    assert [line.record["a"] for line in lines] == ["ö", "x\u2028y", 3]
    assert [line.where for line in lines] == [f"{path}, line {k}" for k in (1, 2, 3)]
    assert sum(line.size for line in lines) == path.stat().st_size
    path.write_bytes(b"")
    assert list(read_json_lines(path)) == []


@pytest.mark.parametrize("skips_blank", [False, True])
def test_a_half_written_last_line_is_no_object(tmp_path, skips_blank):
    path = tmp_path / "a.jsonl"
    path.write_bytes(2 * GOOD + b'{"a": "b')
    lines = read_json_lines(path, "remove it", skips_blank)
    assert [next(lines).record for _ in range(2)] == [{"a": 1}, {"a": 1}]
    with pytest.raises(BortError, match=r"a\.jsonl, line 3: not JSON \(.*\); remove it$"):
        next(lines)


def test_blank_lines_are_passed_over_only_where_a_file_may_have_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n \t\n" + GOOD + b"\n")
    assert [line.number for line in read_json_lines(path, skips_blank=True)] == [1, 4]
    with pytest.raises(BortError, match="line 2: not JSON"):
        list(read_json_lines(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]\n", r"line 2: a list, not an object {…}; fix it or get the file again"),
        (b"[" * 100_000, r"line 2: not JSON \(it is nested too deeply\)"),
        (b'{"a": "\0"}\n', "line 2: a NUL byte, the file is damaged"),
        (b'{"a": "\xff"}\n', r"not UTF-8 at byte 16; convert the file \(line 2\)"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + content)
    with pytest.raises(BortError, match=message) as caught:
        list(read_json_lines(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
