"""Names that are near to one that does not exist."""

import pytest

from bort.errors import name_kind, suggest_name


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


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "true or false"),
        (3, "a whole number"),
        (0.5, "a number"),
        ("", "text"),
        ([], "a list"),
        ({}, "an object"),
        (1j, "a value of type complex"),
    ],
)
def test_a_kind_of_value_is_named_in_plain_words(value, name):
    assert name_kind(type(value)) == name
