"""The corpus: documents are tokenized into memory-mapped streams, which pre-training reads.

Letter: V vocabulary. Documents are read one after another: memory holds one chunk, the longest
document, 16 bytes per distinct document, and the runs of words by which near-copies are found (at
most `copies.ROOM`).
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bort.config.data import DataConfig
from bort.console import Progress, counted
from bort.errors import BortError
from bort.files import ownership
from bort.files.digests import hash_file, read_sealed, write_sealed
from bort.files.writing import swap_folder, sync_folder
from bort.models.tokenizer_folder import save_tokenizer
from bort.pretraining.encoding import (
    FULL,
    DocumentCounts,
    choose_dtype,
    drop_copies,
    encode_documents,
    open_stream,
    sample_text,
)
from bort.text.copies import SHARE, Overlap
from bort.text.docstrings import make_docstring_source
from bort.text.sources import Source, open_text
from bort.text.token_stream import count_sequences, locate_documents
from bort.text.tokenizer import (
    CHUNK,
    hash_tokenizer,
    mark_special_ids,
    train_tokenizer,
)
from bort.text.trimming import trim_tokenizer

logger = logging.getLogger(__name__)

VERSION = 3  # part of every fingerprint: raise it when the same text would give other streams

SPLITS = ("train", "val")


@dataclass(frozen=True)
class CorpusInfo:
    """The counts, the baseline and the digests of a corpus, as kept in its `info.json`."""

    documents: int  # distinct ones that are not blank
    duplicates: int  # exact copies, which were dropped
    near_copies: int  # held-out documents that nearly repeat training text
    near_copies_dropped: bool
    train_documents: int
    train_tokens: int
    val_documents: int
    val_tokens: int
    unknown_tokens: int  # among the training tokens
    vocab_size: int
    dtype: str  # of the token files, as NumPy spells it
    digest: str  # of the tokens and the tokenizer
    unigram_ce: float | None  # see `compute_unigram_baseline`
    unigram_accuracy: float | None
    full_vocab_size: int = 0  # of the tokenizer whose vocabulary was trimmed; 0: it was not
    full_val_tokens: int = 0  # of the held-out text as that tokenizer cuts it
    fingerprint: str = ""  # of the source and the settings; it is the name of the folder
    source: str = ""
    packages: dict[str, str] = field(default_factory=dict)  # versions, for docstrings
    files: dict[str, str] = field(default_factory=dict)  # the digest of each file

    def border_share(self, split: str) -> float:
        """Return the share of a split's tokens that separate documents."""
        if split == "train":
            return max(0, self.train_documents - 1) / max(1, self.train_tokens)
        return max(0, self.val_documents - 1) / max(1, self.val_tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `info.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CorpusInfo":
        """Read the content of `info.json`."""
        return cls(**content)


@dataclass
class Corpus:
    """A tokenized corpus: `train` and `val` are one-dimensional streams of ids, memory-mapped.

    A stream holds the documents of its split, with one separator (`</s>`, `[SEP]`) between two.
    full_tokenizer: the one that `tokenizer` was trimmed from, where it was and where it is known.
    """

    folder: Path
    tokenizer: Any  # a fast transformers tokenizer
    train: np.ndarray
    val: np.ndarray
    info: CorpusInfo
    full_tokenizer: Any = None

    def count_sequences(self, split: str, data: DataConfig) -> int:
        """Count the sequences of a split: whole ones of packed text, otherwise its documents."""
        if data.packing:
            return count_sequences(getattr(self, split), data.length)
        return len(self.locate_documents(split)) - 1

    def locate_documents(self, split: str) -> np.ndarray:
        """Find the bounds (K + 1,) of the documents of a split; see `token_stream`."""
        return locate_documents(getattr(self, split), self.tokenizer.sep_token_id)

    def measure_gaps(self, split: str, data: DataConfig) -> tuple[float, float]:
        """Measure what of the room for words in the sequences of a split holds none.

        Returns two shares of the data.length - 2 places of a sequence: of separators between
        documents, and of padding. One of them is 0.
        """
        if data.packing:
            return self.info.border_share(split), 0.0
        sizes = np.diff(self.locate_documents(split)) - 1
        room = data.length - 2
        return 0.0, 1 - float(np.minimum(sizes, room).mean()) / room if len(sizes) else 0.0


def build_corpus(data: DataConfig, cache: Path, tokenizer=None, interval: float = 10.0) -> Corpus:
    """Open the corpus of `data` in the folder `cache`; build it first if it is not there.

    tokenizer: a fast transformers tokenizer (a teacher's), which is trimmed to `data.vocab_size`
    where that is less than it has, or None to train a byte-level BPE of that size. Logs one line
    per stage, and within a stage one every `interval` seconds.
    Raises BortError for text that is missing, unreadable or too short for one training sequence.
    """
    if tokenizer is None:
        data.check_bpe_size()
    tick = Progress(logger, every_s=interval).tell
    with _explain_refusals(cache):
        source, folder = _locate(data, cache, tokenizer, tick)
        if source.note:
            tick(f"corpus: {source.note}", now=True)
        fixed = None if is_trimmed(data, tokenizer) else tokenizer  # else it is in the folder
        corpus = open_corpus(folder, fixed)
        if corpus is None:
            if folder.exists():
                tick(f"corpus: {folder} is damaged or incomplete; it is built again", now=True)
            write_corpus(source, data, folder, tokenizer, tick)
            corpus = open_corpus(folder, fixed)
    _check_length(corpus.info, source.name, data)
    for line in _describe(corpus, data):
        tick(line, now=True)
    return corpus if fixed is not None else replace(corpus, full_tokenizer=tokenizer)


def find_corpus(data: DataConfig, cache: Path, tokenizer=None) -> Corpus | None:
    """Open the corpus of `data`, or return None if it has not been built yet.

    Raises BortError for wrong text, as `build_corpus` does.
    """
    with _explain_refusals(cache):
        _, folder = _locate(data, cache, tokenizer, lambda *_, **__: None)
        corpus = open_corpus(folder, None if is_trimmed(data, tokenizer) else tokenizer)
    if corpus is not None:
        _check_length(corpus.info, corpus.info.source, data)
    return corpus


def is_trimmed(data: DataConfig, tokenizer: Any) -> bool:
    """Return whether `data` asks for fewer tokens than a tokenizer has; None has yet to be made."""
    size = data.vocab_size
    return tokenizer is not None and size is not None and size < len(tokenizer)


@contextmanager
def _explain_refusals(cache: Path) -> Iterator[None]:
    """Turn an OSError of this block into a BortError of one line."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or cache}"
        raise BortError(f"corpus: {reason}; fix that or use another folder") from error


def _locate(data: DataConfig, cache: Path, tokenizer, tick: Callable) -> tuple[Source, Path]:
    """Return the source of the text of `data`, and the folder of the corpus built from it."""
    source = make_docstring_source(tick) if data.source == "docstrings" else open_text(data)
    name = hash_tokenizer(tokenizer) if tokenizer else f"bpe {data.bpe_size}"
    if is_trimmed(data, tokenizer):
        name += f" trimmed to {data.vocab_size}"
    identity = {
        "version": VERSION,
        "source": source.identity,
        "val_fraction": data.val_fraction,
        "tokenizer": name,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return source, Path(cache) / "corpora" / fingerprint


# ------------------------------------------------------------------------------------ the folder


def write_corpus(source: Source, data: DataConfig, folder: Path, tokenizer, tick: Callable) -> None:
    """Build a corpus under a temporary name and move it to `folder` in one step when complete."""
    ownership.settle(folder.parent)
    temporary = ownership.name_temporary(folder, "new")
    temporary.mkdir(parents=True)
    try:
        full = None
        if tokenizer is None:
            tokenizer = train_tokenizer(sample_text(source, data, tick), data.bpe_size)
        elif is_trimmed(data, tokenizer):
            full, sample = tokenizer, sample_text(source, data, tick, "trimming")
            tokenizer = trim_tokenizer(full, sample, data.vocab_size)
        save_tokenizer(tokenizer, temporary)
        info = write_streams(source, data, temporary, tokenizer, tick, full)
        _check_length(info, source.name, data)
        if "files" in source.identity and open_text(data).identity != source.identity:
            raise BortError(f"{source.name}: the text changed while it was read; run it again")
        files = [path for path in temporary.rglob("*") if path.is_file()]
        info = replace(
            info,
            fingerprint=folder.name,
            source=source.name,
            packages=source.identity.get("packages", {}),
            files={str(path.relative_to(temporary)): hash_file(path) for path in files},
        )
        write_sealed(temporary / "info.json", info.to_json())
        for path in [*temporary.rglob("*"), temporary]:
            sync_folder(path)
        if open_corpus(folder, tokenizer) is None:  # Otherwise another process was faster.
            swap_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_streams(
    source: Source, data: DataConfig, folder: Path, tokenizer, tick: Callable, full: Any = None
) -> CorpusInfo:
    """Write train.bin and val.bin into `folder`; return their counts and the unigram baseline.

    full: the tokenizer that was trimmed, if one was. The held-out text is written as it cuts it,
    too, so that a teacher can be scored on both. Raises BortError if the source holds only blank
    documents.
    """
    special, unk = mark_special_ids(tokenizer), tokenizer.unk_token_id  # (V,) bool; an id or None
    streams = {split: open_stream(folder / f"{split}.bin", tokenizer) for split in SPLITS}
    if full is not None:
        (folder / FULL).mkdir()
        streams[FULL] = open_stream(folder / FULL / "val.bin", full)
    counts, overlap = DocumentCounts(), Overlap()
    encode_documents(source, data, (tokenizer, full), streams, counts, overlap, tick)
    train, val = (streams[split] for split in SPLITS)
    if not counts.documents:
        raise BortError(f"{source.name}: no text in it; nothing but blank documents")
    copies = overlap.shares() > SHARE
    near_copies, are_dropped = drop_copies(val, copies)
    if are_dropped and full is not None:
        streams[FULL].keep(~copies)
    # The digest is of the content; the fingerprint is of the source, and differs for a copied file.
    both = hash_file(train.path) + hash_file(val.path) + hash_tokenizer(tokenizer)
    unigram_ce, unigram_accuracy = compute_unigram_baseline(train.counts, val.counts, special)
    return CorpusInfo(
        documents=counts.documents - (near_copies if are_dropped else 0),
        duplicates=counts.duplicates,
        near_copies=near_copies,
        near_copies_dropped=are_dropped,
        train_documents=len(train.ends),
        train_tokens=int(train.counts.sum()),
        val_documents=len(val.ends),
        val_tokens=int(val.counts.sum()),
        unknown_tokens=0 if unk is None else int(train.counts[unk]),
        vocab_size=len(special),
        dtype=train.dtype.str,
        digest=hashlib.sha256(both.encode()).hexdigest()[:16],
        unigram_ce=unigram_ce,
        unigram_accuracy=unigram_accuracy,
        full_vocab_size=0 if full is None else len(mark_special_ids(full)),
        full_val_tokens=0 if full is None else int(streams[FULL].counts.sum()),
    )


def compute_unigram_baseline(
    train: np.ndarray, val: np.ndarray, special: np.ndarray
) -> tuple[float | None, float | None]:
    """Compute what a model that knows only word frequencies scores; training has to beat it.

    train, val: token counts (V,); special: (V,) bool, ids that are left out. Returns the
    cross-entropy of the validation tokens under add-one smoothed training frequencies, in nats per
    token, and the share of the most frequent training token among them. Both are scored on the
    training tokens if nothing is held out, and are None if every token is special.
    """
    train, val = train[~special], val[~special]
    scored = val if val.sum() else train
    if not scored.sum():
        return None, None
    logp = np.log((train + 1) / (train.sum() + len(train)))
    share = scored / scored.sum()
    return float(-(share * logp).sum()), float(share[train.argmax()])


def measure_unigram(corpus: Corpus, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Compute the same baseline on the true words (N,) of some masked positions."""
    special = mark_special_ids(corpus.tokenizer)
    counts = np.bincount(labels, minlength=len(special))
    train = _count_tokens(corpus.folder / "train.bin", corpus.info.dtype, len(special))
    return compute_unigram_baseline(train, counts, special)


@lru_cache(maxsize=4)
def _count_tokens(path: Path, dtype: str, vocab_size: int) -> np.ndarray:
    """Count each id of a stream: (V,). It takes 0.3 s for 100 M tokens."""
    stream, counts = np.memmap(path, dtype=dtype, mode="r"), np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(stream), CHUNK):
        counts += np.bincount(stream[start : start + CHUNK], minlength=vocab_size)
    return counts


def open_corpus(folder: Path, tokenizer) -> Corpus | None:
    """Open a corpus folder; return None if it is absent or its files are not as they were built."""
    from transformers import PreTrainedTokenizerFast

    content = read_sealed(folder / "info.json")
    if content is None:
        return None
    info = CorpusInfo.from_json(content)
    if not all(_is_whole(folder / name, digest) for name, digest in info.files.items()):
        return None
    streams = []
    for split, size in (("train", info.train_tokens), ("val", info.val_tokens)):
        if size:
            streams.append(np.memmap(folder / f"{split}.bin", dtype=info.dtype, mode="r"))
        else:
            streams.append(np.empty(0, dtype=info.dtype))  # An empty file cannot be mapped.
    if tokenizer is None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Corpus(folder, tokenizer, *streams, info)


def open_full_validation(corpus: Corpus, tokenizer: Any) -> Corpus | None:
    """Open the held-out text of a corpus as the tokenizer cuts it from which its own was trimmed.

    It has no training text. Return None if the tokenizer was not trimmed.
    """
    info, folder = corpus.info, corpus.folder / FULL
    if not info.full_val_tokens:
        return None
    dtype = choose_dtype(info.full_vocab_size)
    val = np.memmap(folder / "val.bin", dtype=dtype, mode="r")
    info = replace(
        info,
        train_tokens=0,
        val_tokens=info.full_val_tokens,
        vocab_size=info.full_vocab_size,
        dtype=dtype.str,
    )
    return Corpus(folder, tokenizer, np.empty(0, dtype=dtype), val, info)


def _is_whole(path: Path, digest: str) -> bool:
    """Return whether a file has this digest; a process reads it again only if it has changed."""
    try:
        stat = path.stat()
        return _compute_digest(path, stat.st_size, stat.st_ctime_ns, stat.st_ino) == digest
    except OSError:
        return False


@lru_cache(maxsize=64)
def _compute_digest(path: Path, *version: int) -> str:
    return hash_file(path)


def _check_length(info: CorpusInfo, name: str, data: DataConfig) -> None:
    tokens, needed, held = info.train_tokens, data.least_tokens, info.val_tokens
    if tokens < needed:
        more = f" ({held} more are held out: data.val_fraction=0 trains on all)" if held else ""
        raise BortError(
            f"{name}: {tokens} tokens for training{more}, one sequence of "
            f"data.length={data.length} needs {needed}; give more text or a smaller data.length"
        )
    if info.unigram_ce is None:
        raise BortError(f"{name}: every token is unknown to the tokenizer; use another one")


# ------------------------------------------------------------------------------------ lines


def _describe(corpus: Corpus, data: DataConfig) -> Iterator[str]:
    info, documents = corpus.info, counted(corpus.info.documents, "document")
    yield (
        f"corpus: {documents} ({info.duplicates:,} duplicates dropped), "
        f"{info.train_tokens:,} tokens for training and {info.val_tokens:,} for validation, "
        f"vocabulary {info.vocab_size:,}, in {corpus.folder}"
    )
    if info.full_val_tokens:
        yield (
            f"corpus: {info.vocab_size:,} of {info.full_vocab_size:,} tokens were taken into the "
            f"vocabulary; they cut held-out text into {info.val_tokens / info.full_val_tokens:.3f} "
            "times as many tokens"
        )
    if info.near_copies_dropped:
        yield f"corpus: {info.near_copies:,} near-copies of training text left out of validation"
    elif info.near_copies:
        yield (
            f"corpus: {info.near_copies:,} of {info.val_documents:,} documents held out are "
            "near-copies of training text and stay, as few are not: val/loss is too good"
        )
    unknown = info.unknown_tokens / info.train_tokens
    if unknown > 0.01:
        yield f"corpus: {unknown:.0%} of the tokens are unknown to the tokenizer"
    if not data.packing:
        sizes = np.diff(corpus.locate_documents("train")) - 1
        cut = sizes > data.length - 2
        left_out = (sizes[cut] - data.length + 2).sum() / sizes.sum()
        yield (
            f"corpus: each document is a sequence; {cut.sum():,} of {len(sizes):,} are cut at "
            f"data.length={data.length}, which leaves out {left_out:.1%} of the tokens"
        )
    if not corpus.count_sequences("val", data):
        yield (
            f"corpus: no validation: {info.val_tokens:,} tokens are held out, one sequence "
            f"needs {data.least_tokens}; a larger data.val_fraction holds out more"
        )
