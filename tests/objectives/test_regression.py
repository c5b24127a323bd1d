"""The regression against planted latencies and another solver."""

import itertools
import random

import numpy as np
import pytest

from bort.models.arch import Arch
from bort.objectives.regression import fit_latency, spread_out


def test_fitted_latency_recovers_what_was_planted():
    """ms = D (2 H² + 3 H I + 5 H s + 7 D A s²) 1e-6 + 0.5, from 12 shapes."""
    rng = random.Random(0)

    def planted(a: Arch, s: int = 32) -> float:
        H = a.hidden
        inner = 2 * H * H + 3 * H * a.intermediate + 5 * H * s + 7 * a.heads * s * s
        return 1e-6 * a.depth * inner + 0.5

    def shape() -> Arch:
        heads = rng.choice([1, 2, 4, 8])
        return Arch(rng.randint(1, 12), heads, 64 * rng.randint(1, 8), rng.choice([64, 512, 2048]))

    archs = [shape() for _ in range(12)]
    function, error = fit_latency({a: planted(a) for a in archs}, 32)
    assert error < 1e-6
    for arch in (shape() for _ in range(20)):
        assert function(arch) == pytest.approx(planted(arch), rel=1e-6)
    noisy = {a: planted(a) * rng.uniform(0.9, 1.1) for a in archs}
    assert 0.02 < fit_latency(noisy, 32)[1] < 0.8


def test_the_interval_of_a_fit_covers_what_its_error_was_computed_from():
    """Every shape left out: its time within a factor of its prediction, by another solver."""
    from scipy.optimize import lsq_linear

    sizes = itertools.product((1, 2, 4), (1, 2), (32, 96), (64, 256))
    grid = [Arch(*shape) for shape in sizes]
    for seed in range(30):
        rng, times, rows = random.Random(seed), {}, []
        for arch in rng.sample(grid, 12):
            D, A, H, I = vars(arch).values()  # noqa: E741
            rows.append([D * H * H, D * H * I, D * H * 32, D * A * 32 * 32, 1.0])
            times[arch] = (1e-5 * sum(rows[-1][:3]) + 0.3) * rng.choice([0.4, 1.0, 1.0, 2.5])
        function, error = fit_latency(times, 32)
        ms, matrix = np.array(list(times.values())), np.array(rows)
        relative = matrix / ms[:, None]
        worst = 1.0
        for k in range(len(ms)):
            rest = np.delete(relative, k, axis=0)
            scale = np.linalg.norm(rest, axis=0)
            fit = lsq_linear(rest / scale, np.ones(len(rest)), (0, np.inf), method="bvls")
            predicted = matrix[k] @ (fit.x / scale)
            assert predicted / (1 + error) <= ms[k] * (1 + 1e-6)
            assert ms[k] <= predicted * (1 + error) * (1 + 1e-6)
            worst = max(worst, predicted / ms[k], ms[k] / predicted)
        assert 1 + error == pytest.approx(worst, rel=1e-5)


def test_spread_out():
    archs = [Arch(d, 1, 8, 8) for d in range(1, 21)]
    random.Random(0).shuffle(archs)
    assert [a.depth for a in spread_out(archs, 5, 16)] == [1, 6, 11, 15, 20]
    assert len(spread_out(archs, 99, 16)) == 20
