"""The three answers of a search: by hand, and never more certain than brute force allows."""

import random
from dataclasses import replace

import pytest
from search_instances import by_brute_force, instance, run

from bort.config.search import SearchConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import Scale
from bort.search.answers import (
    BY_W,
    FEW_POINTS,
    KNEE,
    NO_BEND,
    WITHIN_BUDGET,
    Answer,
    choose_answers,
    describe_answers,
    describe_budget,
    describe_default_budget,
    find_knee,
    seek_lowest_error,
)
from bort.search.fptas import BY_ERROR, IF_MONOTONE, PROVEN, UNDECIDED, Selection, is_shrunk

GRID = [Arch(1, 1, 8, k) for k in range(1, 7)]


def front(*points: tuple[float, float]) -> dict[Arch, tuple[float, float]]:
    return dict(zip(GRID, points, strict=False))


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        # scaled (0, 1), (0.1, 0.4), (0.5, 0.2), (1, 0): 0.5 and 0.3 below the chord
        ([(10, 6), (20, 5.4), (60, 5.2), (110, 5)], 2),
        ([(10, 6), (20, 5.8), (60, 5.2), (110, 5)], 3),  # 0.1 and 0.3
        ([(10, 6), (60, 5.6), (110, 5)], None),  # above the chord
        ([(10, 6), (60, 5.5), (110, 5)], None),  # on it
        ([(10, 6), (110, 5)], None),
        ([(0, 1), (0.25, 0.5), (0.5, 0.25), (1, 0)], 2),  # a tie: the faster one
    ],
)
def test_the_knee_by_hand(points, knee):
    assert find_knee(front(*points)) == (knee and GRID[knee - 1])


def answers_of(selection: Selection, share: float = 1.0) -> dict[str, Answer]:
    """The answers of a selection by W, the first within this share of T's latency."""
    by_error = seek_lowest_error(selection, share)
    return {a.key: a for a in choose_answers(selection, by_error, selection, "the budget")}


def search_by_w(errors: list[float], *, trained: int, **options) -> Selection:
    """Six candidates of rising size and latency, of which the first ones are trained."""
    points = {xi: (10.0 * k, 10.0 * k) for k, xi in enumerate(GRID, 1)}
    sizes = {xi: float(k) for k, xi in enumerate(GRID, 1)}
    selection = Selection(points, Scale(100, 100, 4.0), megabytes=sizes, **options)
    for xi, e in list(zip(GRID, errors, strict=True))[:trained]:
        selection.tell(xi, e)
    return selection


ERRORS = [7.0, 5.0, 4.9, 4.8, 4.7, 4.6]


def test_three_answers_by_hand():
    """W = 0.81 · 4/7 = 0.463, 0.64 · 0.8 = 0.512, 0.49 · 4/4.9 = 0.4; the knee is the second."""
    answers = answers_of(search_by_w(ERRORS, trained=6), share=0.4)
    assert [answers[key].xi for key in (WITHIN_BUDGET, KNEE, BY_W)] == [GRID[3], GRID[1], GRID[1]]
    assert {answer.certainty for answer in answers.values()} == {PROVEN}
    best = answers[WITHIN_BUDGET]
    assert (best.parameters, best.latency, best.mb, best.error) == (40.0, 40.0, 4.0, 4.8)
    assert best.w == pytest.approx(0.36 * 4 / 4.8) and best.regret == 0
    assert answers[BY_W].w == pytest.approx(0.512) and answers[KNEE].regret is None


def test_what_was_not_trained_decides_how_certain_an_answer_is():
    """Three of six: the others have W⁺ 0.36, 0.25, 0.16, and no bound by error but T's entropy."""
    answers = answers_of(search_by_w(ERRORS, trained=3))
    assert answers[BY_W].certainty == PROVEN and answers[BY_W].regret == 0
    assert answers[WITHIN_BUDGET].xi == GRID[2]
    assert answers[WITHIN_BUDGET].certainty == answers[KNEE].certainty == UNDECIDED
    assert answers[WITHIN_BUDGET].regret == pytest.approx(4.9 - 4.0)
    assert "no error is lower by more than 0.9001 nats" in answers[WITHIN_BUDGET].doubt
    # within the budget all three were trained
    assert answers_of(search_by_w(ERRORS, trained=3), 0.3)[WITHIN_BUDGET].certainty == PROVEN


def test_monotone_errors_decide_what_the_proof_does_not():
    """The largest ones are trained, and no smaller one is better if errors are monotone."""
    selection = search_by_w(ERRORS, trained=2)
    selection.tell(GRID[5], 4.6)
    # the others may be as good as the sixth, and then the smaller one wins
    assert answers_of(selection)[WITHIN_BUDGET].certainty == UNDECIDED
    selection.tell(GRID[4], 4.7)
    answers = answers_of(selection)
    assert (answers[WITHIN_BUDGET].xi, answers[WITHIN_BUDGET].certainty) == (GRID[5], IF_MONOTONE)
    assert answers[WITHIN_BUDGET].regret == pytest.approx(0.6)
    selection.tell(GRID[4], 4.5)  # at another rate: it is a shrunk form of the sixth, and better
    assert answers_of(selection)[WITHIN_BUDGET].certainty == UNDECIDED


def test_answers_that_there_are_not():
    few = answers_of(search_by_w(ERRORS, trained=2), share=0.05)
    assert few[WITHIN_BUDGET].xi is None and few[KNEE].xi is None
    assert few[WITHIN_BUDGET].note == "no candidate is within the budget"
    assert few[KNEE].note == FEW_POINTS and few[KNEE].doubt == ""
    concave = answers_of(search_by_w([7.0, 6.8, 6.0, 9.0, 9.0, 9.0], trained=6))
    assert concave[KNEE].note == NO_BEND
    selection = search_by_w(ERRORS, trained=0)
    selection.tell(GRID[5], 5.0)
    assert answers_of(selection, 0.3)[WITHIN_BUDGET].note == (
        "no candidate within the budget has an error"
    )
    lines = list(describe_answers(list(few.values()), "ms"))
    assert lines[1].endswith("none: no candidate is within the budget")


def test_answers_in_words():
    answers = list(answers_of(search_by_w(ERRORS, trained=6), 0.4).values())
    lines = list(describe_answers(answers, "ms"))
    assert lines[0] == "three answers from the same records"
    numbers = "⟨1,1,8,4⟩  e 4.800  W 0.3000  40 parameters  4 MB  40.00 ms"
    assert lines[1].endswith(f"{numbers}  proven (within the budget)")
    numbers = "⟨1,1,8,2⟩  e 5.000  W 0.5120  20 parameters  2 MB  20.00 ms"
    assert lines[3].endswith(f"{numbers}  proven")


@pytest.mark.parametrize("key", [WITHIN_BUDGET, KNEE, BY_W])
def test_an_answer_is_read_from_a_summary_as_it_was_written(key):
    for share in (0.4, 0.05):
        answer = answers_of(search_by_w(ERRORS, trained=6), share)[key]
        assert Answer.from_json(answer.to_json(), key) == answer
    assert Answer.from_json({}, key) is None


def test_budgets_in_words():
    assert describe_budget(SearchConfig(), "operations") == "25% of T's operations"
    assert describe_budget(SearchConfig(objective="w"), "ms") == "25% of T's latency"
    budget = SearchConfig(max_params=2_000_000, max_mb=2.5, max_latency_share=0.125)
    words = "2,000,000 parameters and 2.5 MB in int8 and 12.5% of T's latency"
    assert describe_budget(budget, "ms") == words
    assert describe_budget(SearchConfig(max_latency_ms=5), "ms") == "5 ms"
    line = "no budget was given: candidates have at most 25% of T's operations "
    assert describe_default_budget(SearchConfig(), "operations").startswith(line)
    assert describe_default_budget(SearchConfig(max_mb=1), "ms") is None
    assert describe_default_budget(SearchConfig(objective="w"), "ms") is None


def test_answers_are_never_more_certain_than_brute_force_allows():
    """1,500 searches by both aims, with budgets: proofs hold, and no regret is too small."""
    seen = {(key, word): 0 for key in (WITHIN_BUDGET, BY_W) for word in (PROVEN, UNDECIDED)}
    seen |= {(key, IF_MONOTONE): 0 for key in (WITHIN_BUDGET, KNEE)} | {(KNEE, PROVEN): 0}
    for seed in range(1500):
        arguments, errors, failed = instance(seed, budgets=seed % 2 == 1)
        if seed % 4 < 2:
            scale = replace(arguments["scale"], exponents=BY_ERROR)
            arguments |= {"scale": scale, "monotone": True}
        selection = run(arguments, errors, failed)
        if selection is None or selection.best is None:
            continue
        by_w = selection.weigh_by(replace(selection.scale, exponents=(1, 1, 1)))
        share = random.Random(seed).choice([0.3, 0.6, 1.0])
        by_error = seek_lowest_error(selection, share)
        within = arguments | {"max_share": min(share, arguments.get("max_share") or 1.0)}
        answers = choose_answers(selection, by_error, by_w, "the budget")
        check_answers(answers, selection, within, errors, failed, seen)
        true_w = by_brute_force(arguments, errors, failed, by_w.scale)
        best = answers[2]
        assert max(true_w.values()) - best.w <= best.regret + 1e-12
    assert min(seen.values()) > 5, seen


def check_answers(answers, selection, within, errors, failed, seen) -> None:
    """Compare with the models of the instance that nobody has trained."""
    models = by_brute_force(within, errors, failed)
    monotone = not any(
        is_shrunk(s, t) and errors[s] < errors[t] for s in selection.order for t in selection.order
    )
    best, knee, by_w = answers
    for answer in answers:
        if (answer.key, answer.certainty) in seen and answer.xi is not None:
            seen[answer.key, answer.certainty] += 1
    if best.xi is not None:
        least = min(errors[xi] for xi in models)
        assert best.error == errors[best.xi] and best.error - least <= best.regret + 1e-12
        if best.certainty == PROVEN or (best.certainty == IF_MONOTONE and monotone):
            assert best.error == least
    if knee.certainty == PROVEN or (knee.certainty == IF_MONOTONE and monotone):
        models = {xi: errors[xi] for xi in selection.order if not failed.get(xi)}
        everyone = Selection(selection.points, selection.scale, errors=models)
        exhaustive = choose_answers(everyone, None, everyone, "")[1]
        rows = [(selection.points[xi][1], errors[xi]) for xi in (exhaustive.xi, knee.xi)]
        assert rows[0] == rows[1]


def test_a_narrowed_selection_keeps_what_failed():
    selection = search_by_w(ERRORS, trained=2)
    selection.fail(GRID[2], "out of memory")
    selection.fail(GRID[3], "the loss became nan", diverged=True)
    narrowed = seek_lowest_error(selection, 0.4)
    assert (list(narrowed.failed), list(narrowed.diverged)) == ([GRID[2]], [GRID[3]])
    assert narrowed.order == GRID[:4] and narrowed.rivals == [GRID[2]]
    assert seek_lowest_error(selection, 0.05) is None
    with pytest.raises(BortError):
        Selection(selection.points, selection.scale, max_share=0.05)
