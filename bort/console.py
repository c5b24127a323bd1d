"""Numbers and foreign names as lines on screen show them."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any


def counted(number: int, noun: str, many: str | None = None) -> str:
    """`1 epoch`, `2,000 epochs`; many: a plural that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def data_size(count: float) -> str:
    """Bytes, or characters of about a byte, in the unit that fits: `1.69 kB`, `1.2 GB`."""
    units = ((1e9, "GB"), (1e6, "MB"))
    scale, unit = next((pair for pair in units if count >= pair[0] * 0.9995), (1e3, "kB"))
    value = count / scale
    return f"{value:,.0f} {unit}" if value >= 999.5 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: `0.2 s`, `41 s`, `12 min`, `3.2 hours`, `1,250 hours`."""
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    if seconds < 3570:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    amount = f"{hours:,.0f}" if hours >= 99.5 else f"{hours:.2g}"
    return f"{amount} hour" if amount == "1" else f"{amount} hours"


def significant(value: float) -> str:
    """A number with three digits that count, and never as a power of ten: `0.47`, `4,030`."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


def decimal(value: float | None) -> str:
    """A score with four digits; None is one that is not defined."""
    return "undefined" if value is None else f"{value:.4f}"


def to_printable(name: Any, longest: int = 60) -> str:
    """Return a name from a file as a part of a line: without control characters, not too long."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(name))
    return text if len(text) <= longest else f"{text[:longest]}…"


class ScreenHandler(logging.Handler):
    """Prints each line at once, on what is standard output then; warnings say that they are one.

    Of the processes of a distributed training only the first prints. An error of the screen, as
    when `| head` has seen enough, reaches the caller.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(screen_line(record), flush=True)


def screen_line(record: logging.LogRecord) -> str:
    """What the screen shows of a log record."""
    prefix = "warning: " if record.levelno >= logging.WARNING else ""
    return prefix + record.getMessage()


def show_log() -> None:
    """Show the lines that bort logs on the screen, as its commands do; once is enough.

    Where bort is used as a library, nothing is shown until this is called or the application
    configures logging itself.
    """
    log = logging.getLogger("bort")
    if not any(isinstance(handler, ScreenHandler) for handler in log.handlers):
        log.addHandler(ScreenHandler())
    log.setLevel(logging.INFO)
    log.propagate = False  # handlers of the root logger would show every line again


@contextmanager
def hide_notes() -> Iterator[None]:
    """Show only warnings: for what another process of the same run has said before."""
    log = logging.getLogger("bort")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


class Progress:
    """Lines about a long piece of work, at most one of them in `every_s` seconds.

    logger: where they go; what: what they begin with, as in `latency: timing 3 of 12 · 0:40 left`.
    """

    def __init__(self, logger: logging.Logger, what: str = "", every_s: float = 10.0):
        self.logger, self.what, self.every_s = logger, what, every_s
        self._start = self._last = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` parts are finished, and how long the others will take."""
        left = (time.monotonic() - self._start) * (total - done) / max(done, 1)
        self.tell(f"{self.what} {done:,} of {total:,} · {clock(left)} left")

    def tell(self, line: str, now: bool = False) -> None:
        """Show a line if it is time for one, or in any case when it opens a stage (`now`)."""
        if now or time.monotonic() - self._last >= self.every_s:
            self._last = time.monotonic()
            self.logger.info(line)


def clock(seconds: float) -> str:
    """`0:42`, `12:05`, `3:07:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def python() -> str:
    """How this interpreter is called from here: `.venv/bin/python`, or `python`."""
    path = os.path.relpath(sys.executable) if sys.executable else ".."
    return "python" if path.startswith("..") else path


def listed(names: Iterable[str], longest: int) -> str:
    """Names with commas between; the last ones are an ellipsis where they are too many."""
    text = ", ".join(names)
    return text if len(text) <= longest else f"{text[: text.rfind(',', 0, longest)]}, …"


def is_one_command() -> bool:
    """Whether this program was started as `bort COMMAND` or `python -m bort COMMAND`."""
    start = Path(sys.argv[0])
    return start.name in ("bort", "__main__.py") and start.parent.name in ("bin", "bort")


_CALLED_FROM_PYTHON = ContextVar("called_from_python", default=False)


@contextmanager
def calling_from_python() -> Iterator[None]:
    """Around work that a Python program has called, which goes on when the work is stopped."""
    token = _CALLED_FROM_PYTHON.set(True)
    try:
        yield
    finally:
        _CALLED_FROM_PYTHON.reset(token)


def is_called_from_python() -> bool:
    """Whether a Python program called bort, as `bort.run` does, rather than one of its commands."""
    return _CALLED_FROM_PYTHON.get()


def typed(words: str) -> str:
    """`train.py …` or `-m bort.predict …`, behind `python`, as it is typed for this program.

    Whoever started `bort` or `python -m bort` reads `bort train …`, `bort predict …`. Who called
    bort from Python reads `python -m bort train …`, which needs no train.py in the folder.
    """
    if not is_one_command() and not is_called_from_python():
        return f"{python()} {words}"
    program, _, rest = words.removeprefix("-m bort.").partition(" ")
    door = "bort" if Path(sys.argv[0]).name == "bort" else f"{python()} -m bort"
    return f"{door} {program.removesuffix('.py')} {rest}".rstrip()
