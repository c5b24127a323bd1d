"""A text's way into a corpus: its split, its tokens, and what is said meanwhile."""

import json
import math

import numpy as np
import pytest
from pretraining_helpers import documents, near_copies, teacher, words
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bort.errors import BortError
from bort.pretraining import corpus as module
from bort.pretraining.corpus import Corpus
from bort.text import splits
from bort.text.token_stream import count_sequences, pack_sequences
from bort.text.tokenizer import build_encoder, encode_texts

# ------------------------------------------------------------------------------------ splits


def test_duplicates_are_dropped_and_no_text_is_in_both_splits(shared, make, tmp_path):
    """Case D4."""
    path = shared / "cases" / "D4-split-duplicates" / "docs.jsonl"
    texts = {json.loads(line)["text"].strip() for line in path.read_text().splitlines()}
    corpus = make(path, val_fraction=0.3, length=16)
    assert corpus.info.documents == len(texts) == 60
    assert corpus.info.duplicates == 40 and "40 duplicates dropped" in " ".join(make.said)
    train, val = ({t.strip() for t in documents(corpus, split)} for split in ("train", "val"))
    assert train | val == texts and not train & val
    # 60 draws at 0.3: 18 ± 5 × 3.5
    assert 1 <= len(val) <= 36

    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "A new one comes first."}\n' + path.read_text())
    other = make(more, val_fraction=0.3)
    added = {"A new one comes first."}
    assert {t.strip() for t in documents(other)} - added == train
    assert {t.strip() for t in documents(other, "val")} - added == val


def test_share_held_out(tmp_path, make):
    """Binomial: 4,000 documents at 0.1 are 400 ± 5 × 19."""
    (tmp_path / "a.txt").write_text("\n".join(f"document number {k}" for k in range(4000)))
    corpus = make(tmp_path / "a.txt", val_fraction=0.1)
    assert abs(corpus.info.val_documents - 400) < 95
    assert corpus.info.train_documents + corpus.info.val_documents == 4000


def test_without_enough_validation_training_goes_on(tmp_path, make):
    path = words(tmp_path)
    corpus = make(path, val_fraction=0.0)
    assert count_sequences(corpus.val, 16) == 0 and count_sequences(corpus.train, 16) > 100
    assert [line for line in make.said if "no validation" in line]
    assert make(path, val_fraction=0.5) and "no validation" not in " ".join(make.said)


def test_too_short_names_what_validation_took(tmp_path, make):
    path = tmp_path / "a.txt"
    path.write_text("Only one document in it, and it is held out.")
    with pytest.raises(BortError, match=r"0 tokens for training \(\d+ more are held out"):
        make(path, val_fraction=0.999999)
    assert make(path, length=10).info.train_documents == 1
    with pytest.raises(BortError, match="tokens for training, one sequence"):
        make(path, length=500)  # the cached corpus is checked again


def share_of_runs(corpus: Corpus) -> float:
    """Share of the validation text's runs of eleven words that are in training too."""
    found = {}
    for split in ("train", "val"):
        words = [text.split() for text in documents(corpus, split)]
        found[split] = {tuple(w[k : k + 11]) for w in words for k in range(len(w) - 10)}
    return len(found["train"] & found["val"]) / len(found["val"])


def test_near_copies_are_in_one_split(tmp_path, make):
    corpus = make(near_copies(tmp_path, 2), val_fraction=0.2)
    assert share_of_runs(corpus) < 0.02 and corpus.info.val_documents > 30
    left_out = corpus.info.near_copies
    assert 0 < left_out < 120 and corpus.info.documents == 600 - left_out
    assert f"{left_out} near-copies of training text left out" in " ".join(make.said)


def test_text_of_near_copies_only_is_validated_on_them_and_says_so(tmp_path, make):
    path = tmp_path / "log.txt"
    fixed = "request answered by the server after it was read from the queue and checked"
    path.write_text("\n".join(f"{k * 7919} {k % 97} {fixed}" for k in range(400)))
    corpus = make(path, val_fraction=0.5)
    assert corpus.info.val_documents > 0 and not corpus.info.near_copies_dropped
    assert "near-copies of training text and stay" in " ".join(make.said)


def test_one_long_document_is_trained_and_validated_on(tmp_path, make):
    rng = np.random.default_rng(0)
    (tmp_path / "book.txt").write_text(" ".join(f"w{k}" for k in rng.integers(0, 5_000, 20_000)))
    corpus = make(tmp_path / "book.txt", val_fraction=0.1, length=32)
    assert corpus.info.documents == 1 and share_of_runs(corpus) == 0
    share = corpus.info.val_tokens / corpus.info.train_tokens
    assert 0.08 < share < 0.15 and "no validation" not in " ".join(make.said)
    whole = make(tmp_path / "book.txt", val_fraction=0.0, length=32)
    assert documents(whole) == [(tmp_path / "book.txt").read_text()]


def test_set_of_hashes_forgets_nothing(monkeypatch):
    monkeypatch.setattr(splits, "RECENT", 10)
    rng, seen, reference = np.random.default_rng(0), splits.Seen(), set()
    for key in [0, 2**64 - 1, *rng.integers(0, 60, 200).tolist(), 0, 2**64 - 1]:
        assert seen.add(key) == (key not in reference)
        reference.add(key)


# ------------------------------------------------------------------------------------ tokens


def test_packing_edges(shared, make):
    """Case M2: one token per byte, byte b is id 4 + b."""
    path = shared / "cases" / "M2-packing-edges" / "text.txt"
    corpus = make(path, teacher(shared, "roberta-tiny"), length=16)
    text = path.read_bytes().removesuffix(b"\n")
    assert len(text) == 98 and count_sequences(corpus.train, 16) == 7
    rows = pack_sequences(corpus.train, np.arange(7), 16, bos=0, sep=2)
    expected = [[0, *(4 + b for b in text[14 * k : 14 * k + 14]), 2] for k in range(7)]
    assert rows.tolist() == expected


def test_documents_are_joined_by_one_separator(shared, tmp_path, make):
    (tmp_path / "a.txt").write_text("ab\n\ncde\nab\nf")
    corpus = make(tmp_path / "a.txt", teacher(shared, "roberta-tiny"), length=4)
    a = 4 + ord("a")
    assert corpus.train.tolist() == [a, a + 1, 2, a + 2, a + 3, a + 4, 2, a + 5]
    # the rest after the last whole sequence waits for more text
    assert pack_sequences(corpus.train, np.array([3, 0]), 4, 0, 2).tolist() == [
        [0, 2, a + 5, 2],
        [0, a, a + 1, 2],
    ]


@pytest.mark.parametrize("name", [None, "roberta-tiny", "bert-tiny"])
def test_special_words_are_ordinary_text(shared, make, name):
    """Case T1: special ids only where packing puts them; unknown words at worst [UNK]."""
    path = shared / "cases" / "T1-special-words" / "text.txt"
    corpus = make(path, teacher(shared, name) if name else None, length=32)
    tokenizer = corpus.tokenizer
    assert corpus.info.documents == 1
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & set(corpus.train.tolist())
    if name != "bert-tiny":
        assert tokenizer.unk_token_id not in corpus.train
        assert tokenizer.decode(corpus.train) == path.read_text().removesuffix("\n")
    # the tokenizer that is saved with a model still knows its special words
    assert tokenizer.encode(tokenizer.mask_token, add_special_tokens=False) == [
        tokenizer.mask_token_id
    ]


def test_a_tokenizer_that_cuts_or_pads_is_left_as_it_is(shared, tmp_path, make):
    tokenizer = teacher(shared, "roberta-tiny")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    settings = tokenizer.backend_tokenizer.to_str()
    (tmp_path / "a.txt").write_text("longer than three")
    corpus = make(tmp_path / "a.txt", tokenizer)
    assert corpus.tokenizer.decode(corpus.train) == "longer than three"
    assert tokenizer.backend_tokenizer.to_str() == settings


def test_a_special_word_of_the_vocabulary_itself_becomes_unknown(tmp_path, make):
    """A word list (or SentencePiece) can hold "</s>" as a word, which no setting turns off."""
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "<mask>": 3, "end": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    (tmp_path / "a.txt").write_text("end </s> end end\nend <s> <mask>")
    corpus = make(tmp_path / "a.txt", tokenizer, length=4)
    assert corpus.train.tolist() == [4, 2, 4, 4, 1, 4, 2, 2]


def test_large_vocabulary_takes_four_bytes(tmp_path, make):
    names = ["<s>", "</s>", "<unk>", "<mask>", *(f"w{k}" for k in range(70_000))]
    backend = Tokenizer(models.WordLevel({w: k for k, w in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    (tmp_path / "a.txt").write_text("w69999 w0 w65532 w65533")
    corpus = make(tmp_path / "a.txt", tokenizer, length=4)
    assert corpus.train.tolist() == [70_003, 4, 65_536, 65_537]
    assert (corpus.folder / "train.bin").stat().st_size == 16


def test_tokenizers_that_cannot_serve(tmp_path, make):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(BortError, match="lacks a cls, sep or mask token"):
        make(words(tmp_path), PreTrainedTokenizerFast(tokenizer_object=backend))


def test_all_unknown_is_refused(shared, tmp_path, make):
    (tmp_path / "a.txt").write_text("日本語のテキスト " * 20)
    with pytest.raises(BortError, match="every token is unknown"):
        make(tmp_path / "a.txt", teacher(shared, "bert-tiny"))
    (tmp_path / "a.txt").write_text("日 the 日 the 日 the 日 the 日 the 日 the 日 the 日 the")
    make(tmp_path / "a.txt", teacher(shared, "bert-tiny"), length=4)
    assert [line for line in make.said if "50% of the tokens are unknown" in line]


def test_trained_tokenizer_is_lossless_and_reloads(shared, make, tmp_path):
    """Case T2, as far as the corpus goes."""
    strings = json.loads((shared / "cases" / "T2-tokenizer-reload" / "strings.json").read_text())
    assert len(strings) == 24
    tokenizer = make(words(tmp_path)).tokenizer
    reloaded = AutoTokenizer.from_pretrained(make(words(tmp_path)).folder)
    trained = encode_texts(build_encoder(tokenizer), strings)
    for text, ids in zip(strings, trained, strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
        assert reloaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        if "<mask>" not in text:
            assert tokenizer(text)["input_ids"] == [0, *ids, 2]
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}


def test_unigram_baseline_by_hand():
    """Words 2 and 3; training counts 5 and 1 (+1 each: 6/8 and 2/8), validation 1 and 3."""
    special = np.array([True, True, False, False])
    train, val = np.array([90, 9, 5, 1]), np.array([70, 7, 1, 3])
    entropy, accuracy = module.compute_unigram_baseline(train, val, special)
    assert entropy == pytest.approx(-(math.log(6 / 8) + 3 * math.log(2 / 8)) / 4)
    assert accuracy == 0.25
    alone, _ = module.compute_unigram_baseline(train, 0 * val, special)
    assert alone == pytest.approx(-(5 * math.log(6 / 8) + math.log(2 / 8)) / 6)


# ------------------------------------------------------------------------------------ progress


def test_every_stage_is_announced(tmp_path, make):
    make(words(tmp_path))
    assert ["training a tokenizer" in make.said[0], "encoding" in make.said[1]] == [True, True]
    assert "200 documents" in make.said[2] and all("\n" not in line for line in make.said)
