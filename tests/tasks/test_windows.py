"""Windows of rows that are longer than the model: Hugging Face's own, and which rows have none."""

import random
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows, plan_windows
from bort.tasks.registry import find_task
from bort.tasks.task import Row, Task
from bort.text.tokenizer import train_tokenizer

KNOWN = "the dog ran to a river and saw red old boats, two of them; it went home!".split()


def write_words(count: int, rng: random.Random) -> str:
    return " ".join(rng.choice(KNOWN) for _ in range(count))


@pytest.fixture(scope="module")
def trained():
    rng = random.Random(0)
    return train_tokenizer([write_words(30, rng) for _ in range(200)], 320)


@pytest.fixture(params=["trained", "bert-tiny", "roberta-tiny"])
def tokenizer(request, trained):
    """Our own; WordPiece with token types; byte-level, one token per byte."""
    if request.param == "trained":
        return trained
    shared = request.getfixturevalue("shared")
    return AutoTokenizer.from_pretrained(shared / "cases" / "models" / request.param)


def divide(task: Task, rows: list[Row], tokenizer, length: int, overlap: int):
    return encode_rows(replace(task, overlap=overlap), rows, tokenizer, length)


@pytest.mark.parametrize("length, overlap", [(24, 6), (24, 0), (40, 16)])
@pytest.mark.parametrize(
    "name, others, strategy", [("glue/sst2", (), True), ("glue/qnli", ("the",), "only_second")]
)
def test_windows_are_those_of_hugging_face(tokenizer, name, others, strategy, length, overlap):
    """Ids and token types; with a question, which is in every window, and without."""
    rng = random.Random(1)
    rows = [Row(k, (*others, write_words(rng.randrange(1, 90), rng))) for k in range(30)]
    result = divide(find_task(name), rows, tokenizer, length, overlap)
    for row, inputs in zip(rows, result.input_ids, strict=True):
        expected = tokenizer(
            *row.texts,
            truncation=strategy,
            max_length=length,
            stride=overlap,
            return_overflowing_tokens=True,
        )
        assert [ids.tolist() for ids in inputs] == expected["input_ids"]
        if result.token_types:
            types = [types.tolist() for types in result.token_types[row.index]]
            assert types == expected["token_type_ids"]
    assert result.cut == 0 and result.windows.max() > 3 and result.windows.min() == 1


def test_every_token_is_in_a_window_and_the_other_text_in_all(trained):
    task = define_task("custom", "classes", ("a", "b"), ("bad", "good"))
    short, long = "saw red", write_words(200, random.Random(2))
    for texts in ((short, long), (long, short)):
        (windows,) = divide(task, [Row(0, texts)], trained, 40, 10).input_ids
        first, *further = [trained.decode(ids, skip_special_tokens=False) for ids in windows]
        assert len(windows) > 5 and all(short in text for text in (first, *further))
        tokens = trained(long, add_special_tokens=False)["input_ids"]
        size = 40 - trained.num_special_tokens_to_add(True) - len(trained.tokenize(short))
        assert len(windows) == -(-(len(tokens) - 10) // (size - 10))


def test_a_row_is_cut_where_the_other_text_leaves_less_than_half(trained):
    """Otherwise a passage of a thousand words would become a thousand windows."""
    question = write_words(25, random.Random(3))
    passage = write_words(300, random.Random(4))
    task = find_task("glue/qnli")
    size = len(trained.tokenize(question)) + trained.num_special_tokens_to_add(True)
    narrow = divide(task, [Row(0, (question, passage))], trained, size + 20, 5)
    assert (narrow.windows.tolist(), narrow.cut) == ([1], 1)
    wide = divide(task, [Row(0, (question, passage))], trained, 2 * size + 20, 5)
    assert wide.windows[0] > 5 and wide.cut == 0


def test_plans_state_their_rules():
    assert plan_windows([10], None, 10, 3) is None
    assert plan_windows([11], None, 10, 3).overlap == 3
    assert plan_windows([11], None, 10, 8).overlap == 5  # never more than half
    assert plan_windows([30, 4], 0, 10, 3).text == 0
    assert plan_windows([30, 40], None, 100, 3) is None
    assert plan_windows([4, 40], None, 10, 3).text == 1 == plan_windows([5, 40], None, 10, 3).text
    assert plan_windows([6, 40], None, 10, 3) is None
    assert list(plan_windows([11], None, 10, 3).list_ranges(18)) == [
        slice(0, 10), slice(7, 17), slice(14, 18)
    ]  # fmt: skip
    assert list(plan_windows([11], None, 10, 3).list_ranges(17)) == [slice(0, 10), slice(7, 17)]
