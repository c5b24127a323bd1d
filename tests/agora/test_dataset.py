"""D and E: alike, with no text in both, and with every label."""

import pytest

from bort.agora.dataset import describe_differences, split_rows
from bort.errors import BortError
from bort.finetuning.held_out import normalize_texts
from bort.tasks.custom import define_task
from bort.tasks.task import Row

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))

NUMBERS = define_task("numbers", "regression", ("text",), ("0", "1"))


def test_e_is_like_d_and_shares_no_text():
    """Case D4: texts that differ in spaces and case are one; each label gives its share."""
    rows = [Row(k, (f"text {k % 70}" + "  " * (k % 3),), int(k % 70 < 20)) for k in range(200)]
    rows.append(Row(200, ("TEXT 3 ",), 1))
    D, E = split_rows(TASK, rows, 0.2)
    assert sorted(row.index for row in D + E) == list(range(201))
    assert not {normalize_texts(row) for row in D} & {normalize_texts(row) for row in E}
    for label in (0, 1):
        share = sum(r.label == label for r in E) / sum(r.label == label for r in rows)
        assert 0.2 <= share < 0.26
    more = split_rows(TASK, [Row(999, ("another",), 0), *rows], 0.2)
    assert len(set(more[1]) ^ set(E)) <= 2  # one row more moves hardly any other


def test_what_d_and_e_are_not():
    """By hand: 40% and 60%; and a label of 20%, less than half its equal share of 50%."""
    rows = [[Row(k, (f"{k}",), int(k < ones)) for k in range(10)] for ones in (4, 6, 2)]
    assert list(describe_differences(TASK, rows[0], rows[0])) == []
    assert list(describe_differences(TASK, rows[0], rows[1])) == [
        "'no' is 60% of D and 40% of E",
        "'yes' is 40% of D and 60% of E",
    ]
    (line,) = describe_differences(TASK, rows[2], rows[2])
    assert line == "D is not balanced ('yes' is 20%); the rows that are generated will be"


def test_e_takes_whole_passages_and_groups():
    rows = [
        Row((k // 6, k // 2, k), (f"p {k // 6}", f"a {k}"), k % 2, group=k // 2) for k in range(60)
    ]
    D, E = split_rows(TASK, rows, 0.3)
    assert E and not {row.index[0] for row in D} & {row.index[0] for row in E}
    pairs = [Row(k, (f"row {k}",), k % 2, group=k // 2) for k in range(40)]
    D, E = split_rows(TASK, pairs, 0.3)
    assert not {row.group for row in D} & {row.group for row in E}


@pytest.mark.parametrize(
    "labels", [[0] * 30, [0] * 29 + [1]], ids=["one class", "one row of a class"]
)
def test_e_with_one_class_is_refused(labels):
    rows = [Row(k, (f"row {k}",), label) for k, label in enumerate(labels)]
    with pytest.raises(BortError, match="would hold .* rows of the labels no only"):
        split_rows(TASK, rows, 0.2)


@pytest.mark.parametrize("numbers", [[0.5, 1.5], [0.5, 1.5, 2.5], [0.5] * 30, [0.5] * 29 + [1.5]])
def test_e_with_one_number_is_refused(numbers):
    """Before S is trained: no correlation and no r2 would be defined."""
    rows = [Row(k, (f"row {k}",), number) for k, number in enumerate(numbers)]
    with pytest.raises(BortError, match="would hold .* rows? of one number or none"):
        split_rows(NUMBERS, rows, 0.2)
