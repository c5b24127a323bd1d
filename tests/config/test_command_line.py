"""Command lines as dataclasses: types, free words, mistakes, and the help that is made of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from bort.benchmark.run import compose_settings
from bort.benchmark.settings import BenchmarkConfig
from bort.config.command_line import (
    FREE,
    check_options,
    explained,
    format_help,
    list_settings,
    parse_command,
    read_comments,
)
from bort.dashboard import DashboardConfig
from bort.doctor import DoctorConfig
from bort.errors import BortError
from bort.export.settings import ExportConfig
from bort.pipeline.settings import PipelineConfig
from bort.predict.settings import PredictConfig
from bort.report import ReportConfig
from bort.search.table_optimum import TableConfig


@dataclass
class Table:
    """Where rows are."""

    train: str | None = None  # the rows to learn from
    length: int | None = None


@dataclass
class Command:
    """Does something.

    command model=FOLDER
    """

    ELSEWHERE: ClassVar[dict[str, str]] = {"resume": "goes with another command"}
    folders: list[str] = field(default_factory=list, metadata=FREE)  # where to look
    # what to read: this comment is long, and
    # stands above
    model: str = "tiny"
    rate: float = 0.5
    top: int = field(default=5, metadata=explained("is no number of words"))  # words
    data: Table = field(default_factory=Table)

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise BortError("rate is too large")


@dataclass
class OneTable:
    """Takes one free word."""

    table: str | None = field(default=None, metadata=FREE)
    n: int = 1


def test_values_have_the_types_of_the_fields():
    settings = parse_command(Command, ["a", "rate=1e-3", "data.length=7", "b/c", "top=9"])
    assert settings == Command(["a", "b/c"], "tiny", 0.001, 9, Table(None, 7))
    assert parse_command(Command, []) == Command()


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "???", "yes", "a=b", "1: [x", "", "null", "\\${x}", "a\nb", "-5"]
)
def test_a_text_is_taken_letter_by_letter(text):
    assert parse_command(Command, [f"model={text}"]).model == text
    assert parse_command(Command, [f"data.train={text}"]).data.train == text


def test_a_file_whose_name_looks_like_a_setting_is_a_free_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model=x").touch()
    assert parse_command(Command, ["model=x", "model=y"]) == Command(["model=x"], "y")


@pytest.mark.parametrize(
    ("schema", "words", "line"),
    [
        (Command, ["modle=x"], "modle=x is not a setting; did you mean 'model'?; use model, rate"),
        (Command, ["train=x"], "train=x is not a setting; did you mean 'data.train'?"),
        (Command, ["data=x"], "data=x is not a setting"),
        (Command, ["folders=x"], "folders=x is not a setting"),
        (Command, ["rate=x"], "rate=x is not a number"),
        (Command, ["rate=inf"], "rate=inf is no finite number; give one"),
        (Command, ["rate="], "rate= has no value; give one, or leave it out"),
        (Command, ["rate=2"], "rate is too large"),
        (Command, ["data.length=9.5"], "data.length=9.5 must be a whole number"),
        (Command, ["top=x"], "top=x is no number of words"),
        (Command, ["resume=false"], "resume=false goes with another command"),
        (OneTable, ["a.csv", "b.csv"], "b.csv is not key=value; text with spaces is quoted"),
        (DoctorConfig, ["foo"], "takes no arguments, got 'foo'; leave it out"),
        (DoctorConfig, ["--foo"], "takes no arguments, got '--foo'; leave it out"),
    ],
)
def test_mistakes_are_one_line(schema, words, line):
    with pytest.raises(BortError) as error:
        parse_command(schema, words)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--top=3"], "top=3"),
        (["--length", "3"], "data.length=3"),
        (["--modle", "x"], "model=x"),
        (["--what"], "what"),
    ],
)
def test_an_option_is_told_as_the_setting_that_was_meant(words, meant):
    with pytest.raises(BortError) as error:
        check_options(Command, ["a", *words])
    line = f"{words[0]} is not an option; settings are written without dashes: {meant}"
    assert str(error.value) == line


def test_help_has_each_setting_with_its_default_and_its_comment():
    lines = format_help(Command).splitlines()
    assert lines[0] == "Does something." and "command model=FOLDER" in lines
    shown = [" ".join(line.split()) for line in lines]
    assert shown[-6:] == [
        "FOLDERS … where to look",
        "model=tiny what to read: this comment is long, and stands above",
        "rate=0.5",
        "top=5 words",
        "data.train=… the rows to learn from",
        "data.length=…",
    ]


COMMANDS = [PredictConfig, ExportConfig, BenchmarkConfig, ReportConfig, PipelineConfig]
COMMANDS += [DashboardConfig, TableConfig]


@pytest.mark.parametrize("schema", COMMANDS, ids=lambda schema: schema.__name__)
def test_every_setting_of_every_command_is_explained(schema):
    settings = list(list_settings(schema))
    own = [setting for setting in settings if setting.owner is schema]
    assert own and all(setting.doc for setting in own), [s.key for s in own if not s.doc]
    text = format_help(schema)
    assert all(setting.usage in text for setting in settings)
    assert max(map(len, text.splitlines())) <= 130
    assert "python -m bort." in text


def test_comments_are_those_of_the_class_that_has_the_field():
    assert read_comments(Table) == {"train": "the rows to learn from", "length": ""}


def test_a_benchmark_is_composed_by_hydra():
    settings = compose_settings(BenchmarkConfig, ["archs=[bort]", "latency=onnx"])
    assert settings.archs == ["bort"] and settings.latency.source == "onnx"


@dataclass
class Switch:
    """Whether something is done."""

    on: bool = False  # whether it is


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False)])
def test_a_switch_is_true_or_false(text, value):
    assert parse_command(Switch, [f"on={text}"]).on is value
    assert parse_command(Switch, []).on is False
    for wrong in ("1", "yes", ""):
        with pytest.raises(BortError, match=f"on={wrong} must be true or false"):
            parse_command(Switch, [f"on={wrong}"])


def test_a_switch_of_a_pipeline_reaches_its_stage_as_it_is_typed():
    """Words that were spelled otherwise would have a finished stage done again."""
    from bort.pipeline.plan import list_data_words

    for word in ("data.split_sentences=true", "data.split_sentences=false"):
        words = ["data.train=a.csv", "teacher=t", "data.unlabelled=u", word]
        settings = parse_command(PipelineConfig, words)
        assert list_data_words(settings, ["unlabelled", "split_sentences"]) == [words[2], word]
    with pytest.raises(BortError, match="goes with data.unlabelled=…, which is not given"):
        parse_command(PipelineConfig, [word])
