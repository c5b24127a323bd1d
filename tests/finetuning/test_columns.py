"""Which columns hold the texts and labels of a model's task, as what is on disk says."""

import json

import pytest

from bort.files.ownership import EXPORT, make_export_record
from bort.finetuning.columns import TaskColumns, read_columns

RTE = TaskColumns("glue/rte", ("sentence1", "sentence2"), ("label",))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"task": "custom", "data.text": "a", "data.label": "b"}, (("a",), ("b",))),
        ({"task": "custom", "data.text": ["a", "b"], "data.label": ["x", "y"]}, None),
        ({"task": "glue/rte"}, (RTE.columns, RTE.labels)),
        ({"task": "superglue/copa"}, ((), ())),  # it has more than two texts a row
        ({"task": "embed", "data.text": "a"}, ((), ())),
    ],
)
def test_a_run_remembers_them(tmp_path, settings, expected):
    (tmp_path / "settings.json").write_text(json.dumps({"job": "finetune"} | settings))
    texts, labels = expected or (("a", "b"), ("x", "y"))
    columns = read_columns(str(tmp_path))
    assert (columns.columns, columns.labels) == (texts, labels)
    assert columns.task in (settings["task"], None)
    (tmp_path / "model").mkdir()
    assert read_columns(str(tmp_path / "model")) == columns


def test_an_export_remembers_them(tmp_path):
    facts = {"task": "custom", "columns": ["a", "b"], "labels": ["c"]}
    path = tmp_path / EXPORT
    path.write_text(json.dumps(make_export_record([EXPORT], facts)))
    assert read_columns(str(tmp_path)) == TaskColumns("custom", ("a", "b"), ("c",))
    path.write_text(json.dumps(make_export_record([EXPORT], {"task": 1, "columns": [1]})))
    assert read_columns(str(tmp_path)) == TaskColumns()


def test_other_folders_have_what_their_config_names(tmp_path):
    assert read_columns("no/folder") == read_columns(str(tmp_path)) == TaskColumns()
    (tmp_path / "config.json").write_text('{"bort_task": "glue/rte"}')
    assert read_columns(str(tmp_path)) == RTE
