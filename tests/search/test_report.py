"""The certificate in words, and the page of a search: whole, escaped, without the network."""

import re
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from tiny_runs import sweep, table

from bort.models.arch import Arch
from bort.search import report as search_page
from bort.search.fptas import UNDECIDED
from bort.search.result import CandidateRow, Horizon, SearchResult

RESULT = SearchResult(
    **{"candidates": 24, "invalid": 0, "trained": 9, "pruned": 15, "assumed": 0, "skipped": 0},
    **{"failed": 0, "diverged": 0, "excluded": 0, "regret_bound": 0.0},
    **{"regret_bound_monotone": 0.0, "contradictions": 0, "ties": [], "train_flops": 3e9},
    **{"exhaustive_flops": 6e9, "finalist_flops": 0.0, "teacher_batches": 300, "seconds": 90.0},
    **{"unigram_error": 6.0, "teacher_error": 4.0, "error": 4.8, "smallest": False},
    **{"on_border": [], "optimum": Arch(2, 2, 64, 128), "n": 300, "seed": 0},
    **{"control_bound": "⟨1,1,32,128⟩", "control_size": "⟨1,1,32,128⟩", "by_error": ""},
    **{"by_ratio": "", "by_perplexity": "", "pareto": [], "pareto_undecided": []},
    **{"objective": "w", "quality": "e(T)/e", "w": 0.5, "w_interval": [0.4, 0.6]},
    **{"seed_spread": None, "further_trainings": 0, "further_failed": 0, "parameters": 10},
    **{"latency": 1.0, "latency_unit": "operations", "latency_note": "", "positions": 9},
    **{"documents": 3, "trainings": 9},
)


BY_ERROR = {"objective": "error", "quality": "e(T)/e", "control_bound": None}


def said(**changes) -> str:
    return "\n".join(search_page.describe_certificate(replace(RESULT, **changes)))


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


def test_points_have_the_units_of_the_card():
    text = search_page.write_table([trained_row(1, 0.5, latency=5.243e6)], "operations")
    assert "<td>5.2 MFLOP</td>" in text and "error (nats)" in text and "e+06" not in text


def test_advice_is_for_the_aim_of_the_search():
    """By error nothing falls to the smallest, and no other error weighs more."""
    by_error = said(**BY_ERROR, smallest=True, error=5.9)
    assert "W can only" not in by_error and "perplexity" not in by_error
    assert "raise search.n" in by_error and "arg max W⁺" not in by_error
    assert "perplexity" not in said(smallest=True, quality="exp(e(T) − e)")


def trained_row(k: int, w: float, **changes) -> CandidateRow:
    row = {"parameters": 10 * k, "latency": float(k), "error": 5.0, "status": "trained", "w": w}
    row |= {"w_low": w, "w_high": w, "w_bound": 0.9} | changes
    return CandidateRow(Arch(1, 1, 8, k), **row)


def test_what_is_not_decided_is_grey():
    """In the W map, on the Pareto front and among the controls."""
    rows = [trained_row(k, 0.5 / k) for k in (1, 2, 3)]
    rows.append(trained_row(4, 0.0, status="failed", error=None, w_bound=0.4))
    rows.append(trained_row(9, 0.0, status="teacher", error=4.0))
    fronts = {"pareto": ["⟨1,1,8,1⟩"], "pareto_undecided": ["⟨1,1,8,2⟩"], "latency_unit": "ms"}
    choices = {(0.0, 0.0): None, (0.0, 1.0): Arch(1, 1, 8, 1), (1.0, 0.0): None}
    plots = search_page.draw_figures(rows, replace(RESULT, **fronts), choices)
    names = {
        title: {t.name: (len(t.x), t.marker.color) for t in plot.data}
        for title, plot in plots.items()
    }
    undecided = names["Which ξ wins for other weights"][UNDECIDED]
    assert undecided == (2, search_page.GREY)
    assert names["Which ξ wins for other weights"]["⟨1,1,8,1⟩"][0] == 1
    assert names["Pareto front"][UNDECIDED] == (1, search_page.GREY)
    assert (
        names["Pareto front"]["beaten"][0] == names["Pareto front"]["not beaten in p, i and e"][0]
    )
    assert (
        names["W by candidate"]["W⁺: no W can be larger than this bound"][0] == 4
    )  # the failed one, too
    aims = dict.fromkeys(("by_ratio", "by_perplexity", "by_error", "control_bound"), UNDECIDED)
    result = replace(RESULT, **aims, control_size=None)
    html = search_page.write_costs(1.0, result)
    assert html.count(f"<td class=unknown>{UNDECIDED}</td>") == 4


def test_page(search_of, tmp_path):
    run = search_of("search.seeds=1", "name=page", "output_dir=runs/search/page")
    folder = tmp_path / "run"
    summary = sweep(run, folder)
    page = (folder / "report.html").read_text()
    words = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]*(?:src|href)=", page)  # no network
    assert page.count('class="plotly-graph-div"') == 3
    for row in table(folder):
        xi = f"⟨{row['depth']},{row['heads']},{row['hidden']},{row['intermediate']}⟩"
        assert xi in words and row["status"] in words
    assert f"<b>{summary['w']:.3f}</b>" in words and summary["optimum_name"] in words
    assert f"arch_file={folder}/optimum.yaml" in words and "name=page" in words
    assert "Pareto front" in words and "name=viewport" in words


def test_text_of_the_user_is_escaped(search_of, tmp_path):
    folder = tmp_path / "run"
    run = search_of("search.seeds=1")
    sweep(run, folder)
    given = OmegaConf.create(["data.path=<script>alert(1)</script>"])
    OmegaConf.save(given, folder / ".hydra" / "overrides.yaml")
    page = search_page.write_commands(run, folder, trained_row(16, 0.5, lr=1e-3))
    assert "<script>" not in page and "&lt;script&gt;" in page
