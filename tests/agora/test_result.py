"""The result of a run of Agora: its flat JSON and back, of a whole run and by hand."""

import json
from dataclasses import replace

import pytest

from bort.agora.report import judge_agora, list_arms
from bort.agora.result import ARMS, AgoraResult, ArmResult, JudgeScores
from bort.runs.baselines import read_baselines
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

JUDGE = JudgeScores({"f1": 0.9, "accuracy": 0.8}, {"val": {"f1": 0.7, "accuracy": 0.6}}, 0.75, 0.97)
SCORES = {"val/f1": 0.5, "val/accuracy": 0.25, "rows/val": 40, "doubt": "val: only 40 rows"}
RESULT = AgoraResult(
    judge=JUDGE,
    arms={arm: ArmResult(SCORES, 0.4, 10 + k) for k, arm in enumerate(ARMS)},
    **{"parameters": 100, "tokens": 5, "tokens_per_s": 2.5, "lr": 1e-3, "seconds": 9.0},
    **{"steps": 13, "rounds": 2, "trainings": 3, "generated": 20, "pruned": 1, "theta": "seed 0"},
    **{"metric": "val/f1", "task": "toy", "seed": 0},
)


def test_a_whole_run_is_read_as_it_was_written(whole):
    folder, summary, _ = whole
    content = json.loads((folder / "summary.json").read_text())
    result = AgoraResult.from_json(content)
    baselines = read_baselines(RunSummary(content))  # which stand behind what Agora found
    beside = [key for baseline in baselines for key in baseline.to_json()]
    assert len(baselines) == 2 and list(content)[-len(beside) :] == beside
    found = [(key, value) for key, value in content.items() if key not in beside]
    assert list(result.to_json().items()) == found  # in the order of the file
    assert AgoraResult.from_json(RunFolder(folder).find_summary()) == result
    assert result.judge.balanced_accuracy == content["teacher/eval/balanced_accuracy"]
    assert result.judge.confidence == content["teacher/eval/confidence"]
    assert result.arms["plain"].on_e == content["plain/eval/accuracy"]
    assert result.arms["agora"].scores["val/accuracy"] == summary["val/accuracy"]


def test_the_names_in_the_flat_summary():
    content = RESULT.to_json()
    assert list(content)[:6] == [
        *("teacher/eval/f1", "teacher/eval/accuracy", "teacher/eval/balanced_accuracy"),
        *("teacher/eval/confidence", "teacher/val/f1", "teacher/val/accuracy"),
    ]
    arm = [*SCORES, "eval/f1"]
    assert list(content)[6:12] == [*(f"default/{key}" for key in arm), "default/steps"]
    assert list(content)[24:30] == [*arm, "agora/steps"]  # Agora's own have no prefix
    assert [content[f"{arm}/steps"] for arm in ARMS] == [10, 11, 12, 13]
    assert AgoraResult.from_json(content) == RESULT


def test_a_regression_has_no_confidence():
    judge = JudgeScores({"pearson": None}, {"val": {"pearson": 0.5}})
    content = judge.to_json()
    assert content == {"teacher/eval/pearson": None, "teacher/val/pearson": 0.5}
    assert JudgeScores.from_json(content) == judge
    assert judge.list_on_e() == {"pearson": None}


@pytest.mark.parametrize("key", ["metric", "random/steps", "plain/eval/f1", "generated"])
def test_a_summary_that_lacks_a_value_is_refused(key):
    content = RESULT.to_json()
    del content[key]
    with pytest.raises(KeyError, match=key):
        AgoraResult.from_json(content)


def test_the_table_and_the_verdict():
    head, lines = list_arms(RESULT)
    assert head == ["", "dev val/f1", "dev val/accuracy", "E"]
    assert lines[0] == ["plain, default θ", "0.5000", "0.2500", "0.4000"]
    assert lines[-1] == ["S, the judge", "0.7000", "0.6000", "0.9000"]
    assert judge_agora(RESULT).startswith("Agora is not above its control arms on dev (+0.0000)")
    undefined = RESULT.arms | {"plain": ArmResult(SCORES | {"val/f1": None}, 0.4, 1)}
    assert judge_agora(replace(RESULT, arms=undefined)).startswith(
        "Agora cannot be compared: val/f1"
    )
