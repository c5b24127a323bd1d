"""Documents in, memory-mapped token streams out: what pre-training reads.

Letters: V vocabulary, B sequences, L tokens of a sequence with its first and last special token.
Everything streams: memory holds one chunk, the longest document, 16 bytes per distinct document,
and the runs of words by which near-copies are found (`copies.ROOM`).
"""

import hashlib
import json
import logging
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bort.config.data import DataConfig
from bort.console import Progress, counted, data_size
from bort.errors import BortError
from bort.files import ownership
from bort.files.digests import content_digest, read_sealed, write_sealed
from bort.files.writing import swap_folder, sync_folder
from bort.models.tokenizer_folder import save_tokenizer
from bort.tasks.docstrings import make_docstring_source
from bort.text.copies import SHARE, Overlap
from bort.text.sources import Document, Source, open_text
from bort.text.splits import mark_duplicates, split_document
from bort.text.tokenizer import (
    CHUNK,
    build_encoder,
    cut_pieces,
    encode_texts,
    hash_tokenizer,
    mark_special_ids,
    train_tokenizer,
)

logger = logging.getLogger(__name__)

VERSION = 3  # part of every fingerprint: raise it when the same text would give other streams

SPLITS = ("train", "val")
SAMPLE = 40_000_000  # characters that a tokenizer is trained on
LEAST = 0.1  # of the held-out tokens: with less left, near-copies stay in validation


@dataclass
class Corpus:
    """A tokenized corpus: `train` and `val` are one-dimensional streams of ids, memory-mapped.

    A stream is the documents of the split with one separator (`</s>`, `[SEP]`) between two of them.
    """

    folder: Path
    tokenizer: Any  # a fast transformers tokenizer
    train: np.ndarray
    val: np.ndarray
    info: dict


def build_corpus(data: DataConfig, cache: Path, tokenizer=None, interval: float = 10.0) -> Corpus:
    """Open the corpus of `data` from the folder `cache`, after building it when it is not there.

    tokenizer: a fast transformers tokenizer (a teacher's), or None to train a byte-level BPE of
    `data.vocab_size`. It logs one line per stage, and one per `interval` seconds.
    Raises BortError for text that is missing, unreadable or too short for one training sequence.
    """
    tick = Progress(logger, every_s=interval).tell
    with _explain_refusals(cache):
        source, folder = _locate(data, cache, tokenizer, tick)
        if source.note:
            tick(f"corpus: {source.note}", now=True)
        corpus = open_corpus(folder, tokenizer)
        if corpus is None:
            if folder.exists():
                tick(f"corpus: {folder} is damaged or incomplete; it is built again", now=True)
            write_corpus(source, data, folder, tokenizer, tick)
            corpus = open_corpus(folder, tokenizer)
    _check_length(corpus.info, source.name, data)
    for line in _describe(corpus, data):
        tick(line, now=True)
    return corpus


def find_corpus(data: DataConfig, cache: Path, tokenizer=None) -> Corpus | None:
    """The corpus of `data` if it was built before; raises BortError as `build` for wrong text."""
    with _explain_refusals(cache):
        _, folder = _locate(data, cache, tokenizer, lambda *_, **__: None)
        corpus = open_corpus(folder, tokenizer)
    if corpus is not None:
        _check_length(corpus.info, corpus.info["source"], data)
    return corpus


@contextmanager
def _explain_refusals(cache: Path) -> Iterator[None]:
    """What the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or cache}"
        raise BortError(f"corpus: {reason}; mend that or use another folder") from error


def _locate(data: DataConfig, cache: Path, tokenizer, tick: Callable) -> tuple[Source, Path]:
    """Where the text of `data` comes from, and the folder of the corpus that is made of it."""
    source = make_docstring_source(tick) if data.source == "docstrings" else open_text(data)
    identity = {
        "version": VERSION,
        "source": source.identity,
        "val_fraction": data.val_fraction,
        "tokenizer": hash_tokenizer(tokenizer) if tokenizer else f"bpe {data.vocab_size}",
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return source, Path(cache) / "corpora" / fingerprint


def count_sequences(stream: np.ndarray, length: int) -> int:
    """How many whole sequences of `length` tokens, two of them special, a stream holds."""
    return len(stream) // (length - 2)


def pack_sequences(
    stream: np.ndarray, rows: np.ndarray, length: int, bos: int, sep: int
) -> np.ndarray:
    """Sequences `rows` of a stream as int64 ids (B, L): bos, L − 2 tokens of the stream, sep."""
    body = length - 2
    table = stream[: count_sequences(stream, length) * body].reshape(-1, body)
    ids = np.empty((len(rows), length), dtype=np.int64)
    ids[:, 0], ids[:, -1] = bos, sep
    ids[:, 1:-1] = table[rows]
    return ids


# ------------------------------------------------------------------------------------ documents


def sample_text(source: Source, data: DataConfig, tick: Callable) -> Iterator[str]:
    """About SAMPLE characters of distinct training documents, spread evenly over the source."""
    share = min(1.0, SAMPLE / source.size) if source.size else 1.0
    taken, passed = 0, 0
    for piece in _read_training_pieces(source, data):
        if taken <= share * passed:
            taken += len(piece)
            yield piece
        passed += len(piece)
        if taken >= SAMPLE:
            break
        tick(f"corpus: {data_size(taken)} of text read for the tokenizer…")
    tick(f"corpus: training a tokenizer on {data_size(taken)} of text…", now=True)


def _read_training_pieces(source: Source, data: DataConfig) -> Iterator[str]:
    """The distinct training text; in pieces, as the source may be one document, a book."""
    for document, new in mark_duplicates(source.read()):
        if new:
            for part in split_document(document, data.val_fraction):
                if part.split == "train":
                    yield from cut_pieces(part.text)


def _read_chunks(source: Iterable[Document], data: DataConfig, counts: dict) -> Iterator[tuple]:
    """Lists of the parts of distinct documents, and the bytes of the source read for each."""
    chunk, held, size = [], 0, 0
    for document, new in mark_duplicates(source):
        size += document.size
        if not new:
            counts["duplicates"] += 1
            continue
        chunk.append(split_document(document, data.val_fraction))
        held += len(document.text)
        if held >= CHUNK:
            yield chunk, size
            chunk, held, size = [], 0, 0
    if chunk:
        yield chunk, size


# ------------------------------------------------------------------------------------ the folder


def write_corpus(source: Source, data: DataConfig, folder: Path, tokenizer, tick: Callable) -> None:
    """Build under a temporary name; the whole folder appears by one rename."""
    ownership.settle(folder.parent)
    temporary = ownership.temporary(folder, "new")
    temporary.mkdir(parents=True)
    try:
        if tokenizer is None:
            tokenizer = train_tokenizer(sample_text(source, data, tick), data.vocab_size)
        save_tokenizer(tokenizer, temporary)
        info = write_streams(source, data, temporary, tokenizer, tick)
        _check_length(info, source.name, data)
        if "files" in source.identity and open_text(data).identity != source.identity:
            raise BortError(f"{source.name}: the text changed while it was read; run it again")
        info["fingerprint"], info["source"] = folder.name, source.name
        info["packages"] = source.identity.get("packages", {})
        info["files"] = {f.name: content_digest(f) for f in temporary.iterdir() if f.is_file()}
        write_sealed(temporary / "info.json", info)
        for path in [*temporary.iterdir(), temporary]:
            sync_folder(path)
        if (
            open_corpus(folder, tokenizer) is None
        ):  # or another process has built the same meanwhile
            swap_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_streams(
    source: Source, data: DataConfig, folder: Path, tokenizer, tick: Callable
) -> dict:
    """Write train.bin and val.bin; returns counts and the unigram baseline."""
    encoder, special, unk = (
        build_encoder(tokenizer),
        mark_special_ids(tokenizer),
        tokenizer.unk_token_id,
    )
    V = len(special)
    dtype = np.dtype("<u2" if V <= 65_536 else "<u4")
    info = {"documents": 0, "duplicates": 0}
    texts = source.read()
    progress = make_encoding_progress(source.size, tick)  # after docstrings have been read
    streams = [_Stream(folder / f"{s}.bin", dtype, V, tokenizer.sep_token_id) for s in SPLITS]
    overlap = Overlap()
    for chunk, size in _read_chunks(texts, data, info):
        flat = [part for document in chunk for part in document]
        encoded = iter(encode_texts(encoder, [part.text for part in flat]))
        for document in chunk:
            used = False
            for part in document:
                ids = next(encoded)
                if not len(ids):
                    continue  # nothing but characters that the tokenizer drops
                if unk is not None:  # some vocabularies (SentencePiece) hold "<s>" as a word too
                    ids[special[ids]] = unk
                if len(part.runs):
                    overlap.add(part.runs, part.split == "val")
                streams[SPLITS.index(part.split)].add(ids)
                used = True
            info["documents"] += used
        progress(sum(stream.write() for stream in streams), size)
    train, val = streams
    if not info["documents"]:
        raise BortError(f"{source.name}: no text in it; nothing but blank documents")
    info |= _drop_copies(val, overlap.shares() > SHARE)
    info["documents"] -= info["near_copies"] if info["near_copies_dropped"] else 0
    for split, stream in zip(SPLITS, streams, strict=True):
        info[f"{split}_documents"] = len(stream.ends)
        info[f"{split}_tokens"] = int(stream.counts.sum())
    unknown = 0 if unk is None else int(train.counts[unk])
    info |= {"unknown_tokens": unknown, "vocab_size": V, "dtype": dtype.str}
    # Of the content, while the fingerprint is of where it came from: a copied file has a new time.
    both = "".join(content_digest(stream.path) for stream in streams) + hash_tokenizer(tokenizer)
    info["digest"] = hashlib.sha256(both.encode()).hexdigest()[:16]
    return info | compute_unigram_baseline(train.counts, val.counts, special)


class _Stream:
    """The file of a split while it is written: documents with a separator between two of them."""

    def __init__(self, path: Path, dtype: np.dtype, V: int, sep: int):
        self.path, self.dtype, self.sep = path, dtype, sep
        self.counts = np.zeros(V, dtype=np.int64)  # of each token, separators included
        self.ends = array("q")  # one past the last token of each document
        self.waiting: list[np.ndarray] = []
        path.touch()

    def add(self, ids: np.ndarray) -> None:
        """One more document of at least one token."""
        start = 0
        if self.ends:
            start = self.ends[-1] + 1
            self.waiting.append(np.array([self.sep]))
        self.waiting.append(ids)
        self.ends.append(start + len(ids))

    def write(self) -> int:
        """Append what was added; returns the tokens that the file has now."""
        stream = np.concatenate([np.empty(0, dtype=np.int64), *self.waiting])
        self.waiting = []
        self.counts += np.bincount(stream, minlength=len(self.counts))
        with self.path.open("ab") as file:
            file.write(stream.astype(self.dtype).tobytes())
        return int(self.counts.sum())

    def keep(self, wanted: np.ndarray) -> None:
        """Write the file again with some of its documents, wanted (K,) bool."""
        whole = self.path.rename(self.path.with_suffix(".all"))
        tokens = np.memmap(whole, dtype=self.dtype, mode="r")
        starts, ends = [0, *(end + 1 for end in self.ends[:-1])], self.ends
        self.ends = array("q")
        self.counts[:] = 0
        self.path.touch()
        for number in np.flatnonzero(wanted):
            self.add(tokens[starts[number] : ends[number]])
            if len(self.waiting) > 10_000:
                self.write()
        self.write()
        whole.unlink()


def _drop_copies(val: "_Stream", copies: np.ndarray) -> dict:
    """Leave out held-out documents (K,) that are near-copies of training text.

    Where hardly any other is left, the text is of that kind: all stay, and the summary says so.
    """
    sizes = np.diff([0, *val.ends])
    dropped = bool(copies.any() and sizes[~copies].sum() >= LEAST * sizes.sum())
    if dropped:
        val.keep(~copies)
    return {"near_copies": int(copies.sum()), "near_copies_dropped": dropped}


def compute_unigram_baseline(train: np.ndarray, val: np.ndarray, special: np.ndarray) -> dict:
    """What word frequencies alone score: the plateau that training has to leave.

    train, val: token counts (V,); special: (V,) bool, left out. Cross-entropy in nats per token of
    validation (of training without one) under add-one smoothed training frequencies, and the share
    of the most frequent training token. None where every token is special.
    """
    train, val = train[~special], val[~special]
    scored = val if val.sum() else train
    if not scored.sum():
        return {"unigram_ce": None, "unigram_accuracy": None}
    logp = np.log((train + 1) / (train.sum() + len(train)))
    share = scored / scored.sum()
    return {
        "unigram_ce": float(-(share * logp).sum()),
        "unigram_accuracy": float(share[train.argmax()]),
    }


def open_corpus(folder: Path, tokenizer) -> Corpus | None:
    """Open a corpus folder; None when it is absent, or its files are not those that were built."""
    from transformers import PreTrainedTokenizerFast

    info = read_sealed(folder / "info.json")
    if info is None or not all(_is_whole(folder / f, d) for f, d in info["files"].items()):
        return None
    streams = [
        np.memmap(folder / f"{split}.bin", dtype=info["dtype"], mode="r")
        if info[f"{split}_tokens"]
        else np.empty(0, dtype=info["dtype"])  # an empty file cannot be mapped
        for split in ("train", "val")
    ]
    if tokenizer is None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Corpus(folder, tokenizer, *streams, info)


def _is_whole(path: Path, digest: str) -> bool:
    """Whether a file has the content of this digest; read once in a process unless it changed."""
    try:
        stat = path.stat()
        return _compute_digest(path, stat.st_size, stat.st_ctime_ns, stat.st_ino) == digest
    except OSError:
        return False


@lru_cache(maxsize=64)
def _compute_digest(path: Path, *version: int) -> str:
    return content_digest(path)


def _check_length(info: dict, name: str, data: DataConfig) -> None:
    found, needed, held = info["train_tokens"], data.length - 2, info["val_tokens"]
    if found < needed:
        more = f" ({held} more are held out: data.val_fraction=0 trains on all)" if held else ""
        raise BortError(
            f"{name}: {found} tokens for training{more}, one sequence of data.length={data.length} "
            f"needs {needed}; give more text or a smaller data.length"
        )
    if info["unigram_ce"] is None:
        raise BortError(f"{name}: every token is unknown to the tokenizer; use another one")


# ------------------------------------------------------------------------------------ progress


def _describe(corpus: Corpus, data: DataConfig) -> Iterator[str]:
    info, documents = corpus.info, counted(corpus.info["documents"], "document")
    yield (
        f"corpus: {documents} ({info['duplicates']:,} duplicates dropped), "
        f"{info['train_tokens']:,} tokens for training and {info['val_tokens']:,} for validation, "
        f"vocabulary {info['vocab_size']:,}, in {corpus.folder}"
    )
    if info["near_copies_dropped"]:
        yield f"corpus: {info['near_copies']:,} near-copies of training text left out of validation"
    elif info["near_copies"]:
        yield (
            f"corpus: {info['near_copies']:,} of {info['val_documents']:,} documents held out are "
            "near-copies of training text and stay, as few are not: val/loss is too good"
        )
    unknown = info["unknown_tokens"] / info["train_tokens"]
    if unknown > 0.01:
        yield f"corpus: {unknown:.0%} of the tokens are unknown to the tokenizer"
    if not count_sequences(corpus.val, data.length):
        yield (
            f"corpus: no validation: {info['val_tokens']:,} tokens are held out, one sequence "
            f"needs {data.length - 2}; a larger data.val_fraction holds out more"
        )


def make_encoding_progress(total: int, tick: Callable) -> Callable[[int, int], None]:
    """`progress(tokens so far, further bytes of the source)`; total: its bytes, 0 when unknown."""
    start, done = time.monotonic(), 0
    tick("corpus: encoding…", now=True)

    def progress(tokens: int, size: int) -> None:
        nonlocal done
        done += size
        seconds = max(1e-9, time.monotonic() - start)
        whole = f" of {tokens * total / done / 1e6:.1f}" if total else ""
        left = f", {seconds * (total - done) / done:.0f} s left" if total else ""
        speed = f"{tokens / seconds / 1e6:.1f} M tokens/s"
        tick(f"corpus: encoded {tokens / 1e6:.1f}{whole} M tokens, {speed}{left}")

    return progress
