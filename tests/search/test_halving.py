"""Successive halving by numbers alone: its waves by hand, and its certificate by brute force."""

import itertools
import random
from dataclasses import replace

import pytest
from search_instances import by_brute_force, instance

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import Scale
from bort.search.fptas import BY_ERROR, IF_CURVES, PROVEN, UNDECIDED, Selection, is_shrunk
from bort.search.halving import Outcome, choose_trainings, choose_wave, tell_outcome
from bort.trials.rungs import Curves

RUNGS = [4, 8, 16, 32]
ERROR_OF = {4: 3.0, 8: 2.0, 16: 1.0, 32: 0.0}  # what is still to be learnt at a rung, in nats


def train(curves: dict, failed: dict, xi: Arch, steps: int) -> Outcome:
    """failed: ξ → (rung, whether it diverged there)."""
    rung, diverged = failed.get(xi, (None, False))
    if rung is not None and steps >= rung:
        return Outcome(None, "no error", diverged)
    return Outcome(curves[xi][steps])


def search(selection: Selection, curves: dict, failed: dict) -> tuple[Selection, list]:
    """A halving wave by wave to its end: the selection, and the trainings in their order."""
    selection, trainings = replace(selection, curves=Curves(RUNGS[-1])), []
    while wave := choose_wave(selection, RUNGS):
        assert not set(wave) & set(trainings)
        for xi, steps in wave:
            tell_outcome(selection, xi, steps, train(curves, failed, xi, steps))
        trainings += wave
    return selection, trainings


def search_by_workers(selection: Selection, curves: dict, failed: dict, workers: int) -> list:
    """The same where a few of the trainings that are due end at a time, in a random order."""
    rng, outcomes = random.Random(workers), {}
    while due := choose_trainings(selection, RUNGS, outcomes):
        for xi, steps in rng.sample(due, min(workers, len(due))):
            assert (xi, steps) not in outcomes
            outcomes[xi, steps] = train(curves, failed, xi, steps)
    return list(outcomes)


def by_error(count: int) -> Selection:
    points = {Arch(1, 1, 8, k): (10.0 * k, k) for k in range(1, count + 1)}
    return Selection(points, Scale(1000, 50, 1.0, BY_ERROR))


def straight(errors: dict[Arch, float]) -> dict:
    """Curves that never cross: e at n, and as much more at each rung for all."""
    return {xi: {r: e + ERROR_OF[r] for r in RUNGS} for xi, e in errors.items()}


def test_waves_of_curves_that_do_not_cross():
    """12 at n/8, 4 at n/4, 2 at n/2, 1 at n, and two more so that a crossing can be measured."""
    selection = by_error(12)
    errors = {xi: 2.0 + k / 10 for k, xi in enumerate(selection.order)}
    whole, trainings = search(selection, straight(errors), {})
    counts = [sum(steps == rung for _, steps in trainings) for rung in RUNGS]
    assert counts == [12, 4, 3, 3]
    assert [steps for _, steps in trainings[12:]] == [8, 8, 8, 8, 16, 16, 32, 32, 16, 32]
    assert whole.best == selection.order[0] and whole.certainty == IF_CURVES
    certificate = whole.certify()
    assert certificate.regret_curves == 0
    assert certificate.regret_proven == pytest.approx(1 - 1.0 / 2.0)  # e(T) / e of the best
    assert certificate.count("trained") == 3 and certificate.count("dropped") == 9
    at_n = [xi for xi, steps in trainings if steps == 32]
    assert at_n == selection.order[:3]


def test_a_crossing_brings_back_who_was_dropped_within_it():
    """The third one overtakes from 0.5 behind: the fourth, as far behind at n/4, goes on to n."""
    selection = by_error(12)
    order = selection.order
    errors = [2.0, 2.25, 2.5, 2.5, *(2.75 + k / 4 for k in range(8))]
    curves = straight(dict(zip(order, errors, strict=True)))
    curves[order[2]][32] = 1.75
    whole, trainings = search(selection, curves, {})
    assert whole.best == order[2] and whole.certainty == IF_CURVES
    assert [whole.curves.measure_crossing(rung) for rung in RUNGS[:3]] == [0.5] * 3
    assert {xi for xi, steps in trainings if steps == 8} == set(order[:4])
    assert {xi for xi, steps in trainings if steps == 32} == set(order[:4])


def test_by_w_the_largest_bound_proves_others_away_before_they_are_trained():
    """W⁺ of 0.9 · 0.9 … falls with size; the first one's W of 0.6 proves the large ones away."""
    points = {Arch(1, 1, 8, k): (100.0 * k, 5.0 * k) for k in range(1, 10)}
    selection = Selection(points, Scale(1000, 50, 1.0))
    errors = {xi: 1.35 for xi in points}  # W = bound / 1.35
    whole, trainings = search(selection, straight(errors), {})
    smallest = Arch(1, 1, 8, 1)
    assert trainings[:4] == [(smallest, rung) for rung in RUNGS]
    assert {xi for xi, _ in trainings} == {smallest, Arch(1, 1, 8, 2)}  # 0.64 ≥ 0.6 > 0.49
    assert whole.best == smallest
    assert whole.certify().count("pruned") == 7


def test_failures_count_with_their_bound_and_the_best_third_is_of_the_others():
    selection = by_error(8)
    order = selection.order
    errors = straight({xi: 2.0 + k / 10 for k, xi in enumerate(order)})
    whole, trainings = search(selection, errors, {order[0]: (4, False), order[1]: (16, True)})
    assert whole.best == order[2]
    statuses = whole.certify().status
    assert (statuses[order[0]], statuses[order[1]]) == ("failed", "diverged")
    assert whole.certainty == UNDECIDED and whole.certify().regret_curves > 0
    at_second = [xi for xi, steps in trainings if steps == 8]
    assert at_second[:3] == order[1:4]  # a third of the 7 that are left, rounded up


def random_curves(seed: int, errors: dict) -> dict:
    """Curves to these errors: straight, a little crossed, or at random."""
    rng = random.Random(seed)
    noise = rng.choice([0.0, 0.02, 0.2, 3.0])
    return {
        xi: {r: e + ERROR_OF[r] + (0 if r == 32 else rng.uniform(0, noise)) for r in RUNGS}
        for xi, e in errors.items()
    }


def hold_curves(whole: Selection, curves: dict) -> bool:
    """Whether, in truth, nobody who was behind by more than the measured δ was ahead at n."""
    for steps, errors in whole.curves.errors.items():
        delta = whole.curves.measure_crossing(steps)
        for xi, zeta in itertools.product(errors, whole.curves.final):
            if delta is not None and zeta in errors and errors[xi] - errors[zeta] > delta:
                if curves[xi][32] < curves[zeta][32]:
                    return False
    return True


def test_the_true_regret_is_never_above_the_stated_one_at_its_level():
    """2,000 random searches: W and error alone, monotone and not, with failures of known W."""
    kinds = "none proven curves crossed monotone failed exact undecided".split()
    seen = dict.fromkeys(kinds, 0)
    for number in range(2000):
        arguments, errors, lost = instance(number, budgets=number % 2 == 1)
        arguments |= {"epsilon": 1, "monotone": False}
        curves = random_curves(number, errors)
        rng = random.Random(number)
        failed = {xi: (rng.choice(RUNGS), diverged) for xi, diverged in lost.items()}
        true = by_brute_force(arguments, errors, lost)
        try:
            selection = Selection(**arguments)
        except BortError:
            seen["none"] += 1
            continue
        whole, trainings = search(selection, curves, failed)
        if number % 50 == 0:
            repeated = search_by_workers(selection, curves, failed, 1 + number % 3)
            assert set(repeated) == set(trainings)
        if whole.best is None:
            continue
        certificate, best = whole.certify(), whole.w_coefficient(whole.best)
        regret = max(true.values()) - best
        assert regret <= certificate.regret_proven + 1e-12
        seen["proven"] += certificate.regret_proven == 0
        seen["failed"] += regret > 1e-12 and max(true, key=true.get) in whole.failed
        monotone = not any(is_shrunk(s, t) and errors[s] < errors[t] for s in true for t in true)
        if monotone:
            assert regret <= certificate.regret_monotone + 1e-12
            seen["monotone"] += regret > 1e-12
        if certificate.regret_curves is not None:
            if hold_curves(whole, curves):
                assert regret <= certificate.regret_curves + 1e-12
                seen["curves"] += 1
            else:
                seen["crossed"] += 1
            assert certificate.regret_curves <= certificate.regret_proven
            assert whole.failed or certificate.regret_curves == 0
        if whole.certainty == PROVEN:
            assert regret <= 1e-12
        seen["undecided"] += whole.certainty == UNDECIDED
        seen["exact"] += regret <= 1e-12
        check_statuses(whole, certificate, trainings)
    assert min(seen.values()) > 15, seen


def check_statuses(whole: Selection, certificate, trainings: list) -> None:
    trained = {xi for xi, steps in trainings if steps == 32 and xi in whole.errors}
    for xi, status in certificate.status.items():
        assert (status == "trained") == (xi in trained)
        if status == "dropped":
            assert (xi, 4) in trainings and xi not in whole.errors
        if status == "pruned":
            assert whole.gibbs(xi) <= whole.w_coefficient(whole.best)
