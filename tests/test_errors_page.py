"""docs/errors.md: each message stands in the source as it is shown, with a cause and a remedy."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
ENTRIES = re.findall(r"^### `([^\n]+)`\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)


def message_templates(source: str) -> Iterator[str]:
    """The texts of a module with … for each value that a message puts in."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield re.sub("…+", "…", "".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def all_templates() -> list[str]:
    modules = (ROOT / "bort").rglob("*.py")
    return [text for path in modules for text in message_templates(path.read_text("utf-8"))]


def is_in_source(message: str) -> bool:
    """Whether one text of the source is this message, or holds all of it."""
    if any(message in text for text in all_templates()):
        return True
    # a beginning or an end that another function puts there
    inner = re.sub(r"^…(: |; | )|…$", "", message)
    return inner != message and any(inner in text for text in all_templates())


def test_the_page_has_the_messages_that_users_meet():
    assert len(ENTRIES) >= 25 and len(ENTRIES) == len(re.findall("^### ", PAGE, re.MULTILINE))


@pytest.mark.parametrize(("message", "text"), ENTRIES, ids=[entry[0][:40] for entry in ENTRIES])
def test_a_message_is_in_the_source_and_has_a_cause_and_a_remedy(message, text):
    assert is_in_source(message), message
    assert len(re.sub(r"[^a-z]", "", message)) >= 12, "too short to be found by anybody"
    for part in ("Cause", "Remedy"):
        (sentence,) = re.findall(rf"^- \*\*{part}\.\*\* (.+)", text, re.MULTILINE)
        assert len(sentence) > 10


def test_a_message_that_is_not_in_the_source_is_noticed():
    assert is_in_source("arch.heads=… does not divide arch.hidden=…; use …")
    assert not is_in_source("arch.heads=… does not divide arch.hidden=…; take …")
    texts = list(message_templates("f'a={x!r}{y}: ' f'no {z}'"))
    assert texts[0] == "a=…: no …"
