"""What rows are like: every count by hand, in the lines and in the summary."""

import numpy as np
import pytest

from bort.tasks.custom import define_task
from bort.tasks.encoding import EncodedRows
from bort.tasks.overview import examine_data
from bort.tasks.registry import find_task
from bort.tasks.task import Row

TASK = define_task("custom", "classes", ("text",), ("no", "yes"), label="verdict")


def encode(rows: list[Row], cut: int = 0) -> EncodedRows:
    """As many tokens as the first text has words."""
    ids = [[np.zeros(len(row.texts[0].split()), np.int32)] for row in rows]
    return EncodedRows(ids, None, None, cut)


def make_rows(*pairs) -> list[Row]:
    return [Row(k, (text,), label) for k, (text, label) in enumerate(pairs)]


def test_duplicates_and_rows_in_both_splits():
    """Case and spaces aside; another label of the same text is told."""
    train = make_rows(("A film", 0), ("a  FILM ", 1), ("a film", 0), ("one two three", 1))
    val = make_rows(("One two  three", 1), ("new", 0), ("new", 0))
    test = make_rows(("a film", None))
    rows = {"train": train, "val": val, "test": test}
    inputs = {"train": encode(train, 1), "val": encode(val), "test": encode(test)}
    report = examine_data(TASK, rows, inputs)
    assert report.list_lines() == [
        "data: train 4 rows, 2 tokens (95% up to 2), 1 cut at the limit (25.0%), 2 duplicates "
        "(1 with another label)",
        "data: val 3 rows, 1 tokens (95% up to 2), 1 of them in train, too (33.3%)",
        "data: test 1 row, 2 tokens (95% up to 2), 1 of them in train, too (100.0%)",
        "data: labels of train: no: 2 (50%), yes: 2 (50%); 'verdict' is read as 2 classes",
    ]
    flat = report.to_json()
    assert flat["data/train/duplicates"] == 2 and flat["data/train/relabelled"] == 1
    assert flat["data/train/in_train"] == 0 and flat["data/val/in_train"] == 1
    assert (flat["data/val/rows"], flat["data/val/duplicates"]) == (3, 1)
    assert (flat["data/train/tokens_median"], flat["data/train/cut"]) == (2, 1)
    assert flat["data/kind"] == "classes" and flat["data/labels"].startswith("no: 2 (50%)")


def test_numbers_and_notes():
    task = define_task("custom", "regression", ("t",), ("1", "3"), label="price", notes=("x",))
    train = make_rows(("a", 1.0), ("b", 3.0))
    lines = examine_data(task, {"train": train}, {"train": encode(train)}).list_lines()
    assert lines[1].startswith("data: labels of train: 1 to 3, mean 2 ± 1; losses are mean squares")
    assert lines[1].endswith("; 'price' is read as numbers") and lines[2] == "data: x"


def test_labels_that_are_nowhere():
    train, val = make_rows(("a", 1), ("b", 1)), make_rows(("c", 1), ("d", 0))
    rows = {"train": train, "val": val}
    task = define_task("custom", "classes", ("t",), ("no", "yes"), notes=("warning: look",))
    lines = examine_data(task, rows, {k: encode(v) for k, v in rows.items()}).list_lines()
    assert lines[-2:] == ["warning: no row of train has the label no", "warning: look"]


@pytest.mark.parametrize(("second", "duplicates"), [(((0, 1), (2, 3)), 1), (((0, 1), (4, 5)), 0)])
def test_other_marked_words_make_another_row(second, duplicates):
    rows = [Row(0, ("a b c",), 0, spans=((0, 1), (2, 3))), Row(1, ("a b c",), 1, spans=second)]
    task = find_task("superglue/wsc")
    report = examine_data(task, {"train": rows}, {"train": encode(rows)})
    assert report.splits["train"].duplicates == duplicates and report.kind == "classes"


def test_other_tasks_name_no_column():
    train = make_rows(("a", 0), ("b", 1))
    report = examine_data(find_task("glue/sst2"), {"train": train}, {"train": encode(train)})
    assert report.labels == "negative: 1 (50%), positive: 1 (50%)"


def test_several_labels_a_row():
    """Each of them counts, rows without any are told, and a label that no row has."""
    task = define_task("custom", "labels", ("text",), ("a", "b", "c"), label="tags")
    rows = make_rows(("x", (1, 1, 0)), ("y", (0, 0, 0)), ("y", (0, 1, 0)), ("z", (0, 1, 0)))
    report = examine_data(task, {"train": rows}, {"train": encode(rows)})
    assert (report.kind, report.splits["train"].relabelled) == ("several a row", 1)
    assert report.labels == (
        "b: 3 (75%), a: 1 (25%); no label: 1 (25%); 'tags' is read as 3 labels, of which a row has "
        "any number"
    )
    assert report.notes == ("warning: no row of train has the label c",)
