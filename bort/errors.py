"""A user's mistake is one line: what was wrong, where, and what to do instead."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class BortError(Exception):
    """A mistake of the user; the message is ready to print. Any other exception is a bug."""


class Diverged(BortError):
    """The loss is no number any more: of one run the end, of several a result."""


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


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice with the closest name, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest_path(path: Path, siblings: Iterable[Path]) -> str:
    """`"; did you mean 'runs/x'?"` for the sibling of a path with the closest name, or nothing.

    Names alone are compared: the folders in front of them are equal and would make all alike.
    """
    names = {sibling.name: str(sibling) for sibling in siblings}
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean '{names[close[0]]}'?" if close else ""


def short(error: BaseException | str, most: int = 80) -> str:
    """The first `most` characters of a library's message, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise BortError when a setting is none of its choices."""
    if value not in choices:
        raise BortError(
            f"{key}={value} is unknown; use {', '.join(choices)}{nearest(value, choices)}"
        )


def at_most(key: str, value: int, most: int) -> None:
    """Raise BortError when a whole number is larger than `most`."""
    if value > most:
        raise BortError(f"{key}={short(f'{value:,}', 24)} must be at most {most:,}")


def at_least(key: str, value: float, least: float, below: float | None = None) -> None:
    """Raise BortError when a number is smaller than `least`, or not below `below`."""
    if not (value >= least and (below is None or value < below)):
        limit = "" if below is None else f" and below {below:g}"
        # a whole number may be too large for a float, and too long for a line
        shown = f"{value:g}" if abs(value) < 1e300 else short(str(value), 24)
        raise BortError(f"{key}={shown} must be at least {least:g}{limit}")
