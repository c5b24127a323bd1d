"""The selection against brute force over every candidate."""

import math
import random
from dataclasses import replace

import pytest
from search_instances import by_brute_force, instance, run

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import ERRORS, Scale
from bort.search.fptas import BY_ERROR, Selection, is_shrunk, pareto, w_map

T = Arch(4, 8, 64, 256)


def test_random_instances():
    """2,000 of them: exact where exactness is claimed, never beyond the stated regret.

    Also against those that failed for a reason that is not their error: they keep their true W.
    """
    kinds = "exact skipped assumed withdrawn none unknown diverged".split()
    seen = dict.fromkeys([*kinds, "all failed"], 0)
    for seed in range(2000):
        arguments, errors, failed = instance(seed, budgets=seed % 2 == 1)
        true = by_brute_force(arguments, errors, failed)
        selection = run(arguments, errors, failed)
        if selection is None:
            seen["none"] += 1
            continue
        if selection.best is None:
            seen["all failed"] += 1
            # with skipped candidates left, refinement has no best one to look around
            assert all(xi in failed for xi in selection.picks)
            with pytest.raises(BortError, match="candidates failed; the first one: no error"):
                selection.certify()
            continue
        certificate = selection.certify()
        best = selection.w_coefficient(selection.best)
        assert best == pytest.approx(true[selection.best], abs=1e-12)
        regret = max(true.values()) - best
        assert regret <= certificate.regret_proven + 1e-12
        seen["unknown"] += regret > 0 and max(true, key=true.get) in selection.failed
        seen["diverged"] += bool(selection.diverged)
        monotone = not any(is_shrunk(s, t) and errors[s] < errors[t] for s in true for t in true)
        if monotone:
            assert certificate.regret_monotone is not None
            assert regret <= certificate.regret_monotone + 1e-12
            assert certificate.regret_monotone <= certificate.regret_proven
        if arguments["epsilon"] == 1 and (monotone or not arguments["monotone"]):
            assert best == max(w for xi, w in true.items() if xi not in failed)
            seen["exact"] += 1
            if not arguments["monotone"]:
                able = [selection.gibbs(xi) - best for xi in selection.failed]
                assert certificate.regret_proven == max([0.0, *able])
                # none was trained that could have been left out
                assert all(selection.gibbs(xi) >= best for xi in selection.errors)
        check_statuses(selection, arguments, failed, true)
        statuses = certificate.status.values()
        seen["skipped"] += "skipped" in statuses
        seen["assumed"] += "assumed" in statuses
        seen["withdrawn"] += arguments["monotone"] and certificate.regret_monotone is None
    assert min(seen.values()) > 20, seen  # every kind was there


def check_statuses(selection: Selection, arguments: dict, failed: dict, true: dict) -> None:
    statuses, best = selection.certify().status, selection.w_coefficient(selection.best)
    assert statuses.keys() == arguments["points"].keys()
    assert {xi for xi, s in statuses.items() if s == "trained"} == set(selection.errors)
    assert {xi for xi, s in statuses.items() if s == "failed"} <= {
        x for x in failed if not failed[x]
    }
    assert {xi for xi, s in statuses.items() if s == "diverged"} <= {x for x in failed if failed[x]}
    assert all(true.get(xi, 0) <= best for xi, s in statuses.items() if s == "pruned")


def test_a_failure_that_is_no_error_counts_in_the_regret():
    """W⁺ of the failed one is 0.9² = 0.81; the best has 0.8² · 4/6 = 0.4267."""
    points = {Arch(1, 1, 8, k): (10.0 * k, 10.0 * k) for k in (1, 2, 4)}
    selection = Selection(points, Scale(100, 100, 4.0))
    while batch := selection.ask():
        for xi in batch:
            if xi.intermediate == 1:
                selection.fail(xi, "its process died; out of memory?")
            else:
                selection.tell(xi, 6.0)
    assert selection.best == Arch(1, 1, 8, 2)
    assert selection.certify().regret_proven == pytest.approx(0.81 - 0.64 * 4 / 6)
    assert selection.certify().regret_monotone == pytest.approx(0.81 * 4 / 6 - 0.64 * 4 / 6)
    assert selection.winner is None
    # at another rate it diverged: what it has at the first is still not known
    selection.fail(Arch(1, 1, 8, 1), "the loss became nan", diverged=True)
    assert selection.certify().status[Arch(1, 1, 8, 1)] == "failed"
    selection.failed.clear()
    selection.fail(Arch(1, 1, 8, 1), "the loss became nan", diverged=True)
    assert selection.certify().status[Arch(1, 1, 8, 1)] == "diverged"
    assert selection.certify().regret_proven == 0 and selection.winner == Arch(1, 1, 8, 2)


def other_scales(scale: Scale) -> list[Scale]:
    weights = [(1, 1, 1), BY_ERROR, (2, 1, 1), (0.5, 3, 1), (0, 0, 0.5), (1, 0, 2)]
    return [replace(scale, exponents=w, error=kind) for w in weights for kind in ERRORS]


def test_winners_under_other_aims_are_those_of_exhaustive_records():
    """Named only when proven, and always when every bound is below: 1,000 searches by 12 aims."""
    named = undecided = 0
    for seed in range(1000):
        arguments, errors, failed = instance(seed)
        selection = run(arguments, errors, failed)
        if selection is None or selection.best is None:
            continue
        for scale in other_scales(selection.scale):
            true = by_brute_force(arguments, errors, failed, scale)
            other = selection.weigh_by(scale)
            exhaustive = other.find_first(true.__getitem__, true)
            if (winner := other.winner) is not None:
                named += 1
                assert true[winner] == pytest.approx(true[exhaustive], abs=1e-12)
            else:
                undecided += 1
                left = [scale.compute_bound(*other.points[xi]) for xi in selection.unknown]
                assert max(left) >= other.w_coefficient(other.best)
    assert named > 2000 and undecided > 2000


def test_the_w_map_is_that_of_exhaustive_records():
    cells = undecided = 0
    for seed in range(150):
        arguments, errors, failed = instance(seed)
        selection = run(arguments, errors, failed)
        if selection is None or selection.best is None:
            continue
        for (alpha, beta), winner in w_map(selection, [0, 0.5, 1, 3]).items():
            cells += 1
            scale = replace(selection.scale, exponents=(alpha, beta, 1.0))
            true = by_brute_force(arguments, errors, failed, scale)
            undecided += winner is None
            if winner is not None:
                assert true[winner] == pytest.approx(max(true.values()), abs=1e-12)
    assert 0.1 * cells < undecided < 0.9 * cells


def test_the_front_is_that_of_exhaustive_records():
    """What is on it for certain, what is beaten for certain, and what an untrained one decides."""
    seen = {"proven": 0, "beaten": 0, "undecided": 0}
    for seed in range(500):
        arguments, errors, failed = instance(seed)
        selection = run(arguments, errors, failed)
        if selection is None or selection.best is None:
            continue
        everyone = {xi: (*selection.points[xi], errors[xi]) for xi in selection.order}
        models = {xi: row for xi, row in everyone.items() if not failed.get(xi)}
        trained = {xi: models[xi] for xi in selection.errors}
        possible = {xi: (*selection.points[xi], selection.scale.e) for xi in selection.unknown}
        exhaustive = set(pareto(models))
        proven, able = set(pareto(trained, possible)), set(pareto(trained))
        assert proven <= exhaustive and not (trained.keys() - able) & exhaustive
        seen["proven"] += len(proven)
        seen["beaten"] += len(trained.keys() - able)
        seen["undecided"] += len(able - proven)
    assert min(seen.values()) > 100, seen


def grid_of_74() -> tuple[dict, Scale, dict]:
    """D {1,2,3,4,6} × H {64,…,256} × I {H,2H,4H} below ⟨6,8,256,1024⟩, errors exactly monotone.

    Parameters with a vocabulary of 8,192 and operations at 128 tokens by their formulas.
    """

    def numbers(xi):
        D, H, I = xi.depth, xi.hidden, xi.intermediate  # noqa: E741
        layer = 4 * (H * H + H) + 2 * H + 2 * H * I + I + H + 2 * H
        p = (8192 + 512 + 2) * H + D * layer + H * H + 3 * H + 8192
        return float(p), float(D * (2 * (4 * H * H + 2 * H * I) + 4 * 128 * H) * 128)

    widths = [64, 96, 128, 192, 256]
    grid = [Arch(d, h // 32, h, r * h) for d in (1, 2, 3, 4, 6) for h in widths for r in (1, 2, 4)]
    points = {xi: numbers(xi) for xi in grid}
    errors = {xi: 4.49 + 1 / xi.depth + 64 / xi.hidden + 64 / xi.intermediate for xi in grid}
    return points, Scale(*points[Arch(6, 8, 256, 1024)], 4.49), errors


@pytest.mark.parametrize(
    ("exponents", "limit", "most"),
    [(BY_ERROR, None, 4), (BY_ERROR, 1.5e6, 7), ((1, 1, 1), None, 20), ((1, 1, 3), None, 28)],
)
def test_large_ones_first_when_errors_are_monotone(exponents, limit, most):
    points, scale, errors = grid_of_74()
    arguments = {"points": points, "scale": replace(scale, exponents=exponents)}
    arguments |= {"max_params": limit}
    assumed = run(arguments | {"monotone": True}, errors, {})
    exhaustive = run(arguments | {"monotone": False}, errors, {})
    assert len(assumed.order) == (74 if limit is None else 35)
    assert len(assumed.errors) <= most < len(exhaustive.errors)
    assert assumed.best == exhaustive.best
    assert assumed.certify().regret_monotone == 0


def test_the_order_under_the_assumption_trains_fewer(monkeypatch):
    """Than that of the bounds alone: in the mean of random searches, and with monotone errors."""

    def trainings() -> list[int]:
        counts = []
        for seed in range(600):
            arguments, errors, failed = instance(seed)
            selection = run(arguments | {"monotone": True}, errors, failed)
            if selection is not None:
                counts.append(sum(map(selection.is_tried, selection.order)))
        return counts

    ours = trainings()
    monkeypatch.setattr(Selection, "sort_by_urgency", Selection.sort_by_bound)
    assert sum(ours) < 0.97 * sum(trainings())


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
            assert one.certify() == two.certify()


@pytest.mark.parametrize("count", [2, 5])
def test_several_at_a_time_find_the_same(count):
    for seed in range(300):
        arguments, errors, failed = instance(seed)
        arguments |= {"epsilon": 1, "monotone": False}
        one, two = (run(arguments, errors, failed, n) for n in (1, count))
        assert one is None or one.best == two.best


def test_the_papers_algorithm_alone():
    """ε = 3 of seven, no refinement: the first, the fourth and the seventh by (p, i)."""
    points = {Arch(1, 1, 1, k): (10.0 * k, 1.0) for k in range(1, 8)}
    errors = {xi: 2.0 if xi.intermediate == 3 else 3.0 for xi in points}
    selection = Selection(points, Scale(100, 10, 1.0), epsilon=3, refine=False)
    asked = []
    while batch := selection.ask():
        asked += batch
        selection.tell(batch[0], errors[batch[0]])
    assert [xi.intermediate for xi in asked] == [1, 4, 7]
    assert selection.best == Arch(1, 1, 1, 1)
    refined = run(
        dict(points=points, scale=Scale(100, 10, 1.0), epsilon=3, refine=True), errors, {}
    )
    assert refined.best == Arch(1, 1, 1, 3)  # between the first pick and the second


def test_a_contradiction_within_chance_withdraws_nothing():
    points = {Arch(1, 1, 8, 8): (10.0, 1.0), Arch(2, 1, 8, 8): (20.0, 2.0)}
    for significant in (False, True):
        selection = Selection(
            points, Scale(100, 10, 1.0), monotone=True, significant=lambda s, t, x=significant: x
        )
        selection.tell(Arch(1, 1, 8, 8), 1.5)
        selection.tell(Arch(2, 1, 8, 8), 1.6)
        assert selection.is_assuming is not significant
        pair = (Arch(1, 1, 8, 8), Arch(2, 1, 8, 8))
        assert selection.violations == ([pair] if significant else [])


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (Arch(1, 2, 8, 8), Arch(2, 2, 8, 8), True),
        (Arch(1, 2, 8, 8), Arch(1, 4, 16, 8), True),  # equal H / A
        (Arch(1, 2, 8, 8), Arch(1, 4, 8, 8), False),  # other heads of another size
        (Arch(1, 2, 8, 16), Arch(2, 2, 8, 8), False),
        (Arch(1, 2, 8, 8), Arch(1, 2, 8, 8), False),
    ],
)
def test_shrinks(small, large, expected):
    assert is_shrunk(small, large) is expected


def test_pareto():
    numbers = {
        Arch(1, 1, 1, 1): (1, 5),
        Arch(1, 1, 1, 2): (2, 2),
        Arch(1, 1, 1, 3): (2, 3),
        Arch(1, 1, 1, 4): (5, 1),
        Arch(1, 1, 1, 5): (2, 2),  # equal to another: both stay
    }
    assert [xi.intermediate for xi in pareto(numbers)] == [1, 2, 4, 5]


def test_w_map():
    """Without weight on size and time the most exact wins; with much, the smallest."""
    numbers = {Arch(1, 1, 1, 1): (1.0, 1.0, 3.0), Arch(1, 1, 1, 2): (50.0, 5.0, 2.0)}
    points = {xi: row[:2] for xi, row in numbers.items()}
    selection = Selection(points, Scale(100, 10, 1.0), errors={x: r[2] for x, r in numbers.items()})
    found = w_map(selection, [0, 1, 3])
    assert len(found) == 9 and found[0, 0] == Arch(1, 1, 1, 2) and found[3, 3] == Arch(1, 1, 1, 1)


def test_nothing_left_names_the_nearest_miss():
    points = {Arch(1, 1, 8, 8): (300.0, 2.0), Arch(2, 1, 8, 8): (200.0, 6.0)}
    with pytest.raises(BortError) as error:
        Selection(points, Scale(1000, 10, 1.0), max_params=100, max_latency=4)
    line = "the nearest miss is ⟨2,1,8,8⟩ with 200 parameters and latency 6"
    remedy = "search.max_params=200 and search.max_latency_ms=6 would leave it"
    assert str(error.value) == f"no candidate is left of 2; {line}; {remedy}"
    with pytest.raises(BortError, match="the grid is empty"):
        Selection({}, Scale(1000, 10, 1.0))


@pytest.mark.parametrize(
    ("budget", "remedy"),
    [
        ({"max_share": 0.1}, "search.max_latency_share=0.2001"),  # of 0.2000312, rounded up
        ({"max_latency": 1.0}, "search.max_latency_ms=2.001"),
        ({"max_mb": 0.5}, "search.max_mb=1.235"),
        ({"max_params": 7}, "search.max_params=200"),
    ],
)
def test_the_smallest_budget_that_leaves_a_candidate(budget, remedy):
    """What is named leaves exactly the nearest one; a little less leaves none."""
    near, far = Arch(2, 1, 8, 8), Arch(1, 1, 8, 8)
    points = {far: (300.0, 6.0), near: (200.0, 2.000312)}
    arguments = {"points": points, "scale": Scale(1000, 10, 1.0)}
    arguments["megabytes"] = {near: 1.2345, far: 7.0}
    with pytest.raises(BortError, match=f"⟨2,1,8,8⟩ with .*; {remedy} would leave it"):
        Selection(**arguments, **budget)
    ((key, _),), limit = budget.items(), float(remedy.partition("=")[2])
    assert Selection(**arguments, **{key: limit}).order == [near]
    with pytest.raises(BortError, match="no candidate is left"):
        Selection(**arguments, **{key: limit * 0.99})


def test_no_budget_leaves_what_is_not_below_the_maximum_point():
    points = {Arch(1, 1, 8, 8): (30.0, 20.0), Arch(2, 1, 8, 8): (1500.0, 6.0)}
    with pytest.raises(BortError, match="⟨2,1,8,8⟩ with .*: none is smaller and faster than T$"):
        Selection(points, Scale(1000, 10, 1.0), max_latency=7.0)


def test_budgets_say_why_a_point_is_no_candidate():
    grid = [Arch(1, 1, 8, k) for k in range(1, 6)]
    numbers = [(10.0, 1.0), (90.0, 1.0), (10.0, 4.0), (10.0, 1.0), (2000.0, 1.0)]
    sizes = dict(zip(grid, [1.0, 1.0, 1.0, 3.0, 1.0], strict=True))
    points = dict(zip(grid, numbers, strict=True))
    limits = {"max_params": 50, "max_share": 0.3, "max_mb": 2.0, "megabytes": sizes}
    selection = Selection(points, Scale(1000, 10, 1.0), **limits)
    assert selection.order == [grid[0]]
    assert list(selection.excluded.values()) == [
        "over search.max_params",
        "over search.max_latency_share",
        "over search.max_mb",
        "as large or slow as the maximum point",
    ]


@pytest.mark.parametrize("numbers", [(math.nan, 1.0), (10.0, -1.0), (0.0, 1.0), (10.0, math.inf)])
def test_numbers_that_nothing_can_have(numbers):
    with pytest.raises(BortError, match="⟨1,1,8,8⟩ has p=.*; both must be above 0"):
        Selection({Arch(1, 1, 8, 8): numbers}, Scale(100, 10, 1.0))


@pytest.mark.parametrize("e", [math.nan, math.inf, -math.inf])
def test_an_error_that_is_no_number(e):
    selection = Selection({Arch(1, 1, 8, 8): (10.0, 1.0)}, Scale(100, 10, 1.0))
    with pytest.raises(BortError, match="is no number|below the entropy"):
        selection.tell(Arch(1, 1, 8, 8), e)
    with pytest.raises(BortError, match="the maximum point needs"):
        Scale(100, 10, e)
