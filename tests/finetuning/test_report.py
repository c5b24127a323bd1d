"""Figures and lists of answers: by hand, escaped, and one line for a damaged file."""

import json
import re

import pytest
from report_helpers import words

from bort.errors import BortError
from bort.finetuning.report import (
    build_class_scores,
    build_data,
    build_parts,
    list_errors,
    plot_by_length,
    read_answers,
)
from bort.tasks.answers import Answer, write_answers


def made(count: int, right: int, tokens: int) -> list[Answer]:
    return [
        Answer("a", 0.5 + k / 100, tokens, "a" if k < right else "b", {"a": 0.2, "b": 0.8})
        for k in range(count)
    ]


def test_score_by_length():
    rows = made(20, 20, 5) + made(20, 10, 9) + made(20, 0, 30)
    (bars,) = plot_by_length(rows, classes=True).data
    assert list(bars.x) == ["5–5", "9–9", "30–30"]
    assert list(bars.y) == [1.0, 0.5, 0.0] and list(bars.customdata) == [20, 20, 20]
    # Wilson's interval for 10 of 20: 0.299 to 0.701
    assert bars.error_y.array[1] == pytest.approx(0.2007, abs=1e-3)
    assert bars.error_y.arrayminus[0] == pytest.approx(1 - 0.8389, abs=1e-3)
    assert plot_by_length(made(9, 3, 5), classes=True) is None
    assert plot_by_length(made(99, 3, 5), classes=True) is None  # all of one length


def test_errors_the_most_sure_first():
    seen = words(list_errors(made(30, 5, 8), classes=True))
    shares = [float(found) for found in re.findall(r"([\d.]+)%", seen)]
    assert shares == [50.0 + k for k in range(29, 9, -1)]
    assert "No answer is wrong" in list_errors(made(3, 3, 8), classes=True)


@pytest.mark.parametrize(
    "damage",
    [b"{", b"5", b"[]", b"{}", b'{"true": "a"}', b'{"true": 1.5, "score": 2.0, "tokens": 3}',
     b'{"true": "a", "label": 5, "score": 0.5, "scores": {}, "tokens": 3}',
     b'{"true": "a", "label": "a", "score": 0.5, "scores": {}, "tokens": 3, "texts": [1]}',
     b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_damaged_answers_are_one_line(tmp_path, damage):
    path = tmp_path / "val.jsonl"
    good = b'{"true": "a", "label": "b", "score": 0.5, "scores": {"a": 0.5, "b": 0.5}, "tokens": 3}'
    path.write_bytes(good + b"\n" + damage + b"\n")
    with pytest.raises(BortError, match=r"val\.jsonl") as error:
        read_answers(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200 + len(str(path))
    path.write_bytes(b"")
    assert read_answers(path) == []


def test_foreign_names_are_plain_on_the_page(tmp_path):
    """Line feeds, control characters and labels of ten thousand letters."""
    labels = ["a\nb\x1b[0m", "L" * 10_000]
    rows = [
        {"true": labels[k % 2], "label": labels[0], "score": 0.9, "tokens": 3, "texts": ["x\x00"]}
        for k in range(4)
    ]
    rows = [row | {"scores": dict.fromkeys(labels, 0.5)} for row in rows]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    parts = list(build_parts(tmp_path / "val.jsonl"))
    text = "".join(part for part in parts if isinstance(part, str))
    assert "One answer for all rows: a\\nb\\x1b[0m" in text
    assert not {"\x1b", "\x00"} & set(text) and len(text) < 5_000


def test_one_answer_for_all(tmp_path):
    path = tmp_path / "val.jsonl"
    write_answers(path, made(9, 0, 5))
    assert any("One answer for all rows: b" in part for part in build_parts(path))


def test_each_class_has_its_scores(tmp_path):
    """By hand: 5 of 9 answers are right; of 30 classes, the most frequent 25 are shown."""
    write_answers(tmp_path / "val.jsonl", made(9, 5, 5))
    page = "".join(part for part in build_parts(tmp_path / "val.jsonl") if isinstance(part, str))
    table = words(page[page.index("Each class") :]).split()
    assert table[2:7] == ["label", "precision", "recall", "F1", "rows"]
    assert table[7:12] == ["a", "1.000", "0.556", "0.714", "9"]
    assert table[12:17] == ["b", "0.000", "–", "0.000", "0"]
    labels = [f"k{number}" for number in range(30)]
    rows = [
        Answer(label, 0.5, 3, labels[0], dict.fromkeys(labels, 0.5))
        for number, label in enumerate(labels)
        for _ in range(number + 1)
    ]
    (text,) = list(build_class_scores(rows))[1:]
    assert text.count("<tr>") == 26 and "k29" in text and "k4<" not in text


def test_the_data_are_on_the_page(tmp_path):
    """A row for each split; runs of older versions have no such part."""
    flat = {"data/train/rows": 1200, "data/train/cut": 3, "data/val/rows": 9, "data/val/cut": 0}
    flat |= {"data/labels": "a: 3 <b>", "data/kind": "classes", "rows/val": 9}
    (table, labels) = build_data(flat)
    seen = words(table)
    assert re.search(r"train +1,200 +– +– +3 +–", seen) and re.search(r"val +9 +– +– +0", seen)
    assert words(labels).strip() == "Labels of train (classes): a: 3 <b>"
    assert not list(build_data({"rows/val": 9, "val/accuracy": 0.5}))
