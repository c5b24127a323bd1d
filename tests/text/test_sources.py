"""Reading text in processes of its own, from any program."""

import sys
from types import ModuleType

from bort.text.sources import read_docstrings


def test_a_script_without_a_guard_is_not_run_again(tmp_path, monkeypatch):
    """Spawned processes import the script that started them, unless they are kept from it."""
    script = tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'again')!r}, 'w').close()\n", "utf-8")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    found = read_docstrings(["omegaconf"], lambda line, now=False: None)
    assert any(texts for texts in found["omegaconf"].values())
    assert sys.modules["__main__"] is main and not (tmp_path / "again").exists()
