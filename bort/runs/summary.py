"""What the summary of a run says: which values are numbers, in words, and what to doubt."""

import math
import re
import sys
from pathlib import Path
from typing import Any

from bort.errors import BortError, shorten

RESTORE = "restore it or remove the run"
NUMBERS = ("parameters", "steps", "tokens", "seconds", "tokens_per_s", "unigram_ce", "lr", "w")
NEAR = 0.3  # nats below the unigram model from which on a model has learnt of the context


def check_numbers(path: Path, summary: dict[str, Any]) -> None:
    """Raise BortError for a result in a summary that is neither a number nor null."""
    for key, value in summary.items():
        is_score = re.match(r"(val|test|eval)\w*/", key) is not None
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        if (key in NUMBERS or is_score) and value is not None and not is_number:
            raise BortError(f"{path}: {key} is {shorten(repr(value), 40)}, no number; {RESTORE}")


def describe_validation(summary: dict[str, Any]) -> str:
    """Say `val 3.80 nats (38.4% of masked words; unigram 6.79, 5.9%)`."""
    if summary.get("val/loss") is None:
        reason = summary.get("no_validation")
        return "no validation" + (f" ({reason})" if reason else "")
    return (
        f"val {summary['val/loss']:.2f} nats ({summary['val/mlm_accuracy']:.1%} of masked words; "
        f"unigram {summary['unigram_ce']:.2f}, {summary['unigram_accuracy']:.1%})"
    )


def find_doubt(summary: dict[str, Any]) -> str | None:
    """Return a warning when a model knows little more than how frequent words are.

    Of a task it is what its scores leave in doubt (`bort.tasks.metrics.doubt`).
    """
    if "task" in summary:
        line = summary.get("doubt")
        return line if isinstance(line, str) else None
    below = (summary.get("unigram_ce") or 0) - (summary.get("val/loss") or -math.inf)
    if below >= NEAR:
        return None
    distance = f"{below:.2f} nats better than" if below > 0 else "no better than"
    return f"{distance} word frequencies alone: more steps, another optim.lr or more text is needed"
