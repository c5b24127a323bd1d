"""The embedded corpus of docstrings, and the rows of the embedded task: nothing to download.

The task, which `bort.tasks.docstrings` puts together: which installed package does a docstring come
from? The names of the packages are taken out of the texts, all docstrings of a file are in one
split, and no row of validation or test is a near-copy of a training row, so that neither a name nor
a repeated text gives an answer away. A row's group is its file: Agora keeps those together too.

The corpus: all docstrings but those of the files that the task's validation and test rows come
from, and near-copies of these rows. It is split by file.
"""

import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from bort.text.copies import SHARE, find_holders, hash_runs, is_in_table
from bort.text.sources import (
    PACKAGES,
    Document,
    Source,
    read_docstrings,
    read_versions,
)

VERSION = 3  # part of all keys: raise it when the same installation would give other rows
CLASSES = ("python", "networkx", "numpy", "pandas", "scipy", "sympy", "torch", "transformers")
ROWS = {"train": 400, "val": 100, "test": 100}  # of each class
LONGEST = 600  # characters of a docstring: the beginning says what a thing is
NAMES = re.compile(
    r"\b(python|networkx|nx|numpy|np|ndarrays?|pandas|pd|scipy|sympy|sp|(?:py)?torch|transformers?|"
    r"hugging ?face|hf)\b",
    re.IGNORECASE,
)


def make_docstring_source(tick: Callable) -> Source:
    """The docstrings of the standard library and of those PACKAGES that are installed."""
    packages = read_versions(PACKAGES)
    identity = {"python": platform.python_version(), "packages": packages, "task": list_settings()}

    @cache  # the tokenizer and the streams read it: 31 MB are kept rather than parsed again
    def read() -> list[Document]:
        documents = drop_task_rows(read_docstrings(["python", *packages], tick))
        source.size = sum(document.size for document in documents)
        return documents

    source = Source("docstrings", identity, 0, read)
    return source


def drop_task_rows(parsed: dict[str, dict[str, list[str]]]) -> list[Document]:
    """All docstrings but those that the task's validation and test rows come from or resemble."""
    names = [name for name in CLASSES if name in parsed]
    picks = pick_rows(names, {name: list(parsed[name]) for name in names}, index_copies(parsed))
    rows = [pick for split in ("val", "test") for pick in picks[split]]
    held = {pick.file for pick in rows}
    documents = [
        Document(text, len(text), group)
        for package, files in parsed.items()
        for file, group in _name_modules(package, list(files)).items()
        if group not in held
        for text in files[file]
    ]
    texts, parts = [hash_runs(d.text) for d in documents], [hash_runs(pick.text) for pick in rows]
    near = find_holders(texts, parts)
    return [document for document, copied in zip(documents, near, strict=True) if not copied]


def index_copies(parsed: dict[str, dict[str, list[str]]]) -> Callable[[str], list[str]]:
    texts = {
        file: texts_of_file for files in parsed.values() for file, texts_of_file in files.items()
    }
    return texts.__getitem__


def list_settings() -> list:
    """All that decides the rows beside the installation."""
    return [VERSION, CLASSES, ROWS, LONGEST, NAMES.pattern]


def remove_names(text: str) -> str:
    return NAMES.sub("…", text)


class Pick(NamedTuple):
    """A docstring that is a row: its beginning, the number of its package, `package/path`."""

    text: str
    label: int
    file: str


def pick_rows(
    names: list[str], files: dict[str, list[str]], texts_of: Callable[[str], list[str]]
) -> dict[str, list[Pick]]:
    """Distinct texts of each split; none of two packages or more.

    Files are taken by their hash until there are enough. A text that is a near-copy of one in an
    earlier split is passed over.
    """
    picks: dict[str, list[Pick]] = {split: [] for split in ROWS}
    if len(names) < 2:
        return picks
    seen: list[set[str]] = [set() for _ in names]
    for split, count in ROWS.items():
        texts = [hash_runs(pick.text) for rows in picks.values() for pick in rows]
        earlier = np.sort(np.concatenate([np.empty(0, np.uint64), *texts]))
        for label, name in enumerate(names):
            rows: list[Pick] = []
            for text, group in _list_candidates(_name_modules(name, files[name]), split, texts_of):
                bare = remove_names(text)
                if bare in seen[label] or is_in_table(hash_runs(text), earlier).mean() > SHARE:
                    continue
                seen[label].add(bare)
                rows.append(Pick(text, label, group))
                if len(rows) == count:
                    break
            picks[split] += rows
    return picks


def _list_candidates(
    files: dict[str, str], split: str, texts_of: Callable[[str], list[str]]
) -> Iterator[tuple[str, str]]:
    """The beginnings of the texts in the files of a split, and the name of each one's file.

    files: their names by path. Another part of the hash that orders them names the split of each.
    """
    digests = {f: hashlib.sha256(n.split("/", 1)[1].encode()).digest() for f, n in files.items()}
    total = sum(ROWS.values())
    ends = dict(zip(ROWS, accumulate(ROWS.values()), strict=True))
    for file in sorted(files, key=lambda f: digests[f]):
        position = int.from_bytes(digests[file][-4:]) % total
        if ends[split] - ROWS[split] <= position < ends[split]:
            for text in texts_of(file):
                yield text[:LONGEST], files[file]


def _name_modules(package: str, files: list[str]) -> dict[str, str]:
    """`package/path` of each file."""
    root = os.path.commonpath(files) if files else ""
    return {file: f"{package}/{os.path.relpath(file, root)}" for file in files}
