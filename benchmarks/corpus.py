"""Whether the embedded corpus and its task keep apart what they should: training text and tests.

    python benchmarks/corpus.py leak      # a minute after the corpus was built, two before

Writes benchmarks/results/corpus_leak.md.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bort import corpus, docstrings
from bort.cli import say
from bort.config import Data, cache_folder
from bort.doctor import machine_line


RESULTS = Path(__file__).resolve().parent / "results"
RUN = 11


def texts(built: corpus.Corpus, split: str) -> Iterator[str]:
    """The documents of a split, from its ids."""
    stream = np.array(getattr(built, split))
    for part in np.split(stream, np.flatnonzero(stream == built.tokenizer.sep_token_id)):
        yield built.tokenizer.decode(part[part != built.tokenizer.sep_token_id])


def runs(items: list) -> set:
    """All runs of RUN neighbours, compared as they are, not by a hash of ours."""
    return {tuple(items[k : k + RUN]) for k in range(len(items) - RUN + 1)}


def share_in_training(built: corpus.Corpus) -> dict[str, float]:
    """Share of the different runs of validation that are in training too: of words, of tokens."""
    words = {
        split: set().union(*(runs(t.split()) for t in texts(built, split))) for split in SPLITS
    }
    tokens = {split: runs(getattr(built, split).tolist()) for split in SPLITS}
    return {
        name: len(found["train"] & found["val"]) / len(found["val"])
        for name, found in (("words", words), ("tokens", tokens))
    }


SPLITS = ("train", "val")


def leak() -> list[str]:
    """The table of what is in two places."""
    built = corpus.build(Data(), cache_folder(), say=say)
    _, rows = docstrings.read(cache_folder())
    whole = "\0".join(text for split in SPLITS for text in texts(built, split))
    bare = docstrings.NAMES.sub("…", whole)
    training = set().union(*(runs(row.texts[0].split()) for row in rows["train"]))
    lines = ["| what | share |", "|---|---|"]
    for split in ("val", "test"):
        found = sum(row.texts[0] in bare for row in rows[split])
        lines.append(
            f"| texts of the task's {split} set in the corpus | {found} of {len(rows[split])} |"
        )
    for split in ("val", "test"):
        held = set().union(*(runs(row.texts[0].split()) for row in rows[split]))
        share = len(held & training) / len(held)
        lines.append(
            f"| runs of {RUN} words of the task's {split} set in its training set | {share:.1%} |"
        )
    for name, share in share_in_training(built).items():
        lines.append(
            f"| runs of {RUN} {name} of the corpus's validation in its training | {share:.1%} |"
        )
    info = built.info
    lines += [
        "",
        f"{info['train_documents']:,} documents for training, {info['val_documents']:,} for ",
    ]
    lines[-1] += f"validation ({info['near_copies']:,} near-copies left out)"
    return lines


def main() -> None:
    if sys.argv[1:] != ["leak"]:
        raise SystemExit(f"usage: python {sys.argv[0]} leak")
    start = time.monotonic()
    lines = [*leak(), "", f"{machine_line()}; {time.monotonic() - start:.0f} s"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "corpus_leak.md").write_text("\n".join(lines) + "\n")
    say("\n".join(lines))


if __name__ == "__main__":
    main()
