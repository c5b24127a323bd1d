"""Answers of `bort.load(...).predict` are those of Hugging Face's pipelines."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

import bort
from bort.errors import BortError

TEXTS = ["a short one", "a longer text, with many words", "x", ""]


def test_classes_as_pipeline_has_them(folders):
    found = bort.load(folders["classes"]).predict(TEXTS, batch_size=2)
    theirs = pipeline("text-classification", model=str(folders["classes"]), top_k=None)
    for text, ours in zip(TEXTS, found, strict=True):
        expected = {row["label"]: row["score"] for row in theirs([text])[0]}
        assert ours["scores"] == pytest.approx(expected, abs=1e-5)
        assert ours["label"] == max(expected, key=expected.get)
        assert ours["score"] == ours["scores"][ours["label"]]
    assert len({row["score"] for row in found}) == 4


def test_order_and_batches_change_nothing(folders):
    predictor = bort.load(folders["classes"])
    one = predictor.predict(TEXTS, batch_size=1)
    for row, alone in zip(predictor.predict(TEXTS[::-1], batch_size=3)[::-1], one, strict=True):
        assert row["scores"] == pytest.approx(alone["scores"], abs=1e-6)


def test_masks_are_filled_as_transformers_fills_them(folders):
    predictor = bort.load(folders["masked"])
    text = "line 3 has <mask> and <mask>"
    (found,) = predictor.predict([text], top=3)
    tokenizer = AutoTokenizer.from_pretrained(folders["masked"])
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(folders["masked"])(**inputs).logits[0]
    places = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero().flatten()
    assert len(found["words"]) == len(places) == 2
    for place, words in zip(places, found["words"], strict=True):
        best = logits[place].softmax(-1).topk(3)
        assert [w["score"] for w in words] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert [w["word"] for w in words] == [tokenizer.decode([n]) for n in best.indices.tolist()]


def test_special_words_are_ordinary_text_to_a_classifier(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["classes"])
    (encoded,) = bort.load(folders["classes"]).tokenize("a <mask> b")
    assert tokenizer.mask_token_id not in encoded["input_ids"]


def test_numbers_and_pairs_and_long_texts(folders):
    found = bort.load(folders["number"]).predict([("one", "two"), "word " * 200])
    assert all(set(row) == {"score"} and isinstance(row["score"], float) for row in found)


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("masked", ["no mask here"], "has no <mask> to fill; the model is a masked language model"),
        ("classes", "a text", r"takes a list of texts; write predict\(\[text\]\)"),
        ("classes", [("a", "b", "c")], "3 texts are given, it takes one or two"),
        ("classes", [{"text": "a"}], "is no text and no pair of texts"),
        ("classes", [3], "is no text|no pair|int"),
        ("spans", ["x"], "answers a task with spans"),
        ("choices", ["x"], "answers a task with choices"),
    ],
)
def test_mistakes(folders, name, texts, message):
    with pytest.raises((BortError, TypeError), match=message):
        bort.load(folders[name]).predict(texts)


def test_more_words_than_there_are(folders):
    (answer,) = bort.load(folders["masked"]).predict(["a <mask>"], top=10**6)
    words = bort.load(folders["masked"]).model.config.vocab_size
    assert len(answer["words"][0]) == words
