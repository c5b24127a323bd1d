"""Encoding: the documents of a source are tokenized into the streams of a corpus.

Letters: V vocabulary, K held-out documents.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bort.config.data import DataConfig
from bort.console import data_size
from bort.text.copies import Overlap
from bort.text.sources import Document, Source
from bort.text.splits import mark_duplicates, split_document
from bort.text.token_stream import TokenStream
from bort.text.tokenizer import CHUNK, build_encoder, cut_pieces, encode_texts, mark_special_ids

FULL = "full"  # the stream of held-out text as a tokenizer cuts it whose vocabulary was trimmed
SAMPLE = 40_000_000  # characters that a tokenizer is trained on
LEAST = 0.1  # share of the held-out tokens; if less would be left, near-copies are not dropped


@dataclass
class DocumentCounts:
    """The numbers of documents that were encoded and of duplicates that were dropped."""

    documents: int = 0
    duplicates: int = 0


def sample_text(
    source: Source, data: DataConfig, tick: Callable, action: str = "training"
) -> Iterator[str]:
    """Yield about SAMPLE characters of distinct training text, spread evenly over the source.

    action: what is done to a tokenizer with it.
    """
    documents = source.read()  # which may be what finds the size
    share = min(1.0, SAMPLE / source.size) if source.size else 1.0
    taken, passed = 0, 0
    for piece in _read_training_pieces(documents, data):
        if taken <= share * passed:
            taken += len(piece)
            yield piece
        passed += len(piece)
        if taken >= SAMPLE:
            break
        tick(f"corpus: {data_size(taken)} of text read for the tokenizer…")
    tick(f"corpus: {action} a tokenizer on {data_size(taken)} of text…", now=True)


def _read_training_pieces(documents: Iterable[Document], data: DataConfig) -> Iterator[str]:
    """Yield the distinct training text in pieces, since a document may be as long as a book."""
    for document, new in mark_duplicates(documents):
        if new:
            for part in split_document(document, data.val_fraction):
                if part.split == "train":
                    yield from cut_pieces(part.text)


def _read_chunks(
    source: Iterable[Document], data: DataConfig, counts: DocumentCounts
) -> Iterator[tuple]:
    """Yield lists of the parts of distinct documents, each with the bytes of source it took."""
    chunk, held, size = [], 0, 0
    for document, new in mark_duplicates(source):
        size += document.size
        if not new:
            counts.duplicates += 1
            continue
        chunk.append(split_document(document, data.val_fraction))
        held += len(document.text)
        if held >= CHUNK:
            yield chunk, size
            chunk, held, size = [], 0, 0
    if chunk:
        yield chunk, size


def open_stream(path: Path, tokenizer: Any) -> TokenStream:
    """Open a file to write the tokens of a tokenizer into."""
    vocab_size = len(mark_special_ids(tokenizer))
    return TokenStream(path, choose_dtype(vocab_size), vocab_size, tokenizer.sep_token_id)


def choose_dtype(vocab_size: int) -> np.dtype:
    """Choose the smallest type of a token file that holds all ids of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


def encode_documents(
    source: Source,
    data: DataConfig,
    tokenizers: tuple[Any, Any],
    streams: dict[str, TokenStream],
    counts: DocumentCounts,
    overlap: Overlap,
    tick: Callable,
) -> None:
    """Encode all documents of a source into the streams of their splits.

    tokenizers: that of the corpus, and the one it was trimmed from, or None.
    """
    encode, encode_fully = map(make_encode, tokenizers)
    texts = source.read()
    progress = make_encoding_progress(source.size, tick)  # started once docstrings have been read
    for chunk, size in _read_chunks(texts, data, counts):
        parts = list(chain.from_iterable(chunk))
        encoded = iter(encode([part.text for part in parts]))
        fully = iter(encode_fully([part.text for part in parts if part.split == "val"]))
        for document in chunk:
            is_used = False
            for part in document:
                ids = next(encoded)
                full_ids = next(fully, ()) if part.split == "val" else ()
                if not len(ids):
                    continue  # It has only characters that the tokenizer drops.
                if len(part.runs):
                    overlap.add(part.runs, part.split == "val")
                streams[part.split].add(ids)
                if len(full_ids):
                    streams[FULL].add(full_ids)
                is_used = True
            counts.documents += is_used
        progress(sum(stream.write() for stream in streams.values()), size)


def make_encode(tokenizer: Any) -> Callable[[list[str]], list[np.ndarray]]:
    """Return what encodes texts into ids (int32) of words only; of None, what encodes nothing."""
    if tokenizer is None:
        return lambda texts: []
    encoder, special = build_encoder(tokenizer), mark_special_ids(tokenizer)
    unk = tokenizer.unk_token_id

    def encode(texts: list[str]) -> list[np.ndarray]:
        encoded = encode_texts(encoder, texts)
        for ids in encoded:
            if unk is not None:  # In some vocabularies (SentencePiece) "<s>" is also a word.
                ids[special[ids]] = unk
        return encoded

    return encode


def drop_copies(val: TokenStream, copies: np.ndarray) -> tuple[int, bool]:
    """Drop the held-out documents that are near-copies of training text; copies: (K,) bool.

    If hardly any others would be left, the text repeats itself by nature, and all of them stay.
    Returns how many near-copies there are, and whether they were dropped.
    """
    sizes = np.diff([0, *val.ends])
    are_dropped = bool(copies.any() and sizes[~copies].sum() >= LEAST * sizes.sum())
    if are_dropped:
        val.keep(~copies)
    return int(copies.sum()), are_dropped


def make_encoding_progress(total: int, tick: Callable) -> Callable[[int, int], None]:
    """Return `progress(tokens so far, further bytes)`; total: bytes of the source, 0 if unknown.

    The total of compressed files is an estimate, which is no longer shown once it is passed.
    """
    start, done = time.monotonic(), 0
    tick("corpus: encoding…", now=True)

    def progress(tokens: int, size: int) -> None:
        nonlocal done
        done += size
        seconds = max(1e-9, time.monotonic() - start)
        is_ahead = 0 < done <= total
        estimate = f" of {tokens * total / done / 1e6:.1f}" if is_ahead else ""
        left = f", {seconds * (total - done) / done:.0f} s left" if is_ahead else ""
        speed = f"{tokens / seconds / 1e6:.1f} M tokens/s"
        tick(f"corpus: encoded {tokens / 1e6:.1f}{estimate} M tokens, {speed}{left}")

    return progress
