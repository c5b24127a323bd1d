"""Baselines go into a flat summary and come back; what a damaged one holds is left out."""

from bort.runs.baselines import TITLES, Baseline, read_baselines


def test_there_and_back():
    baselines = [
        Baseline("majority", {"val/accuracy": 0.5, "val/macro_f1": 1 / 3}, "'no' for every row"),
        Baseline("tfidf", {}, "left out"),
    ]
    flat = {"val/accuracy": 0.9, "plain/val/accuracy": 0.8}
    for baseline in baselines:
        flat |= baseline.to_json()
    assert flat["majority/val/accuracy"] == 0.5 and flat["tfidf/note"] == "left out"
    assert read_baselines(flat) == baselines
    assert read_baselines({"val/accuracy": 0.9}) == []


def test_in_words():
    baseline = Baseline("mean", {"val/r2": -0.01, "val/pearson": None}, "2.5 for every row")
    assert baseline.describe() == "val/r2 -0.0100, val/pearson undefined (2.5 for every row)"
    assert Baseline("tfidf", {}, "left out").describe() == "left out"
    assert baseline.title == TITLES["mean"]


def test_what_is_no_number_is_left_out():
    flat = {"mean/note": "x", "mean/val/r2": "?", "mean/val/mae": 1, "tfidf/note": 5}
    assert read_baselines(flat) == [Baseline("mean", {"val/mae": 1}, "x")]
