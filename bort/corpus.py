"""Documents in, memory-mapped token streams out: what pre-training reads.

Letters: V vocabulary, B sequences, L tokens of a sequence with its first and last special token.
Everything streams: memory holds one chunk, the longest document, 8 bytes per distinct document.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bort.config import Data
from bort.documents import Source, docstring_source, text_source
from bort.errors import BortError
from bort.files import sync_folder
from bort.tokenizer import (
    CHUNK,
    encode,
    pieces,
    special_ids,
    text_encoder,
    tokenizer_digest,
    train_tokenizer,
)

VERSION = 1  # part of every fingerprint: raise it when the same text would give other streams

SAMPLE = 40_000_000  # characters that a tokenizer is trained on
RECENT = 1_000_000  # hashes in a Python set, about 90 bytes each; older ones take 8


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


def build(
    data: Data, cache: Path, tokenizer=None, say: Callable = print, interval: float = 10.0
) -> Corpus:
    """Open the corpus of `data` from the folder `cache`, after building it when it is not there.

    tokenizer: a fast transformers tokenizer (a teacher's), or None to train a byte-level BPE of
    `data.vocab_size`. say: receives one line per stage, and one per `interval` seconds.
    Raises BortError for text that is missing, unreadable or too short for one training sequence.
    """
    tick = _paced(say, interval)
    try:
        source = docstring_source(tick) if data.source == "docstrings" else text_source(data)
        identity = {
            "version": VERSION,
            "source": source.identity,
            "val_fraction": data.val_fraction,
            "tokenizer": tokenizer_digest(tokenizer) if tokenizer else f"bpe {data.vocab_size}",
        }
        fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(cache) / "corpora" / fingerprint
        corpus = _open(folder, tokenizer)
        if corpus is None:
            _build(source, data, folder, tokenizer, tick)
            corpus = _open(folder, tokenizer)
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or cache}"
        raise BortError(f"corpus: {reason}; mend that or use another folder") from error
    _check_length(corpus.info, source.name, data)
    for line in _summary(corpus, data):
        tick(line, now=True)
    return corpus


def sequences(stream: np.ndarray, length: int) -> int:
    """How many whole sequences of `length` tokens, two of them special, a stream holds."""
    return len(stream) // (length - 2)


def pack(stream: np.ndarray, rows: np.ndarray, length: int, bos: int, sep: int) -> np.ndarray:
    """Sequences `rows` of a stream as int64 ids (B, L): bos, L − 2 tokens of the stream, sep."""
    body = length - 2
    table = stream[: sequences(stream, length) * body].reshape(-1, body)
    ids = np.empty((len(rows), length), dtype=np.int64)
    ids[:, 0], ids[:, -1] = bos, sep
    ids[:, 1:-1] = table[rows]
    return ids


# ------------------------------------------------------------------------------------ documents


class Seen:
    """A set of 64-bit hashes that holds hundreds of millions in memory."""

    def __init__(self):
        self.recent: set[int] = set()
        self.sorted = np.empty(0, dtype=np.uint64)

    def add(self, key: int) -> bool:
        """Add a hash; True when it is new."""
        place = self.sorted.searchsorted(np.uint64(key))
        if key in self.recent or (place < len(self.sorted) and self.sorted[place] == key):
            return False
        self.recent.add(key)
        if len(self.recent) >= RECENT:
            recent = np.sort(np.fromiter(self.recent, dtype=np.uint64))
            self.sorted = np.sort(np.concatenate([self.sorted, recent]), kind="stable")
            self.recent.clear()
        return True


def document_key(text: str) -> int:
    """64-bit hash of the stripped text: decides what is a duplicate and in which split it is."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little")


def held_out(key: int, val_fraction: float) -> bool:
    """Whether a document is for validation: a function of its own text alone."""
    return key / 2**64 < val_fraction


def _sample(source: Source, data: Data, tick: Callable) -> Iterator[str]:
    """About SAMPLE characters of distinct training documents, spread evenly over the source."""
    share = min(1.0, SAMPLE / source.size) if source.size else 1.0
    seen, taken, passed = Seen(), 0, 0
    for text, _ in source.read():
        key = document_key(text)
        if held_out(key, data.val_fraction) or not seen.add(key):
            continue
        for piece in pieces(text):  # pieces: the source may be one document, a book
            if taken <= share * passed:
                taken += len(piece)
                yield piece
            passed += len(piece)
        if taken >= SAMPLE:
            break
        tick(f"corpus: {taken / 1e6:,.3g} MB of text read for the tokenizer…")
    tick(f"corpus: training a tokenizer on {taken / 1e6:,.3g} MB of text…", now=True)


def _chunks(texts: Iterable, counts: dict) -> Iterator[tuple[list[tuple[int, str]], int]]:
    """Lists of distinct documents with their hashes, and the bytes of the source read for each."""
    seen, chunk, held, size = Seen(), [], 0, 0
    for text, taken in texts:
        size += taken
        if not text.strip():
            continue
        key = document_key(text)
        if not seen.add(key):
            counts["duplicates"] += 1
            continue
        chunk.append((key, text))
        held += len(text)
        if held >= CHUNK:
            yield chunk, size
            chunk, held, size = [], 0, 0
    if chunk:
        yield chunk, size


# ------------------------------------------------------------------------------------ the folder


def _build(source: Source, data: Data, folder: Path, tokenizer, tick: Callable) -> None:
    """Build under a temporary name; the whole folder appears by one rename."""
    _remove_abandoned(folder)
    name = f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}@{platform.node()}"
    temporary = folder.parent / name
    temporary.mkdir(parents=True)
    try:
        if tokenizer is None:
            tokenizer = train_tokenizer(_sample(source, data, tick), data.vocab_size)
        tokenizer.save_pretrained(temporary)
        info = _write_streams(source, data, temporary, tokenizer, tick)
        _check_length(info, source.name, data)
        if "files" in source.identity and text_source(data).identity != source.identity:
            raise BortError(f"{source.name}: the text changed while it was read; run it again")
        info["fingerprint"], info["source"] = folder.name, source.name
        info["packages"] = source.identity.get("packages", {})
        info["files"] = {f.name: f.stat().st_size for f in temporary.iterdir() if f.is_file()}
        (temporary / "info.json").write_text(json.dumps(info, indent=1))
        for path in [*temporary.iterdir(), temporary]:
            sync_folder(path)
        if folder.exists() and _open(folder, tokenizer) is None:  # a file is missing or cut
            broken = temporary.with_name(f"{temporary.name}-broken")
            folder.rename(broken)
            shutil.rmtree(broken)
        try:
            temporary.rename(folder)
        except OSError:  # another process may have built the same corpus meanwhile: use that
            if _open(folder, tokenizer) is None:
                raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Drop what processes that were killed while they built this corpus have left."""
    # of this machine: on a shared disk, process numbers of another say nothing
    for old in folder.parent.glob(f".{folder.name}-*@{platform.node()}*"):
        try:
            os.kill(int(old.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue  # alive, of another user


def _write_streams(source: Source, data: Data, folder: Path, tokenizer, tick: Callable) -> dict:
    """Write train.bin and val.bin; returns counts and the unigram baseline."""
    encoder, special = text_encoder(tokenizer), special_ids(tokenizer)
    V, unk, sep = len(special), tokenizer.unk_token_id, np.array([tokenizer.sep_token_id])
    dtype = np.dtype("<u2" if V <= 65_536 else "<u4")
    info = {"documents": 0, "train_documents": 0, "val_documents": 0, "duplicates": 0}
    tokens = {split: np.zeros(V, dtype=np.int64) for split in ("train", "val")}
    digest = {split: hashlib.sha256() for split in tokens}
    texts = source.read()
    progress = _encoding_progress(source.size, tick)  # after docstrings have been read
    with (folder / "train.bin").open("wb") as train, (folder / "val.bin").open("wb") as val:
        for chunk, size in _chunks(texts, info):
            parts: dict[str, list] = {"train": [], "val": []}
            for (key, _), ids in zip(chunk, encode(encoder, [t for _, t in chunk]), strict=True):
                if not len(ids):
                    continue  # nothing but characters that the tokenizer drops
                if unk is not None:  # some vocabularies (SentencePiece) hold "<s>" as a word too
                    ids[special[ids]] = unk
                split = "val" if held_out(key, data.val_fraction) else "train"
                parts[split] += [sep, ids] if info[f"{split}_documents"] else [ids]
                info[f"{split}_documents"] += 1
            for split, file in (("train", train), ("val", val)):
                stream = np.concatenate([np.empty(0, dtype=np.int64), *parts[split]])
                tokens[split] += np.bincount(stream, minlength=V)
                content = stream.astype(dtype).tobytes()
                digest[split].update(content)
                file.write(content)
            progress(int(tokens["train"].sum() + tokens["val"].sum()), size)
    info["documents"] = info["train_documents"] + info["val_documents"]
    if not info["documents"]:
        raise BortError(f"{source.name}: no text in it; nothing but blank documents")
    info |= {f"{split}_tokens": int(count.sum()) for split, count in tokens.items()}
    unknown = 0 if unk is None else int(tokens["train"][unk])
    info |= {"unknown_tokens": unknown, "vocab_size": V, "dtype": dtype.str}
    # Of the content, while the fingerprint is of where it came from: a copied file has a new time.
    both = "".join(part.hexdigest() for part in digest.values()) + tokenizer_digest(tokenizer)
    info["digest"] = hashlib.sha256(both.encode()).hexdigest()[:16]
    return info | unigram_baseline(tokens["train"], tokens["val"], special)


def unigram_baseline(train: np.ndarray, val: np.ndarray, special: np.ndarray) -> dict:
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


def _open(folder: Path, tokenizer) -> Corpus | None:
    """Open a corpus folder; None when it is absent, or not whole by the sizes in its info.json."""
    from transformers import PreTrainedTokenizerFast

    try:
        info = json.loads((folder / "info.json").read_text())
        sizes = info["files"].items()
        if not info["digest"] or any((folder / f).stat().st_size != size for f, size in sizes):
            return None
    except (OSError, ValueError, KeyError):
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


def _check_length(info: dict, name: str, data: Data) -> None:
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


def _summary(corpus: Corpus, data: Data) -> Iterator[str]:
    info = corpus.info
    yield (
        f"corpus: {info['documents']:,} documents ({info['duplicates']:,} duplicates dropped), "
        f"{info['train_tokens']:,} tokens for training and {info['val_tokens']:,} for validation, "
        f"vocabulary {info['vocab_size']:,}, in {corpus.folder}"
    )
    unknown = info["unknown_tokens"] / info["train_tokens"]
    if unknown > 0.01:
        yield f"corpus: {unknown:.0%} of the tokens are unknown to the tokenizer"
    if not sequences(corpus.val, data.length):
        yield (
            f"corpus: no validation: {info['val_tokens']:,} tokens are held out, one sequence "
            f"needs {data.length - 2}; a larger data.val_fraction holds out more"
        )


def _paced(say: Callable[[str], None], interval: float) -> Callable:
    """`tick(line, now=False)` says lines that open a stage, others once in `interval` seconds."""
    last = time.monotonic()

    def tick(line: str, now: bool = False) -> None:
        nonlocal last
        if now or time.monotonic() - last >= interval:
            last = time.monotonic()
            say(line)

    return tick


def _encoding_progress(total: int, tick: Callable) -> Callable[[int, int], None]:
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
