"""Limits on the code itself: folders, functions, names, docstrings, and a test file per module."""

from pathlib import Path

import house
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tree() -> house.House:
    counted = house.survey(ROOT / "bort")
    assert counted.modules > 100 and counted.functions > 1000 and counted.names > 5000
    return counted


def test_folders_and_functions_stay_small(tree):
    assert tree.fullest_folder <= (14, "~")
    assert tree.longest_function <= (60, "~")
    assert tree.most_arguments <= (8, "~")


def test_names_say_what_they_hold(tree):
    assert tree.stand_in_share <= 0.01, tree.stand_ins
    assert tree.verb_share >= 0.60, tree.other_first
    assert tree.keys_per_1000_lines <= 20


def test_public_names_are_explained(tree):
    assert tree.documented_share >= 0.90, tree.undocumented


def test_nothing_is_nested_that_could_be_a_line_of_its_own(tree):
    assert not tree.nested_comprehensions
    assert not tree.nested_f_strings


def test_tests_go_through_public_doors():
    assert not house.private_names(ROOT / "tests")


def test_each_module_has_a_test_file():
    assert not house.untested_modules(ROOT / "bort", ROOT / "tests")


SOURCE = '''
class Thing:
    def size(self):
        found = [x for x in [y for y in range(3)]]
        return found["key"]

    @property
    def name(self):
        """Named."""
        return f"{f'{self}'}"

def read_rows(path, given):
    """Read."""

def _rows(): ...
def on_fit_start(): ...
'''


def test_each_figure_is_counted():
    counted = house.House()
    house.count_module(counted, "m.py", SOURCE)
    assert counted.names == 7 and counted.stand_ins["found"] == counted.stand_ins["given"] == 1
    assert (counted.functions, counted.verb_first) == (4, 2)
    assert counted.string_keys == 1 and len(counted.nested_comprehensions) == 1
    assert counted.nested_f_strings == ["m.py:10"]
    assert counted.public == 5
    assert counted.undocumented == ["m.py Thing", "m.py Thing.size", "m.py on_fit_start"]
    assert counted.longest_function[0] == 3 and counted.most_arguments[0] == 2


def test_private_names_and_missing_files_are_seen(tmp_path):
    (tmp_path / "tests").mkdir()
    lines = ["from bort import console as c", "from bort.x import _a", "c._b", "c.__name__"]
    lines += ['patch("bort.x._c")', "other._d"]
    (tmp_path / "tests" / "test_x.py").write_text("\n".join(lines))
    names = [entry.split()[1] for entry in house.private_names(tmp_path / "tests")]
    assert sorted(names) == ["_a", "_b", "_c"]
    (tmp_path / "bort" / "inner").mkdir(parents=True)
    for name in ("x.py", "inner/y.py", "inner/__init__.py"):
        (tmp_path / "bort" / name).touch()
    assert house.untested_modules(tmp_path / "bort", tmp_path / "tests") == ["inner/y.py"]
