"""`key=value` words of a command line that Hydra does not read."""

from bort.console import listed
from bort.errors import BortError, nearest


def parse(arguments: list[str], known: dict[str, str | None]) -> dict[str, str | None]:
    """`key=value` arguments over their defaults; raises BortError for one that is not known."""
    found = dict(known)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise BortError(f"{argument} is not key=value; text with spaces is quoted: text='a b'")
        if key not in known:
            raise BortError(
                f"{argument} is not a setting{nearest(key, known)}; use {listed(known, 120)}"
            )
        found[key] = value
    return found
