"""What the page says of a distillation."""

from bort.runs.summary import RunSummary
from bort.task_distillation.report import describe_lesson, list_results, recommend


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


BASE = {"metric": "val/accuracy", "val/accuracy": 0.9, "tfidf/note": "", "majority/note": ""}
BASE |= {"tfidf/val/accuracy": 0.88, "majority/val/accuracy": 0.5, "teacher/val/accuracy": 0.91}


def test_what_to_deploy():
    """The best score wins, of equal ones what is simpler; the teacher stands beside it."""
    student = (
        "this student, val/accuracy 0.9000, against the most frequent label 0.5000, TF-IDF and a "
        "linear model 0.8800; the teacher's 0.9100 is better, if it is small enough"
    )
    assert recommend(RunSummary(BASE)) == student
    simple = recommend(RunSummary(BASE | {"tfidf/val/accuracy": 0.9, "teacher/val/accuracy": 0.9}))
    assert simple.startswith("TF-IDF and a linear model, val/accuracy 0.9000, against ")
    assert simple.endswith("this student 0.9000; the teacher's 0.9000 is no better")
    control = recommend(RunSummary(BASE | {"control/val/accuracy": 0.905}))
    assert control.startswith("the student without a teacher (control/model), val/accuracy 0.9050")
    assert recommend(RunSummary({"metric": "val/accuracy", "val/accuracy": None})) is None


def test_of_errors_the_smallest_is_best():
    facts = {"metric": "val/rmse", "val/rmse": 0.4, "mean/val/rmse": 0.9, "mean/note": "3"}
    line = recommend(RunSummary(facts | {"teacher/val/rmse": 0.3}))
    assert line.startswith("this student, val/rmse 0.4000, against the mean of the labels 0.9000")
    assert line.endswith("the teacher's 0.3000 is better, if it is small enough")
