"""The command line of an export, which a pipeline checks before its first stage too."""

import json
from pathlib import Path

import pytest

from bort.config.command_line import parse_command
from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export.settings import ExportConfig


def parse(words) -> ExportConfig:
    return parse_command(ExportConfig, words)


MODEL = ("model=m", "format=hf", "out=o")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "give model=FOLDER format="),
        (("model=m", "format=pdf", "out=o"), "format=pdf is unknown; use hf, onnx, onnx-int8"),
        ((*MODEL, "dropp=0.1"), "dropp=0.1 is not a setting; did you mean 'drop'?"),
        ((*MODEL, "drop=x"), "drop=x is not a number"),
        ((*MODEL, "drop=nan"), "drop=nan is no finite number"),
        ((*MODEL, "drop=-1"), "drop=-1 must be at least 0"),
        ((*MODEL, "agreement=1.5"), "agreement=1.5 must be from 0 to 1"),
        ((*MODEL, "agreement=inf"), "agreement=inf is no finite number"),
        ((*MODEL, "agreement=0.9"), "agreement= is for format=onnx-int8, not for format=hf"),
        ((*MODEL, "drop=0.1"), "drop= is for a check on a task; give task="),
        ((*MODEL, "task=glue/rte", "drop=2"), "drop=2 must be at most 1"),
        ((*MODEL, "task="), "task= has no value"),
        ((*MODEL, "out=."), "out=. is the folder you are in"),
        ((*MODEL, "out=.."), "out=.. is the folder you are in"),
        ((*MODEL, "out=/"), "out=/ is the folder you are in"),
        ((*MODEL, "out=~no-such-user/x"), "out=~no-such-user/x: there is no home folder"),
        ((*MODEL, "push=not a name"), "push=not a name is no name on the hub"),
        ((*MODEL, "push=a/b/c"), "push=a/b/c is no name on the hub"),
        ((*MODEL, "data.length=8"), "data.length=8 is for a check on a task; give task="),
        ((*MODEL, "data.val=v.csv"), "data.val=v.csv is for a check on a task; give task="),
        ((*MODEL, "task=glue/rte", "data.train=a.csv"), "data.train=a.csv is for task=custom"),
        ((*MODEL, "data.train=a.csv", "data.root=g"), "data.root=g is for the tasks of a suite"),
        ((*MODEL, "task=custom"), "task=custom needs data.train=FILE"),
        ((*MODEL, "task=docstrings", "data.root=g"), "data.root=g is not read by task=docstrings"),
        ((*MODEL, "task=glue/rte", "data.length=9.5"), "data.length=9.5 must be a whole number"),
        ((*MODEL, "task=glue/rte", "data.length=2"), "data.length=2 must be at least 4"),
    ],
)
def test_mistakes_are_one_line(words, line):
    with pytest.raises(BortError) as error:
        parse(words)
    assert str(error.value).startswith(line) and len(str(error.value)) <= 200


def test_a_table_of_ones_own_is_a_task_of_ones_own():
    settings = parse_command(
        ExportConfig, [*MODEL, "data.train=a.csv", "data.text=[a, b]", "data.label=l"]
    )
    assert settings.task == "custom" and settings.rows.texts == ("a", "b")
    assert (settings.least_agreement, settings.largest_drop, settings.push) == (0.95, 0.01, None)


def test_several_columns_of_labels():
    words = [*MODEL, "data.train=a.csv", "data.label=[toxic, insult]"]
    assert parse(words).rows.label == ["toxic", "insult"]


def test_rows_are_as_long_as_in_the_run_of_the_model(tmp_path, monkeypatch):
    """Or the score would be one of other inputs; the command line may say otherwise."""
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/settings.json").write_text('{"task": "custom", "data.length": 64}')
    assert parse([*MODEL, "data.train=a.csv"]).rows.length == 64
    assert parse([*MODEL, "data.train=a.csv", "data.length=32"]).rows.length == 32
    Path("m/settings.json").write_text('{"data.length": 64}')  # of a pre-training
    assert parse([*MODEL, "data.train=a.csv"]).rows.length == DataConfig().length


def remember(folder: Path, **settings) -> str:
    """A run folder that has recorded these settings."""
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"job": "finetune", **settings}))
    return f"model={folder}"


def test_the_task_of_the_run_is_remembered(tmp_path):
    """Its files and columns, and its length; what the user says goes before it."""
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,c\n")
    facts = {"data.train": str(rows), "data.text": ["a", "b"], "data.label": "c"}
    facts |= {"data.kind": "auto", "data.val": None, "data.length": 48}
    model = remember(tmp_path / "run", task="custom", **facts)
    settings = parse((model, "format=hf", "out=o"))
    expected = DataConfig(train=str(rows), text=["a", "b"], label="c", length=48)
    assert (settings.task, settings.rows) == ("custom", expected)
    assert parse((model, "format=hf", "out=o", "task=none")).task is None
    settings = parse((model, "format=hf", "out=o", "task=glue/rte", "data.root=g"))
    assert (settings.task, settings.rows.root) == ("glue/rte", "g")
    model = remember(tmp_path / "rte", task="glue/rte", **{"data.root": str(tmp_path)})
    settings = parse((model, "format=hf", "out=o", "drop=0.5"))
    assert (settings.task, settings.rows.root) == ("glue/rte", str(tmp_path))


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"task": "custom", "data.train": "gone.csv"}, "since data.train=gone.csv is not there"),
        ({"task": "glue/rte", "data.root": "gone"}, "since data.root=gone is not there"),
        ({"task": "glue/rte", "data.root": None}, "whose rows were the hub's; give data.root="),
        ({"task": "embed", "data.train": "gone.csv"}, None),
        ({"task": None}, None),
        ({"task": "custom", "job": "pretrain", "data.train": "gone.csv"}, None),
    ],
)
def test_a_task_without_its_data_is_not_checked_and_a_line_says_so(tmp_path, capsys, facts, line):
    model = remember(tmp_path / "run", **facts)
    assert parse((model, "format=hf", "out=o")).task is None
    shown = capsys.readouterr().out
    assert line in shown if line else shown == ""
