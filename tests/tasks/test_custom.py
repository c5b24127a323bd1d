"""The user's own files: every format, labels, mistakes with file and line."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from custom_tables import ROWS, data, records, write

from bort.errors import BortError
from bort.tasks import custom


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
