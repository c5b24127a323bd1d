"""The split of documents into training and validation, decided for each document by itself.

So adding a document never moves another one to the other split. Near-copies are usually in the same
split (MinHash); the remaining near-copies in validation are found by `copies.Overlap`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bort.text.copies import compute_common_key, hash_runs
from bort.text.sources import Document

RECENT = 1_000_000  # hashes in a Python set, at about 90 bytes each; older ones take 8 bytes
LONG = 50_000  # characters; of a longer document, only a part is held out
GAP = 1_000  # characters before and after that part, which are in neither split


@dataclass
class Part:
    """A document, or the part of a long document that is in one split."""

    text: str
    split: str  # train or val
    runs: np.ndarray  # from `copies.hash_runs`; empty if nothing is held out


class Seen:
    """A set of 64-bit hashes that is small enough to hold hundreds of millions in memory."""

    def __init__(self):
        self.recent: set[int] = set()
        self.sorted = np.empty(0, dtype=np.uint64)

    def add(self, key: int) -> bool:
        """Add a hash; return True if it is new."""
        index = self.sorted.searchsorted(np.uint64(key))
        if key in self.recent or (index < len(self.sorted) and self.sorted[index] == key):
            return False
        self.recent.add(key)
        if len(self.recent) >= RECENT:
            recent = np.sort(np.fromiter(self.recent, dtype=np.uint64))
            self.sorted = np.sort(np.concatenate([self.sorted, recent]), kind="stable")
            self.recent.clear()
        return True


def hash_document(text: str) -> int:
    """Return a 64-bit hash of the stripped text, which decides what is a duplicate."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little")


def mark_duplicates(documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
    """Yield the documents that are not blank, and whether each is new or an exact duplicate."""
    seen = Seen()
    for document in documents:
        if document.text.strip():
            yield document, seen.add(hash_document(document.text))


def split_document(document: Document, val_fraction: float) -> list[Part]:
    """Assign a document to one split, or parts of a long document to both.

    Documents of a group are in the same split; others go by a number that near-copies share.
    """
    text = document.text
    if not val_fraction:
        return [Part(text, "train", np.empty(0, np.uint64))]
    if not document.group and len(text) > LONG:
        return _split_long(text, val_fraction)
    hashes = hash_runs(text)
    key = hash_document(document.group) if document.group else compute_common_key(hashes)
    return [Part(text, "val" if key / 2**64 < val_fraction else "train", hashes)]


def _split_long(text: str, val_fraction: float) -> list[Part]:
    """Cut out one part for validation, at a place that depends on the text; train on the rest."""
    size = round(val_fraction * len(text))
    start = hash_document(text) * (len(text) - size) >> 64
    edges = (start - GAP, start, start + size, start + size + GAP)
    before, first, last, after = (_find_word_end(text, edge) for edge in edges)
    cut = (("train", text[:before]), ("val", text[first:last]), ("train", text[after:]))
    return [Part(part.strip(), split, hash_runs(part)) for split, part in cut if part.strip()]


def _find_word_end(text: str, offset: int) -> int:
    """Return the end of the word at an offset, or the offset itself in a text without spaces."""
    if offset <= 0:
        return 0
    space = text.find(" ", offset, offset + GAP // 2)
    return min(offset, len(text)) if space < 0 else space
