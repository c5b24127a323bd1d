"""Generators: legal rows, words of the vocabulary, and what is drawn."""

import re

import numpy as np
import pytest
import torch

from bort.agora.generators import GENERATORS, WordSource, find_changeable
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.tasks import reading, registry
from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows
from bort.tasks.task import Row

TASK = define_task("toy", "classes", ("text",), ("no", "yes"))

WORDS = ("cat", "dog", "bird", "tree", "house", "river")


@pytest.fixture(scope="module")
def source(encoder) -> WordSource:
    return WordSource(load_masked_lm(encoder), load_tokenizer(encoder))


def test_a_source_knows_whole_words_only(source):
    assert {"the", "and", "good"} <= set(source.ids)
    assert all(re.fullmatch(r"\w+", word) for word in source.ids)
    assert not set(source.words) & set(source.tokenizer.all_special_ids)
    for word, number in source.ids.items():
        assert source.tokenizer.convert_ids_to_tokens(number) == f"Ġ{word}"


def test_word_pieces(shared):
    """WordPiece marks what continues a word, not what begins one."""
    folder = shared / "cases" / "models" / "bert-tiny"
    found = WordSource(load_masked_lm(folder), load_tokenizer(folder))
    tokens = found.tokenizer.convert_ids_to_tokens(list(found.words))
    assert len(tokens) > 20 and not any(token.startswith(("##", "[")) for token in tokens)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize(
    "name",
    ["glue/rte", "glue/cola", "glue/stsb", "superglue/wic", "superglue/wsc", "superglue/copa",
     "superglue/multirc", "race/middle"],
)  # fmt: skip
def test_rows_are_legal(shared, source, name, kind):
    """Real rows: as many texts, spans on the same words, fixed texts kept, the row castable."""
    task = registry.find_task(name)
    read = reading.read_rows(task, shared / "data" / name.split("/")[0])
    rows = read["train"][:40]
    made = GENERATORS[kind](task, rows, 0.2, np.random.default_rng(0), source)
    assert sum(row is not None for row in made) > 20
    for old, new in zip(rows, made, strict=True):
        if new is None:
            continue
        assert new.texts != old.texts and len(new.texts) == len(old.texts) and new.label is None
        assert all(re.search(r"\w", text) for text in new.texts)
        for owner, a, b in zip((0, len(old.texts) - 1), old.spans, new.spans, strict=False):
            assert old.texts[owner][slice(*a)] == new.texts[owner][slice(*b)]
        if task.kind == "choices":
            assert new.texts[1:] == old.texts[1:]
    encode_rows(task, [row for row in made if row is not None], source.tokenizer, 512)
    if task.kind == "spans":
        _readable_as_rows(task, [row for row in made if row is not None])


def _readable_as_rows(task, rows: list[Row]) -> None:
    """The reader of official files takes them: spans are whole words."""
    if task.name == "superglue/wic":
        for row in rows:
            (a, b), (c, d) = row.spans
            record = {"word": "x", "start1": a, "end1": b, "start2": c, "end2": d, "idx": 0}
            record |= dict(zip(task.columns, row.texts, strict=True)) | {"label": True}
            assert next(task.shape(task, record, "here")).spans == row.spans


def test_a_masked_lm_never_puts_the_word_back(source):
    rows = [Row(k, (f"the {WORDS[k % 6]} and the house were good",), 0) for k in range(60)]
    made = GENERATORS["mlm"](TASK, rows, 0.3, np.random.default_rng(0), source)
    for old, new in zip(rows, made, strict=True):
        before, after = old.texts[0].split(), new.texts[0].split()
        assert (
            len(before) == len(after)
            and sum(a != b for a, b in zip(before, after, strict=True)) == 2
        )
    again = GENERATORS["mlm"](TASK, rows, 0.3, np.random.default_rng(0), source)
    assert made == again


@pytest.mark.parametrize("kind", GENERATORS)
def test_special_ids_stay_where_they_belong(source, kind):
    """Case T1: words such as <mask> in a text are ordinary ones, before and after."""
    text = "the <mask> and </s> the cat <s> were good [MASK] or <pad>"
    rows = [Row(k, (text,), 0) for k in range(40)]
    made = GENERATORS[kind](TASK, rows, 0.3, np.random.default_rng(0), source)
    made = [row for row in made if row is not None]
    inputs = encode_rows(TASK, made, source.tokenizer, 160)
    special = set(source.tokenizer.all_special_ids)
    assert len(made) > 30
    for (ids,), row in zip(inputs.input_ids, made, strict=True):
        assert not special & set(ids[1:-1].tolist()) and {ids[0], ids[-1]} <= special
        assert source.tokenizer.decode(ids[1:-1]) == row.texts[0]


def test_a_masked_lm_draws_what_is_probable(source):
    """The logits behind a draw are those of Hugging Face for the text with the mask in it."""
    from transformers import AutoModelForMaskedLM

    from bort.agora.generators import compute_mask_logits, mask_words

    text, folder = "the cat and the dog", source.tokenizer.name_or_path
    word = find_changeable(TASK, Row(0, (text,), 0))[1]
    ids, kept = mask_words(text, [word], source)
    expected = source.tokenizer("the<mask> and the dog")["input_ids"]
    assert ids == expected and kept == [word]
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0, ids.index(source.tokenizer.mask_token_id)]
        ours = compute_mask_logits([ids, ids[:3]], source)[0]
    torch.testing.assert_close(ours, logits[source.allowed], atol=1e-5, rtol=1e-4)


def test_nearest_words_are_near(source):
    vectors = source.model.encoder.embeddings.words.weight
    rows = [Row(0, ("the house and the river",), 0)] * 40
    made = GENERATORS["nearest"](TASK, rows, 0.2, np.random.default_rng(0), source)
    for row in made:
        ((old, new),) = [
            (a, b)
            for a, b in zip(rows[0].texts[0].split(), row.texts[0].split(), strict=True)
            if a != b
        ]
        near = torch.cosine_similarity(vectors[source.ids[old]], vectors[source.allowed])
        order = [source.words[int(k)] for k in source.allowed[near.argsort(descending=True)]]
        assert order[0] == old and new in order[1:11]


def test_deletion_and_swap():
    rows = [Row(0, ("one two three four five",), 0)] * 60
    made = GENERATORS["edit"](TASK, rows, 0.2, np.random.default_rng(0))
    words = rows[0].texts[0].split()
    swaps = {" ".join([*words[:k], words[k + 1], words[k], *words[k + 2 :]]) for k in range(4)}
    kept = {" ".join([*words[:k], *words[k + 1 :]]) for k in range(5)}
    found = {" ".join(row.texts[0].split()) for row in made}
    assert found <= swaps | kept and found & swaps and found & kept
    assert GENERATORS["edit"](TASK, [Row(0, ("one",), 0)], 0.2, np.random.default_rng(0)) == [None]
