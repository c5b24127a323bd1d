"""Rows in memory become the file that they would be; what cannot be rows is told by its row."""

import json
import math

import datasets
import numpy as np
import pandas as pd
import pytest

from bort.errors import BortError
from bort.files.rows import name_rows, store_rows

ROWS = [
    {"text": "good", "label": "pos", "page": 1},
    {"text": "bad", "label": "neg", "page": 2},
    {"text": "so so", "label": None, "page": 3},
]
KEPT = [{"text": row["text"], "label": row["label"]} for row in ROWS]


def stored(rows, folder, split="train", texts=("text",), label="label"):
    path = store_rows(rows, split, texts, label, folder)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_form_of_rows_is_one_file(tmp_path):
    forms = [ROWS, tuple(ROWS), iter(ROWS), pd.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)]
    paths = {store_rows(rows, "train", ["text"], "label", tmp_path) for rows in forms}
    (path,) = paths
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == KEPT
    assert list(tmp_path.iterdir()) == [path]


def test_other_rows_are_another_file(tmp_path):
    other = [{**ROWS[0], "label": "neg"}, *ROWS[1:]]
    names = [
        store_rows(rows, "train", ["text"], "label", tmp_path) for rows in (ROWS, other, ROWS[::-1])
    ]
    assert len(set(names)) == 3


def test_a_path_is_taken_as_it_is(tmp_path):
    assert str(store_rows("rows.csv", "train", ["text"], "label", tmp_path)) == "rows.csv"
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_written_again(tmp_path):
    path = store_rows(ROWS, "train", ["text"], "label", tmp_path)
    before = path.stat().st_mtime_ns
    assert store_rows(ROWS, "val", ["text"], "label", tmp_path) == path
    assert path.stat().st_mtime_ns == before  # by which a finished run knows its data again


def test_classes_of_a_dataset_go_by_their_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    dataset = datasets.Dataset.from_list(rows, features=features)
    assert [row["label"] for row in stored(dataset, tmp_path)] == ["pos", "neg", None]


@pytest.mark.parametrize("missing", [math.nan, None, pd.NA, np.nan])
def test_a_missing_value_of_any_kind_is_null(tmp_path, missing):
    frame = pd.DataFrame({"text": ["a", "b"], "label": [1.5, missing]})
    assert [row["label"] for row in stored(frame, tmp_path)] == [1.5, None]


def test_numbers_of_numpy_are_numbers(tmp_path):
    rows = [{"text": np.str_("a"), "label": np.int64(3)}, {"text": "b", "label": np.float32(0.5)}]
    assert stored(rows, tmp_path) == [{"text": "a", "label": 3}, {"text": "b", "label": 0.5}]
    whole = pd.DataFrame({"text": ["a"], "label": pd.array([1], dtype="Int64")})
    assert stored(whole, tmp_path) == [{"text": "a", "label": 1}]


def test_a_test_set_needs_no_labels(tmp_path):
    rows = [{"text": "a"}]
    assert stored(rows, tmp_path, "test") == rows
    with pytest.raises(BortError, match="^val has no column 'label'; it has text$"):
        stored(rows, tmp_path, "val")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], "train has no rows; give some"),
        (pd.DataFrame({"text": [], "label": []}), "train has no rows; give some"),
        ([{"txt": "a", "label": 1}], "train has no column 'text'; did you mean 'txt'?"),
        (pd.DataFrame({"words": [1]}), "train has no column 'text'; it has words"),
        (3, "train is of type int, not rows: a path, a list of dicts, a DataFrame or a Dataset"),
        (["a text"], "train, row 1 is of type str, not a dict of its columns"),
        ([{"text": b"a", "label": 1}], "train, row 1: 'text' is of type bytes; give text, a"),
        (
            {"train": ROWS},
            "train is of type dict, not rows: a path, a list of dicts, a DataFrame or a Dataset; "
            "give one of its splits, as in train=dataset['train']",
        ),
    ],
)
def test_what_cannot_be_rows_is_told(tmp_path, rows, line):
    with pytest.raises(BortError) as caught:
        stored(rows, tmp_path)
    assert str(caught.value).startswith(line) and len(str(caught.value)) <= 200
    assert not list(tmp_path.iterdir())


def test_lines_about_the_file_are_about_the_rows(tmp_path):
    path = tmp_path / "0123.jsonl"
    line = f"{path}, line 3: 'text' is absent; fix or drop the row"
    assert name_rows(line, path, "val") == "val, row 3: 'text' is absent; fix or drop the row"
    assert name_rows(f"{path}: 'x' is alike", path, "val") == "val: 'x' is alike"
    other = f"runs/x holds a run with other settings (data.train=a, now {path})"
    assert name_rows(other, path, "train") == other


def test_lists_of_labels_of_any_kind_are_lists(tmp_path):
    rows = [{"text": "a", "label": {"y", "x"}}, {"text": "b", "label": ("x",)}]
    assert [row["label"] for row in stored(rows, tmp_path)] == [["x", "y"], ["x"]]
    frame = pd.DataFrame({"text": ["a", "b"], "label": [np.array(["x"]), np.array([])]})
    assert [row["label"] for row in stored(frame, tmp_path)] == [["x"], []]
    names = datasets.ClassLabel(names=["neg", "pos"])
    features = {"text": datasets.Value("string"), "label": datasets.List(names)}
    dataset = datasets.Dataset.from_list(
        [{"text": "a", "label": [1, 0]}, {"text": "b", "label": []}], datasets.Features(features)
    )
    assert [row["label"] for row in stored(dataset, tmp_path)] == [["pos", "neg"], []]


def test_a_column_for_each_label_is_kept(tmp_path):
    rows = [{"text": "a", "x": 1, "y": 0, "z": 2}]
    assert stored(rows, tmp_path, label=["x", "y"]) == [{"text": "a", "x": 1, "y": 0}]
    with pytest.raises(BortError, match="^train has no column 'w'"):
        stored(rows, tmp_path, label=["x", "w"])
