"""Generated rows: labelled by S, balanced, and refused where their file is damaged."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bort.agora.generated import Labelling, generate_rows, read_generated, to_hard
from bort.errors import BortError
from bort.finetuning.held_out import normalize_texts
from bort.tasks.custom import define_task
from bort.tasks.task import Row

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))


def judge(rows: list[Row]) -> np.ndarray:
    """Sure of rows with `good`; unsure of those with `new`."""
    yes = np.array(
        [0.9 if "good" in r.texts[0] else 0.6 if "new" in r.texts[0] else 0.1 for r in rows]
    )
    return np.stack([1 - yes, yes], 1)


def numbered(rows: list[Row], random) -> list[Row | None]:
    """A generator that numbers the rows it gets; three in ten it cannot change."""
    return [
        None
        if random.random() < 0.3
        else replace(r, texts=(f"{r.texts[0]} {random.integers(999)}",))
        for r in rows
    ]


SOURCES = [
    Row(k, (f"a {'good' if k < 5 else 'new' if k < 10 else 'bad'} row",), int(k < 10))
    for k in range(40)
]


@pytest.mark.parametrize("soft", [False, True])
def test_rows_are_labelled_by_s_and_balanced(soft):
    taken = {(f"a bad row {k}",) for k in range(500)}
    known = set(taken)
    found = generate_rows(TASK, SOURCES, 100, numbered, Labelling(judge, 0.8, soft), known, (0,))
    assert len(found) == 100 and len({normalize_texts(each.row) for each in found}) == 100
    for each in found:
        assert normalize_texts(each.row) not in taken and each.row.texts[0].startswith(
            each.source.texts[0]
        )
        expected = judge([each.row])[0]
        assert each.row.label == (tuple(expected) if soft else int(expected[1] > 0.5))
        assert each.confidence == expected.max() and (soft or each.confidence >= 0.8)
    counts = Counter(to_hard(each.row.label) for each in found)
    assert counts == {0: 50, 1: 50}
    assert any("new" in each.row.texts[0] for each in found) == soft  # S is unsure of those


def test_too_few_rows_are_no_endless_loop():
    known: set = set()
    found = generate_rows(
        TASK,
        SOURCES,
        100,
        lambda rows, _: [None] * len(rows),
        Labelling(judge, 0.8, False),
        known,
        (0,),
    )
    assert found == []
    same = lambda rows, _: [replace(row, texts=("good",)) for row in rows]  # noqa: E731
    assert (
        len(generate_rows(TASK, SOURCES, 100, same, Labelling(judge, 0.8, False), known, (0,))) == 1
    )


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"texts": ["a"], "label": 2, "spans": [], "index": 0}',
     '{"texts": ["a", "b"], "label": 0, "spans": [], "index": 0}',
     '{"texts": [1], "label": 0, "spans": [], "index": 0}',
     '{"texts": ["a"], "label": [0.1], "spans": [], "index": 0}',
     '{"texts": ["a"], "label": 0, "spans": [1], "index": 0}',
     '{"texts": null, "label": 0, "spans": [], "index": 0}', "[" * 100_000],
)  # fmt: skip
def test_damaged_rows_are_one_line(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    good = '{"texts": ["a"], "label": 1, "spans": [], "index": 0}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(BortError, match=r"rows\.jsonl, line 2: .*; remove ") as error:
        read_generated(path, TASK)
    assert "\n" not in str(error.value)
    path.write_bytes(b"\xff")
    with pytest.raises(BortError, match=r"rows\.jsonl: not UTF-8 at byte 0"):
        read_generated(path, TASK)
    with pytest.raises(BortError, match="cannot be read"):
        read_generated(tmp_path / "nowhere", TASK)
