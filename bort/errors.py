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


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def nearest_path(path: Path, siblings: Iterable[Path]) -> str:
    """`"; did you mean 'runs/x'?"` for the sibling of a path with the closest name, or nothing.

    Names alone are compared: the folders in front of them are equal and would make all alike.
    """
    names = {sibling.name: str(sibling) for sibling in siblings}
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean '{names[close[0]]}'?" if close else ""
