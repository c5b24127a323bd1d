"""The summary of a search on the disk and back."""

import json

import pytest

from bort.models.arch import Arch
from bort.search.result import CandidateRow, SearchResult


def test_a_summary_is_read_as_it_was_written(done):
    folder = done[1]
    content = json.loads((folder / "summary.json").read_text())
    result = SearchResult.from_json(content)
    assert result.to_json() == content
    assert result.optimum == Arch.from_json(content["optimum"])
    assert [horizon.label for horizon in result.horizons] == ["quarter", "half"]
    assert result.horizons[1].step == content["step_at_half"]
    assert result.below_unigram == pytest.approx(content["unigram_error"] - content["error"])


def test_a_summary_that_lacks_a_value_is_refused(done):
    content = json.loads((done[1] / "summary.json").read_text())
    del content["w"]
    with pytest.raises(KeyError, match="w"):
        SearchResult.from_json(content)


def test_a_row_has_the_sizes_first():
    row = CandidateRow(Arch(2, 4, 128, 256), 10, 1.5, status="trained", w=0.5).to_table()
    names = "depth heads hidden intermediate parameters latency error status w w_low w_high w_bound"
    assert list(row) == [*names.split(), "mb", "lr", "seconds", "reason"]
    assert (row["heads"], row["latency"], row["w"], row["lr"]) == (4, 1.5, 0.5, None)
