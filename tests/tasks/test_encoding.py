"""Rows to token ids: Hugging Face's own pairs, what is cut, and where spans are afterwards."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from bort.errors import BortError
from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows
from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import Row
from bort.text.tokenizer import train_tokenizer


def words(count: int, rng: random.Random) -> str:
    known = "the dog ran to a river and saw red old boats, two of them; it went home!".split()
    return " ".join(rng.choice(known) for _ in range(count))


@pytest.fixture(scope="module")
def trained():
    rng = random.Random(0)
    return train_tokenizer([words(30, rng) for _ in range(200)], 320)


@pytest.fixture(params=["trained", "bert-tiny", "roberta-tiny"])
def tokenizer(request, trained):
    """Our own; WordPiece with token types; byte-level, one token per byte."""
    if request.param == "trained":
        return trained
    shared = request.getfixturevalue("shared")
    return AutoTokenizer.from_pretrained(shared / "cases" / "models" / request.param)


def bytewise(tokenizer) -> bool:
    """Whether any text can be had back from its ids."""
    return tokenizer.decode(tokenizer("zé!")["input_ids"], skip_special_tokens=True) == "zé!"


def pairs(count: int, low: int) -> list[Row]:
    rng = random.Random(1)
    texts = [(words(rng.randrange(low, 25), rng), words(rng.randrange(low, 25), rng))]
    texts += [(words(n, rng), words(n, rng)) for n in (5, 15)]  # as long as each other
    texts += [
        (words(rng.randrange(low, 25), rng), words(rng.randrange(low, 25), rng))
        for _ in range(count)
    ]
    return [Row(n, pair) for n, pair in enumerate(texts)]


@pytest.mark.parametrize(
    "name, strategy",
    [
        ("glue/rte", "longest_first"),
        ("superglue/boolq", "only_first"),
        ("glue/qnli", "only_second"),
        ("glue/cola", "only_first"),
    ],
)
@pytest.mark.parametrize("length", [512, 60, 41])
def test_agrees_with_hugging_face(tokenizer, name, strategy, length):
    """Ids and token types, for pairs and single sentences, whole and cut."""
    task = find_task(name)
    rows = [Row(row.index, row.texts[: len(task.columns)]) for row in pairs(60, low=1)]
    if strategy != "longest_first":  # the text that stays must fit
        short = [tuple(" ".join(t.split()[:4]) for t in row.texts) for row in rows]
        long = 0 if strategy == "only_first" else 1
        rows = [
            Row(r.index, tuple(r.texts[k] if k == long else s[k] for k in range(len(s))))
            for r, s in zip(rows, short, strict=True)
        ]
    result = encode_rows(task, rows, tokenizer, length)
    cut = 0
    for row, ids in zip(rows, result.input_ids, strict=True):
        whole = tokenizer(*row.texts)
        expected = tokenizer(*row.texts, truncation=strategy, max_length=length)
        cut += len(whole["input_ids"]) > len(expected["input_ids"])
        assert [part.tolist() for part in ids] == [expected["input_ids"]]
        assert ids[0].dtype == np.int32
        if result.token_types:
            types = result.token_types[row.index]
            assert [part.tolist() for part in types] == [expected["token_type_ids"]]
    assert result.cut == cut and result.spans is None
    assert (result.token_types is None) == ("token_type_ids" not in tokenizer.model_input_names)
    if length == 512:
        assert cut == 0


def test_the_only_text_of_an_own_task_is_cut_at_its_end(tokenizer):
    """Such a task does not say which text is to be shortened."""
    task = define_task("custom", "classes", ("review",), ("bad", "good"))
    rows = [Row(row.index, row.texts[:1]) for row in pairs(20, low=1)]
    found = encode_rows(task, rows, tokenizer, 12)
    for row, (ids,) in zip(rows, found.input_ids, strict=True):
        assert ids.tolist() == tokenizer(*row.texts, truncation=True, max_length=12)["input_ids"]
    assert found.cut > 5


def test_some_rows_of_the_test_above_are_cut(trained):
    assert 5 < encode_rows(find_task("glue/rte"), pairs(60, 1), trained, 41).cut < 63


def test_special_words_are_ordinary_text(tokenizer):
    text = "a <mask> b </s> <s> [SEP] [MASK] [CLS] <pad> [PAD] end"
    result = encode_rows(find_task("glue/rte"), [Row(0, (text, text))], tokenizer, 512)
    (ids,) = result.input_ids[0]
    special = np.isin(ids, sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}))
    frame = tokenizer("a", "a", return_special_tokens_mask=True)["special_tokens_mask"]
    assert special.sum() == sum(frame) and special[0] and special[-1]
    if bytewise(tokenizer):
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).count(text) == 2


def test_special_words_that_are_in_the_vocabulary_are_unknown():
    """As with SentencePiece: the model below the special tokens knows `</s>` as a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a"]
    backend = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    rows = [Row(0, ("a </s> <mask> b",), spans=((2, 6), (0, 1)))]
    for name in ("glue/cola", "superglue/wsc"):
        result = encode_rows(find_task(name), rows, tokenizer, 16)
        assert result.input_ids[0][0].tolist() == [0, 5, 3, 3, 3, 2]
    assert result.spans.tolist() == [[[2, 3], [1, 2]]]


def test_empty_texts(tokenizer):
    rows = [Row(0, ("",)), Row(1, ("a",))]
    result = encode_rows(find_task("glue/sst2"), rows, tokenizer, 16)
    assert [ids[0].tolist() for ids in result.input_ids] == [
        tokenizer(text)["input_ids"] for text in ("", "a")
    ]
    assert encode_rows(find_task("glue/sst2"), [], tokenizer, 16).input_ids == []
    # Hugging Face takes a pair with an empty second text for a single one; here it stays a pair.
    (ids,) = encode_rows(find_task("glue/rte"), [Row(0, ("a", ""))], tokenizer, 16).input_ids[0]
    whole = tokenizer("a", "a")["input_ids"]
    place = len(whole) - 1 - whole[::-1].index(whole[1])  # of the second a
    assert ids.tolist() == whole[:place] + whole[place + 1 :]


# ------------------------------------------------------------------------------------ passages


def text_of(tokenizer, ids: np.ndarray) -> list[str]:
    """The two texts between the special tokens, by a byte-level tokenizer."""
    parts = re.split(r"<s>|</s>", tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return [part for part in parts if part]


def test_only_the_article_is_cut_and_alike_for_all_options(shared, trained):
    folder = shared / "cases" / "F6-race-room" / "race"
    rows = read_rows(find_task("race/high"), folder)["train"]
    length = 110
    result = encode_rows(find_task("race/high"), rows, trained, length)
    assert result.cut == len(rows)
    for row, inputs in zip(rows, result.input_ids, strict=True):
        article, question, *options = row.texts
        assert len(inputs) == 4 and max(map(len, inputs)) == length
        seen = [text_of(trained, ids) for ids in inputs]
        assert [second for _, second in seen] == [f"{question} {o}" for o in options]
        assert len({first for first, _ in seen}) == 1 and article.startswith(seen[0][0])
    whole = encode_rows(find_task("race/high"), rows, trained, 9000)
    assert whole.cut == 0
    assert text_of(trained, whole.input_ids[0][2])[0] == rows[0].texts[0]


def test_case_length_of_64_with_bytes_for_tokens_is_one_line(shared):
    """The case's longest option has 84 letters: no room for it in 64 bytes."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "cases" / "models" / "roberta-tiny")
    rows = read_rows(find_task("race/high"), shared / "cases" / "F6-race-room" / "race")["train"]
    message = r"race/high, row high1.txt-0: \d+ tokens without the article, data.length leaves 60"
    with pytest.raises(BortError, match=message):
        encode_rows(find_task("race/high"), rows, tokenizer, 64)


def test_a_row_that_just_fits_and_one_that_does_not(trained):
    row = Row((3, 1, 2), ("the dog ran " * 9, "the dog", "ran"), group=(3, 1))
    second = len(trained("the dog ran", add_special_tokens=False)["input_ids"])
    task = find_task("superglue/multirc")
    (ids,) = encode_rows(task, [row], trained, second + 4).input_ids[0]
    assert text_of(trained, ids) == ["the dog ran"] and len(ids) == second + 4
    with pytest.raises(BortError, match=r"multirc, row 3-1-2: .* without the paragraph"):
        encode_rows(task, [row], trained, second + 3)
    with pytest.raises(BortError, match=r"data.length=4 leaves no room beside the 4 special"):
        encode_rows(task, [row], trained, 4)


def test_what_the_second_text_is(trained):
    given = {
        "superglue/multirc": (("p", "q?", "a"), ["p", "q? a"]),
        "superglue/boolq": (("p", "q"), ["p", "q"]),
        "superglue/record": (
            ("p", "@placeholder ran to @placeholder", "Ann"),
            ["p", "Ann ran to Ann"],
        ),
        "superglue/copa": (("p", "Why?", "x", "y"), ["p", "Why? x"]),
    }
    for name, (texts, seen) in given.items():
        result = encode_rows(find_task(name), [Row(0, texts)], trained, 64)
        assert text_of(trained, result.input_ids[0][0]) == seen
        assert len(result.input_ids[0]) == (2 if name == "superglue/copa" else 1)


# ------------------------------------------------------------------------------------ spans


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def check_spans(tokenizer, rows: list[Row], result) -> None:
    """The tokens of each span are the span's text; ids between are the text's own."""
    assert result.spans.shape == (len(rows), 2, 2) and result.spans.dtype == np.int64
    for row, inputs, places in zip(rows, result.input_ids, result.spans, strict=True):
        for k, (first, end) in enumerate(places):
            text = row.texts[k] if len(row.texts) == 2 else row.texts[0]
            start, stop = row.spans[k]
            assert 0 < first < end < len(inputs[0])
            assert bare(tokenizer.decode(inputs[0][first:end])) == bare(text[start:stop])


@pytest.mark.parametrize("name", ["superglue/wic", "superglue/wsc"])
@pytest.mark.parametrize("length", [512, 90])
def test_spans_of_real_rows(name, length, shared):
    """By bytes, whose decoding is exact; at 90 a window around the spans of those that fit."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "cases" / "models" / "roberta-tiny")
    rows = read_rows(find_task(name), shared / "data" / "superglue")["train"][:500]
    if length == 90 and name == "superglue/wsc":
        rows = [row for row in rows if max(row.spans)[1] - min(row.spans)[0] <= 60]
    assert len(rows) > 150
    result = encode_rows(find_task(name), rows, tokenizer, length)
    check_spans(tokenizer, rows, result)
    long = [sum(len(text.encode()) for text in row.texts) for row in rows]
    room = length - (4 if name == "superglue/wic" else 2)
    assert result.cut == sum(size > room for size in long)
    assert (result.cut > 50) == (length == 90)
    sizes = [len(inputs[0]) for inputs in result.input_ids]
    assert sizes == [min(length, size + length - room) for size in long]


def test_spans_in_wordpiece_and_trained_pieces(tokenizer):
    """A word at the start, one after a space, one with punctuation at its end."""
    row = Row(0, ("The dog saw it, and ran.", "dog it"), spans=((4, 7), (4, 6)))
    result = encode_rows(find_task("superglue/wic"), [row], tokenizer, 64)
    seen = [tokenizer.decode(result.input_ids[0][0][a:b]).strip() for a, b in result.spans[0]]
    assert seen == ["dog", "it"]
    row = Row(0, ("The dog saw it, and ran.",), spans=((12, 14), (0, 7)))
    result = encode_rows(find_task("superglue/wsc"), [row], tokenizer, 64)
    seen = [tokenizer.decode(result.input_ids[0][0][a:b]).strip() for a, b in result.spans[0]]
    assert seen[0] == "it" and seen[1].lower() == "the dog"
    # offsets count characters, not bytes; a dropped character stands at the next token
    row = Row(0, ("Été 🙂 ran it",), spans=((4, 5), (6, 9)))
    result = encode_rows(find_task("superglue/wsc"), [row], tokenizer, 64)
    if bytewise(tokenizer):
        check_spans(tokenizer, [row], result)
    assert all(first < end for first, end in result.spans[0])


def test_window_is_around_both_spans(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "cases" / "models" / "roberta-tiny")
    text = "a" * 100 + " Ann saw Bob " + "z" * 100
    row = Row(7, (text,), spans=((101, 104), (109, 112)))
    (ids,) = encode_rows(find_task("superglue/wsc"), [row], tokenizer, 33).input_ids[0]
    assert text_of(tokenizer, ids) == ["a" * 9 + " Ann saw Bob " + "z" * 9]
    (ids,) = encode_rows(find_task("superglue/wsc"), [row], tokenizer, 13).input_ids[0]
    assert text_of(tokenizer, ids) == ["Ann saw Bob"]
    message = r"superglue/wsc, row 7: its spans and what lies between take 11 tokens, .* leaves 10"
    with pytest.raises(BortError, match=message):
        encode_rows(find_task("superglue/wsc"), [row], tokenizer, 12)
    # of two texts the longer gives way, but never its span
    row = Row(0, ("Ann", "b" * 50 + " ran"), spans=((0, 3), (51, 54)))
    (ids,) = encode_rows(find_task("superglue/wic"), [row], tokenizer, 20).input_ids[0]
    assert text_of(tokenizer, ids) == ["Ann", "b" * 9 + " ran"]
    row = Row(0, ("x" * 12, "y" * 3), spans=((0, 12), (0, 3)))
    (ids,) = encode_rows(find_task("superglue/wic"), [row], tokenizer, 19).input_ids[0]
    assert text_of(tokenizer, ids) == ["x" * 12, "y" * 3]
    rng = random.Random(3)
    for _ in range(200):
        sizes = [rng.randrange(1, 30) for _ in range(2)]
        spans = [sorted(rng.sample(range(n + 1), 2)) for n in sizes]
        room = max(rng.randrange(2, 40), sum(end - start for start, end in spans))
        texts = tuple("".join(rng.choice("abc") for _ in range(n)) for n in sizes)
        row = Row(0, texts, spans=tuple(map(tuple, spans)))
        result = encode_rows(find_task("superglue/wic"), [row], tokenizer, room + 4)
        check_spans(tokenizer, [row], result)
        assert len(result.input_ids[0][0]) == min(room, sum(sizes)) + 4


@pytest.mark.parametrize("name", ["glue/rte", "glue/qnli", "superglue/boolq", "superglue/multirc"])
def test_texts_that_are_apart(tokenizer, name):
    """Each is an input of its own, cut at its own end by the length that it may have."""
    task = replace(find_task(name), apart=True)
    rows = [Row(row.index, row.texts[: len(task.columns)]) for row in pairs(30, low=1)]
    result, cut = encode_rows(task, rows, tokenizer, 20), 0
    for row, ids in zip(rows, result.input_ids, strict=True):
        texts = (row.texts[0], " ".join(row.texts[1:]))
        expected = [tokenizer(text, truncation=True, max_length=20) for text in texts]
        assert [part.tolist() for part in ids] == [part["input_ids"] for part in expected]
        if result.token_types:
            types = [part.tolist() for part in result.token_types[row.index]]
            assert types == [part["token_type_ids"] for part in expected]
        cut += any(len(tokenizer(text)["input_ids"]) > 20 for text in texts)
    assert result.cut == cut > 5
    assert result.lengths.tolist() == [max(map(len, ids)) for ids in result.input_ids]
