"""The border to the shell: exit codes, options, one line for a mistake."""

import errno
import gc
import sys
from dataclasses import make_dataclass

import pytest

from bort import shell
from bort.config.command_line import parse_command
from bort.errors import BortError, shorten


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "\nt.py: stopped\n"),
        (BortError("x=1 is wrong; use 2"), 1, "t.py: x=1 is wrong; use 2\n"),
        (OSError(errno.ENAMETOOLONG, "", "a" * 300), 1, f"t.py: the name {'a' * 60}… is too long"),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, line):
    def main():
        raise raised

    monkeypatch.setattr(sys, "argv", ["t.py"])
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        shell.run(main, "t.py")
    assert stopped.value.code == code and capsys.readouterr().err.startswith(line)


def test_the_flag_of_a_sweep_may_stand_anywhere(monkeypatch):
    """argparse refuses it between two settings, with a page of usage."""
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1,2", "-m", "name=x"])
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    shell.run(lambda: None, "train.py")
    assert sys.argv == ["train.py", "-m", "seed=1,2", "name=x"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--experimental-rerun", "x.pickle"], "--experimental-rerun is not an option"),
        (["--experimental-rerun=x.pickle"], "--experimental-rerun=x.pickle is not an option"),
        (["--cfg", "banana"], "argument --cfg/-c: invalid choice: 'banana'"),
        (["--cfg"], "argument --cfg/-c: expected one argument"),
        (["--info", "zzz"], "argument --info/-i: invalid choice: 'zzz'"),
        (["--lr=3"], "--lr=3 is not an option; settings are written without dashes: optim.lr=3"),
        (
            ["--epochs", "3"],
            "--epochs is not an option; settings are written without dashes: trainer.max_epochs=3",
        ),
        (
            ["--batch-size=4"],
            "--batch-size=4 is not an option; settings are written without dashes: "
            "data.batch_size=4",
        ),
        (["--zzz"], "--zzz is not an option; settings are written without dashes: zzz"),
    ],
)
def test_options_are_hydras_and_none_of_them_runs_a_file(monkeypatch, capsys, options, line):
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        shell.run(lambda: pytest.fail("the program began"), "train.py")
    errors = capsys.readouterr().err
    assert stopped.value.code == 1 and errors.startswith(f"train.py: {line}")
    assert errors.count("\n") == 1 and len(errors) <= 201


def test_a_long_line_is_cut_in_its_middle():
    line = shorten(f"data.path={'x' * 500} does not exist; give a folder", 200, keep_end=True)
    assert len(line) == 200 and line.startswith("data.path=xxx") and line.endswith("give a folder")


def test_lists_and_long_lines_are_cut_between_words():
    keys = [f"long_key_{k}" for k in range(30)]
    with pytest.raises(BortError) as error:
        parse_command(make_dataclass("Settings", [(key, str, "") for key in keys]), ["long_kye7=x"])
    words = shorten(error.value, 200, keep_end=True).split("; use ")[1].split(", ")
    assert words.pop() == "…" and words == keys[: len(words)] and len(words) > 5
    text = " ".join(f"word{k}" for k in range(100))
    start, end = shorten(text, 100, keep_end=True).split("…")
    assert {*start.split(), *end.split()} <= set(text.split())


def test_an_option_of_the_search_is_its_setting(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search.py", "--grid", "tiny"])
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        shell.run(lambda: pytest.fail("the program began"), "search.py")
    assert capsys.readouterr().err.endswith("settings are written without dashes: grid=tiny\n")


def test_bugs_are_raised(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["t.py"])
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        shell.run(lambda: 1 / 0, "t.py")


def test_imports_wait_for_no_search_for_garbage():
    """It is on again afterwards, also after a failed import, and stays off if it was off."""
    for error in (None, ImportError("half")):
        try:
            with shell.loading("t.py"):
                assert not gc.isenabled()
                if error:
                    raise error
        except ImportError:
            pass
        assert gc.isenabled()
    gc.disable()
    try:
        with shell.loading("t.py"):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
