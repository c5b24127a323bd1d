"""A pack for benchmarks/gpu.py: text as token ids and rows of tasks in 64 MiB, and its opening.

Token ids are 16-bit numbers, compressed as raw LZMA2 (lc 0, lp 1, pb 1): 1.03 bytes a token. A
pack has the folders' files of three kinds in `rest.tar.xz` (the corpus without its streams, rows of
GLUE, pairs of BLiMP), the streams in pieces that are opened in parallel, and `pack.json`.
"""

import json
import logging
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bort.console import Progress, data_size
from bort.errors import BortError
from bort.files.digests import hash_file, write_sealed
from bort.files.writing import replace_file, write_json

logger = logging.getLogger("bort.packing")

TASKS = ["glue/sst2", "glue/stsb", "glue/mrpc", "glue/rte", "glue/cola"]
TEXTS = "imdb,wiki,news,books"  # not school: its passages are those of RACE
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**27, "lc": 0, "lp": 1, "pb": 1}]
PIECE = 2**23  # tokens; pieces are opened in parallel, and cost 1% more than one stream
HELD_OUT = 2**20  # tokens for validation
MOST_BYTES = 60 * 2**20  # of a pack, so that packages fit beside it into 64 MiB
# Training tokens are cut to whole batches of this many sequences of this length: the last batch of
# an epoch would otherwise be another shape, which a compiler would compile anew.
ROWS, LENGTH = 1024, 128
BLIMP = Path("blimp") / "blimp.jsonl.xz"


@dataclass(frozen=True)
class PackSizes:
    """How much a pack holds; limit: documents of each text and rows of each task, None for all."""

    tokens: int = 55_000_000
    vocab_size: int = 16_384
    limit: int | None = None


def write_pack(data: Path, out: Path, work: Path, sizes: PackSizes, texts: str = TEXTS) -> None:
    """Make a pack of the text, the tasks and the pairs below `data` in the folder `out`.

    work: a folder for what it takes meanwhile, some hundred MB. Raises BortError if something is
    missing, or if the pack is larger than MOST_BYTES.
    """
    # Only here: opening a pack needs none of it, and should not wait for torch.
    from bort.config.data import DataConfig
    from bort.pretraining.corpus import build_corpus
    from bort.pretraining.encoding import sample_text
    from bort.text.sources import open_text

    text = work / "text"
    for name in texts.split(","):
        copy_documents(data / "text" / f"{name}.jsonl.xz", text / f"{name}.jsonl", sizes.limit)
    tick = Progress(logger, every_s=10.0).tell
    settings = DataConfig("text", str(text), vocab_size=sizes.vocab_size, val_fraction=0.03)
    tokenizer = train_wordpiece(sample_text(open_text(settings), settings, tick), sizes)
    built = build_corpus(settings, work / "cache", tokenizer)
    rest = work / "rest"
    shutil.rmtree(rest, ignore_errors=True)
    streams = cut_corpus(built, rest / "corpus", sizes.tokens)
    for name in TASKS:
        copy_rows(data / "glue", rest / "glue", name, sizes.limit)
    copy_documents(data / BLIMP, rest / BLIMP.with_suffix(""), sizes.limit)
    out.mkdir(parents=True, exist_ok=True)
    pieces = [piece for split, ids in streams.items() for piece in write_pieces(ids, split, out)]
    with replace_file(out / "rest.tar.xz") as file:
        with tarfile.open(fileobj=file, mode="w:xz", preset=9) as archive:
            archive.add(rest, ".")
    write_json(out / "pack.json", {"pieces": pieces})
    size = sum(path.stat().st_size for path in out.iterdir())
    tokens = {split: f"{len(ids):,}" for split, ids in streams.items()}
    tick(f"{out}: {data_size(size)}, tokens {tokens}", now=True)
    if size > MOST_BYTES:
        raise BortError(f"{out} takes {data_size(size)}; give fewer tokens=")


def copy_documents(source: Path, target: Path, limit: int | None) -> None:
    """Write the lines of a compressed file, or the first of them, to a plain one."""
    if not source.is_file():
        raise BortError(f"{source} is not there; data= must name a folder with text/ and blimp/")
    target.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(source) as lines, replace_file(target) as file:
        if limit is None:
            shutil.copyfileobj(lines, file, 2**20)
        else:
            file.writelines(islice(lines, limit))


def copy_rows(source: Path, target: Path, name: str, limit: int | None) -> None:
    """Copy the training and validation files of a task, or the first rows of them."""
    from bort.tasks.registry import find_task

    task = find_task(name)
    for split in ("train", "val"):
        path = Path(task.folders[0]) / task.splits[split].files[0]
        if not (source / path).is_file():
            raise BortError(f"{source / path} is not there; data= must name a folder with glue/")
        lines = (source / path).read_bytes().splitlines(keepends=True)
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"".join(lines[:limit]))


def train_wordpiece(texts: Iterator[str], sizes: PackSizes):
    """Train a lower-casing WordPiece tokenizer, as BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(
        vocab_size=sizes.vocab_size,
        special_tokens=SPECIALS,
        limit_alphabet=500,  # rarer characters become [UNK]
        show_progress=False,
    )
    # All of them first, since the trainer's threads spin while they wait for a text.
    backend.train_from_iterator(list(texts), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"),
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def cut_corpus(built: Any, folder: Path, tokens: int) -> dict[str, np.ndarray]:
    """Write the files of a shorter corpus into a folder, but its streams; return the streams.

    built: a `bort.pretraining.corpus.Corpus`, whose training text is cut to whole batches. Raises
    BortError where ids need more than 16 bits.
    """
    from bort.pretraining.corpus import compute_unigram_baseline
    from bort.text.tokenizer import mark_special_ids

    if built.info.vocab_size > 2**16:
        raise BortError(f"{built.info.vocab_size:,} words do not fit into 16 bits")
    step = (LENGTH - 2) * ROWS  # a sequence has two special tokens of its own
    count = min(tokens, len(built.train))
    train = np.array(built.train[: count - count % step if count > step else count])
    streams = {"train": train, "val": np.array(built.val[:HELD_OUT])}
    folder.mkdir(parents=True)
    digests = {}
    for name in built.info.files:
        if not name.endswith(".bin"):
            shutil.copy(built.folder / name, folder / name)
            digests[name] = hash_file(folder / name)
    for split, ids in streams.items():
        path = folder / f"{split}.bin"
        ids.tofile(path)
        digests[path.name] = hash_file(path)
        path.unlink()
    special = mark_special_ids(built.tokenizer)
    counts = [np.bincount(ids, minlength=len(special)) for ids in streams.values()]
    separator, unknown = built.tokenizer.sep_token_id, built.tokenizer.unk_token_id
    documents = [int(words[separator]) + 1 for words in counts]
    unigram_ce, unigram_accuracy = compute_unigram_baseline(*counts, special)
    info = replace(
        built.info,
        documents=sum(documents),
        train_documents=documents[0],
        val_documents=documents[1],
        train_tokens=len(streams["train"]),
        val_tokens=len(streams["val"]),
        unknown_tokens=int(counts[0][unknown]),
        unigram_ce=unigram_ce,
        unigram_accuracy=unigram_accuracy,
        digest=digests["train.bin"][:16],
        files=digests,
    )
    write_sealed(folder / "info.json", info.to_json())
    return streams


def write_pieces(ids: np.ndarray, split: str, out: Path) -> Iterator[dict]:
    """Compress a stream into files of PIECE tokens; yield what pack.json says of each."""
    for number, start in enumerate(range(0, len(ids), PIECE)):
        piece = ids[start : start + PIECE]
        name = f"{split}_{number:02}.lzma"
        content = lzma.compress(piece.astype("<u2").tobytes(), lzma.FORMAT_RAW, filters=FILTERS)
        with replace_file(out / name) as file:
            file.write(content)
        logger.info(f"{name}: {len(content) / max(1, len(piece)):.3f} bytes a token")
        yield {"file": name, "split": split, "tokens": len(piece)}


# ------------------------------------------------------------------------------------ opening


def open_pack(pack: Path, folder: Path) -> None:
    """Write what a pack holds into a folder: corpus/, glue/ and blimp/.

    Raises BortError if it is no pack, or not whole.
    """
    try:
        pieces = json.loads((pack / "pack.json").read_bytes())["pieces"]
    except (OSError, ValueError, KeyError) as error:
        raise BortError(f"{pack} is no whole pack ({error}); make it again by pack") from None
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    with tarfile.open(pack / "rest.tar.xz") as archive:
        archive.extractall(temporary, filter="data")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        contents = pool.map(lambda piece: read_piece(pack / piece["file"]), pieces)
        for piece, content in zip(pieces, contents, strict=True):
            if len(content) != 2 * piece["tokens"]:
                raise BortError(f"{pack / piece['file']} is not whole; bring it again")
            with (temporary / "corpus" / f"{piece['split']}.bin").open("ab") as file:
                file.write(content)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def read_piece(path: Path) -> bytes:
    """Read the bytes of a piece of a stream."""
    try:
        return lzma.decompress(path.read_bytes(), lzma.FORMAT_RAW, filters=FILTERS)
    except (OSError, lzma.LZMAError) as error:
        raise BortError(f"{path} is not whole ({error}); bring it again") from None
