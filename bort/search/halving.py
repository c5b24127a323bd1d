"""Successive halving: short trainings of all candidates, longer ones of those that can still win.

Numbers in, numbers out, as in `fptas.py`. The trainings are chosen in waves. A wave is chosen from
the results of the waves before it alone, so that neither the number of workers nor the order in
which trainings end changes what is trained.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from bort.models.arch import Arch
from bort.objectives.coefficient import w_coefficient
from bort.search.fptas import Selection
from bort.trials.rungs import LEAST_PAIRED, Curves

FRACTION = 3  # of the candidates at a rung, one in so many goes on


@dataclass(frozen=True)
class Outcome:
    """How a training to a rung ended: its error, or the reason for none, as in `Selection.fail`."""

    error: float | None
    reason: str = ""
    diverged: bool = False


def choose_trainings(
    start: Selection, rungs: list[int], outcomes: Mapping[tuple[Arch, int], Outcome]
) -> list[tuple[Arch, int]]:
    """Choose what is to be trained now, as (ξ, steps); none when the search is over.

    start: the candidates; its errors do not count. rungs: the last one is n. outcomes: of the
    trainings that have ended.
    """
    empty = {"errors": {}, "failed": {}, "diverged": {}, "violations": []}
    selection = replace(start, **empty, curves=Curves(rungs[-1]))
    while wave := choose_wave(selection, rungs):
        if missing := [training for training in wave if training not in outcomes]:
            return missing
        for xi, steps in wave:
            tell_outcome(selection, xi, steps, outcomes[xi, steps])
    return []


def tell_outcome(selection: Selection, xi: Arch, steps: int, outcome: Outcome) -> None:
    """Tell a selection with curves how a training to a rung ended."""
    if outcome.error is None:
        selection.fail(xi, outcome.reason, outcome.diverged)
        return
    selection.curves.tell(xi, steps, outcome.error)
    if steps == selection.curves.n:
        selection.tell(xi, outcome.error)


def choose_wave(selection: Selection, rungs: list[int]) -> list[tuple[Arch, int]]:
    """Choose the next wave of trainings from all results before it.

    1. Where bounds differ, as those of W do, the candidate with the largest one is trained to n
       first: it proves others away before they are trained at all.
    2. All candidates that can win are trained to the first rung.
    3. Of those at a rung, the best third is trained to the next one.
    4. Until LEAST_PAIRED candidates have reached n, the best of the dropped ones goes on.
    5. Who can still win, if later curves do not cross by more than δ, goes on by one rung.
    """
    curves = selection.curves
    lost = selection.failed.keys() | selection.diverged.keys()
    left = [xi for xi in selection.order if xi not in lost and xi not in selection.errors]
    able = selection.find_able(left, selection.bound_by_curves())

    def go_on(xi: Arch) -> tuple[Arch, int]:
        last = curves.find_last_rung(xi)
        return xi, min(steps for steps in rungs if steps > last)

    if not selection.errors and len({selection.gibbs(xi) for xi in left}) > 1:
        return [go_on(selection.sort_by_bound(left)[0])]
    if entrants := [xi for xi in able if not curves.find_last_rung(xi)]:
        return [(xi, rungs[0]) for xi in entrants]
    for steps, following in pairwise(rungs):
        there = [xi for xi in curves.errors.get(steps, {}) if xi not in lost]
        better = sort_by_error_at(selection, steps, there)[: math.ceil(len(there) / FRACTION)]
        reached = curves.errors.get(following, {})
        if due := [xi for xi in better if xi in able and xi not in reached]:
            return [(xi, following) for xi in due]
    if able and len(curves.final) < LEAST_PAIRED:
        last = max(map(curves.find_last_rung, able))
        most = [xi for xi in able if curves.find_last_rung(xi) == last]
        return [go_on(sort_by_error_at(selection, last, most)[0])]
    return [go_on(xi) for xi in able]


def sort_by_error_at(selection: Selection, steps: int, candidates: list[Arch]) -> list[Arch]:
    """Sort candidates by W with their errors after so many steps, the best one in front."""
    errors = selection.curves.errors.get(steps, {})

    def rank(xi: Arch) -> tuple:
        p, i = selection.points[xi]
        return -w_coefficient(p, i, errors[xi], selection.scale), p, i, xi

    return sorted(candidates, key=rank)
