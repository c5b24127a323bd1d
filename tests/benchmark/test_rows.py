"""Rows of a benchmark: the same JSON and CSV as ever, and back again."""

from dataclasses import FrozenInstanceError, replace

import pytest

from bort.benchmark.rows import BenchmarkRow, TableRow, read_rows
from bort.files.writing import write_csv
from bort.models.arch import Arch

ARCH = Arch(2, 2, 32, 64)
ROW = BenchmarkRow(
    **dict(name="x", measures="classifier", engine="onnx_int8", batch=1, length=128, threads=2),
    **dict(parameters=4369152, disk_bytes=17476608, median_ms=10.24, low_ms=8.23, high_ms=12.26),
    **dict(sequences_per_s=97.6, peak_bytes=None, ratio=1.5, arch=ARCH, vocabulary=30522),
)


def test_a_row_is_flat_json_and_back():
    row = ROW.to_json()
    assert list(row) == [
        *("name", "measures", "engine", "batch", "length", "threads", "parameters"),
        *("disk_bytes", "median_ms", "low_ms", "high_ms", "sequences_per_s", "peak_bytes"),
        *("ratio", "depth", "heads", "hidden", "intermediate", "vocabulary"),
    ]
    assert BenchmarkRow.from_json(row) == ROW
    with pytest.raises(FrozenInstanceError):
        ROW.ratio = 2.0


def test_a_table_is_read_with_its_numbers(tmp_path):
    """What was not measured is an empty cell, and None again."""
    rows = [ROW, replace(ROW, name="1", engine="measured", peak_bytes=123)]
    table = [row.to_json() for row in rows]
    write_csv(tmp_path / "table.csv", list(table[0]), table)
    assert read_rows(tmp_path / "table.csv") == rows


@pytest.mark.parametrize(
    ("in_ms", "columns"), [(True, ["latency_ms", "low", "high"]), (False, ["operations"])]
)
def test_a_row_for_latency_table(in_ms, columns):
    row = TableRow("bort", ARCH, 4.0, 3.0, 5.0, in_ms, 100, 2.0)
    assert list(row.to_json()) == ["name", *Arch.KEYS, *columns, "parameters"]
    bar = row.to_benchmark_row("onnx", 1, 128)
    assert (bar.median_ms, bar.low_ms, bar.high_ms, bar.ratio) == (4.0, 3.0, 5.0, 2.0)
    assert bar.size == (1, 128) and bar.disk_bytes is None and bar.arch == ARCH
