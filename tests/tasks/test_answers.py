"""Answers as a file has them: scores against SciPy, lines there and back, wrong ones refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from bort.tasks.answers import SHOWN, Answer, list_answers, to_readable, write_answers
from bort.tasks.registry import find_task
from bort.tasks.task import Row

ANSWER = Answer("a", 0.75, 3, "b", {"a": 0.25, "b": 0.75}, ("ä text",), 7)
NUMBER = Answer(2.5, 3.0, 4, texts=("x", "y"), index="r1")


def test_scores_are_the_softmax_of_the_outputs():
    task = find_task("glue/mnli")
    long = "w" * (SHOWN + 1)
    rows = [Row(0, ("right", "pair"), 1), Row(1, (long, "short"), 2)]
    outputs = np.array([[0.5, 2.0, -1.0], [900.0, 0.0, 899.0]], np.float32)
    right, wrong = list_answers(task, rows, np.array([5, 9]), outputs)
    for answer, row in zip((right, wrong), softmax(outputs.astype(float), axis=1), strict=True):
        assert tuple(answer.scores) == task.labels
        assert list(answer.scores.values()) == pytest.approx(row, abs=1e-6)
        assert answer.score == max(answer.scores.values())
    assert (right.true, right.label, right.tokens, right.index) == (*[task.labels[1]] * 2, 5, 0)
    assert (wrong.true, wrong.label, wrong.tokens) == (task.labels[2], task.labels[0], 9)
    assert right.texts == () and wrong.texts == (long[:-1] + "…", "short")


def test_the_answer_of_a_regression_is_the_output_itself():
    rows = [Row("k", ("a", "b"), 3.5)]
    (answer,) = list_answers(find_task("glue/stsb"), rows, np.array([6]), np.array([[-0.25]]))
    assert answer == Answer(3.5, -0.25, 6, texts=("a", "b"), index="k")


def test_a_file_has_one_answer_per_line(tmp_path):
    answers = [ANSWER, NUMBER, replace(ANSWER, true="b", texts=())]
    write_answers(tmp_path / "val.jsonl", answers)
    lines = (tmp_path / "val.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Answer.from_json(json.loads(line)) for line in lines] == answers
    assert lines[0] == (
        '{"index": 7, "true": "a", "label": "b", "score": 0.75, '
        '"scores": {"a": 0.25, "b": 0.75}, "tokens": 3, "texts": ["ä text"]}'
    )
    assert list(json.loads(lines[1])) == ["index", "true", "score", "tokens", "texts"]
    assert "texts" not in json.loads(lines[2])


@pytest.mark.parametrize(
    "change", [{"true": 1.0}, {"label": None}, {"score": "0.5"}, {"scores": []}, {"texts": "x"}]
)
def test_a_line_of_another_kind_is_refused(change):
    with pytest.raises(ValueError):
        Answer.from_json(ANSWER.to_json() | change)


def test_labels_are_words_and_numbers_are_short():
    classes, numbers = find_task("glue/rte"), find_task("glue/stsb")
    assert [to_readable(classes, k) for k in (0, 1.0)] == list(classes.labels)
    assert (to_readable(classes, 0.5), to_readable(classes, None)) == ("0.5", "")
    assert (to_readable(numbers, 1), to_readable(numbers, 3.14159)) == ("1", "3.142")
