"""Pseudo-log-likelihoods against Hugging Face, one sentence and one masked token at a time."""

import json
import lzma
import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
)

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.tasks import blimp
from bort.tasks.blimp import (
    BlimpResult,
    MinimalPair,
    read_pairs,
    score_pairs,
    score_sentences,
)
from bort.text.tokenizer import train_tokenizer

SENTENCES = [
    "The cats sleep.",
    "The cats sleeps.",
    "Who should Derek hug after shocking Richard?",
    "A",
    "line 7 says words about the cube of 49",
    "The cats sleep.",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blimp") / "model"
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=300, positions=64, type_vocab=2)
    built = build_model(sizes)
    for parameter in built.parameters():  # with fresh ones all words would be about as likely
        torch.nn.init.normal_(parameter, std=0.4)
    words = [f"line {k} says words about the cats {k * k}" for k in range(60)]
    save_model(built, train_tokenizer(words, 300), folder)
    return folder


def score_by_hand(folder: Path, sentence: str) -> float:
    """By Hugging Face, as minicons does it: mask a token, read its log-probability, go on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(sentence, return_tensors="pt").input_ids[0]
    score = 0.0
    for column in range(1, len(ids) - 1):
        masked = ids.clone()
        masked[column] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(input_ids=masked[None]).logits[0, column]
        score += logits.double().log_softmax(-1)[ids[column]].item()
    return score


def open_scorer(folder: Path):
    model, tokenizer = load_masked_lm(folder).eval(), load_tokenizer(folder)
    return lambda ids, positions: model(ids, positions=positions), tokenizer


@pytest.mark.parametrize("tokens", [blimp.TOKENS, 40])
def test_scores_are_those_of_hugging_face(model, monkeypatch, tokens):
    monkeypatch.setattr(blimp, "TOKENS", tokens)  # also with a sentence over several batches
    compute, tokenizer = open_scorer(model)
    counts = []
    scores = score_sentences(compute, tokenizer, SENTENCES, 64, lambda *done: counts.append(done))
    expected = [score_by_hand(model, sentence) for sentence in SENTENCES]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert len({round(score, 3) for score in expected}) == 5  # or nothing would be compared
    total = sum(len(ids) - 2 for ids in tokenizer(SENTENCES).input_ids)
    assert counts[-1] == (total, total)


def test_each_token_is_masked_once(model):
    compute, tokenizer = open_scorer(model)
    seen = []

    def watch(ids, positions):
        seen.extend((ids == tokenizer.mask_token_id).sum(1).tolist())
        assert (ids.flatten()[positions] == tokenizer.mask_token_id).all()
        return compute(ids, positions)

    score_sentences(watch, tokenizer, SENTENCES[:3], 64)
    assert seen == [1] * sum(len(ids) - 2 for ids in tokenizer(SENTENCES[:3]).input_ids)


def test_a_bert_with_unknown_words(tmp_path, shared):
    """WordPiece: `[UNK]` counts like any word, and the tokens at the ends do not."""
    vocabulary = (shared / "data" / "vocab" / "bert-base-uncased" / "vocab.txt").read_text()
    words = vocabulary.split("\n")[:5000]
    BertTokenizerFast(vocab={word: k for k, word in enumerate(words)}).save_pretrained(tmp_path)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=5000, initializer_range=0.5, **sizes)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    compute, tokenizer = open_scorer(tmp_path)
    sentences = ["the day of ☃ was ☃", "it was."]
    assert tokenizer.unk_token_id in tokenizer(sentences[0]).input_ids
    scores = score_sentences(compute, tokenizer, sentences, 64)
    expected = [score_by_hand(tmp_path, sentence) for sentence in sentences]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)


PAIRS = [
    MinimalPair("agreement", "syntax", "The cats sleep.", "The cats sleeps."),
    MinimalPair("agreement", "syntax", "The cats sleeps.", "The cats sleep."),
    MinimalPair("same", "semantics", "A", "A"),
]


def test_pairs_are_right_where_the_good_sentence_is_likelier(model):
    result = score_pairs(*open_scorer(model), PAIRS, 64)
    is_likelier = score_by_hand(model, PAIRS[0].good) > score_by_hand(model, PAIRS[0].bad)
    assert result.right == {"agreement": [is_likelier, not is_likelier], "same": [False]}
    assert result.ties == 1


def test_sets_count_alike_and_errors_add_up():
    right = {"a": [True] * 30 + [False] * 10, "b": [True, False], "c": [False] * 4}
    result = BlimpResult(right, {"a": "x", "b": "x", "c": "y"}, 0)
    assert result.overall.value == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert result.overall.error == pytest.approx(math.sqrt(0.1875 / 40 + 0.25 / 2) / 3)
    assert result.by_field["x"].value == 0.625 and result.by_field["x"].count == 42
    flat = result.to_json()
    assert flat["blimp/c"] == 0 and flat["blimp/c_error"] == 0 and flat["blimp_pairs"] == 46


def write_pairs(path: Path, official: bool) -> Path:
    keys = ("UID", "field", "sentence_good", "sentence_bad") if official else (
        "set", "field", "good", "bad"
    )  # fmt: skip
    rows = [
        dict(zip(keys, (f"set {k % 2}", "syntax/semantics", f"Good {k}", f"Bad {k}"), strict=True))
        for k in range(20)
    ]
    path.write_bytes(lzma.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


@pytest.mark.parametrize("official", [False, True])
def test_both_layouts_and_a_share(tmp_path, official):
    path = write_pairs(tmp_path / "pairs.jsonl.xz", official)
    pairs = read_pairs(path)
    assert len(pairs) == 20 and pairs == read_pairs(tmp_path)
    assert pairs[1] == MinimalPair("set 0", "syntax_semantics", "Good 2", "Bad 2")
    few = read_pairs(path, 0.2)
    assert [pair.good for pair in few] == ["Good 0", "Good 10", "Good 1", "Good 11"]
    assert len(read_pairs(path, 0)) == 2  # one of each set


def test_mistakes_are_one_line(tmp_path, model):
    (tmp_path / "a.jsonl").write_text('{"set": "x", "field": "y", "good": "z"}\n')
    with pytest.raises(BortError, match=r"a\.jsonl, line 1: no text under 'bad' or 'sentence_bad'"):
        read_pairs(tmp_path / "a.jsonl")
    with pytest.raises(BortError, match="share=2"):
        read_pairs(tmp_path / "a.jsonl", 2)
    with pytest.raises(BortError, match="longer than the 6 that the model was trained on"):
        score_pairs(*open_scorer(model), PAIRS, 6)


def test_the_real_pairs(shared):
    pairs = read_pairs(shared / "data" / "blimp" / "blimp.jsonl.xz", 0.002)
    assert len(pairs) == 134 and len({pair.name for pair in pairs}) == 67
    fields = {"morphology", "semantics", "syntax", "syntax_semantics"}
    assert {pair.field for pair in pairs} == fields
