"""Latencies of another machine, read from a CSV file as `python -m bort.benchmark` writes it."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from bort.errors import BortError
from bort.models.arch import Arch


def read_latency_table(path: Path, archs: list[Arch]) -> dict[Arch, float]:
    """Read the milliseconds of these architectures from a CSV as `bort.benchmark` writes it.

    Its columns are the four sizes and latency_ms. Raises BortError for a wrong file, a shape with
    two latencies, and points that it lacks.
    """
    if not path.is_file():
        raise BortError(f"latency.path={path} does not exist; python -m bort.benchmark writes one")
    table: dict[Arch, float] = {}
    for line, row in _iterate_rows(path):
        try:
            arch, ms = Arch.from_table(row), float(row["latency_ms"])
        except (TypeError, ValueError) as error:
            raise BortError(f"{path} line {line}: {error}") from None
        if not 0 < ms < math.inf:
            raise BortError(f"{path} line {line}: latency_ms={ms:g} must be above 0")
        if table.setdefault(arch, ms) != ms:
            raise BortError(
                f"{path} line {line}: {arch} has {ms:g} ms here and "
                f"{table[arch]:g} ms further up; leave one of them out"
            )
    if missing := [arch for arch in archs if arch not in table]:
        names = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise BortError(f"{path} lacks {len(missing)} of the points: {names}")
    return {arch: table[arch] for arch in archs}


def _iterate_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Iterate over line numbers and rows of a CSV that has the columns of a latency table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            for column in (*Arch.KEYS, "latency_ms"):
                if column not in (rows.fieldnames or ()):
                    raise BortError(f"{path} has no column {column}")
            for row in rows:
                yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error):
        raise BortError(f"{path} is no CSV; python -m bort.benchmark writes one") from None
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
