"""The `bort` command: its list, its mistakes, and that it is what train.py and the modules are."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bort import console
from bort.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TINY = ["data=text", "data.path=text.txt", "data.length=16", "data.vocab_size=280", "trainer=cpu"]
TINY += ["arch={depth: 1, heads: 2, hidden: 16, intermediate: 16}", "trainer.max_steps=2", "name=x"]


def bort(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bort", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


def test_the_list_of_commands():
    start = time.perf_counter()
    result = bort("--help")
    assert time.perf_counter() - start < 3  # half a second on an idle machine
    assert result.returncode == 0 and result.stderr == "" and bort().stdout == result.stdout
    lines = result.stdout.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert bort("--version").stdout.startswith("bort 0.")


def test_help_of_every_command_loads_nothing_heavy():
    """All in one process, which would show what any of them imports."""
    names = ["predict", "export", "benchmark", "report", "pipeline", "doctor", "dashboard"]
    code = f"""
import runpy, sys
for name in {[*names, "search"]}:
    sys.argv = [name, "--help"]
    runpy.run_module(f"bort.{{name}}", run_name="__main__")
print(*sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0 and "Answers of a saved model." in result.stdout
    loaded = set(result.stderr.split())
    assert "bort.export.settings" in loaded
    assert not loaded & {"torch", "lightning", "transformers", "datasets", "pandas"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "bort: trian is not a command; did you mean 'train'?"),
        (["train", "optim.lrr=1"], "bort train: optim.lrr is not a setting"),
        (["train", "--epochs", "3"], "bort train: --epochs is not an option"),
        (["search", "--grid", "tiny"], "bort search: --grid is not an option"),
        (["predict", "txt=x"], "bort predict: txt=x is not a setting; did you mean 'text'?"),
        (["export"], "bort export: give model=FOLDER"),
    ],
)
def test_mistakes_are_one_line(words, line, tmp_path):
    result = bort(*words, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(line) and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_training_in_an_empty_folder(tmp_path, text):
    """As from a wheel: no train.py and no conf/ beside it, but settings of one's own."""
    (tmp_path / "text.txt").write_text(text.read_text())
    (tmp_path / "conf" / "local").mkdir(parents=True)
    (tmp_path / "conf" / "local" / "default.yaml").write_text("# @package _global_\nseed: 7\n")
    result = bort("train", "experiment=mlm_pretrain", *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "mlm_pretrain" / "x" / "model" / "config.json").is_file()
    assert "-m bort train experiment=kd_pretrain" in result.stdout
    settings = (tmp_path / "runs" / "mlm_pretrain" / "x" / "settings.json").read_text()
    assert '"seed": 7' in settings


@pytest.mark.parametrize(
    ("start", "typed"),
    [
        ("/usr/bin/bort", "bort train a=1 | bort predict b=2 | bort pipeline"),
        ("/x/bort/__main__.py", "P -m bort train a=1 | P -m bort predict b=2 | P -m bort pipeline"),
        (
            "/x/bort/export/__main__.py",
            "P train.py a=1 | P -m bort.predict b=2 | P -m bort.pipeline",
        ),
        ("train.py", "P train.py a=1 | P -m bort.predict b=2 | P -m bort.pipeline"),
    ],
)
def test_the_next_command_is_of_the_same_kind(start, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [start])
    words = ("train.py a=1", "-m bort.predict b=2", "-m bort.pipeline")
    shown = " | ".join(map(console.typed, words))
    assert shown == typed.replace("P", console.python())


def test_the_next_command_of_a_python_program_works_in_any_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with console.calling_from_python():
        assert console.typed("train.py a=1") == f"{console.python()} -m bort train a=1"
        assert console.typed("-m bort.predict b=2") == f"{console.python()} -m bort predict b=2"
    assert console.typed("train.py a=1") == f"{console.python()} train.py a=1"
