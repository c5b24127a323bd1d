"""Errors after fewer steps: rungs, crossings and what they bound, by hand and by brute force."""

import itertools
import random

import pytest

from bort.models.arch import Arch
from bort.trials.rungs import Curves, list_rungs

A, B, C, D = (Arch(1, 1, 8, k) for k in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("n", "rungs"),
    [
        *((300, [37, 74 + 1, 150, 300]), (1000, [125, 250, 500, 1000]), (303, [37, 75, 150, 303])),
        *((16, [4, 8, 16]), (8, [4, 8]), (9, [4, 9]), (7, [7])),
    ],
)
def test_rungs(n, rungs):
    assert list_rungs(n) == rungs


def told(n: int, rows: dict[Arch, dict[int, float]]) -> Curves:
    curves = Curves(n)
    for xi, errors in rows.items():
        for steps, e in errors.items():
            curves.tell(xi, steps, e)
    return curves


def test_crossings_by_hand():
    """B was 0.3 behind A at the first rung and beat it; C was never behind whom it beat."""
    rows = {A: {1: 5.0, 2: 4.0}, B: {1: 5.3, 2: 3.5}, C: {1: 5.9, 2: 4.5}, D: {1: 5.45}}
    curves = told(2, rows)
    assert curves.measure_crossing(1) == pytest.approx(0.3)
    assert curves.measure_crossing(2) == 0
    # D is 0.45 behind A, which is more than 0.3, but 0.15 behind B: it may still beat B, not A
    assert curves.find_least_errors()[D] == 4.0
    assert curves.find_last_rung(D) == 1 and curves.find_last_rung(Arch(2, 1, 8, 1)) == 0
    rows.pop(C)  # of two trained ones nobody knows how curves cross
    assert told(2, rows).measure_crossing(1) is None
    assert told(2, rows).find_least_errors() == {}


def test_crossings_of_random_curves():
    """Against the definition in words, and never above the error of a candidate that is trained."""
    rng = random.Random(0)
    bounded = 0
    for _ in range(300):
        grid = [Arch(1, 1, 8, k) for k in range(1, 10)]
        final = {xi: rng.randint(1, 9) / 2 for xi in grid[: rng.randint(0, 9)]}  # with ties
        early = {xi: rng.randint(1, 9) / 2 for xi in grid}
        curves = told(8, {xi: {4: early[xi]} for xi in grid})
        for xi, e in final.items():
            curves.tell(xi, 8, e)
        delta, least = curves.measure_crossing(4), curves.find_least_errors()
        if len(final) < 3:
            assert delta is None and not least
            continue
        crossed = [
            early[a] - early[b]
            for a, b in itertools.permutations(final, 2)
            if final[a] < final[b] and early[a] > early[b]
        ]
        assert delta == max(crossed, default=0)
        for xi in grid:
            ahead = [final[b] for b in final if early[xi] > early[b] + delta]
            assert least.get(xi) == max(ahead, default=None)
            bounded += bool(ahead)
            assert xi not in final or least.get(xi, 0) <= final[xi]
    assert bounded > 300
