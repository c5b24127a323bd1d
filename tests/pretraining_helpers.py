"""What several test files of one package share."""

import csv
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from bort.pretraining.corpus import Corpus


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def documents(corpus: Corpus, split: str = "train") -> list[str]:
    """The texts of a split, by cutting its stream at separators."""
    stream = getattr(corpus, split)
    if not len(stream):
        return []
    sep = corpus.tokenizer.sep_token_id
    parts = np.split(stream, np.flatnonzero(stream == sep))
    return [corpus.tokenizer.decode(part[part != sep]) for part in parts]


def left_behind(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "cache" / "corpora"
    return sorted(folder.iterdir()) if folder.exists() else []


def words(folder: Path) -> Path:
    """A small text: 200 lines, each another sentence."""
    path = folder / "words.txt"
    path.write_text("".join(f"Line {k} says {k * k} words about {k % 7}.\n" for k in range(200)))
    return path


def teacher(shared: Path, name: str):
    return AutoTokenizer.from_pretrained(shared / "cases" / "models" / name)


def near_copies(folder: Path, copies: int) -> Path:
    """200 texts of 60 random words, and of each some copies with one other word."""
    rng, path = np.random.default_rng(0), folder / "copies.txt"
    lines = []
    for _ in range(200):
        words = [f"w{k}" for k in rng.integers(0, 5_000, 60)]
        lines.append(" ".join(words))
        for place in rng.choice(60, copies, replace=False):
            lines.append(" ".join([*words[:place], "other", *words[place + 1 :]]))
    path.write_text("\n".join(lines))
    return path
