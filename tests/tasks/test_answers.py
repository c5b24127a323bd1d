"""Answers as a file has them: scores against other libraries, lines there and back, refusals."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics

from bort.tasks.answers import (
    SHOWN,
    Answer,
    list_answers,
    score_classes,
    to_readable,
    write_answers,
    write_class_scores,
)
from bort.tasks.custom import define_task
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


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_of_classes_are_those_of_scikit_learn(classes):
    """Where a class is never answered or never true, a score of no rows is not defined."""
    random = np.random.default_rng(classes)
    labels = [f"label {k}" for k in range(classes)]
    for size in (1, 2, 5, 40):
        pairs = random.choice(labels, (size, 2))
        if size == 40:
            pairs[pairs[:, 1] == labels[1], 1] = labels[0]  # which is never answered
        answers = [
            Answer(true, 0.5, 3, label, dict.fromkeys(labels, 0.5))
            for true, label in pairs.tolist()
        ]
        scores = score_classes(answers)
        assert [score.label for score in scores] == labels
        true, answered = pairs[:, 0], pairs[:, 1]
        expected = metrics.precision_recall_fscore_support(
            true, answered, labels=labels, zero_division=np.nan
        )
        for score, precision, recall, f1, rows in zip(scores, *expected, strict=True):
            assert score.rows == rows
            seen = [(score.precision, precision), (score.recall, recall), (score.f1, f1)]
            for value, reference in seen:
                assert (value is None) == np.isnan(reference)
                assert value is None or value == pytest.approx(reference, abs=1e-12)


def test_the_table_of_classes(tmp_path):
    """A line for each class; labels of any letters; none of numbers."""
    labels = ['a,"b"', "c\nd"]
    answers = [Answer(labels[0], 0.5, 3, labels[0], dict.fromkeys(labels, 0.5))] * 2
    write_class_scores(tmp_path / "val_classes.csv", answers)
    with (tmp_path / "val_classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == labels
    assert rows[0]["precision"] == rows[0]["f1"] == "1.0" and rows[0]["rows"] == "2"
    assert rows[1] == {"label": labels[1], "precision": "", "recall": "", "f1": "", "rows": "0"}
    write_class_scores(tmp_path / "numbers.csv", [Answer(1.5, 2.5, 3)])
    assert not (tmp_path / "numbers.csv").exists()


SEVERAL = define_task("custom", "labels", ("text",), ("a", "b", "c"))


def test_answers_with_several_labels_there_and_back(tmp_path):
    """By hand: sigmoids; a label is answered from an output of 0 on, which is 1/2."""
    rows = [
        Row(0, ("right",), (1, 0, 1)),
        Row(1, ("wrong",), (0, 0, 0)),
        Row(2, ("none",), (0,) * 3),
    ]
    outputs = np.array([[2.0, -1.0, 0.0], [-3.0, -3.0, 1e-3], [-900.0, -2.0, -2.0]], np.float32)
    answers = list_answers(SEVERAL, rows, np.array([5, 6, 7]), outputs)
    assert [answer.true for answer in answers] == [("a", "c"), (), ()]
    assert [answer.label for answer in answers] == [("a", "c"), ("c",), ()]
    assert list(answers[0].scores.values()) == pytest.approx(expit(outputs[0]), abs=1e-6)
    assert [answer.score for answer in answers] == pytest.approx([0.5, 0.50025, 0.880797], abs=1e-6)
    assert [answer.texts for answer in answers] == [(), ("wrong",), ()]
    write_answers(tmp_path / "val.jsonl", answers)
    lines = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    assert [Answer.from_json(line) for line in lines] == answers
    assert list(lines[1]) == ["index", "true", "labels", "score", "scores", "tokens", "texts"]
    assert (lines[1]["true"], lines[1]["labels"]) == ([], ["c"])
    for change in ({"true": "a"}, {"labels": [1]}, {"scores": []}, {"texts": "x"}):
        with pytest.raises(ValueError):
            Answer.from_json(lines[0] | change)
    assert (
        to_readable(SEVERAL, (1, 0, 1)) == "a, c" and to_readable(SEVERAL, (0, 0, 0)) == "no label"
    )


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_several_labels_are_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels = ["a", "b", "c", "never"]
    true, answered = (random.random((2, 30, 4)) < [[[0.5, 0.1, 0.9, 0]]]).astype(int)
    answers = []
    for row in zip(true, answered, strict=True):
        pair = [tuple(np.array(labels)[part.astype(bool)].tolist()) for part in row]
        answers.append(Answer(pair[0], 0.5, 3, pair[1], dict.fromkeys(labels, 0.5)))
    scores = score_classes(answers)
    expected = metrics.precision_recall_fscore_support(true, answered, zero_division=np.nan)
    for score, *values in zip(scores, *expected, strict=True):
        numbers = [score.precision, score.recall, score.f1]
        assert [np.nan if x is None else x for x in numbers] == pytest.approx(
            values[:3], nan_ok=True
        )
        assert score.rows == values[3]
