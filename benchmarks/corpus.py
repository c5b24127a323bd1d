"""Measure whether test rows or validation text leak into the training text of the embedded corpus.

    python benchmarks/corpus.py leak      # a minute, or two if the corpus has to be built first

Writes benchmarks/results/corpus_leak.md.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bort.config.data import DataConfig
from bort.console import show_log
from bort.files.cache import locate_cache
from bort.machine import describe_machine
from bort.pretraining import corpus
from bort.tasks.docstrings import read_docstring_task
from bort.text import docstrings

RESULTS = Path(__file__).resolve().parent / "results"
RUN = 11


def texts(built: corpus.Corpus, split: str) -> Iterator[str]:
    """Decode the documents of a split from its ids."""
    stream = np.array(getattr(built, split))
    for part in np.split(stream, np.flatnonzero(stream == built.tokenizer.sep_token_id)):
        yield built.tokenizer.decode(part[part != built.tokenizer.sep_token_id])


def runs(items: list) -> Iterator[tuple]:
    """Collect all runs of RUN neighbours, to be compared themselves rather than by a hash."""
    return zip(*(items[k:] for k in range(RUN)), strict=False)


def share(held: Iterable[list], training: Iterable[list]) -> str:
    """Return the share of distinct runs in held-out lists that occur in training lists, too."""
    tested = {run for items in held for run in runs(items)}
    common = {run for items in training for run in runs(items) if run in tested}
    return f"{len(common) / len(tested):.1%}"


def leak() -> list[str]:
    """Make the table of what occurs on both sides."""
    built = corpus.build_corpus(DataConfig(), locate_cache())
    documents = {split: list(texts(built, split)) for split in ("train", "val")}
    words = {
        split: [text.split() for text in texts_of_split]
        for split, texts_of_split in documents.items()
    }
    bare = docstrings.NAMES.sub("…", "\0".join(documents["train"] + documents["val"]))
    rows = {
        split: [row.texts[0] for row in texts_of_split]
        for split, texts_of_split in read_docstring_task(locate_cache())[1].items()
    }
    of_rows = {
        split: [text.split() for text in texts_of_split] for split, texts_of_split in rows.items()
    }
    lines = ["| what | occurs in | how often |", "|---|---|---|"]
    for split in ("val", "test"):
        count = f"{sum(text in bare for text in rows[split])} of {len(rows[split])}"
        again = share(of_rows[split], (text.split() for text in bare.split("\0")))
        within = share(of_rows[split], of_rows["train"])
        lines += [
            f"| texts of the task's {split} set | the corpus | {count} |",
            f"| runs of {RUN} words of the task's {split} set | the corpus | {again} |",
            f"| runs of {RUN} words of the task's {split} set | its training set | {within} |",
        ]
    tokens = share([built.val.tolist()], [built.train.tolist()])
    lines += [
        f"| runs of {RUN} words of the corpus's validation | its training | "
        f"{share(words['val'], words['train'])} |",
        f"| runs of {RUN} tokens of the corpus's validation | its training | {tokens} |",
        "",
        f"The corpus has {built.info.train_documents:,} documents for training and "
        f"{built.info.val_documents:,} for validation, from which "
        f"{built.info.near_copies:,} near-copies were left out.",
    ]
    return lines


def main() -> None:
    if sys.argv[1:] != ["leak"]:
        raise SystemExit(f"usage: python {sys.argv[0]} leak")
    start = time.monotonic()
    lines = [*leak(), "", f"{describe_machine()}; {time.monotonic() - start:.0f} s"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "corpus_leak.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    show_log()
    main()
