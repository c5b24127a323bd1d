"""The result of a comparison, by hand: its flat JSON and back, its table, its words."""

from dataclasses import replace

import pytest

from bort.errors import BortError
from bort.pretraining.comparison import ArmResult, Comparison
from bort.runs.summary import RunSummary

KD = ArmResult(4.0, 0.30, 8, 640, 10.0, 99.0, 4e-3, "runs/kd")
ARMS = {
    "kd": KD,
    "mlm": replace(KD, loss=4.5, accuracy=0.20, seconds=4.0, folder="runs/mlm"),
    "mlm_equal_time": replace(KD, loss=3.9, accuracy=0.31, steps=20, folder="runs/time"),
}
DISTILLED = RunSummary(
    {
        **{"val/loss": 4.0, "val/mlm_accuracy": 0.30, "tokens": 640, "steps": 8, "seconds": 99.0},
        **{"unigram_ce": 6.0, "unigram_accuracy": 0.07},
    }
)
COMPARISON = Comparison(ARMS, DISTILLED, 61.0)
SCORES = ("5.000", "15.0%", "0.004")


def test_the_summary_is_flat_and_is_read_as_it_was_written():
    content = COMPARISON.to_json()
    names = "val/loss val/mlm_accuracy steps tokens seconds wall_seconds lr folder".split()
    prefixed = [f"{arm}/{name}" for arm in ARMS for name in names]
    assert list(content) == [*prefixed, *DISTILLED, "teacher_seconds"]
    assert content["mlm_equal_time/val/mlm_accuracy"] == 0.31 and content["mlm/seconds"] == 4.0
    assert content["seconds"] == content["kd/seconds"] == 10.0  # in turns, not by the wall clock
    assert Comparison.from_json(RunSummary(content)) == COMPARISON
    named = replace(COMPARISON, teacher_seconds=None)
    assert Comparison.from_json(RunSummary(named.to_json())) == named


@pytest.mark.parametrize(("key", "value"), [("mlm/lr", None), ("kd/folder", 5), ("kd/steps", "8")])
def test_a_damaged_summary_is_one_line(key, value):
    content = COMPARISON.to_json() | {key: value}
    with pytest.raises(BortError, match=f"summary.json has no {key}; restore it or remove the run"):
        Comparison.from_json(RunSummary(content))


def test_the_table_and_the_sentences():
    rows = list(COMPARISON.list_rows("frequencies"))
    assert rows[1] == ("MLM, equal steps", "8", "0:04", "4.500", "20.0%", "0.004")
    assert rows[3:] == [("frequencies", "", "", "6.000", "7.0%", "")]
    scores = {"teacher_loss": 3.5, "teacher_accuracy": 0.4}
    taught = replace(COMPARISON, distilled=RunSummary({**DISTILLED, **scores}))
    assert list(taught.list_rows("frequencies"))[4:] == [("teacher", "", "", "3.500", "40.0%", "")]
    assert list(COMPARISON.compare_accuracies()) == [
        "KD is better than plain MLM for the same steps: 1.50 × its accuracy",
        "KD is not better than plain MLM for the same wall clock: 0.97 × its accuracy",
    ]


def test_an_arm_with_a_fresh_start():
    """Where it is there, every sentence says which start the rival had."""
    result = replace(KD, loss=5.0, accuracy=0.15)
    fresh = replace(COMPARISON, arms=ARMS | {"mlm_fresh": result})
    assert list(fresh.list_rows("x"))[3] == ("MLM, fresh start", "8", "0:10", *SCORES)
    assert list(fresh.compare_accuracies()) == [
        "KD is better than plain MLM from the same start for the same steps: 1.50 × its accuracy",
        "KD is not better than plain MLM from the same start for the same wall clock: 0.97 × its "
        "accuracy",
        "KD is better than plain MLM from a fresh start for the same steps: 2.00 × its accuracy",
    ]
    content = fresh.to_json()
    assert Comparison.from_json(RunSummary(content)) == fresh
    del content["mlm_fresh/lr"]
    with pytest.raises(BortError, match="summary.json has no mlm_fresh/lr"):
        Comparison.from_json(RunSummary(content))


def test_the_best_arm_decides_whether_there_is_a_doubt():
    assert COMPARISON.find_doubt() is None
    weak = {arm: replace(result, loss=result.loss + 2.0) for arm, result in ARMS.items()}
    assert "0.10 nats better than word frequencies" in replace(COMPARISON, arms=weak).find_doubt()
