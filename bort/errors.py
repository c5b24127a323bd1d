"""Mistakes of the user: each is one line that says what is wrong, where, and what to do instead."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class BortError(Exception):
    """A mistake of the user; the message is ready to print. Any other exception is a bug."""


class Diverged(BortError):
    """The loss is no longer a number: it ends a single run, and is a result among several runs."""


NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or the device had no memory left, whoever says so in whatever words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(part in text for part in NO_MEMORY)


def suggest_name(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest choice, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def suggest_path(path: Path, siblings: Iterable[Path]) -> str:
    """Return `"; did you mean 'runs/x'?"` for the closest sibling, or an empty string.

    Names alone are compared: the folders in front of them are equal and would make all alike.
    """
    names = {sibling.name: str(sibling) for sibling in siblings}
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean '{names[close[0]]}'?" if close else ""


NEARBY = 30  # A long line is cut between words where a space is as near as this.


def shorten(text: object, longest: int = 80, keep_end: bool = False) -> str:
    """Return a text, or the message of an error, on one line of at most `longest` characters.

    What is too long ends in an ellipsis. keep_end: it stands in the middle instead, between words
    where there is a space nearby, since the end of a line about a mistake says what to do.
    """
    line = " ".join(str(text).split())
    if len(line) <= longest:
        return line
    if not keep_end:
        return f"{line[: longest - 1]}…"
    first = longest * 2 // 3
    start, end = line[:first], line[len(line) - (longest - first - 1) :]
    if not line[first].isspace() and (space := start.rfind(" ", -NEARBY)) >= 0:
        start = start[: space + 1]
    if not line[-len(end) - 1].isspace() and 0 <= (space := end.find(" ", 0, NEARBY)):
        end = end[space:]
    return f"{start}…{end}"


def quote(value: Any, longest: int = 60) -> str:
    """Return a value that somebody wrote in the form that a message shows, letter by letter.

    A table is shown as {…}, and a list by its first four values.
    """
    if isinstance(value, dict):
        return "{…}"
    if isinstance(value, list):
        if any(isinstance(part, dict | list) for part in value[:3]):
            return "[…]"
        parts = [quote(part, 12) for part in value[:4]]
        return f"[{shorten(', '.join(parts), longest)}]"
    text = repr(value) if isinstance(value, str) else shorten(value, longest)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    bytes: "bytes",
}


def name_kind(kind: type) -> str:
    """Return what a type of values is called in a message, with its article: `a whole number`."""
    return KINDS.get(kind, f"a value of type {kind.__name__}")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise BortError when a setting is none of its choices."""
    if value not in choices:
        raise BortError(
            f"{key}={value} is unknown; use {', '.join(choices)}{suggest_name(value, choices)}"
        )


def check_at_most(key: str, value: int, most: int) -> None:
    """Raise BortError when a whole number is larger than `most`."""
    if value > most:
        number = shorten(f"{value:,}", 24)  # it may be too long for a line
        raise BortError(f"{key}={number} must be at most {most:,}")


def check_at_least(key: str, value: float, least: float, below: float | None = None) -> None:
    """Raise BortError when a number is smaller than `least`, or not below `below`."""
    if not (value >= least and (below is None or value < below)):
        limit = "" if below is None else f" and below {below:g}"
        # a whole number may be too large for a float, and too long for a line
        shown = f"{value:g}" if abs(value) < 1e300 else shorten(value, 24)
        raise BortError(f"{key}={shown} must be at least {least:g}{limit}")
