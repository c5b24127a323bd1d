"""Measure whether test rows or validation text leak into the training text of the embedded corpus.

    python benchmarks/corpus.py leak      # a minute, or two if the corpus has to be built first
    python benchmarks/corpus.py smoke     # the same with a few lines of text; only prints

Writes benchmarks/results/corpus_leak.md.
"""

import time
from collections.abc import Iterable, Iterator

import numpy as np
from parts import Bench, run_parts

from bort.config.data import DataConfig
from bort.files.cache import locate_cache
from bort.pretraining.corpus import Corpus, build_corpus
from bort.tasks.docstrings import read_docstring_task
from bort.text.docstrings import remove_names

RUN = 11


def decode_documents(built: Corpus, split: str) -> Iterator[str]:
    """Decode the documents of a split from its ids."""
    stream = np.array(getattr(built, split))
    for part in np.split(stream, np.flatnonzero(stream == built.tokenizer.sep_token_id)):
        yield built.tokenizer.decode(part[part != built.tokenizer.sep_token_id])


def list_runs(items: list) -> Iterator[tuple]:
    """Collect all runs of RUN neighbours, to be compared themselves rather than by a hash."""
    return zip(*(items[k:] for k in range(RUN)), strict=False)


def format_share(held: Iterable[list], training: Iterable[list]) -> str:
    """Return the share of distinct runs in held-out lists that occur in training lists, too."""
    tested = {run for items in held for run in list_runs(items)}
    common = {run for items in training for run in list_runs(items) if run in tested}
    return f"{len(common) / len(tested):.1%}"


def open_texts(bench: Bench) -> tuple[Corpus, dict[str, list[str]]]:
    """Open the embedded corpus, and the texts of the embedded task by split."""
    if bench.smoke:
        data = DataConfig("text", str(bench.text), vocab_size=280, val_fraction=0.2)
        lines = bench.text.read_text().splitlines()
        rows = {"train": lines[:40], "val": lines[40:50], "test": lines[50:]}
        return build_corpus(data, locate_cache()), rows
    splits = read_docstring_task(locate_cache())[1]
    rows = {split: [row.texts[0] for row in found] for split, found in splits.items()}
    return build_corpus(DataConfig(), locate_cache()), rows


def leak(bench: Bench) -> list[str]:
    """Make the table of what occurs on both sides."""
    start = time.monotonic()
    built, rows = open_texts(bench)
    documents = {split: list(decode_documents(built, split)) for split in ("train", "val")}
    words = {
        split: [text.split() for text in texts_of_split]
        for split, texts_of_split in documents.items()
    }
    bare = remove_names("\0".join(documents["train"] + documents["val"]))
    of_rows = {
        split: [text.split() for text in texts_of_split] for split, texts_of_split in rows.items()
    }
    lines = ["| what | occurs in | how often |", "|---|---|---|"]
    for split in ("val", "test"):
        count = f"{sum(text in bare for text in rows[split])} of {len(rows[split])}"
        again = format_share(of_rows[split], (text.split() for text in bare.split("\0")))
        within = format_share(of_rows[split], of_rows["train"])
        lines += [
            f"| texts of the task's {split} set | the corpus | {count} |",
            f"| runs of {RUN} words of the task's {split} set | the corpus | {again} |",
            f"| runs of {RUN} words of the task's {split} set | its training set | {within} |",
        ]
    tokens = format_share([built.val.tolist()], [built.train.tolist()])
    lines += [
        f"| runs of {RUN} words of the corpus's validation | its training | "
        f"{format_share(words['val'], words['train'])} |",
        f"| runs of {RUN} tokens of the corpus's validation | its training | {tokens} |",
        "",
        f"The corpus has {built.info.train_documents:,} documents for training and "
        f"{built.info.val_documents:,} for validation, from which "
        f"{built.info.near_copies:,} near-copies were left out.",
        "",
        f"{time.monotonic() - start:.0f} s",
    ]
    return lines


if __name__ == "__main__":
    run_parts("corpus", {"leak": leak})
