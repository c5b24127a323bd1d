"""Reading text in processes of its own, from any program."""

import ast
import sys
from types import ModuleType

from bort.text.sources import read_docstrings, walk_blocks


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


NESTED = """
'm'
class A:
    'a'
    def f(self, x=lambda: 0):
        'f'
        with x:
            async def g():
                'g'
try:
    def h(): 'h'
except E:
    def i(): 'i'
else:
    for _ in range(3):
        def j(): 'j'
    else:
        class K: 'k'
finally:
    match x:
        case 1 if x:
            def l(): 'l'
if x:
    while y:
        def m(): return [n for n in range(3)]
"""


def test_no_statement_is_left_out():
    """All of them, in the order in which `ast.walk` finds them."""
    tree = ast.parse(NESTED)
    kinds = (ast.Module, ast.stmt, ast.excepthandler, ast.match_case)
    expected = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    assert list(walk_blocks(tree)) == expected and len(expected) > 25
