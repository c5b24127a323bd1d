"""The user's own files: every format, labels, mistakes with file and line, mutations."""

import csv
import gzip
import io
import json
import random
import re
import zipfile
from pathlib import Path

import pandas
import pytest

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.files.text_files import read_lines
from bort.tasks import custom

ROWS = [
    ('Good, really "good".', "pos"),
    ("Bad", "neg"),
    ("Two\nlines", "neg"),
    ("Tränen und 日本", "pos"),
    ("  spaces  ", "neutral"),
    ("NA", "neg"),
]


def write(path: Path, rows: list[dict]) -> Path:
    """A file as pandas, which has its own writers, writes it."""
    frame = pandas.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        lines = ["\t".join(frame.columns)]
        lines += ["\t".join(map(str, row)) for row in frame.itertuples(index=False)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def records(rows=ROWS) -> list[dict]:
    return [{"id": k, "review": text, "label": label} for k, (text, label) in enumerate(rows)]


def data(train: Path, **given) -> DataConfig:
    return DataConfig(train=str(train), text=given.pop("text", "review"), **given)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    given = [row for row in ROWS if suffix != ".tsv" or "\n" not in row[0]]
    path = write(tmp_path / f"train{suffix}", records(given))
    task, rows = custom.read_custom_task(data(path, val=str(path), test=str(path)))
    assert task.labels == ("neg", "neutral", "pos") and task.kind == "classes"
    assert task.metrics == ("accuracy", "macro_f1")
    for split in ("train", "val", "test"):
        assert [row.texts for row in rows[split]] == [(text,) for text, _ in given]
        assert [task.labels[row.label] for row in rows[split]] == [label for _, label in given]
        assert [row.index for row in rows[split]] == list(range(len(given)))


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([5, 1, 3, 1, 10], "classes", ("1", "3", "5", "10")),  # in the order of numbers
        ([True, False, True], "classes", ("false", "true")),
        ([0.5, 1.0, 2.25], "regression", ("0.5", "2.25")),
        (list(range(25)), "regression", ("0", "24")),
        (["1", "2", "x"], "classes", ("1", "2", "x")),
        (["nan", "inf", "1"], "classes", ("1", "inf", "nan")),  # words, not numbers
        ([-1.0, 1.0], "classes", ("-1", "1")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_labels_are(tmp_path, labels, kind, names, suffix):
    rows = [{"review": f"text {k}", "label": label} for k, label in enumerate(labels)]
    if suffix == ".csv" and isinstance(labels[0], bool):
        names = ("False", "True")  # as pandas spells them
    path = write(tmp_path / f"a{suffix}", rows)
    task, found = custom.read_custom_task(data(path, val=str(path)))
    assert (task.kind, task.labels) == (kind, names)
    if kind == "regression":
        assert [row.label for row in found["train"]] == labels


def test_the_user_decides_what_labels_are(tmp_path):
    path = write(tmp_path / "a.csv", [{"review": f"t{k}", "label": k} for k in (1, 2, 5)])
    task, rows = custom.read_custom_task(data(path, val=str(path), kind="number"))
    assert (task.kind, [row.label for row in rows["val"]]) == ("regression", [1.0, 2.0, 5.0])
    path = write(tmp_path / "b.csv", [{"review": f"t{k}", "label": k / 2} for k in (1, 2, 5)])
    assert custom.read_custom_task(data(path, val=str(path), kind="classes"))[0].labels == (
        "0.5",
        "1",
        "2.5",
    )


def test_two_texts_and_a_test_file_without_labels(tmp_path):
    rows = [{"q": f"question {k}", "a": f"answer {k}", "ok": "yn"[k % 2]} for k in range(4)]
    train = write(tmp_path / "train.csv", rows)
    test = write(tmp_path / "test.csv", [{k: row[k] for k in ("q", "a")} for row in rows])
    task, found = custom.read_custom_task(data(train, test=str(test), text=["q", "a"], label="ok"))
    assert task.columns == ("q", "a")
    assert [row.texts for row in found["test"]] == [(r["q"], r["a"]) for r in rows]
    assert [row.label for row in found["test"]] == [None] * 4


def test_without_a_validation_file_a_tenth_of_the_texts_is_held_out(tmp_path):
    rows = [{"review": f"text {k % 40}", "label": k % 2} for k in range(80)]  # each text twice
    path = write(tmp_path / "a.csv", rows)
    _, found = custom.read_custom_task(data(path))
    held = {row.texts for row in found["val"]}
    assert len(held) == 4 and len(found["val"]) == 8 and len(found["train"]) == 72
    assert not held & {row.texts for row in found["train"]}
    write(path, rows[::-1])
    assert {row.texts for row in custom.read_custom_task(data(path))[1]["val"]} == held


# ------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ("review,label\na,x\n", {"label": "labels"}, "line 1: no column 'labels' (it has"),
        ("review,label\na,x\n", {"text": "reviews"}, "did you mean 'review'?"),
        ("review,review,label\na,b,x\n", {}, "line 1: two columns are named 'review'"),
        ("review,label\na,x\nb\n", {}, "line 3: 1 cell, not 2; fix or drop the line"),
        ("review,label\na,x\nb,\n", {}, "line 3: no 'label'; fix or drop the row"),
        ("review,label\na,x\nb,x\n", {}, "'label' is 'x' in every row"),
        ('review,label\na,x\n"b,y\nc,x\n', {}, "line 3: the row that starts here is not whole"),
        ('review,label\na,x\n"b"c,y\n', {}, "line 3: the row that starts here is not whole"),
        ("review,label\n1,x\n2.5,y\n", {}, "line 2: 'review' is '1', and a number in every row"),
        ("review,label\na,1\nb,x\n", {"kind": "number"}, "line 3: 'label' is 'x', not a number"),
        ("review,label\n", {}, "no rows in it"),
        ("", {}, "a.csv is empty; give a file with rows"),
        (
            "review,label\n" + "".join(f"a{k},b{k}\n" for k in range(60)),
            {},
            "'label' has 60 different values in 60 rows, too many for classes",
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path, content, given, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(BortError) as error:
        custom.read_custom_task(data(path, **given))
    assert message in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_label_that_training_never_saw(tmp_path):
    train = write(tmp_path / "a.csv", records())
    val = write(tmp_path / "b.csv", records([("x", "pos"), ("y", "negg")]))
    with pytest.raises(BortError, match=r"b.csv, line 3: label 'negg' is none of .*mean 'neg'"):
        custom.read_custom_task(data(train, val=str(val)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"review": 5, "label": "x"}', "line 2: 'review' is 5, not text"),
        ('{"review": null, "label": "x"}', "line 2: 'review' is absent"),
        ('{"review": "a", "label": ["x"]}', r"line 2: 'label' is \['x'\], not a class"),
        ('{"review": "a"}', "line 2: no column 'label'"),
        ('{"review": "a", "label": "x"', "line 2: not JSON"),
        ('["a", "x"]', "line 2: a list, not an object"),
        ('{"review": "\\ud800", "label": "x"}', "line 2: 'review' has half a character"),
    ],
)
def test_mistakes_in_json(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"review": "a", "label": "y"}\n' + line + "\n")
    with pytest.raises(BortError, match=message):
        custom.read_custom_task(data(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", r"data.train=.* is a folder; name one file \(.csv, .tsv"),
        ("sheet.csv", "sheet.csv is not text .a spreadsheet or an archive..; save it as csv"),
        ("noise.csv", "noise.csv is not text"),
        ("zeros.csv", "zeros.csv is not text"),
        ("a.txt", "data.train=.*a.txt is none of .csv, .tsv, .jsonl, .parquet"),
        ("trian.csv", "data.train=.*trian.csv is not there; did you mean 'train.csv'"),
        ("nowhere/a.csv", "data.train=.*a.csv is not there"),
        ("rows.parquet.gz", "rows.parquet.gz is none of .csv"),
        ("torn.parquet", "torn.parquet: not a whole parquet file"),
    ],
)
def test_wrong_paths(tmp_path, name, message):
    write(tmp_path / "train.csv", records())
    with zipfile.ZipFile(tmp_path / "sheet.csv", "w") as archive:
        archive.writestr("sheet1.xml", "<row/>")
    (tmp_path / "noise.csv").write_bytes(b"\x00\x9f\x01\x88\xff\x02" * 20)
    (tmp_path / "zeros.csv").write_bytes(b"\x07\x00\x9f\x01\x88" * 20)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(BortError, match=message):
        custom.read_custom_task(data(tmp_path / name))


def test_a_compressed_file_gives_the_same_task(tmp_path):
    plain = write(tmp_path / "train.csv", records())
    packed = tmp_path / "train.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    task, rows = custom.read_custom_task(data(plain, val=str(plain)))
    assert custom.read_custom_task(data(packed, val=str(packed))) == (task, rows)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(BortError, match="train.csv.gz is cut"):
        custom.read_custom_task(data(packed))


def labelled(path: Path, labels: list, suffix: str = ".jsonl") -> Path:
    """A file with these labels as JSON writes them."""
    lines = [json.dumps({"review": f"text {k}", "label": x}) for k, x in enumerate(labels)]
    path = path.with_suffix(suffix)
    path.write_text("\n".join(lines))
    return path


def test_whole_numbers_that_repeat_may_be_classes(shared, tmp_path):
    """30 whole numbers in 400 rows are taken as a quantity, and a line says so; prices are not."""
    cases = shared / "cases" / "N"
    task, _ = custom.read_custom_task(data(cases / "N14-int-classes" / "int30.csv", text="text"))
    (note,) = task.notes
    assert note.startswith("warning: the 30 whole numbers of 'label' are taken as a quantity")
    assert "data.kind=classes" in note
    task, _ = custom.read_custom_task(
        data(cases / "N14-int-classes" / "int30.csv", text="text", kind="classes")
    )
    assert task.kind == "classes" and task.notes == () and len(task.labels) == 30
    prices = cases / "N13-regression-scale" / "price.csv"
    task, rows = custom.read_custom_task(data(prices, text="text"))
    assert task.kind == "regression" and task.notes == ()
    numbers = [row.label for split in rows.values() for row in split]
    assert list(map(float, task.labels)) == [min(numbers), max(numbers)]  # to the last digit


@pytest.mark.parametrize("wrong", ["nan", "inf", "n/a", float("inf"), "1_000"])
def test_an_amount_that_is_none_is_named(tmp_path, wrong):
    """Not one more class among numbers."""
    path = labelled(tmp_path / "a", [0.5, 1.5, 2.25, wrong, 3.5, 0.5])
    with pytest.raises(BortError, match=r"line 4: 'label' is .*, not a number; fix it, or set"):
        custom.read_custom_task(data(path))
    assert custom.read_custom_task(data(path, kind="classes"))[0].kind == "classes"


@pytest.mark.parametrize("number", ["1e31", "-1e300", "1e-40", "1" + "0" * 400, "1e400"])
def test_numbers_beyond_any_model(tmp_path, number):
    path = tmp_path / "a.csv"
    path.write_text("review,label\na,1.5\nb,2.5\nc," + number + "\nd,0\n")
    for kind in ("number", "auto"):
        with pytest.raises(BortError, match=r"line 4: 'label' is .*") as error:
            custom.read_custom_task(data(path, kind=kind))
        assert len(str(error.value)) < 250 and "\n" not in str(error.value)


def test_numbers_that_are_all_the_same(tmp_path):
    path = labelled(tmp_path / "a", [3.0] * 5)
    for kind in ("number", "auto", "classes"):
        with pytest.raises(BortError, match="'label' is '3' in every row; there is nothing"):
            custom.read_custom_task(data(path, kind=kind))


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["a", "a ", "b"], "'label': 'a' and 'a ' are one label, 'a'"),
        ([1, "1", 0], "'label': 1 and '1' are one label, '1'"),
        ([True, "true", False], "'label': True and 'true' are one label, 'true'"),
        ([True, "True", False], "warning: 'label': 'true', 'True' look alike and are 2 labels"),
        (["Pos", "pos", "neg"], "warning: 'label': 'Pos', 'pos' look alike and are 2 labels"),
        (["a", "a\u200b", "b"], "warning: 'label': 'a', 'a\\u200b' look alike and are 2 labels"),
        (
            ["é", "e\u0301", "b"],
            "warning: 'label': '\\xe9', 'e\\u0301' look alike and are 2 labels",
        ),
    ],
)
def test_labels_that_are_nearly_equal_are_told(tmp_path, labels, note):
    task, _ = custom.read_custom_task(data(labelled(tmp_path / "a", labels * 3)))
    assert task.notes == (note,)


@pytest.mark.parametrize("label", [["x", "y"], {"x": 1}, [], "['x', 'y']", '["x"]', "[1, 2]"])
def test_several_labels_of_a_row_are_refused(tmp_path, label):
    path = labelled(tmp_path / "a", ["x", label, "y"])
    with pytest.raises(BortError, match=r"line 2: 'label' is .*several at once cannot be learnt"):
        custom.read_custom_task(data(path))


def test_texts_that_are_all_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('review,label\n"",x\n" ",y\n')
    with pytest.raises(BortError, match="line 2: 'review' is empty in this and every other row"):
        custom.read_custom_task(data(path))


# ------------------------------------------------------------------------------------ mutations


def counted(content: bytes, suffix: str) -> int:
    """Rows of a whole file, by another way than the reader's."""
    text = content.decode("utf-8-sig")
    if suffix == ".csv":
        table = pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, engine="c")
        return len(table)
    lines = [line for line in re.split(r"\r?\n", text) if line.strip()]
    return len(lines) - (suffix == ".tsv")


def mutate(content: bytes, kind: str, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, place = rng.randrange(1, len(lines) - 1), rng.randrange(1, len(content))
    if kind == "cut":
        return content[:place]
    if kind == "byte":
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    if kind == "quote":
        return content[:place] + b'"' + content[place:]
    if kind == "latin":
        return content[:place] + "é".encode("latin-1") + content[place:]
    if kind == "utf-16":
        return content.decode().encode("utf-16")
    if kind == "nul":
        return content[:place] + b"\0" + content[place:]
    if kind == "crlf":
        return content.replace(b"\n", b"\r\n")
    if kind == "empty":
        return b""
    if kind == "column":
        lines[at] = lines[at][: len(lines[at]) // 2]
    if kind == "label":
        lines[at] = re.sub(rb"(pos|neg)\b(?!.*(pos|neg))", b"odd", lines[at])
    return b"\n".join(lines)


KINDS = ("cut", "byte", "quote", "latin", "utf-16", "nul", "crlf", "empty", "column", "label")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_mutated_file_is_refused_in_one_line_or_read_whole(tmp_path, suffix):
    rng = random.Random(suffix)
    given = [(f'Text, number {k} is "{k}"; ok', ("pos", "neg")[k % 2]) for k in range(30)]
    train = write(tmp_path / f"train{suffix}", records(given))
    whole = train.read_bytes()
    val = tmp_path / f"val{suffix}"
    refused = 0
    for kind in 25 * KINDS:
        content = mutate(whole, kind, rng)
        val.write_bytes(content)
        try:
            _, rows = custom.read_custom_task(data(train, val=str(val)))
        except BortError as error:
            refused += 1
            message = str(error)
            assert str(val) in message and "\n" not in message, message
            found = re.search(r", line (\d+)", message)
            assert not found or int(found[1]) <= content.count(b"\n") + 1
            assert kind != "crlf"
        else:
            assert kind in ("cut", "byte", "quote", "crlf", "column"), kind
            assert len(rows["val"]) == counted(content, suffix), (kind, content)
    assert refused > 130


def test_torn_parquet(tmp_path):
    rng = random.Random(0)
    path = write(tmp_path / "a.parquet", records())
    whole, refused = path.read_bytes(), 0
    for _ in range(50):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(BortError, match=r"a\.parquet: not a whole parquet file"):
            custom.read_custom_task(data(path))
        refused += 1
    assert refused == 50


def test_the_reader_of_csv_agrees_with_the_standard_ones(tmp_path):
    """Long cells, quotes, blank lines, a byte-order mark."""
    path = tmp_path / "a.csv"
    texts = ["x" * 200_000, 'say "hi"', "a,b", "line\nbreak", "ö"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["review", "label"])
    for number, text in enumerate(texts):
        writer.writerow([text, "ab"[number % 2]])
    path.write_bytes(b"\xef\xbb\xbf" + buffer.getvalue().encode() + b"\r\n\r\n")
    _, rows = custom.read_custom_task(data(path, val=str(path)))
    assert [row.texts[0] for row in rows["train"]] == texts


def test_json_lines_with_numbers_for_labels(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"review": "a", "label": 1}, {"review": "b", "label": 0}, {"review": "c", "label": 1}]
    path.write_text("\n".join(map(json.dumps, lines)))
    task, rows = custom.read_custom_task(data(path, val=str(path)))
    assert task.labels == ("0", "1") and [row.label for row in rows["train"]] == [1, 0, 1]


@pytest.mark.parametrize("sign", [";", "\t"])
def test_cells_between_semicolons_or_tabs(tmp_path, sign):
    path = tmp_path / "a.csv"
    lines = [("review", "label"), ('"a, b"', "x"), ("c", "y"), ("d", "x")]
    path.write_text("\n".join(sign.join(cells) for cells in lines))
    _, rows = custom.read_custom_task(data(path, val=str(path)))
    assert [row.texts for row in rows["train"]] == [("a, b",), ("c",), ("d",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("badutf", r"badutf\.parquet, row 8: b'caf\\xe9 au lait' is not UTF-8"),
        ("page", r"page\.parquet: damaged after row 0"),
        ("struct", r"struct\.parquet, row 1: 'text' is an object, not text"),
    ],
)
def test_damaged_parquet_is_one_line(shared, name, message):
    path = shared / "cases" / "N" / "N09-parquet-utf8" / f"{name}.parquet"
    with pytest.raises(BortError, match=message):
        custom.read_custom_task(data(path, text="text"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_encodings_are_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes("review,label\na,x\n".encode("utf-16"))
    with pytest.raises(BortError, match=rf"a{suffix}: UTF-16, not UTF-8; convert the file"):
        custom.read_custom_task(data(path))
    path.write_bytes(b"review\tlabel\ncaf\xe9\tx\n")
    with pytest.raises(BortError, match=r"not UTF-8 at byte \d+; convert the file \(line 2\)"):
        custom.read_custom_task(data(path)) if suffix == ".tsv" else list(read_lines(path))


@pytest.mark.parametrize(("suffix", "sign"), [(".csv", ";"), (".csv", "\t"), (".tsv", "\t")])
def test_decimal_commas_of_a_spreadsheet(tmp_path, suffix, sign):
    """As pandas writes them; a note says so, and data.kind=classes leaves labels as they are."""
    path = tmp_path / f"a{suffix}"
    frame = pandas.DataFrame({"review": [f"text {k}" for k in range(40)]})
    frame["label"] = [1.5 + k for k in range(40)]
    frame.to_csv(path, index=False, sep=sign, decimal=",")
    assert f"text 0{sign}1,5\n" in path.read_text()
    task, rows = custom.read_custom_task(data(path, val=str(path)))
    assert task.kind == "regression" and task.labels == ("1.5", "40.5")
    assert [row.label for row in rows["val"]] == frame["label"].to_list()
    assert task.notes == ("'label' has decimal commas: '1,5' is 1.5",)
    frame["label"] = ["1,5", "2,5"] * 20
    frame.to_csv(path, index=False, sep=sign)
    task, _ = custom.read_custom_task(data(path, val=str(path), kind="classes"))
    assert task.labels == ("1,5", "2,5")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_comma_that_may_be_decimal_or_not_is_refused(tmp_path, suffix):
    rows = [{"review": f"text {k}", "label": f"{k},500"} for k in range(9)]
    path = write(tmp_path / f"a{suffix}", rows)
    line = r"'label' is '0,500'; write numbers with a point, put semicolons between"
    with pytest.raises(BortError, match=line):
        custom.read_custom_task(data(path, val=str(path)))
