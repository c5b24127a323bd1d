"""The former name of `python -m bort.search` still starts the same program."""

import runpy
import sys

import pytest

from bort.config.command_line import format_help
from bort.search.table_optimum import TableConfig


def start(monkeypatch, *words: str) -> None:
    """Run `python -m bort.fptas` with these words in this process."""
    monkeypatch.setattr(sys, "argv", ["fptas", *words])
    sys.modules.pop("bort.fptas", None)
    runpy.run_module("bort.fptas", run_name="__main__")


def test_help_is_that_of_the_table_search(monkeypatch, capsys):
    start(monkeypatch, "--help")
    assert capsys.readouterr().out == format_help(TableConfig) + "\n"


def test_a_mistake_is_one_line_with_this_name(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, "no_such_setting=1")
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and error.startswith("bort.fptas: ")
    assert error.count("\n") == 1 and "no_such_setting" in error


def test_import_alone_starts_nothing(capsys):
    runpy.run_module("bort.fptas", run_name="imported")
    assert capsys.readouterr() == ("", "")
