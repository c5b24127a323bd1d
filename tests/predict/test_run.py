"""Answers on the screen and in files, by the command line: texts, tables and streams."""

import csv
import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pandas
import pytest

import bort
from bort import predictor
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.predict.run import main
from bort.predict.settings import PredictConfig

ROWS = [
    {"text": "a short one", "stars": 3, "note": "x;y"},
    {"text": 'two, "quoted"\nlines', "stars": 1, "note": ""},
    {"text": "a mask, and words", "stars": 2, "note": "ü"},
]


def predict(*words: str) -> None:
    main(parse_command(PredictConfig, list(words)))


def test_without_a_standard_output_nothing_is_answered(monkeypatch):
    with monkeypatch.context() as closed, pytest.raises(BortError, match="no standard output"):
        closed.setattr("sys.stdout", None)
        predict("model=absent", "text=a")


def by_hand(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bort.predict", *arguments],
        **dict(cwd=cwd, input=stdin.decode(), capture_output=True, text=True, timeout=120),
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
    lines = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [line["answer"]["label"].startswith("class") for line in lines] == [True, True]
    assert [line.get("pair") for line in lines] == [None, "b"]
    result = by_hand(model, "txt=x", cwd=tmp_path)
    line = "bort.predict: txt=x is not a setting; did you mean 'text'?; use model, text"
    assert result.returncode == 1 and result.stderr.startswith(line)
    assert by_hand(model, cwd=tmp_path).returncode == 1
    result = by_hand(model, "text=a", "out=in.jsonl/x", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("bort.predict: in.jsonl/x cannot be written: ")


def test_streams_by_hand(folders, tmp_path):
    """A csv in and a csv out, by `-`; texts in and lines of JSON out are the usual."""
    model = f"model={folders['classes']}"
    table = "id;text\n1;a short one\n"
    result = by_hand(model, "input=-", "format=csv", cwd=tmp_path, stdin=table.encode())
    assert result.stderr == ""
    header, line = result.stdout.splitlines()
    assert header.startswith("id;text;answer_label;answer_score;answer_scores_class 0;")
    assert line.startswith("1;a short one;class ")
    result = by_hand(model, "input=-", "out=-", cwd=tmp_path, stdin=b"one\ntwo\n")
    assert result.stderr == "" and [*map(json.loads, result.stdout.splitlines())][1]["label"]


def write(path: Path, rows: list[dict], **options) -> Path:
    frame = pandas.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, **options)
    return path


def read(path: Path, **options) -> list[dict]:
    """As pandas, which has its own readers, reads it."""
    if path.suffix == ".parquet":
        return pandas.read_parquet(path).to_dict("records")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pandas.read_csv(path, keep_default_na=False, **options).to_dict("records")


@pytest.mark.parametrize("source", ["in.csv", "in.jsonl", "in.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.parquet"])
def test_tables_in_and_tables_out(folders, tmp_path, source, out):
    """Every column of every row stays, in order, beside what `predict` answers to its text."""
    path = write(tmp_path / source, ROWS)
    predict(f"model={folders['classes']}", f"input={path}", f"out={tmp_path / out}")
    answers = bort.load(folders["classes"]).predict([row["text"] for row in ROWS])
    rows = read(tmp_path / out)
    for row, before, answer in zip(rows, ROWS, answers, strict=True):
        assert [str(row[key]) for key in before] == list(map(str, before.values()))
        if out == "out.jsonl":
            assert row["answer"]["scores"] == pytest.approx(answer["scores"])
            assert list(row) == [*before, "answer"]
            continue
        assert row["answer_label"] == answer["label"]
        scores = {f"answer_scores_{name}": score for name, score in answer["scores"].items()}
        assert list(row) == [*before, "answer_label", "answer_score", *scores]
        assert {name: row[name] for name in scores} == pytest.approx(scores)


def test_types_of_a_parquet_file_stay(folders, tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b"], "day": pandas.to_datetime(["2020-01-01"] * 2)})
    frame["gap"] = pandas.array([1, None], dtype="Int64")
    frame.to_parquet(tmp_path / "in.parquet")
    model, source = f"model={folders['number']}", f"input={tmp_path / 'in.parquet'}"
    predict(model, source, f"out={tmp_path / 'out.parquet'}")
    after = pandas.read_parquet(tmp_path / "out.parquet")
    assert after["day"].dtype == frame["day"].dtype and after["gap"][0] == 1
    assert list(after.columns) == ["text", "day", "gap", "answer_score"]
    predict(model, source, f"out={tmp_path / 'out.csv'}")
    assert "a,2020-01-01 00:00:00,1" in (tmp_path / "out.csv").read_text()
    predict(model, source, f"out={tmp_path / 'out.jsonl'}")
    assert read(tmp_path / "out.jsonl")[1]["gap"] is None


@pytest.mark.parametrize("sign", [",", ";", "|"])
def test_a_csv_goes_out_with_what_stood_between_its_cells(folders, tmp_path, sign):
    rows = [row | {"text": f"{row['text']}{sign}"} for row in ROWS]
    path = write(tmp_path / "in.csv", rows, sep=sign)
    predict(f"model={folders['number']}", f"input={path}", f"out={tmp_path / 'out.csv'}")
    lines = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text()), delimiter=sign))
    assert lines[0] == ["text", "stars", "note", "answer_score"]
    assert [line[:3] for line in lines[1:]] == [[str(v) for v in row.values()] for row in rows]


def test_what_is_no_row_of_a_table_has_answers_alone(folders, tmp_path):
    (tmp_path / "in.txt").write_text("one\n\nthree\n")
    predict(f"model={folders['number']}", f"input={tmp_path}/in.txt", f"out={tmp_path}/out.csv")
    assert [list(row) for row in read(tmp_path / "out.csv")] == [["answer_score"]] * 3
    predict(f"model={folders['masked']}", "text=a <mask>", f"out={tmp_path}/out.tsv")
    (row,) = read(tmp_path / "out.tsv", sep="\t", quoting=csv.QUOTE_NONE)
    assert len(json.loads(row["answer_words"])[0]) == 5


def test_columns_are_named(folders, tmp_path, capsys):
    path = write(tmp_path / "in.csv", [{"q": "a", "a": "b", "text": "c"}])
    model = bort.load(folders["number"])
    for words, text in ((["text=q"], "a"), (["text=[q, a]"], ("a", "b")), ([], "c")):
        predict(f"model={folders['number']}", f"input={path}", *words)
        (expected,) = model.predict([text])
        assert json.loads(capsys.readouterr().out)["answer"] == pytest.approx(expected)


MISTAKES = [
    ("a.csv", "q\nx\n", [], "line 1: no column|no column 'text' .it has 'q'.; give text=COLUMN"),
    ("a.csv", "text\nx\n", ["text=[text,b]"], "no column 'b' .*; give text=.COLUMN,COLUMN.$"),
    ("a.csv", "", [], "is empty; give a file with rows"),
    ("a.csv", "text,b\n", [], "only the names of columns are in it; give some rows"),
    ("a.csv", "text,b,b\nx,y,z\n", [], "two columns are named 'b'; rename one"),
    ("a.csv", "text,b\nx,y,z\n", [], "line 2: 3 cells, not 2"),
    ("a.csv", "text\nx\0\n", [], "line 2: a NUL byte"),
    ("a.csv", b"text\ncaf\xe9\n", [], "not UTF-8 at byte 8"),
    ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', [], "line 2: 'text' is 3, no text"),
    ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', [], "line 2: 'text' is absent; fix or drop"),
    ("a.jsonl", '{"text": "a"}\n[1]\n', [], "line 2: a list, not an object"),
    ("a.csv", "text,answer_score\nx,y\n", [], "line 2: .*own column is named 'answer_score'; ren"),
    ("a.parquet", "text\nx\n", [], "a.parquet: not a whole parquet file"),
    ("a.txt", "", [], "a.txt is empty; put a text on each line"),
    ("b.txt", None, [], "input=.*b.txt: No such file"),
    ("b.csv", None, [], "input=.*b.csv: No such file"),
    ("a.csv", "text\nx\n", ["top=3"], "top= is for a masked language model"),
    ("a.jsonl", '{"text": "a"}\n{"text": "b", "c": 1}\n', ["csv"], "'c' is no column of the first"),
    ("a.csv", 'text\n"x\ty"\n', ["tsv"], "line 2: 'x.ty' has a tab or ends a line"),
]


@pytest.mark.parametrize(("name", "content", "words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(folders, tmp_path, name, content, words, message):
    path, end = tmp_path / name, words[0] if words in (["csv"], ["tsv"]) else "csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = [word for word in words if "=" in word]
    words += [f"model={folders['number']}", f"input={path}", f"out={tmp_path}/out.{end}"]
    before = {item.name for item in tmp_path.iterdir()}
    for more in ([], ["dry_run=true"]):  # which refuses whatever would be refused
        with pytest.raises(BortError, match=message) as error:
            predict(*words, *more)
        assert "\n" not in str(error.value)
        assert {item.name for item in tmp_path.iterdir()} == before


def test_a_file_that_is_read_is_not_written(folders, tmp_path):
    path = write(tmp_path / "in.csv", ROWS)
    content = path.read_bytes()
    with pytest.raises(BortError, match="in.csv is read from input="):
        predict(f"model={folders['number']}", f"input={path}", f"out={path}")
    assert path.read_bytes() == content


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_table(folders, tmp_path, end, monkeypatch):
    """60,000 rows of 300 characters, 18 MB; the model's part of the work is left out."""
    monkeypatch.setattr(
        predictor.Predictor, "answers", lambda model, texts, top: ({"score": 1.0} for _ in texts)
    )
    path = tmp_path / "in.csv"
    path.write_text("text,note\n" + "".join(f"{k},{'x' * 290}\n" for k in range(60_000)))
    words = f"model={folders['number']}", f"input={path}", f"out={tmp_path}/out.{end}"
    predict("model=" + str(folders["number"]), "text=a")  # what is loaded once
    tracemalloc.start()
    predict(*words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (12e6 if end == "parquet" else 4e6)
    rows = read(tmp_path / f"out.{end}")
    assert [str(row["text"]) for row in rows] == [str(k) for k in range(60_000)]


def test_a_dry_run_counts_and_checks_and_writes_nothing(folders, tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "in.csv", [row | {"label": "class 0"} for row in ROWS] * 700)
    words = f"model={folders['classes']}", f"input={path}", f"out={tmp_path}/out.csv", "score=true"
    monkeypatch.setattr(predictor.Predictor, "answers", lambda *_, **__: pytest.fail("answered"))
    predict(*words, "dry_run=true")
    shown = capsys.readouterr().out
    assert "rows        2,100 of " in shown and "the text in text (and pair)" in shown
    assert "3 classes (class 0, class 1, class 2)" in shown
    assert "accuracy, macro_f1, of the labels in label" in shown and "reading " in shown
    assert shown.endswith("dry_run=true: nothing was answered\n")
    assert [item.name for item in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("masked", "no mask", "'no mask' has no <mask> to fill"),
        ("masked", "a <mask>", None),
        ("number", "\ud83d", "has half a character"),
    ],
)
def test_a_dry_run_reads_every_row_as_the_model_does(folders, tmp_path, model, text, message):
    """The 1,500th row is the one that the model would refuse."""
    lines = [json.dumps({"text": "a <mask>"})] * 1499 + [json.dumps({"text": text})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    words = f"model={folders[model]}", f"input={tmp_path}/in.jsonl", "dry_run=true"
    if message is None:
        predict(*words)
        return
    with pytest.raises(BortError, match=f"row 1500: .*{message}"):
        predict(*words)
