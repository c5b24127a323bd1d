"""The trained tokenizer's layout, and long texts to ids in pieces."""

import os
import signal
import threading
import time

import pytest
from transformers import AutoTokenizer

from bort.text import tokenizer as module
from bort.text.tokenizer import train_tokenizer


def test_trained_tokenizer_has_robertas_layout():
    texts = [f"Line {k} says {k * k} words about {k % 7}." for k in range(200)]
    tokenizer = train_tokenizer(texts, 320)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == specials
    assert sorted(tokenizer.get_vocab().values()) == list(range(320))
    assert set(tokenizer.all_special_ids) == set(range(5))
    a, b = (tokenizer.encode(w, add_special_tokens=False) for w in ("Line", "words"))
    assert tokenizer("Line", "words")["input_ids"] == [0, *a, 2, 2, *b, 2]
    assert tokenizer("Line <mask>")["input_ids"] == [0, *a, 4, 2]
    offsets = tokenizer("Line words", return_offsets_mapping=True)["offset_mapping"]
    assert (5, 10) in offsets and (4, 10) not in offsets  # a word's span is without its space
    same = train_tokenizer(iter(texts), 320).backend_tokenizer.to_str()
    assert same == tokenizer.backend_tokenizer.to_str()
    assert train_tokenizer(texts[:90], 320).backend_tokenizer.to_str() != same


def test_long_documents_are_cut_without_a_trace(shared, monkeypatch):
    text = (
        (shared / "data" / "wikitext-2" / "valid.txt").read_text()[:60_000].replace("the ", "the  ")
    )
    tokenizers = [
        AutoTokenizer.from_pretrained(shared / "cases" / "models" / n)
        for n in ("roberta-tiny", "bert-tiny")
    ]
    tokenizers.append(train_tokenizer([text], 500))
    whole = [module.encode_texts(module.build_encoder(t), [text, "", "end"]) for t in tokenizers]
    monkeypatch.setattr(module, "PIECE", 50)
    monkeypatch.setattr(module, "BATCH", 1000)
    assert len(list(module.cut_pieces(text))) > 500 and "".join(module.cut_pieces(text)) == text
    assert "".join(module.cut_pieces("x" * 1001)) == "x" * 1001
    for tokenizer, expected in zip(tokenizers, whole, strict=True):
        cut = module.encode_texts(module.build_encoder(tokenizer), [text, "", "end"])
        assert [ids.tolist() for ids in cut] == [ids.tolist() for ids in expected]


def test_words_of_any_length_are_learnt_in_little_time(shared):
    """100,000 characters without a space; cut nowhere else than in long words and spaces."""
    text = (shared / "cases" / "N" / "N11-one-word-text" / "one_line.txt").read_text()
    start = time.process_time()
    tokenizer = train_tokenizer([text, " " * 100_000, "-" * 100_000], 2000)
    assert time.process_time() - start < 10 and len(tokenizer.get_vocab()) > 500
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    plain = "Words of usual length\n    and usual spaces, http://example.org/" + "a/" * 10
    assert list(module.cut_long_words(plain)) == [plain]
    odd = "a " + "x" * 200 + " b" + "\n" * 70 + " " * 64 + "c"
    assert "".join(module.cut_long_words(odd)) == odd and len(list(module.cut_long_words(odd))) == 6


def test_a_signal_ends_training_a_tokenizer():
    """A text that takes longer to learn than the test waits."""

    def stop(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        start = time.monotonic()
        timer.start()
        with pytest.raises(InterruptedError):
            module.run_interruptibly(lambda: threading.Event().wait(20))
        assert time.monotonic() - start < 10
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ZeroDivisionError):
        module.run_interruptibly(lambda: 1 / 0)
