"""The page of a pipeline."""

import json

import pytest

from bort.errors import BortError


def test_collapsed_models_are_told_first(tmp_path, monkeypatch):
    """A classifier with one answer, a student at word frequencies: before everything else."""
    from bort.pipeline import report as pipeline_page

    folders = {key: tmp_path / key for key in pipeline_page.TITLES}
    student = {"unigram_ce": 6.0, "val/loss": 5.9}
    tuned = {"task": "custom", "doubt": "val: the model gives one answer for all 9 rows: 'a<b'"}
    for key, summary in (("search", {}), ("pretrain", student), ("finetune", tuned)):
        folders[key].mkdir()
        (folders[key] / "summary.json").write_text(json.dumps(summary))
    doubts = ["doubt: a", "b"]
    monkeypatch.setattr(pipeline_page, "find_doubts", lambda result: doubts)
    monkeypatch.setattr(pipeline_page.SearchResult, "from_json", lambda content: None)
    monkeypatch.setattr(pipeline_page, "draw_overview", lambda folders: [])
    lines = pipeline_page.list_doubts(folders)
    assert lines[0] == "doubt: a" and "0.10 nats better than word frequencies" in lines[1]
    assert lines[2] == f"Fine-tuning: {tuned['doubt']}" and len(lines) == 3
    page = pipeline_page.parts("x", {"optimum": "y"}, folders, [])
    first = [next(page) for _ in range(3)]
    assert first[0].startswith("<h1>") and "a&lt;b" in first[1] and "optimum" in first[2]


def test_a_damaged_search_is_one_line(tmp_path):
    from bort.pipeline import report as pipeline_page

    folders = {key: tmp_path / key for key in pipeline_page.TITLES}
    folders["search"].mkdir()
    (folders["search"] / "summary.json").write_text("{}")
    with pytest.raises(BortError, match=r"summary\.json lacks .*; repeat the stage that wrote it"):
        pipeline_page.list_doubts(folders)
