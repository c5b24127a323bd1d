"""Every block of docs/python.md runs, one after the other; README's names what is there."""

import ast
import re
from pathlib import Path

import pytest

import bort

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.M | re.S)


@pytest.mark.filterwarnings("ignore:.*litlogger.*")
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "cache"))
    found, names = blocks("docs/python.md"), {}
    assert len(found) == 10
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "runs/kd_pretrain/first" in shown
    assert "optim.lrr is not a setting; did you mean 'optim.lr'?" in shown
    for folder in ("runs/kd_pretrain/first", "runs/finetune/critic", "student", "classifier"):
        assert bort.load(tmp_path / folder)
    assert "(2, 2)" in shown and names["vectors"].dtype == "float32"
    assert 0 < names["search"].w_coefficient(names["best"]) < 1


def test_the_page_speaks_of_every_public_name():
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    missing = [name for name in bort.__all__ if name not in text and not name.startswith("_")]
    assert missing in ([], ["RunResult"])


def test_readme_uses_what_there_is():
    (block,) = blocks("README.md")
    used = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "bort"
    }
    assert used and used <= set(bort.__all__)
