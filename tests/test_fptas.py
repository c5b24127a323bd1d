"""The selection against brute force over every candidate; W and its bound by hand."""

import math
import random

import pytest

from bort import fptas
from bort.errors import BortError
from bort.fptas import Scale, Selection, pareto, shrinks, w_map

T = (4, 8, 64, 256)


def instance(seed: int) -> tuple[dict, dict, dict]:
    """A random search: keyword arguments of Selection, the true errors, what fails."""
    rng = random.Random(seed)
    grid = [
        (d, a, h, i)
        for d in (1, 2, 4)
        for a in (1, 2)
        for h in (8, 16, 32)
        for i in (8, 16, 64)
        if rng.random() < rng.choice([0.2, 0.6])
    ] or [(1, 1, 8, 8)]
    scale = Scale(
        *(1000.0, 50.0, rng.uniform(0.5, 4)),
        exponents=rng.choice([(1, 1, 1), (1, 1, 1), (0, 0, 1), (2, 0.5, 1), (1, 1, 0)]),
        error=rng.choice(fptas.ERRORS),
    )
    coarse = rng.random() < 0.3  # equal numbers: ties
    number = (lambda x: float(round(x))) if coarse else float
    points = {xi: (number(rng.uniform(1, 1100)), number(rng.uniform(1, 55))) for xi in grid}
    errors = {xi: scale.e + number(rng.expovariate(0.7)) for xi in grid}
    if rng.random() < 0.5:  # errors that really are monotone
        for small in sorted(grid, reverse=True):
            above = [errors[large] for large in grid if shrinks(small, large)]
            errors[small] = max([errors[small], *above])
    arguments = {
        "points": points,
        "scale": scale,
        "epsilon": rng.randint(1, len(grid)) if rng.random() < 0.7 else 1,
        "refine": rng.random() < 0.5,
        "monotone": rng.random() < 0.5,
        "max_params": rng.choice([None, None, 600.0, 60.0]),
        "max_latency": rng.choice([None, None, 30.0]),
    }
    failed = {xi for xi in grid if rng.random() < 0.1}
    return arguments, errors, failed


def run(arguments: dict, errors: dict, failed: set, count: int = 1) -> Selection | None:
    """The selection to its end; None when nothing is left to choose from."""
    try:
        selection = Selection(**arguments)
    except BortError as error:
        assert "no candidate is left" in str(error)
        return None
    while batch := selection.ask(count):
        assert len(batch) <= count
        for xi in batch:
            assert xi not in selection.errors and xi not in selection.failed
            if xi in failed:
                selection.fail(xi, "diverged")
            else:
                selection.tell(xi, errors[xi])
    return selection


def by_brute_force(arguments: dict, errors: dict, failed: set) -> dict:
    """ξ → W of every candidate within the limits that can be trained, from the formulas."""
    scale, limits = arguments["scale"], (arguments["max_params"], arguments["max_latency"])
    found = {}
    for xi, (p, i) in arguments["points"].items():
        if p >= scale.p or i >= scale.i or xi in failed:
            continue
        if any(limit is not None and x > limit for x, limit in zip((p, i), limits, strict=True)):
            continue
        e, (a, b, c) = errors[xi], scale.exponents
        quality = scale.e / e if scale.error == "ratio" else math.exp(scale.e - e)
        found[xi] = (1 - p / scale.p) ** a * (1 - i / scale.i) ** b * quality**c
    return found


def test_random_instances():
    """2,000 of them: exact where exactness is claimed, never beyond the stated regret."""
    seen = {"exact": 0, "skipped": 0, "assumed": 0, "withdrawn": 0, "none": 0, "all failed": 0}
    for seed in range(2000):
        arguments, errors, failed = instance(seed)
        true = by_brute_force(arguments, errors, failed)
        selection = run(arguments, errors, failed)
        if selection is None:
            seen["none"] += 1
            continue
        if selection.best is None:
            seen["all failed"] += 1
            # with skipped candidates left, refinement has no best one to look around
            assert all(xi in failed for xi in selection.picks)
            with pytest.raises(BortError, match="candidates failed; the first one: diverged"):
                selection.certificate()
            continue
        certificate = selection.certificate()
        best = selection.w(selection.best)
        assert best == pytest.approx(true[selection.best], abs=1e-12)
        regret = max(true.values()) - best
        assert regret <= certificate.regret_proven + 1e-12
        monotone = not any(shrinks(s, t) and errors[s] < errors[t] for s in true for t in true)
        if monotone:
            assert certificate.regret_monotone is not None
            assert regret <= certificate.regret_monotone + 1e-12
            assert certificate.regret_monotone <= certificate.regret_proven
        if arguments["epsilon"] == 1 and (monotone or not arguments["monotone"]):
            tie = min(true, key=lambda xi: (-selection.w(xi) if xi in selection.errors else 0,))
            assert regret <= 1e-12 and selection.w(tie) == best
            seen["exact"] += 1
            if not arguments["monotone"]:
                assert certificate.regret_proven == 0
                # none was trained that could have been left out
                assert all(selection.gibbs(xi) >= best for xi in selection.errors)
        statuses = certificate.status
        assert statuses.keys() == arguments["points"].keys()
        assert {xi for xi, s in statuses.items() if s == "trained"} == set(selection.errors)
        assert {xi for xi, s in statuses.items() if s == "failed"} <= failed
        assert all(true.get(xi, 0) <= best for xi, s in statuses.items() if s == "pruned")
        seen["skipped"] += "skipped" in statuses.values()
        seen["assumed"] += "assumed" in statuses.values()
        seen["withdrawn"] += arguments["monotone"] and certificate.regret_monotone is None
    assert min(seen.values()) > 20, seen  # every kind was there


def test_order_of_the_grid_changes_nothing():
    for seed in range(300):
        arguments, errors, failed = instance(seed)
        one = run(arguments, errors, failed)
        items = list(arguments["points"].items())
        random.Random(seed).shuffle(items)
        two = run(arguments | {"points": dict(items)}, errors, failed)
        assert (one is None) == (two is None)
        if one is not None and one.best is not None:
            assert one.best == two.best and one.errors == two.errors
            assert one.certificate() == two.certificate()


@pytest.mark.parametrize("count", [2, 5])
def test_several_at_a_time_find_the_same(count):
    for seed in range(300):
        arguments, errors, failed = instance(seed)
        arguments |= {"epsilon": 1, "monotone": False}
        one, two = (run(arguments, errors, failed, n) for n in (1, count))
        assert one is None or one.best == two.best


def test_w_by_hand():
    scale = Scale(100, 10, 2.0)
    assert scale.w(25, 5, 4.0) == pytest.approx(0.75 * 0.5 * 0.5)
    assert scale.bound(25, 5) == 0.375
    assert Scale(100, 10, 2.0, (2, 0, 0.5)).w(50, 9, 8.0) == pytest.approx(0.25 * 0.5)
    assert Scale(100, 10, 2.0, error="perplexity").w(0, 0, 2.5) == pytest.approx(math.exp(-0.5))
    assert scale.w(100, 10, 2.0) == 0 and scale.quality(2.0) == 1
    with pytest.raises(BortError, match="below the entropy 2 of the maximum point"):
        scale.quality(1.9)


def test_the_papers_algorithm_alone():
    """ε = 3 of seven, no refinement: the first, the fourth and the seventh by (p, i)."""
    points = {(1, 1, 1, k): (10.0 * k, 1.0) for k in range(1, 8)}
    errors = {xi: 2.0 if xi[3] == 3 else 3.0 for xi in points}
    selection = Selection(points, Scale(100, 10, 1.0), epsilon=3, refine=False)
    asked = []
    while batch := selection.ask():
        asked += batch
        selection.tell(batch[0], errors[batch[0]])
    assert [xi[3] for xi in asked] == [1, 4, 7]
    assert selection.best == (1, 1, 1, 1)
    refined = run(
        dict(points=points, scale=Scale(100, 10, 1.0), epsilon=3, refine=True), errors, set()
    )
    assert refined.best == (1, 1, 1, 3)  # between the first pick and the second


def test_a_contradiction_within_chance_withdraws_nothing():
    points = {(1, 1, 8, 8): (10.0, 1.0), (2, 1, 8, 8): (20.0, 2.0)}
    for significant in (False, True):
        selection = Selection(
            points, Scale(100, 10, 1.0), monotone=True, significant=lambda s, t, x=significant: x
        )
        selection.tell((1, 1, 8, 8), 1.5)
        selection.tell((2, 1, 8, 8), 1.6)
        assert selection.assuming is not significant
        assert selection.violations == ([((1, 1, 8, 8), (2, 1, 8, 8))] if significant else [])


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ((1, 2, 8, 8), (2, 2, 8, 8), True),
        ((1, 2, 8, 8), (1, 4, 16, 8), True),  # equal H / A
        ((1, 2, 8, 8), (1, 4, 8, 8), False),  # other heads of another size
        ((1, 2, 8, 16), (2, 2, 8, 8), False),
        ((1, 2, 8, 8), (1, 2, 8, 8), False),
    ],
)
def test_shrinks(small, large, expected):
    assert shrinks(small, large) is expected


def test_pareto():
    numbers = {
        (1, 1, 1, 1): (1, 5),
        (1, 1, 1, 2): (2, 2),
        (1, 1, 1, 3): (2, 3),
        (1, 1, 1, 4): (5, 1),
        (1, 1, 1, 5): (2, 2),  # equal to another: both stay
    }
    assert [xi[3] for xi in pareto(numbers)] == [1, 2, 4, 5]


def test_w_map():
    """Without weight on size and time the most exact wins; with much, the smallest."""
    numbers = {(1, 1, 1, 1): (1.0, 1.0, 3.0), (1, 1, 1, 2): (50.0, 5.0, 2.0)}
    found = w_map(numbers, Scale(100, 10, 1.0), [0, 1, 3])
    assert len(found) == 9 and found[0, 0] == (1, 1, 1, 2) and found[3, 3] == (1, 1, 1, 1)


CSV = """depth,heads,hidden,intermediate,parameters,latency,error,status
4,4,64,128,1000,20,2.0,teacher
1,1,16,32,100,2,4.0,trained
2,2,16,32,300,4,2.5,trained
2,3,16,32,,,,invalid
2,4,32,64,700,9,2.2,trained
2,4,64,64,900,19,,pruned
"""


def test_numbers_of_ones_own(tmp_path, capsys):
    """W = 0.9·0.9·0.5 = 0.405, 0.7·0.8·0.8 = 0.448, 0.3·0.55·0.91; the last bound is 0.005."""
    path = tmp_path / "candidates.csv"
    path.write_text("\ufeff" + CSV)
    fptas.main([str(path)])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["⟨2,2,16,32⟩", *"W 0.4480 p 300 i 4 e 2.5000".split()]
    assert out[-1] == "optimum ⟨2,2,16,32⟩, regret at most 0.0000 (proven)"
    assert out[-2] == "2 pruned, 2 trained"
    fptas.main([str(path), "exponents=0,0,1"])
    out = capsys.readouterr().out.splitlines()
    # the bound of ⟨2,4,64,64⟩ is 1, the best has 2.0 / 2.2
    assert out[-1] == "optimum ⟨2,4,32,64⟩, regret at most 0.0909 (proven)"
    assert out[-2] == "1 that could still win have no error in the table"


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("error", "err"), [], "has no column error; found depth"),
        (("teacher", "T"), [], "no row with the status teacher"),
        (("4.0", "four"), [], "line 3: could not convert string to float: 'four'"),
        (("4.0", "1.0"), [], "an error of 1 is below the entropy 2"),
        (None, ["epsilon=9"], "search.epsilon=9 must be a whole number from 1 to the 4 candidates"),
        (None, ["epsilon=0"], "search.epsilon=0 must"),
        (None, ["epsilon=x"], "epsilon= take numbers"),
        (None, ["exponents=1,1"], r"exponents=\[1.0, 1.0\] must be three numbers"),
        (None, ["exponent=1,1,1"], "exponent=1,1,1 is not a setting; did you mean 'exponents'"),
        (None, ["error=kl"], "error=kl is unknown; use ratio or perplexity"),
    ],
)
def test_mistakes(tmp_path, change, arguments, message):
    path = tmp_path / "candidates.csv"
    path.write_text(CSV.replace(*change) if change else CSV)
    with pytest.raises(BortError, match=message):
        fptas.main([str(path), *arguments])


def test_nothing_left_names_the_nearest_miss():
    points = {(1, 1, 8, 8): (300.0, 2.0), (2, 1, 8, 8): (200.0, 6.0)}
    with pytest.raises(BortError) as error:
        Selection(points, Scale(1000, 10, 1.0), max_params=100, max_latency=4)
    line = "the nearest miss is ⟨2,1,8,8⟩ with 200 parameters and latency 6"
    assert str(error.value) == f"no candidate is left of 2; {line}"
    with pytest.raises(BortError, match="the grid is empty"):
        Selection({}, Scale(1000, 10, 1.0))
