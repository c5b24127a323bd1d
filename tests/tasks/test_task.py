"""Rows in their typed form: spans by hand."""

from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import find_occurrence


def test_wsc_spans_by_hand(shared):
    rows = read_rows(find_task("superglue/wsc"), shared / "cases" / "F5-wsc-spans" / "superglue")[
        "val"
    ]
    marked = [[(s, row.texts[0][s:e]) for s, e in row.spans] for row in rows]
    assert marked == [
        [(5, "cup"), (35, "it")],
        [(13, "Ada's brother"), (39, "he")],
        [(21, "Sam"), (26, "he")],
        [(0, "The boat\nwith the red sail"), (69, "it")],
        [(9, "Colonel Reed"), (60, "it")],
        [(14, "Ann"), (0, "He")],
    ]


def test_nearest_occurrence():
    assert find_occurrence("it is it, it", "it", 2) == (6, 8)
    assert find_occurrence("it is it, it", "it", 3) == (10, 12)
    assert find_occurrence("it is it, it", "IT", 99) == (10, 12)
    assert find_occurrence("bit it", "it", 0) == (4, 6)  # never inside a word
    assert find_occurrence("Mary 's  cat", "mary's cat", 0) == (0, 12)
    assert find_occurrence("Mary", "Ann", 0) is find_occurrence("", "Ann", 0) is None
