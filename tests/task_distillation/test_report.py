"""What the page says of a distillation."""

from bort.runs.summary import RunSummary
from bort.task_distillation.report import describe_lesson, list_results


def test_the_teacher_and_the_rows():
    facts = {"metric": "val/f1", "teacher/val/f1": 0.912345, "labelled_rows": 1000}
    summary = RunSummary(facts | {"unlabelled_rows": 16000})
    assert list(list_results(summary)) == [
        ("0.9123", "val/f1 of the teacher"),
        ("1,000", "labelled rows"),
        ("16,000", "unlabelled rows"),
    ]
    undefined = RunSummary({"metric": "val/pearson", "teacher/val/pearson": None})
    assert list(list_results(undefined)) == []


def test_what_was_learnt_from():
    settings = {"data.unlabelled": "more.txt", "teacher.name": "large"}
    assert describe_lesson(settings) == " and more.txt, taught by large"
    assert describe_lesson(settings | {"data.unlabelled": None}) == ", taught by large"
