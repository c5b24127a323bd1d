"""Every model is loaded once a round; its memory is that of a process of its own."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bort.benchmark import measuring
from bort.benchmark.contenders import (
    Contender,
    describe_encoders,
)
from bort.benchmark.settings import BenchmarkConfig
from bort.config.search import register
from bort.models.arch import Arch

register(BenchmarkConfig)


SMALL = Arch(2, 2, 32, 64)


def test_each_model_is_loaded_once_a_round(monkeypatch):
    """Not once for each size; in turned order, so that the last of a round starts the next."""
    loaded, order = [], []

    def opened(each, threads):
        loaded.append(each.name)
        return lambda batch, length: lambda: order.append((each.name, batch, length))

    monkeypatch.setattr(measuring, "load_calls", opened)
    one = Contender("one", "encoder", "measured", SMALL, 500, 512, 10, 40)
    pair = [one, replace(one, name="two")]
    rows = measuring.measure(pair, [(1, 8), (4, 8)], 1, 3, False)
    assert loaded == ["one", "two", "one", "two"]
    turns = [b for a, b in zip([None, *order], order, strict=False) if a != b]
    assert turns[:4] == [("one", 1, 8), ("one", 4, 8), ("two", 1, 8), ("two", 4, 8)]
    assert turns[4:7] == [("two", 1, 8), ("one", 4, 8), ("one", 1, 8)]
    assert [(row.name, row.batch) for row in rows] == [
        *(("one", 1), ("two", 1), ("one", 4), ("two", 4))
    ]
    assert rows[0].ratio == rows[2].ratio == 1
    for row, first in zip(rows, [rows[0], rows[0], rows[2], rows[2]], strict=True):
        assert row.low_ms <= row.median_ms <= row.high_ms
        assert row.ratio == pytest.approx(first.median_ms / row.median_ms)
        assert row.sequences_per_s == pytest.approx(1e3 * row.batch / row.median_ms)
        assert row.peak_bytes is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory(tmp_path):
    """By a fresh process: 100 MB of weights more are 100 MB more, whatever this one holds."""
    arch = Arch(1, 1, 16, 16)
    large, light = (Contender.of_random_encoder(arch, "x", vocab, 16) for vocab in (1_600_100, 100))
    ballast = np.ones(100_000_000)  # 800 MB, which a child's getrusage would show
    found = measuring.measure_memory([large, light], [(1, 8)], 1)
    del ballast
    weights, without = (found[each, 1, 8] / 1e6 for each in (large, light))
    assert weights - without == pytest.approx(102.4, abs=30)
    assert without < 700


def test_onnx_is_measured_without_torch(tmp_path):
    encoder = Contender.of_random_encoder(SMALL, "x", 100, 64)
    (given,) = describe_encoders(encoder, ["onnx"], tmp_path)
    code = (
        "import pickle, sys; from bort.benchmark import measuring\n"
        f"given = pickle.loads({pickle.dumps(given)!r})\n"
        "print(*measuring.measure_peaks(given, [(1, 8)], 1))\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 1e7 < int(result.stdout) < 3e8
