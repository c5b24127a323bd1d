"""The messages of settings that bort.benchmark cannot have."""

import pytest

from bort.benchmark.settings import BenchmarkConfig
from bort.config.arch import GridConfig
from bort.config.search import LatencyConfig
from bort.errors import BortError

NO_GRID, ONE = GridConfig([], []), GridConfig([1], [4], [1], None, [4])
MESSAGES = [
    (lambda: BenchmarkConfig(vocab_size=7, grid=NO_GRID), "vocab_size=7 must be at least 8"),
    (
        lambda: BenchmarkConfig(
            grid=NO_GRID, latency=LatencyConfig(source="table", path="table.csv")
        ),
        "latency=table is what this writes; use latency=measured or onnx_int8",
    ),
    (
        lambda: BenchmarkConfig(archs=[], grid=NO_GRID),
        "archs=[] leaves nothing to measure; name some, or set grid=, models=",
    ),
    (
        lambda: BenchmarkConfig(out="table.html", grid=NO_GRID),
        "out=table.html must name a table, as in out=table.csv",
    ),
    (
        lambda: BenchmarkConfig(lengths=[], grid=NO_GRID),
        "lengths=[] leaves nothing to measure; give it values",
    ),
    (
        lambda: BenchmarkConfig(huggingface=True, grid=ONE),
        "grid= makes a table for latency=table, of one engine and size; leave models=, engines=, "
        "batches=, lengths= and huggingface= out, or set grid=none",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_sizes_are_all_combinations_in_the_order_given():
    measured = LatencyConfig(source="measured")
    settings = BenchmarkConfig(batches=[8, 1], lengths=[32, 16], latency=measured, grid=NO_GRID)
    assert settings.sizes == [(8, 32), (8, 16), (1, 32), (1, 16)]
    assert BenchmarkConfig(grid=NO_GRID).sizes == [(1, 128)]
