"""Settings as Python has them, written as words of Hydra's command line."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from bort.errors import BortError

# What Hydra would read as something else than this text.
OTHER_WORDS = re.compile(r"(?i)null|true|false|[+-]?(nan|inf|[\d._]+(e[+-]?\d+)?)")


def to_overrides(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return settings as words of Hydra's command line; a mapping sets each of its keys."""
    words = []
    for key, value in settings.items():
        if is_dataclass(value):
            value = asdict(value)
        if isinstance(value, Mapping):
            words += to_overrides(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={to_word(value)}")
    return words


def to_word(value: Any) -> str:
    """Return a value in Hydra's grammar; text is quoted where it could be read as something else.

    Raises BortError for a value that no setting can have.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = str(value)
        if re.fullmatch(r"[A-Za-z0-9_./-]+", text) and not OTHER_WORDS.fullmatch(text):
            return text
        # Backslashes are doubled before what ends a text or begins an interpolation, nowhere else.
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
        return "'" + re.sub(r"(\\*)('|\Z)", _escape_quote, text) + "'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(to_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{to_word(inner)}" for key, inner in value.items()) + "}"
    if hasattr(value, "item"):  # a number of numpy
        return to_word(value.item())
    raise BortError(
        f"a setting cannot be of type {type(value).__name__}; give text, numbers or lists"
    )


def _escape_quote(match: re.Match) -> str:
    return match[1] * 2 + ("\\'" if match[2] else "")
