"""A row of a benchmark's table: what was measured, and its time, size and memory."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bort.models.arch import Arch

ENGINE_NAMES = {
    "huggingface": "Hugging Face",
    "measured": "PyTorch",
    "onnx": "ONNX",
    "onnx_int8": "ONNX int8",
}
WIDE = 0.25  # of the median, between the quartiles: from there on, a ratio is in doubt


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """The median time of one inference between its quartiles, of one model at one size.

    In a table of `latency=`, of encoders alone, the fields that are None were not measured.
    """

    name: str
    measures: str = "encoder"  # or the head that the model has
    engine: str
    batch: int
    length: int  # tokens of a sequence
    threads: int | None = None
    parameters: int
    disk_bytes: int | None = None
    median_ms: float
    low_ms: float
    high_ms: float
    sequences_per_s: float | None = None
    peak_bytes: int | None = None
    ratio: float  # how many times faster than the first model at the same size
    arch: Arch
    vocabulary: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Batch and length."""
        return self.batch, self.length

    @property
    def engine_name(self) -> str:
        """The engine as people call it."""
        return ENGINE_NAMES.get(self.engine, self.engine)

    @property
    def is_wide(self) -> bool:
        """Whether the quartiles are so far apart that the ratio is in doubt."""
        return self.high_ms - self.low_ms > WIDE * self.median_ms

    def to_json(self) -> dict[str, Any]:
        """The flat row of the CSV file, with the four sizes of the architecture as columns."""
        row = asdict(self)
        vocabulary = row.pop("vocabulary")
        return row | row.pop("arch") | {"vocabulary": vocabulary}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Make a row of the values of `to_json`."""
        values = {key: value for key, value in row.items() if key not in Arch.KEYS}
        return cls(**values, arch=Arch.from_table(row))


def read_rows(path: Path) -> list[BenchmarkRow]:
    """Read the table that a benchmark wrote, with its numbers as numbers."""
    texts = ("name", "measures", "engine")
    floats = ("median_ms", "low_ms", "high_ms", "sequences_per_s", "ratio")
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key in row.keys() - set(texts):
                row[key] = (float if key in floats else int)(row[key]) if row[key] else None
            rows.append(BenchmarkRow.from_json(row))
    return rows


def warn_of_wide_quartiles(rows: Iterable[BenchmarkRow]) -> str | None:
    """Return a warning that names the rows whose quartiles are far apart, if there are any."""
    wide = [row for row in rows if row.is_wide]
    if not wide:
        return None
    names = ", ".join(dict.fromkeys(f"{row.name} {row.engine_name}" for row in wide[:3]))
    more = f" and {len(wide) - 3} more" if len(wide) > 3 else ""
    return (
        f"warning: quartiles more than {WIDE:.0%} of the median apart ({names}{more}): something "
        "disturbed the machine, so ratios are in doubt; measure again, or raise latency.rounds"
    )


@dataclass(frozen=True)
class TableRow:
    """The latency of one encoder, in a table that `latency=table` reads."""

    name: str  # empty for a point of a grid
    arch: Arch
    value: float  # milliseconds, or operations
    low: float
    high: float
    in_ms: bool
    parameters: int  # of the model with its masked-LM head
    ratio: float  # how many times faster than the first row

    def to_json(self) -> dict[str, Any]:
        """The flat row of the CSV file."""
        numbers = {"operations": self.value}
        if self.in_ms:
            numbers = {"latency_ms": self.value, "low": self.low, "high": self.high}
        return {
            "name": self.name,
            **self.arch.to_table(),
            **numbers,
            "parameters": self.parameters,
        }

    def to_benchmark_row(self, engine: str, batch: int, length: int) -> BenchmarkRow:
        """Return the same as a row of a comparison, for its warnings and its picture."""
        return BenchmarkRow(
            name=self.name,
            engine=engine,
            batch=batch,
            length=length,
            parameters=self.parameters,
            median_ms=self.value,
            low_ms=self.low,
            high_ms=self.high,
            ratio=self.ratio,
            arch=self.arch,
        )
