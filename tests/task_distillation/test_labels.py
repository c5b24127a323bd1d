"""The teacher's labels: its own outputs, kept once, in parts."""

import numpy as np
import pytest
import torch
from tiny_runs import log_lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.finetuning.judge import open_judge
from bort.task_distillation import labels
from bort.task_distillation.labels import label_rows, locate_labels
from bort.tasks.custom import define_task
from bort.tasks.task import Row

TASK = define_task("custom", "classes", ("text",), ("cat", "dog"))
ROWS = [Row(k, (text,)) for k, text in enumerate(["purr", "woof and wag", "howl in line 7"] * 4)]


@pytest.fixture
def judge(teacher):
    return open_judge(TASK, str(teacher), 32, "cpu", "teacher.name")


def test_they_are_what_transformers_computes(judge, teacher):
    found = label_rows(judge, "digest of a", ROWS)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    for row, outputs in zip(ROWS, found, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(row.texts[0], return_tensors="pt")).logits[0]
        assert np.allclose(outputs, expected, atol=1e-5)
    assert found.dtype == np.float32 and found.shape == (12, 2)


def test_labels_in_another_order(teacher):
    """The teacher's first output is the task's second label."""
    turned = define_task("custom", "classes", ("text",), ("dog", "cat"))
    straight, reverse = (
        label_rows(open_judge(task, str(teacher), 32, "cpu"), "digest of b", ROWS)
        for task in (TASK, turned)
    )
    assert np.array_equal(straight, reverse[:, ::-1])


def test_a_part_is_computed_once(judge, monkeypatch):
    """After a stop, only what is missing; a part that has changed since is missing."""
    monkeypatch.setattr(labels, "PART", 5)
    answer, counts = judge.answer, []

    def count(rows):
        counts.append(len(rows))
        if len(counts) == 2:
            raise KeyboardInterrupt
        return answer(rows)

    monkeypatch.setattr(judge, "answer", count)
    with pytest.raises(KeyboardInterrupt):
        label_rows(judge, "digest of c", ROWS)
    lines = log_lines()
    first = label_rows(judge, "digest of c", ROWS)
    assert counts == [5, 5, 5, 2] and "teacher: 5 rows were labelled before" in lines
    assert np.array_equal(label_rows(judge, "digest of c", ROWS), first) and len(counts) == 4
    path = locate_labels(judge, "digest of c", ROWS) / "part_00001"
    path.write_bytes(path.read_bytes()[:-20])
    assert np.array_equal(label_rows(judge, "digest of c", ROWS), first) and counts[4:] == [5]


def test_another_teacher_or_other_rows_have_their_own(judge):
    folders = {
        locate_labels(judge, "a", ROWS),
        locate_labels(judge, "b", ROWS),
        locate_labels(judge, "a", ROWS[1:]),
    }
    assert len(folders) == 3
