"""What a tokenizer is trained on, and what is said while documents are encoded."""

import logging

import numpy as np
from pretraining_helpers import words
from tiny_runs import log_lines

from bort.config.data import DataConfig
from bort.console import Progress
from bort.pretraining import encoding
from bort.text import sources, splits
from bort.text.sources import Document


def test_tokenizer_sample_is_bounded_and_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SAMPLE", 2000)
    data = DataConfig(source="text", path=str(words(tmp_path)), val_fraction=0.2)
    source = sources.open_text(data)
    sample = list(encoding.sample_text(source, data, lambda *a, **k: None))
    assert 1000 < sum(map(len, sample)) <= 2000 + max(map(len, sample))
    assert {splits.split_document(Document(text, 0), 0.2)[0].split for text in sample} == {"train"}
    numbers = [int(text.split()[1]) for text in sample]
    assert numbers == sorted(numbers) and numbers[-1] > 100  # from all over the file


def test_tokenizer_sample_of_one_long_document(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SAMPLE", 2000)
    monkeypatch.setattr("bort.text.tokenizer.PIECE", 100)
    data = DataConfig(source="text", path=str(words(tmp_path)), sample_by="file", val_fraction=0.0)
    sample = list(encoding.sample_text(sources.open_text(data), data, lambda *a, **k: None))
    text = words(tmp_path).read_text()
    starts = [text.index(piece) for piece in sample]
    assert 1900 < sum(map(len, sample)) < 2300
    assert starts[0] == 0 and starts[-1] > 0.8 * len(text)
    assert max(np.diff(starts)) < 0.3 * len(text)


def test_progress_lines(tmp_path, monkeypatch):
    now, said = [0.0], log_lines()
    monkeypatch.setattr(encoding.time, "monotonic", lambda: now[0])
    ticker = Progress(logging.getLogger(encoding.__name__), every_s=10)
    progress = encoding.make_encoding_progress(1000, ticker.tell)
    for second, tokens in ((4, 100_000), (9, 200_000), (10, 250_000), (12, 300_000)):
        now[0] = second
        progress(tokens, 100)
    # 300 of 1,000 bytes gave 250,000 tokens in 10 s
    assert said == [
        "corpus: encoding…",
        "corpus: encoded 0.2 of 0.8 M tokens, 0.0 M tokens/s, 23 s left",
    ]
    now[0] = 30  # a compressed file was larger than its estimate
    progress(1_500_000, 700)
    assert said[-1] == "corpus: encoded 1.5 M tokens, 0.1 M tokens/s"
