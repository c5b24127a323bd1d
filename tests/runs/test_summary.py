"""RunSummary: a table of a file, by name, in words, and what is to doubt."""

from pathlib import Path

import pytest

from bort.errors import BortError
from bort.models.arch import Arch
from bort.runs.summary import NEAR, RunSummary

TEXT = {"val/loss": 3.8, "val/mlm_accuracy": 0.384, "unigram_ce": 6.79, "unigram_accuracy": 0.059}


def test_the_table_of_the_file_stays_what_it_was():
    table = {"val/loss": 1.0, "steps": 2, "of a later version": {"a": [1]}}
    summary = RunSummary.from_json(table, Path("summary.json"))
    assert summary.to_json() == table == summary and list(summary) == list(table)
    assert (summary.steps, summary.loss, summary.tokens, summary.task) == (2, 1.0, None, None)


@pytest.mark.parametrize("key", ["steps", "seconds", "lr", "w", "val/accuracy", "test_mm/f1"])
@pytest.mark.parametrize("value", ["1", True, [1], float("inf")])
def test_no_number(key, value):
    with pytest.raises(BortError, match=f"run/summary.json: {key} is .*, no number; restore it"):
        RunSummary.from_json({key: value}, Path("run/summary.json"))
    assert RunSummary.from_json({key: None}, Path("summary.json"))[key] is None


def test_scores_rows_and_teacher():
    table = {"val/f1": 0.5, "test/f1": None, "eval/f1": 0.4, "rows/val": 7, "train/loss": 1.0}
    summary = RunSummary(table | Arch(1, 2, 32, 64).to_table("teacher_"))
    assert summary.scores == {"val/f1": 0.5, "test/f1": None}
    assert summary.row_counts == {"val": 7}
    assert summary.teacher_arch == Arch(1, 2, 32, 64)
    assert RunSummary({}).teacher_arch is None


def test_words():
    line = "val 3.80 nats (38.4% of masked words; unigram 6.79, 5.9%)"
    assert RunSummary(TEXT).describe_validation() == line
    taught = RunSummary(TEXT | {"teacher_loss": 3.12, "teacher_accuracy": 0.46})
    assert taught.describe_validation() == f"{line[:-1]}; teacher 3.12, 46.0%)"
    assert RunSummary({}).describe_validation() == "no validation"
    reason = {"val/loss": None, "no_validation": "it is too short"}
    assert RunSummary(reason).describe_validation() == "no validation (it is too short)"


def test_doubts():
    assert RunSummary(TEXT).find_doubt() is None
    near = RunSummary(TEXT | {"val/loss": 6.79 - NEAR / 2})
    assert near.find_doubt().startswith("0.15 nats better than word frequencies alone")
    worse = RunSummary(TEXT | {"val/loss": 7.0})
    assert worse.find_doubt().startswith("no better than word frequencies alone")
    assert RunSummary({"task": "rte", "doubt": "val: one answer"}).find_doubt() == "val: one answer"
    assert RunSummary({"task": "rte"}).find_doubt() is None
