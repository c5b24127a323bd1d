"""The embedded corpus and the user's text: documents in, memory-mapped token streams out.

Letters: V vocabulary, B sequences, L tokens of a sequence with its first and last special token.
Everything streams: memory holds one chunk, the longest document, 8 bytes per distinct document.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import secrets
import shutil
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bort.cli import cores
from bort.config import Data
from bort.doctor import hub_reachable
from bort.errors import BortError, nearest
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

# Dependencies by the name that is both their distribution's and their import's. Left out: plotly
# (4.7 MB, but lists of properties) and packages with less than 0.3 MB of long docstrings.
PACKAGES = (
    "datasets",
    "huggingface_hub",
    "lightning",
    "mpmath",
    "networkx",
    "numpy",
    "pandas",
    "scipy",
    "sympy",
    "torch",
    "torchmetrics",
    "transformers",
)
SHORTEST = 200  # characters; shorter docstrings mostly repeat a signature in words
SUFFIXES = (".txt", ".md", ".text", ".jsonl", ".parquet")
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


@dataclass
class Source:
    """Where documents come from: `read()` gives each with the bytes that it takes in the source."""

    name: str
    identity: dict  # all that decides the text, for the fingerprint
    size: int  # bytes, 0 while unknown
    read: Callable[[], Iterable[tuple[str, int]]]


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


# ------------------------------------------------------------------------------------ docstrings


def docstring_source(tick: Callable) -> Source:
    """The docstrings of the standard library and of those PACKAGES that are installed."""
    packages = versions(PACKAGES)
    identity = {"python": platform.python_version(), "packages": packages}

    @cache  # the tokenizer and the streams read it: 31 MB are kept rather than parsed again
    def read() -> list[tuple[str, int]]:
        texts = [(text, len(text)) for text in _extract(["python", *packages], tick)]
        source.size = sum(size for _, size in texts)
        return texts

    source = Source("docstrings", identity, 0, read)
    return source


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed, for the name of what is made from them."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _extract(packages: list[str], tick: Callable) -> list[str]:
    """All docstrings of the packages in a fixed order, parsed by one process per core."""
    files = [(name, file) for name in packages for file in python_files(name)]
    documents: list[str] = []
    tick(f"corpus: reading the docstrings of {len(packages)} packages…", now=True)
    # spawn: the caller may hold threads of torch or tokenizers, which a fork would break
    with ProcessPoolExecutor(min(cores(), 32), mp_context=get_context("spawn")) as pool:
        parsed = pool.map(docstrings, [file for _, file in files], chunksize=16)
        for (name, _), found in zip(files, parsed, strict=True):
            tick(f"corpus: reading {name} ({packages.index(name) + 1} of {len(packages)})…")
            documents += found
    return documents


def python_files(package: str) -> list[str]:
    """The package's source files in order, tests left out; found without importing it."""
    if package == "python":
        roots = [sysconfig.get_path("stdlib")]
    else:
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or []) if spec else []
    skipped = {"test", "tests", "testing", "site-packages", "dist-packages", "__pycache__"}
    files = []
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - skipped)
            files += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    return files


def docstrings(file: str) -> list[str]:
    """Cleaned docstrings over 200 characters of one Python file, which is parsed and never run.

    Of `pydoc_data/topics.py` the help texts too. A file that does not parse gives none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, holders)]
    if Path(file).parts[-2:] == ("pydoc_data", "topics.py"):
        values = [v for node in ast.walk(tree) if isinstance(node, ast.Dict) for v in node.values]
        texts += [value.value for value in values if isinstance(value, ast.Constant)]
    return [text for text in texts if text and len(text) > SHORTEST]


# ------------------------------------------------------------------------------------ user's text


def text_source(data: Data) -> Source:
    """The documents of `data.path`: a file, a folder or a data set of the Hugging Face hub."""
    path = Path(data.path).expanduser()
    if not path.exists():
        return _hub_source(data)
    files = _text_files(path)
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = {"files": stats, "sample_by": data.sample_by, "key": data.text}
    readers = {".jsonl": _jsonl, ".parquet": _parquet}

    def read() -> Iterator[tuple[str, int]]:
        for file in files:
            yield from readers.get(file.suffix.lower(), _plain)(file, data)

    return Source(str(path), identity, sum(size for _, size, _ in stats), read)


def _text_files(path: Path) -> list[Path]:
    def stop(error: OSError):  # a folder that cannot be entered: text would be missing silently
        raise error

    kinds = ", ".join(SUFFIXES)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise BortError(f"data.path={path}: not a kind of file that is read here; use {kinds}")
        return [path]
    files = []
    for folder, folders, names in os.walk(path, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        files += [Path(folder, name) for name in names if name.lower().endswith(SUFFIXES)]
    if not files:
        raise BortError(f"data.path={path}: no text in it; put {kinds} files there")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _lines(file: Path) -> Iterator[tuple[str, int]]:
    """Lines and their bytes. Only \\n and \\r\\n end one; str.splitlines cuts at eight more."""
    offset = 0
    with file.open("rb") as stream:
        for raw in stream:
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                where = offset + error.start
                raise BortError(f"{file}: not UTF-8 at byte {where}; convert the file") from error
            if not offset:
                line = line.removeprefix("\ufeff")  # a byte-order mark belongs to no text
            offset += len(raw)
            yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n"), len(raw)


def _plain(file: Path, data: Data) -> Iterator[tuple[str, int]]:
    if data.sample_by == "line":
        yield from _lines(file)
        return
    lines, size = [], 0
    for line, raw in _lines(file):
        size += raw
        if data.sample_by == "file" or line.strip(" \t"):
            lines.append(line)
        else:  # a blank line ends a paragraph
            yield "\n".join(lines), size
            lines, size = [], 0
    yield "\n".join(lines), size


def _jsonl(file: Path, data: Data) -> Iterator[tuple[str, int]]:
    for number, (line, size) in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BortError(f"{where}: not JSON ({error}); mend or drop the line") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise BortError(f"{where}: a {kind}, not an object {{…}}; mend or drop the line")
        yield _text(row, where, data), size


def _parquet(file: Path, data: Data) -> Iterator[tuple[str, int]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise BortError(f"{file}: not a whole parquet file; make it again") from error
    _check_key(table.schema_arrow.names, str(file), data)
    size = file.stat().st_size / max(1, table.metadata.num_rows)
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=[data.text]):
        for row in batch.to_pylist():
            number += 1
            yield _text(row, f"{file}, row {number}", data), size


def _check_key(known: Iterable[str], where: str, data: Data) -> None:
    known = list(known)
    if data.text not in known:
        has = ", ".join(known) or "none"
        hint = nearest(data.text, known)
        raise BortError(f"{where}: no key '{data.text}' (it has {has}); set data.text{hint}")


def _text(row: dict, where: str, data: Data) -> str:
    _check_key(row, where, data)
    text = row[data.text]
    if not isinstance(text, str):
        kind = "null" if text is None else f"a {type(text).__name__}"
        raise BortError(f"{where}: '{data.text}' is {kind}, not text; mend or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise BortError(f"{where}: '{data.text}' has half a character; mend it") from error
    return text


def _hub_source(data: Data) -> Source:
    name, _, subset = data.path.partition(":")
    path = Path(data.path).expanduser()
    hub_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not name.lower().endswith(SUFFIXES)
    if not hub_name or path.parent.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) or "; give a file, a folder or a hub name (owner/name)"
        raise BortError(f"data.path={data.path}: no such file or folder{hint}")

    def read() -> Iterator[tuple[str, int]]:
        if not hub_reachable():
            raise BortError(
                f"data.path={data.path}: no such file or folder here, and the Hugging Face hub "
                "cannot be reached; check the path or the network"
            )
        import datasets

        try:
            rows = datasets.load_dataset(name, subset or None, split="train", streaming=True)
        except Exception as error:  # the hub's client has no common class for its refusals
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BortError(f"data.path={data.path}: the hub answers: {reason}") from error
        for number, row in enumerate(rows, start=1):
            yield _text(row, f"{data.path}, row {number}", data), 0

    return Source(data.path, {"hub": data.path, "key": data.text}, 0, read)


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
