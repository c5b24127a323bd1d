"""The certificate in words, and the page of a search: whole, escaped, without the network."""

import re

import pytest
from omegaconf import OmegaConf
from test_search import sweep, table

from bort import search_page

SUMMARY = {
    **{"candidates": 24, "invalid": 0, "trained": 9, "pruned": 15, "assumed": 0, "skipped": 0},
    **{"failed": 0, "excluded": 0, "regret_bound": 0.0, "regret_bound_monotone": 0.0},
    **{"contradictions": 0, "ties": [], "train_flops": 3e9, "exhaustive_flops": 6e9},
    **{"teacher_batches": 300, "seconds": 90.0, "below_unigram": 1.2, "smallest": False},
    **{"on_border": [], "optimum_name": "⟨2,2,64,128⟩", "winner_at_half": "⟨2,2,64,128⟩"},
    **{"control_bound": "⟨1,1,32,128⟩", "control_size": "⟨1,1,32,128⟩"},
}


def said(**changes) -> str:
    return "\n".join(search_page.certificate_lines(SUMMARY | changes))


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
        ({"regret_bound": 0.03}, "if errors are monotone: by no more than 0.0000"),
        (
            {"regret_bound": 0.03, "regret_bound_monotone": None, "contradictions": 2},
            "errors are not monotone here (2 trained pairs contradict it beyond chance)",
        ),
        (
            {"failed": 2, "invalid": 3},
            "of 27 points: 9 trained, 15 pruned by proof, 2 failed, 3 wit",
        ),
        ({"ties": ["⟨1,1,32,128⟩"]}, "ties with the winner within noise: ⟨1,1,32,128⟩"),
        ({"below_unigram": -1.4}, "doubt: the winner is 1.40 nats above word frequencies: n is"),
        ({"below_unigram": 0.1}, "doubt: the winner is only 0.10 nats below word frequencies"),
        ({"smallest": True}, "doubt: the winner is the smallest candidate"),
        ({"on_border": ["largest depth"]}, "too narrow: the winner has its largest depth"),
        ({"winner_at_half": "⟨1,1,32,128⟩"}, "after half of the steps the winner was ⟨1,1,32,128⟩"),
        ({"control_bound": "⟨2,2,64,128⟩"}, "note: arg max W⁺, without any training, chooses the"),
    ],
)
def test_what_to_doubt(changes, line):
    assert line in said(**changes)


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
    page = search_page._reproduce(run, folder)
    assert "<script>" not in page and "&lt;script&gt;" in page
