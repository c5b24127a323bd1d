"""Scores against scikit-learn, SciPy and by hand, and what is to be doubted in them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from task_rows import queries

from bort.console import decimal
from bort.errors import BortError, Diverged
from bort.tasks.custom import define_task
from bort.tasks.metrics import (
    ERRORS,
    choose_metric,
    compute_scores,
    describe_constant,
    find_doubt,
    is_falling,
    list_metrics,
    normalize,
    word_f1,
)
from bort.tasks.reading import read_rows
from bort.tasks.registry import TASKS, find_task
from bort.tasks.task import Row


@cache
def real(shared: Path, name: str, split: str = "val") -> list[Row]:
    return read_rows(find_task(name), shared / "data" / name.split("/")[0])[split]


def labelled(labels, groups=None) -> list[Row]:
    groups = groups or [None] * len(labels)
    return [Row(n, ("",), y, group=g) for n, (y, g) in enumerate(zip(labels, groups, strict=True))]


def reference(name: str, labels, given) -> float:
    """Each metric by scikit-learn or SciPy."""
    if name == "matthews" and len({*labels, *given}) == 1:
        return 0.0  # what scikit-learn gives, with a warning
    if name in ("f1", "f1a"):
        return metrics.f1_score(labels, given, zero_division=0)
    return {
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda y, p: metrics.f1_score(y, p, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
        "spearman": lambda y, p: stats.spearmanr(y, p).statistic,
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }[name](labels, given)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "superglue/record"])
def test_scores_agree_with_other_libraries(name):
    task, rng = find_task(name), np.random.default_rng(0)
    for size in (2, 3, 5, 8, 50, 400):
        for _ in range(8):
            if task.kind == "regression":
                labels, given = rng.integers(0, 11, size) / 2, rng.normal(2, 1, size)
                if np.ptp(labels) == 0:
                    continue
            else:
                labels, given = rng.integers(0, len(task.labels), (2, size))
            found = compute_scores(task, labelled(labels.tolist()), given.tolist())
            extra = ERRORS if task.kind == "regression" else ()
            assert list(found) == [*task.metrics, *extra]
            for metric, value in found.items():
                if metric not in ("em", "parity"):
                    assert value == pytest.approx(reference(metric, labels, given), abs=1e-6)


@pytest.mark.parametrize(
    "name, answer, expected",
    [
        ("glue/cola", 0, {"matthews": 0.0}),
        ("glue/cola", 1, {"matthews": 0.0}),
        ("glue/sst2", 1, {"accuracy": 0.5092}),
        ("glue/mrpc", 1, {"f1": 0.8122, "accuracy": 0.6838}),
        ("glue/rte", 0, {"accuracy": 0.5271}),
        ("glue/rte", 1, {"accuracy": 0.4729}),
        ("glue/wnli", 0, {"accuracy": 0.5634}),
        ("glue/wnli", 1, {"accuracy": 0.4366}),
        ("superglue/boolq", 1, {"accuracy": 0.6217}),
        ("superglue/cb", 1, {"macro_f1": 0.2222, "accuracy": 0.5}),
        ("superglue/multirc", 1, {"f1a": 0.5995, "em": 0.0084}),
        ("superglue/multirc", 0, {"f1a": 0.0, "em": 0.0031}),
        ("superglue/wsc", 0, {"accuracy": 0.6346}),
        ("race/middle", 2, {"accuracy": 0.2833}),
        ("race/high", 2, {"accuracy": 0.2797}),
        ("glue/stsb", 2.5, {"pearson": None, "spearman": None, "rmse": 1.5061, "mae": 1.2901}),
    ],
)
def test_constant_answers_on_the_real_files(name, answer, expected, shared):
    task, rows = find_task(name), real(shared, name)
    found = compute_scores(task, rows, [answer] * len(rows))
    assert list(found) == [*task.metrics, *(ERRORS if task.kind == "regression" else ())]
    for metric, value in expected.items():
        assert found[metric] is None if value is None else round(found[metric], 4) == value
    warning = describe_constant(task, rows, [answer] * len(rows))
    shown = f"'{task.labels[answer]}'" if isinstance(answer, int) else str(answer)
    first, value = next(iter(expected.items()))
    start = f"{name}: the model gives one answer for all {len(rows)} rows: {shown}; "
    assert warning.startswith(f"{start}that alone scores {first} {decimal(value)}")
    other = 3.0 if isinstance(answer, float) else int(not answer)
    assert describe_constant(task, rows, [answer] * (len(rows) - 1) + [other]) is None


def test_table_of_constant_answers_names_the_right_labels():
    assert find_task("superglue/cb").labels[1] == "contradiction"
    assert find_task("race/high").labels[2] == "C"
    assert find_task("glue/rte").labels[0] == "entailment"


def test_constant_without_labels_or_with_one_row():
    rows = [Row(n, ("",)) for n in range(3)]
    task = find_task("glue/mrpc")
    assert describe_constant(task, rows, [0, 0, 0]).endswith("all 3 rows: 'not_equivalent'")
    assert describe_constant(task, rows[:1], [0]) is None
    found = describe_constant(find_task("superglue/record"), rows, [0.1, 0.1, 0.1])
    assert found.endswith("the same score for every entity")


def test_multirc_by_hand(shared):
    labels, given = [1, 0, 1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1, 1, 1]
    folder = shared / "cases" / "F4-multirc-scores" / "superglue"
    rows = read_rows(find_task("superglue/multirc"), folder)["val"]
    assert [row.label for row in rows] == labels
    found = compute_scores(find_task("superglue/multirc"), rows, given)
    assert found == pytest.approx({"f1a": 0.8, "em": 1 / 3})
    shuffled = [6, 2, 0, 4, 7, 1, 3, 5]
    again = compute_scores(
        find_task("superglue/multirc"), [rows[k] for k in shuffled], [given[k] for k in shuffled]
    )
    assert again == pytest.approx(found)


def test_gender_parity_is_of_neighbours(shared):
    rows = labelled([0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 2, 2])
    task = find_task("superglue/axg")
    assert compute_scores(task, rows, [0, 0, 0, 1, 1, 1]) == pytest.approx(
        {"parity": 2 / 3, "accuracy": 4 / 6}
    )
    rows = real(shared, "superglue/axg", "test")
    given = [(n // 2) % 2 for n in range(len(rows))]
    assert compute_scores(task, rows, given)["parity"] == 1
    assert compute_scores(task, rows, [1 - given[0], *given[1:]])["parity"] == pytest.approx(
        177 / 178
    )
    assert compute_scores(task, rows, [n % 2 for n in range(len(rows))])["parity"] == 0


def test_record_takes_the_largest_score_and_the_best_answer():
    task = find_task("superglue/record")
    assert compute_scores(task, queries(), [0.1, 0.2, 0.9, 5.0, 4.0]) == {"f1": 1.0, "em": 1.0}
    # "Ann Lee" shares 2 words with the 3 of "Ann Lee Roy": F1 4/5
    assert compute_scores(task, queries(), [0.9, 0.2, 0.1, 4.0, 5.0]) == {"f1": 0.4, "em": 0.0}
    # "The Ann" is "ann": 1 of 3, F1 2/4; equal scores: the first
    found = compute_scores(task, queries(), [-9.0, -1.0, -2.0, 3.0, 3.0])
    assert found == {"f1": 0.75, "em": 0.5}
    assert normalize("  The U.S.  an' a cat!") == "us cat" and word_f1("a", "the") == 0.0
    assert word_f1("b b c", "b d") == pytest.approx(0.4)


def test_record_of_real_files(shared):
    """The right entities score 1, wrong ones nothing exact, and random ones in between."""
    task, rows = find_task("superglue/record"), real(shared, "superglue/record")
    assert compute_scores(task, rows, [row.label for row in rows]) == {"f1": 1.0, "em": 1.0}
    wrong = compute_scores(task, rows, [-row.label for row in rows])
    assert wrong["em"] == 0 <= wrong["f1"] < 0.2
    given = np.random.default_rng(0).random(len(rows))
    best: dict = {}
    for row, value in zip(rows, given, strict=True):
        best[row.group] = max(best.get(row.group, (0.0, 0)), (value, row.label))
    right = sum(label for _, label in best.values()) / len(best)
    found = compute_scores(task, rows, given)
    assert 0.02 < right == found["em"] < found["f1"] < 0.6


def test_no_score_is_no_number():
    task = find_task("glue/stsb")
    none = dict.fromkeys(("pearson", "spearman", "r2"))
    assert compute_scores(task, labelled([3.0]), [1.0]) == none | {"rmse": 2.0, "mae": 2.0}
    found = compute_scores(task, labelled([3.0, 3.0]), [1.0, 2.0])
    assert found == none | {"rmse": pytest.approx(2.5**0.5), "mae": 1.5}
    nearly = compute_scores(task, labelled([1.0, 2.0, 3.0]), [1.0, 1.0 + 2e-16, 1.0])
    assert all(value is None or np.isfinite(value) for value in nearly.values())
    with pytest.raises(Diverged, match="glue/stsb: the answer to row 1 is nan, not a number"):
        compute_scores(task, labelled([1.0, 2.0]), [1.0, float("nan")])
    assert compute_scores(find_task("glue/cola"), labelled([1, 1, 1]), [1, 0, 1]) == {
        "matthews": 0.0
    }
    with pytest.raises(BortError, match="rows without labels cannot be scored"):
        compute_scores(find_task("glue/rte"), labelled([1, None]), [0, 0])
    with pytest.raises(BortError, match="glue/rte: no rows to score"):
        compute_scores(find_task("glue/rte"), [], [])


def test_labels_that_are_all_the_same_are_told():
    """STS-B whose dev scores are all 3.0: no correlation is defined, and the run says so."""
    rows, answers = labelled([3.0] * 7), [1.0, 2.0, 3.0, 4.0, 2.5, 1.5, 3.5]
    assert compute_scores(find_task("glue/stsb"), rows, answers)["pearson"] is None
    line = find_doubt(find_task("glue/stsb"), rows, answers)
    assert line == "all 7 labels are 3; pearson, spearman, r2 not defined"
    assert find_doubt(find_task("glue/stsb"), rows[:1], [1.0]).startswith(
        "there is one row only; pearson"
    )


def test_answers_that_hardly_differ_are_told():
    """A deviation of 0.016 for labels of 1.22; answers of a tenth and more are not suspected."""
    labels = np.array([-1.5, -0.5, 0.5, 1.5]) * 1.22 / np.std([-1.5, -0.5, 0.5, 1.5])
    rows = labelled(list(map(float, labels)))
    line = find_doubt(find_task("glue/stsb"), rows, 2 + labels * 0.016 / 1.22)
    assert "their standard deviation is 0.016, that of the labels 1.2;" in line
    assert find_doubt(find_task("glue/stsb"), rows, labels * 0.2) is None
    assert "one answer for all 4 rows: 2; that alone scores pearson undefined" in find_doubt(
        find_task("glue/stsb"), rows, [2.0] * 4
    )
    assert find_doubt(find_task("glue/rte"), labelled([0, 1]), [0, 1]) is None


def test_nearly_one_answer_is_told():
    """99 of 100 rows get one answer; where as many have it as their label, nothing is wrong."""
    answers = [1] * 99 + [0]
    line = find_doubt(find_task("glue/rte"), labelled([0, 1] * 50), answers)
    assert line == "the model answers 'not_entailment' to 99.0% of the rows, and 50.0% are that"
    assert find_doubt(find_task("glue/rte"), labelled([1] * 95 + [0] * 5), answers) is None
    assert find_doubt(find_task("glue/rte"), labelled([0, 1] * 50), [1] * 90 + [0] * 10) is None


@pytest.mark.parametrize("name", TASKS)
def test_every_score_of_a_task_can_be_its_first(name):
    """The others stay behind it; what no task of this kind has is one line with those known."""
    task = find_task(name)
    assert choose_metric(task, None) == task
    for metric in list_metrics(task):
        chosen = choose_metric(task, metric)
        assert chosen.metrics[0] == metric and set(task.metrics) <= set(chosen.metrics)
        assert set(list_metrics(chosen)) == set(list_metrics(task))
    with pytest.raises(BortError) as error:
        choose_metric(task, "accurcy")
    line = str(error.value)
    assert line.startswith(f"data.metric=accurcy is no score of task={name}; use ")
    assert task.metrics[0] in line and len(line) <= 200


def test_scores_beside_a_task_s_own_can_choose():
    task = choose_metric(find_task("glue/sst2"), "matthews")
    assert task.metrics == ("matthews", "accuracy")
    rows = labelled([0, 1, 1, 0, 1])
    scores = compute_scores(task, rows, [0, 1, 0, 0, 1])
    expected = metrics.matthews_corrcoef([0, 1, 1, 0, 1], [0, 1, 0, 0, 1])
    assert scores["matthews"] == pytest.approx(expected)
    with pytest.raises(BortError, match="f1 is no score of task=glue/mnli; use accuracy, macro_f1"):
        choose_metric(find_task("glue/mnli"), "f1")
    assert is_falling("rmse") and is_falling("val/mae") and not is_falling("val/r2")


LABEL_SETS = define_task("custom", "labels", ("text",), ("a", "b", "c", "d"))


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_several_labels_a_row_are_scikit_learns(seed):
    """Also of a label that no row and no answer has, which counts as 0, and of no answer at all."""
    random = np.random.default_rng(seed)
    true, answers = (random.random((2, 40, 4)) < [[[0.5, 0.2, 0.9, 0]]]).astype(int)
    answers *= seed != 4
    rows = [Row(k, ("x",), tuple(map(int, label))) for k, label in enumerate(true)]
    scores = compute_scores(LABEL_SETS, rows, answers)
    assert list(scores) == ["micro_f1", "macro_f1", "exact_match"]
    for average in ("micro", "macro"):
        expected = metrics.f1_score(true, answers, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(expected)
    assert scores["exact_match"] == metrics.accuracy_score(true, answers)
    other = choose_metric(LABEL_SETS, "exact_match")
    assert next(iter(compute_scores(other, rows, answers))) == "exact_match"
    with pytest.raises(
        BortError, match="data.metric=accuracy is no score of task=custom; use micro"
    ):
        choose_metric(LABEL_SETS, "accuracy")


def test_doubts_about_several_labels_a_row():
    """By hand: one answer for all rows, for nearly all, and none of both."""
    rows = [Row(k, ("x",), (k % 2, 0, 1, 0)) for k in range(100)]
    empty, usual = np.zeros((100, 4), int), np.tile([1, 0, 1, 0], (100, 1))
    assert "one answer for all 100 rows: no label; that alone scores" in describe_constant(
        LABEL_SETS, rows, empty
    )
    assert "one answer for all 100 rows: 'a, c'; that" in describe_constant(LABEL_SETS, rows, usual)
    usual[0] = 0
    line = "the model answers 'a, c' to 99.0% of the rows, and 50.0% are that"
    assert find_doubt(LABEL_SETS, rows, usual) == line
    assert find_doubt(LABEL_SETS, rows, np.array([row.label for row in rows])) is None
