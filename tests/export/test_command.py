"""The command line of an exported predict.py: files, streams, tables, and mistakes in one line."""

import csv
import gzip
import io
import json
import lzma
import sys
import types

import pytest

from bort.export import command, standalone


@pytest.fixture
def call(shipped, monkeypatch, tmp_path, capsys):
    """predict.py of a folder with these arguments: its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(standalone.Model.__init__, "__defaults__", (shipped / name, 1))
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            command.main()
        except SystemExit as error:
            code, text = (1, f"{error.code}\n") if isinstance(error.code, str) else (error.code, "")
            print(text, end="", file=sys.stderr)
        return code, *capsys.readouterr()

    return run


def test_files_and_the_standard_input(call, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3\xa9\n\nfour")
    (tmp_path / "in.jsonl").write_text('{"text": "a", "pair": "b"}\n')
    code, text, errors = call("one.onnx", "input=in.txt")
    assert (code, errors) == (0, "") and len(text.splitlines()) == 4
    assert call("one.onnx", "-", stdin=b"one\ntwo \xc3\xa9\n\nfour") == (0, text, "")
    code, said, errors = call("one.onnx", "input=in.txt", "out=out.jsonl")
    assert (code, said, errors) == (0, "4 answers: out.jsonl\n", "")
    assert (tmp_path / "out.jsonl").read_text() == text
    assert call("pairs.onnx", "input=in.jsonl")[0] == 0
    (tmp_path / "in.TXT.gz").write_bytes(gzip.compress((tmp_path / "in.txt").read_bytes()))
    assert call("one.onnx", "input=in.TXT.gz") == (0, text, "")
    pair = call("pairs.onnx", "input=in.jsonl")
    (tmp_path / "in.jsonl.xz").write_bytes(lzma.compress((tmp_path / "in.jsonl").read_bytes()))
    assert call("pairs.onnx", "input=in.jsonl.xz") == pair
    (tmp_path / "out.jsonl").chmod(0o600)
    call("one.onnx", "a text", "out=out.jsonl")
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
    assert len(json.loads(call("mlm.onnx", "a <mask>", "top=3")[1])["words"][0]) == 3
    assert len(json.loads(call("mlm.onnx", "a <mask>", "top=99999")[1])["words"][0]) == 2048
    assert json.loads(call("one.onnx", "")[1])["label"]  # an empty text is a text
    code, text, errors = call("one.onnx", "--help")
    assert code == 0 and "input=texts.txt" in text and errors == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a text, or input=FILE, or - for the standard input"),
        (["a", "input=in.txt"], "give a text, or input=FILE"),
        (["--halp"], "--halp is not an option"),
        (["inptu=in.txt"], "inptu= is no setting; did you mean input=?"),
        (["input=in.txt", "output=a.csv"], "output= is no setting; there are "),
        (["a", "top=x"], "top='x' is no number of words"),
        (["a", "top=3"], "top= is for a masked language model"),
        (["input=in.txt", "out=in.txt"], "out=in.txt is the input"),
        (["input=in.txt", "out=."], "out=. is a folder"),
        (["input=in.txt", "out=~no-user/x"], "out=~no-user/x: there is no home folder"),
        (["input=in.txt", "out=in.txt/x"], "out=in.txt/x cannot be written: "),
        (["input=missing.txt"], "input=missing.txt: No such file"),
        (["input=empty.txt"], "input=empty.txt is empty"),
        (["input=wide.txt"], "input=wide.txt has a NUL byte in line 1, as UTF-16 has"),
        (["input=mark.txt"], "input=mark.txt is empty"),
        (["input=in.txt", "out=/dev/full"], "out=/dev/full cannot be written: No space left"),
        (["input=t.XLSX"], "input=t.XLSX: save it as csv, tsv, jsonl, or a .txt with a text per"),
        (["input=t.parquet"], "input=t.parquet: save it as csv, tsv, jsonl"),
        (["input=t.jsonl.zst"], "input=t.jsonl.zst: predict.py cannot unpack it; unpack it by"),
        (["input=cut.txt.gz"], "input=cut.txt.gz is cut: its .gz data ends too early"),
        (["input=cut.txt.xz"], "input=cut.txt.xz is cut: its .xz data ends too early"),
        (["input=bad.txt.gz"], "input=bad.txt.gz is damaged, or no .gz file"),
        (["input=bad.txt.xz"], "input=bad.txt.xz is damaged, or no .xz file"),
        (["input=none.txt.gz"], "input=none.txt.gz is empty"),
        (["input=missing.txt.xz"], "input=missing.txt.xz: No such file"),
        (["input=latin.txt"], "input=latin.txt is not UTF-8 at byte 6 (line 2)"),
        (["input=bad.jsonl"], "input=bad.jsonl, line 2: [1] is no object {…}; fix it"),
        (["input=half.jsonl"], "row 2: '\\ud83d' has half a character"),
        (["x" * 5000, "y" * 5000], "the model was fine-tuned on one text"),
    ],
)
def test_a_mistake_is_one_line(call, tmp_path, arguments, message):
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "wide.txt").write_bytes("a text".encode("utf-16-le"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "latin.txt").write_bytes(b"one\nca\xff\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n[1]\n')
    (tmp_path / "half.jsonl").write_text('{"text": "x"}\n{"text": "\\ud83d"}\n')
    for pack, name in ((gzip.compress, "gz"), (lzma.compress, "xz")):
        packed = pack(b"one\n" * 9000)
        (tmp_path / f"cut.txt.{name}").write_bytes(packed[: len(packed) // 2])
        (tmp_path / f"bad.txt.{name}").write_bytes(b"no archive")
    (tmp_path / "none.txt.gz").write_bytes(b"")
    before = {path.name for path in tmp_path.iterdir()}
    code, _, errors = call("one.onnx", *arguments)
    assert code == 1 and errors.startswith(f"predict.py: {message}") or message in errors
    assert errors.count("\n") == 1 and len(errors) < 200
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "in.txt").read_text() == "one\n"


@pytest.mark.parametrize(("name", "arguments"), [("stdin", "-"), ("stdout", "a text")])
def test_streams_that_are_closed_are_one_line(call, monkeypatch, name, arguments):
    """As `predict.py - <&-` and `>&-` close them."""
    closed = types.SimpleNamespace(stdin=sys.stdin, stdout=sys.stdout, argv=["", arguments])
    setattr(closed, name, None)
    monkeypatch.setattr(command, "sys", closed)
    model = types.SimpleNamespace(kind="", answers=lambda texts, top: texts)
    monkeypatch.setattr(command, "Model", lambda threads: model)
    with pytest.raises(SystemExit, match=f"there is no standard {name[3:]}put"):
        command.main()


TABLE = 'id;review;stars\n1;"good; really";5\n2;"two\nlines";1\n'


def test_tables_in_and_tables_out(call, shipped, tmp_path):
    """Every cell stays, and so does the separator; the answers are those of the Python door."""
    (tmp_path / "in.csv").write_text(TABLE)
    code, shown, errors = call("one.onnx", "input=in.csv", "text=review", "out=out.csv")
    assert (code, shown, errors) == (0, "2 answers: out.csv\n", "")
    text = (tmp_path / "out.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))
    before = list(csv.DictReader(io.StringIO(TABLE, newline=""), delimiter=";"))
    answers = standalone.Model(shipped / "one.onnx").predict([row["review"] for row in before])
    for row, cells, answer in zip(rows, before, answers, strict=True):
        assert list(row)[:5] == ["id", "review", "stars", "answer_label", "answer_score"]
        assert {name: row[name] for name in cells} == cells
        assert row["answer_label"] == answer["label"]
        assert float(row["answer_scores_positive"]) == pytest.approx(answer["scores"]["positive"])
    code, shown, _ = call("one.onnx", "input=in.csv", "text=review", "format=csv")
    assert shown == text
    words = "-", "format=csv", "text=review", "out=-"
    assert call("one.onnx", *words, stdin=TABLE.encode()) == (0, shown, "")
    call("one.onnx", "input=in.csv", "text=review", "out=out.jsonl", "threads=2")
    lines = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [line.pop("answer")["label"] for line in lines] == [row["label"] for row in answers]
    assert lines == before


def test_the_columns_of_the_training_are_remembered(call, shipped, tmp_path):
    """Those of SST-2 are read without a word; a table with `text` instead is read, too."""
    assert json.loads((shipped / "one.onnx" / "export.json").read_text())["columns"] == ["sentence"]
    answers = []
    for name in ("sentence", "text"):
        (tmp_path / "in.tsv").write_text(f"{name}\tother\na text\tb\n")
        code, shown, errors = call("one.onnx", "input=in.tsv")
        assert (code, errors) == (0, "")
        answers.append(json.loads(shown)["answer"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", [], "input=in.csv is empty; give a file with rows"),
        ("text\n", [], "input=in.csv is empty; put a text on each line, or rows"),
        (
            "review\na\n",
            [],
            "input=in.csv: no column 'sentence' (it has 'review'); give text=COLUMN",
        ),
        ("a\nb\n", ["text=[a,b]"], "no column 'b' (it has 'a'); give text=[COLUMN,COLUMN]"),
        ("text,text\na,b\n", [], "input=in.csv: two columns are named 'text'; rename one"),
        ("text\na,b\n", [], "input=in.csv, line 2: 2 cells, not 1; fix or drop the line"),
        ('text\n"a\n', [], "input=in.csv, line 2: the row that starts here is not whole"),
        (
            "text,answer_label\na,b\n",
            ["format=csv"],
            "the answers' own column is named 'answer_label'; rename",
        ),
        ("text\na\n", ["format=xls"], "format='xls' is none of csv, tsv, jsonl"),
        ("text\na\n", ["format=csv", "out=a.csv"], "format=csv is of - and of the screen"),
        ("text\na\n", ["threads=x"], "threads='x' is no number of threads; write threads=2"),
        ("text\na\n", ["out=a.parquet"], "out=a.parquet: predict.py writes csv, tsv and jsonl"),
        ('text\n"a\tb"\n', ["out=a.tsv"], "line 2: 'a\\tb' has a tab or ends a line"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(call, tmp_path, content, arguments, message):
    (tmp_path / "in.csv").write_text(content)
    code, _, errors = call("one.onnx", "input=in.csv", *arguments)
    assert code == 1 and message in errors and errors.count("\n") == 1, errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_text_and_format_are_texts_where_nothing_is_read(call):
    assert json.loads(call("one.onnx", "text=a")[1])["label"]
    assert json.loads(call("pairs.onnx", "text=a", "format=b")[1])["label"]
    code, _, errors = call("one.onnx", "-", "text=a")
    assert code == 1 and "text=a names a column, and the input has lines only" in errors
