"""Several labels a row, from lists and from columns of 0 and 1; what is refused, in one line."""

import json
from pathlib import Path

import pandas
import pytest

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.tasks import custom
from bort.tasks.labels import (
    check_number_of_labels,
    has_decimal_commas,
    replace_decimal_commas,
    sort_labels,
    spell_label,
)

LISTS = [["money", "art"], [], ["sport"], ["art"], ["sport", "art", "money"], []]
NAMES = ("art", "money", "sport")
SETS = [(1, 1, 0), (0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 1), (0, 0, 0)]


def write_lists(path: Path, lists: list) -> Path:
    lines = [json.dumps({"text": f"text {k}", "tags": tags}) for k, tags in enumerate(lists)]
    path.write_text("\n".join(lines))
    return path


def write_columns(path: Path, sets: list) -> Path:
    rows = [{"text": f"text {k}", **dict(zip(NAMES, row, strict=True))} for k, row in sets]
    frame = pandas.DataFrame(rows)
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def read(train: Path, label="tags", **more):
    settings = {"val": str(train)} | {key: str(value) for key, value in more.items()}
    return custom.read_custom_task(DataConfig(train=str(train), label=label, **settings))


def test_lists_are_labels_of_which_a_row_has_any_number(tmp_path):
    path = write_lists(tmp_path / "a.jsonl", LISTS)
    task, rows = read(path, test=write_lists(tmp_path / "b.jsonl", [["art"], None]))
    assert (task.kind, task.labels, task.label) == ("labels", NAMES, "tags")
    assert task.metrics == ("micro_f1", "macro_f1", "exact_match")
    assert [row.label for row in rows["train"]] == SETS == [row.label for row in rows["val"]]
    assert [row.label for row in rows["test"]] == [(1, 0, 0), None]
    assert rows["train"][1].texts == ("text 1",) and rows["train"][1].index == 1
    frame = pandas.read_json(path, lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[1]["train"] == rows["train"]


def test_lists_of_numbers_and_the_order_of_labels(tmp_path):
    """Numbers are labels by name, in the order of their values; 1, 1.0 and "1" are one label."""
    task, rows = read(write_lists(tmp_path / "a.jsonl", [[10, 2.0], ["2"], [9, True], []]))
    assert task.labels == ("10", "2", "9", "true")  # true is no number, so names are sorted
    task, rows = read(write_lists(tmp_path / "a.jsonl", [[10, 2.0], ["2"], [9], []]))
    assert task.labels == ("2", "9", "10")
    assert [row.label for row in rows["train"]] == [(1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0)]
    assert sort_labels(["b", "10", "2"]) == ("10", "2", "b")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_column_for_each_label(tmp_path, suffix):
    """In the order in which they are named; numbers and truth values, of any format."""
    path = write_columns(tmp_path / f"a{suffix}", enumerate(SETS))
    task, rows = read(path, ["sport", "art"])
    assert (task.kind, task.labels, task.label) == ("labels", ("sport", "art"), "sport, art")
    assert [row.label for row in rows["train"]] == [(row[2], row[0]) for row in SETS]
    truths = [(k, [bool(bit) for bit in row]) for k, row in enumerate(SETS)]
    _, again = read(write_columns(tmp_path / f"b{suffix}", truths), ["sport", "art"])
    assert again == rows


def test_a_test_file_needs_no_columns_of_labels(tmp_path):
    train = write_columns(tmp_path / "a.csv", enumerate(SETS))
    test = tmp_path / "test.csv"
    test.write_text("text,art,money\nfirst,1,\nsecond,0,1\n")
    _, rows = read(train, ["art", "money"], test=test)
    assert [row.label for row in rows["test"]] == [None, (0, 1)]
    test.write_text("text\nfirst\n")
    assert [row.label for row in read(train, ["art", "money"], test=test)[1]["test"]] == [None]


def test_rows_are_held_out_where_there_is_no_validation_file(tmp_path):
    path = write_lists(tmp_path / "a.jsonl", LISTS * 5)
    _, rows = custom.read_custom_task(DataConfig(train=str(path), label="tags"))
    assert (len(rows["train"]), len(rows["val"])) == (27, 3)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([["a"], ["b", "a", "b"]], "line 2: 'tags' holds 'b' twice; name a label once"),
        ([["a", "b"], "a"], "line 2: 'tags' is 'a', and a list in other rows; write a list"),
        ([["a", "b"], None], r"line 2: no 'tags'; write \[\] for a row without a label"),
        ([["a", "b"], [["a"]]], r"line 2: 'tags' holds \['a'\], which is no label; fix it"),
        ([["a", "b"], [None]], "line 2: 'tags' holds None, which is no label; fix it"),
        ([["a", "b"], [" "]], "line 2: 'tags' holds ' ', which is no label; fix it"),
        (["a", ["a", "b"]], r"line 2: 'tags' is \['a', 'b'\], .*several at once cannot be learnt"),
        ([["a"], ["a"], []], "'tags' holds no label but 'a'; give two classes instead, one a row"),
        ([[], []], "'tags' is an empty list in every row; there is nothing to learn"),
        ([[k] for k in range(30)], "'tags' has 30 different values in 30 rows, too many for labe"),
    ],
)
def test_lists_that_are_mistakes(tmp_path, lists, message):
    path = write_lists(tmp_path / "a.jsonl", lists)
    with pytest.raises(BortError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200 + len(str(path))


def test_a_label_that_no_training_row_has(tmp_path):
    train = write_lists(tmp_path / "a.jsonl", LISTS)
    val = write_lists(tmp_path / "b.jsonl", [["art"], ["sport", "arts"]])
    with pytest.raises(BortError, match=r"b.jsonl, line 2: label 'arts' is none of .*mean 'art'"):
        read(train, val=val)


def test_a_list_in_a_csv_file_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,tags\nfirst,art\nsecond,\"['art', 'sport']\"\n")
    with pytest.raises(
        BortError, match=r"line 3: .* lists in all rows of a jsonl file, or data.la"
    ):
        read(path)


@pytest.mark.parametrize("cell", ["2", "yes", "0.5", "x"])
def test_columns_hold_0_and_1(tmp_path, cell):
    path = tmp_path / "a.csv"
    path.write_text(f"text,art,money\nfirst,1,TRUE\nsecond,0,{cell}\n")
    with pytest.raises(BortError, match=f"line 3: 'money' is '{cell}', not 0 or 1"):
        read(path, ["art", "money"])


def test_columns_that_are_absent_or_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,art,money\nfirst,1,1\nsecond,0,\n")
    with pytest.raises(BortError, match="line 3: no 'money', which is 0 or 1; fix or drop the row"):
        read(path, ["art", "money"])
    with pytest.raises(BortError, match="no column 'moneys'.*did you mean 'money'"):
        read(path, ["art", "moneys"])
    path.write_text("text,art,money\nfirst,0,0\nsecond,false,0.0\n")
    with pytest.raises(BortError, match="art, money are 0 in every row; nothing can be learnt"):
        read(path, ["art", "money"])
    path = write_lists(tmp_path / "a.jsonl", [[1, 0], [0]])
    with pytest.raises(BortError, match=r"line 1: 'tags' is \[1, 0\], not 0 or 1"):
        read(path, ["tags", "text"])


def test_the_names_of_columns_are_checked_before_any_file():
    for label, message in (
        (["art"], r"data.label=\['art'\] must name two columns at least; a single column, of any"),
        (["art", "art"], r"must name a column, or several as in \[a,b\]"),
        (["art", 3], r"must name a column, or several as in \[a,b\]"),
        ([], "must name two columns at least"),
    ):
        with pytest.raises(BortError, match=message):
            DataConfig(label=label)


def test_one_label_a_row_was_asked_for(tmp_path):
    path = write_lists(tmp_path / "a.jsonl", LISTS)
    for kind in ("classes", "number"):
        with pytest.raises(
            BortError, match=f"data.kind={kind} is for one label a row, and .* lists"
        ):
            read(path, kind=kind)
    columns = write_columns(tmp_path / "a.csv", enumerate(SETS))
    with pytest.raises(
        BortError, match="data.label=art, money names several columns; leave data.k"
    ):
        read(columns, ["art", "money"], kind="classes")


def test_labels_that_look_alike_are_told(tmp_path):
    task, _ = read(write_lists(tmp_path / "a.jsonl", [["Art", "art"], ["art"], []]))
    assert task.notes == ("warning: 'tags': 'Art', 'art' look alike and are 2 labels",)


def test_how_labels_are_spelled():
    cells = [True, 3.0, 2.5, " a ", "1.0", "", float("nan"), None]
    assert [spell_label(cell) for cell in cells] == ["true", "3", "2.5", "a", "1", *[None] * 3]
    with pytest.raises(BortError, match="x has 21 different values in 30 rows, too many for clas"):
        check_number_of_labels(map(str, range(21)), 30, "x", "classes")


def test_numbers_with_decimal_commas():
    """Points then stand between thousands; a column with other words has no such numbers."""
    labels = ["3,5", "-0,25", "1.250", "1.250,75", "4", None]
    assert has_decimal_commas(labels)
    spelled = replace_decimal_commas(labels)
    assert [label and float(label) for label in spelled] == [3.5, -0.25, 1250, 1250.75, 4, None]
    for other in (["3.5", "4"], ["3,5", "good"], ["1,2,3"], [None], ["12.34,5"]):
        assert not has_decimal_commas(other)
