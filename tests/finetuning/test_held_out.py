"""Rows that are held out: whole documents, the same ones each time, and no parts of them left."""

from bort.finetuning.held_out import choose_held_out, find_apart
from bort.tasks.custom import define_task
from bort.tasks.task import Row

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))


def test_documents_stay_together_and_labels_keep_their_shares():
    rows = [Row(k, (f"text {k % 70}" + "  " * (k % 3),), int(k % 70 < 20)) for k in range(200)]
    held = choose_held_out(TASK, rows, 0.2)
    texts = {" ".join(row.texts[0].split()) for row in rows}
    of_held = {" ".join(rows[k].texts[0].split()) for k in held}
    assert len(texts) == 70 and 12 <= len(of_held) <= 18
    others = [rows[k] for k in range(200) if k not in held]
    assert of_held.isdisjoint(" ".join(row.texts[0].split()) for row in others)
    share = sum(rows[k].label for k in held) / len(held)
    assert abs(share - sum(row.label for row in rows) / 200) < 0.1
    assert choose_held_out(TASK, rows[::-1], 0.2) == [199 - k for k in held[::-1]]


def test_groups_stay_together():
    rows = [Row(k, (f"text {k}",), k % 2, group=k // 10) for k in range(100)]
    held = choose_held_out(TASK, rows, 0.2)
    assert {k // 10 for k in held} and len(held) == 10 * len({k // 10 for k in held})


def test_phrases_of_a_sentence_that_is_held_out_are_found():
    texts = ["the plot is thin", "plot is thin", "is thin", "a Plot Is thin one", "good fun here"]
    assert find_apart(texts, ["so the plot is thin indeed"]) == [2, 4]
    assert find_apart(texts, []) == [0, 1, 2, 3, 4]
