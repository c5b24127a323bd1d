"""`bort.load(...).predict` against plain transformers; the command line."""

import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

import bort
from bort import predict
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.predict import read_texts


def test_without_a_standard_output_nothing_is_answered(monkeypatch):
    settings = parse_command(predict.PredictConfig, ["model=absent", "text=a"])
    with monkeypatch.context() as closed, pytest.raises(BortError, match="no standard output"):
        closed.setattr("sys.stdout", None)
        predict.main(settings)


def by_hand(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bort.predict", *arguments],
        **dict(cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120),
    )


def test_by_hand(folders, tmp_path):
    model = f"model={folders['classes']}"
    result = by_hand(model, "text=a short one", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    expected = bort.load(folders["classes"]).predict(["a short one"])[0]
    assert json.loads(result.stdout)["scores"] == pytest.approx(expected["scores"])
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "a", "pair": "b"}\n')
    result = by_hand(model, "input=in.jsonl", "out=out.jsonl", cwd=tmp_path)
    assert result.stdout == "2 answers: out.jsonl\n" and result.stderr == ""
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"].startswith("class") for line in lines] == [True, True]
    result = by_hand(model, "txt=x", cwd=tmp_path)
    line = "bort.predict: txt=x is not a setting; did you mean 'text'?; use model, text"
    assert result.returncode == 1 and result.stderr.startswith(line)
    assert by_hand(model, cwd=tmp_path).returncode == 1
    for wrong, line in {
        "top=x": "bort.predict: top=x is no number of words; write top=5\n",
        "out=in.jsonl/x": "bort.predict: in.jsonl/x cannot be written: ",
        "out=.": "bort.predict: . is a folder; give the name of a file\n",
    }.items():
        result = by_hand(model, "text=a", wrong, cwd=tmp_path)
        assert result.returncode == 1 and result.stderr.startswith(line), result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\n\nfour", ["one", "two", "", "four"]),
        ("a.txt", b"", []),
        ("a.jsonl", b'{"text": "x"}\n', ["x"]),
        ("a.jsonl", b'{"text": "x"}\n{"txt": 1}\n', "line 2 is no object with the key text"),
        ("a.txt", b"ab\xff", "is not UTF-8 at byte 2"),
        ("a.txt", None, "No such file"),
        # Without the time of day, by which two processes that run the tests would differ.
        ("a.txt.gz", gzip.compress(b"one\ntwo", mtime=0), ["one", "two"]),
        ("a.jsonl.xz", lzma.compress(b'{"text": "x", "pair": "y"}\n'), [("x", "y")]),
        ("a.jsonl.gz", gzip.compress(b'{"txt": 1}', mtime=0), "a.jsonl.gz line 1 is no object"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}', mtime=0)[:-4], "a.jsonl.gz is cut"),
        ("a.txt.zst", None, "No such file"),
        ("a.csv.gz", b"", "give a .txt file .* data.test=FILE answers tables"),
        ("a.csv", b"text\nx\n", "give a .txt file .* data.test=FILE answers tables"),
    ],
)
def test_texts_of_a_file(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert list(read_texts(tmp_path / name)) == expected
    else:
        with pytest.raises(BortError, match=expected):
            list(read_texts(tmp_path / name))
