"""The page of a search: whole, escaped, without the network."""

import re
from dataclasses import replace

from omegaconf import OmegaConf
from search_instances import RESULT
from tiny_runs import sweep, table

from bort import html
from bort.models.arch import Arch
from bort.search import report as search_page
from bort.search.fptas import UNDECIDED
from bort.search.result import CandidateRow


def test_points_have_the_units_of_the_card():
    text = search_page.write_table([trained_row(1, 0.5, latency=5.243e6)], "operations")
    assert "<td>5.2 MFLOP</td>" in text and "error (nats)" in text and "e+06" not in text


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
    assert undecided == (2, html.GREY)
    assert names["Which ξ wins for other weights"]["⟨1,1,8,1⟩"][0] == 1
    assert names["Pareto front"][UNDECIDED] == (1, html.GREY)
    assert (
        names["Pareto front"]["beaten"][0] == names["Pareto front"]["not beaten in p, i and e"][0]
    )
    assert (
        names["W by candidate"]["W⁺: no W can be larger than this bound"][0] == 4
    )  # the failed one, too
    aims = dict.fromkeys(("by_ratio", "by_perplexity", "by_error", "control_bound"), UNDECIDED)
    result = replace(RESULT, **aims, control_size=None)
    costs = search_page.write_costs(1.0, result)
    assert costs.count(f"<td class=unknown>{UNDECIDED}</td>") == 4


def test_page(search_of, tmp_path):
    run = search_of("search.seeds=1", "name=page", "output_dir=runs/search/page")
    folder = tmp_path / "run"
    summary = sweep(run, folder)
    page = (folder / "report.html").read_text()
    words = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]*(?:src|href)=", page)  # no network
    assert page.count("<div class=figure") == 3
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
