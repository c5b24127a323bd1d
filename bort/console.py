"""Numbers and foreign names as lines on screen show them."""

from typing import Any

SHOWN = 60  # characters of a name that is quoted


def counted(number: int, noun: str, many: str | None = None) -> str:
    """`1 epoch`, `2,000 epochs`; many: a plural that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def data_size(count: float) -> str:
    """Bytes, or characters of about a byte, in the unit that fits: `1.69 kB`, `17.5 MB`."""
    scale, unit = (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / scale:,.3g} {unit}"


def decimal(value: float | None) -> str:
    """A score with four digits; None is one that is not defined."""
    return "undefined" if value is None else f"{value:.4f}"


def plain(name: Any, most: int = SHOWN) -> str:
    """A name from a file as part of one line: no control characters, and not too long."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(name))
    return text if len(text) <= most else f"{text[:most]}…"
