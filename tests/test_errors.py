"""Names that are near to one that does not exist."""

import pytest

from bort.errors import suggest_name


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("bort", ["bert", "port", "tiny"], "; did you mean 'port'?"),
        ("tiny_teachr", ["tiny", "tiny_teacher"], "; did you mean 'tiny_teacher'?"),
        ("zebra", ["bort"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(name, known, hint):
    assert suggest_name(name, known) == hint
