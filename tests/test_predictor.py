"""Answers of `bort.load(...).predict` are those of Hugging Face's pipelines."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    MPNetConfig,
    pipeline,
)

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


# ------------------------------------------------------------------------------------ embeddings


def embed_by_hand(folder, texts: list[str]) -> np.ndarray:
    """The mean of the states of each text alone, by transformers in float64."""
    encoder = AutoModel.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, split_special_tokens=True)
        with torch.no_grad():
            rows.append(encoder(**inputs).last_hidden_state[0].mean(0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("name", ["classes", "encoder", "mpnet"])
def test_embeddings_are_the_mean_states(folders, tmp_path, name):
    """In the order of the texts, whatever head the folder has, or none, or another family."""
    source = folders["classes"]
    if name != "classes":
        tokenizer = AutoTokenizer.from_pretrained(source)
        sizes = dict(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2)
        sizes |= dict(num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)
        config = {"encoder": BertConfig, "mpnet": MPNetConfig}[name](**sizes)
        config.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path)
        tokenizer.model_max_length = 38
        tokenizer.save_pretrained(tmp_path)
        source = tmp_path
    texts = ["a long text of words " * k for k in (1, 0, 9, 3)] + ["a", "and so on"]
    model, expected = bort.load(source), embed_by_hand(source, texts)
    found = model.encode(texts, batch_size=2)
    assert found.dtype == np.float32 and np.ptp(expected, axis=0).min() > 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-5)
    unit = model.encode(iter(texts), normalize=True)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected / lengths, atol=1e-5)
    assert model.encode([]).shape == (0, expected.shape[1])
    for wrong, message in (
        ("a text", r"takes a list of texts"),
        (["fine", ("a", "b")], "row 2: .* is no text; an embedding is of one text"),
        (["\ud83d"], "has half a character"),
    ):
        with pytest.raises(BortError, match=message):
            model.encode(wrong)
    if name != "classes":
        with pytest.raises(BortError, match="is an encoder without a trained head: encode embeds"):
            model.predict(texts)
        (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
        short = bort.load(tmp_path).encode([texts[2]])
        cut = AutoTokenizer.from_pretrained(tmp_path)(texts[2])["input_ids"][1:4]
        same = bort.load(tmp_path).encode([AutoTokenizer.from_pretrained(tmp_path).decode(cut)])
        np.testing.assert_allclose(short, same, atol=1e-5)
        (tmp_path / "1_Pooling").mkdir()
        pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        with pytest.raises(BortError, match="asks for another embedding than the mean"):
            bort.load(tmp_path)
