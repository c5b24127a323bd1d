"""The certificate of a search in words."""

from dataclasses import replace

import pytest
from search_instances import RESULT

from bort.search.result import Horizon, describe_certificate

BY_ERROR = {"objective": "error", "quality": "e(T)/e", "control_bound": None}


def said(**changes) -> str:
    return "\n".join(describe_certificate(replace(RESULT, **changes)))


def horizons(ahead: str, *taus: float | None) -> dict:
    """Horizons at a quarter and at half of 300 steps, with these rankings."""
    steps = (("quarter", 75), ("half", 150))
    rows = zip(steps, taus, strict=True)
    return {"horizons": [Horizon(label, step, ahead, ahead, tau) for (label, step), tau in rows]}


def test_certificate_in_words():
    plain = said()
    assert "of 24 points: 9 trained, 15 pruned by proof" in plain
    assert "proven: no candidate left out has a larger W at this n, seed and data" in plain
    assert "3.00e+09 FLOPs, 50% of an exhaustive search's; T ran over 300 batches" in plain
    assert "doubt" not in plain and "note" not in plain


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"regret_bound": 0.03}, "no candidate left out has a W larger by more than 0.0300"),
        ({"regret_bound": 0.03}, "if errors are monotone in size: by no more than 0.0000"),
        (
            {"regret_bound": 0.03, "rungs": [37, 75], "crossings": [0.02, 0.0], "dropped": 6}
            | {"regret_bound_curves": 0.0},
            "if later curves do not cross by more than δ: by no more than 0.0000",
        ),
        (
            {"regret_bound": 0.03, "rungs": [37, 75], "crossings": [0.02, 0.0], "dropped": 6}
            | {"regret_bound_curves": 0.0},
            "δ, measured on the 9 trained to n: 0.020 nats after 37 steps, 0.000 nats after 75 st",
        ),
        (
            {"regret_bound": 0.03, "rungs": [37], "crossings": [None], "dropped": 2},
            "too few candidates were trained to n to measure δ",
        ),
        ({"dropped": 6}, "6 dropped if later curves do not cross by more than δ"),
        (
            {"regret_bound": 0.03, "regret_bound_monotone": None, "contradictions": 2},
            "errors are not monotone here (2 trained pairs contradict it beyond chance)",
        ),
        (
            {"failed": 2, "invalid": 3},
            "of 27 points: 9 trained, 15 pruned by proof, 2 failed, 3 wit",
        ),
        ({"ties": ["⟨1,1,32,128⟩"]}, "ties with the winner within noise: ⟨1,1,32,128⟩"),
        ({"error": 7.4}, "doubt: the winner is 1.40 nats above word frequencies: n is"),
        ({"error": 5.9}, "doubt: the winner is only 0.10 nats below word frequencies"),
        ({"smallest": True}, "doubt: the winner is the smallest candidate"),
        ({"on_border": ["largest depth"]}, "too narrow: the winner has its largest depth"),
        (
            horizons("⟨1,1,32,128⟩", None, None),
            "doubt: after 150 of 300 steps ⟨1,1,32,128⟩ was ahead of the winner",
        ),
        (
            horizons("⟨2,2,64,128⟩", 0.21, 0.5),
            "doubt: after 150 of 300 steps the errors ranked the candidates otherwise than at the "
            "end (Kendall's τ 0.50)",
        ),
        ({"regret_bound": 0.00001}, "has a W larger by more than 0.0001"),
        ({"regret_bound": 0.1, "failed": 1}, "0.1000; what failed counts with its bound"),
        ({"failed": 3, "diverged": 1}, "2 failed, 1 diverged (no model, so W = 0)"),
        ({"latency_unit": "ms"}, "at this n, seed and data and with these latencies"),
        (BY_ERROR, "proven: no candidate left out has a lower error at this n, seed and data"),
        (
            BY_ERROR | {"regret_bound": 0.2},
            "no candidate left out has an e(T)/e larger by more tha",
        ),
        ({"smallest": True}, "search.n is too short; search.error=perplexity weighs errors more"),
        (
            {"unigram_error": 5.1, "teacher_error": 5.0, "error": 4.0},
            "T's own output is 0.10 nats from word fre",
        ),
        (
            {"further_failed": 1, "further_trainings": 5},
            "note: 1 trainings of finalists with other",
        ),
        ({"control_bound": "⟨2,2,64,128⟩"}, "note: arg max W⁺, without any training, chooses the"),
    ],
)
def test_what_to_doubt(changes, line):
    assert line in said(**changes)


def test_rankings_that_agree_are_no_doubt():
    assert "Kendall" not in said(**horizons("⟨2,2,64,128⟩", None, 0.9))


def test_advice_is_for_the_aim_of_the_search():
    """By error nothing falls to the smallest, and no other error weighs more."""
    by_error = said(**BY_ERROR, smallest=True, error=5.9)
    assert "W can only" not in by_error and "perplexity" not in by_error
    assert "raise search.n" in by_error and "arg max W⁺" not in by_error
    assert "perplexity" not in said(smallest=True, quality="exp(e(T) − e)")
