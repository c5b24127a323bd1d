"""The token stream of a split: it is written to a file, and cut into sequences.

Letters: B sequences, L tokens of a sequence with its first and last special token, K documents.
"""

from array import array
from pathlib import Path

import numpy as np

CHUNK = 1 << 24  # tokens that are searched at once


class TokenStream:
    """The token file of a split while it is written, with a separator between two documents.

    dtype: of the ids in the file. vocab_size: the number of ids. sep: the id of the separator.
    """

    def __init__(self, path: Path, dtype: np.dtype, vocab_size: int, sep: int):
        self.path, self.dtype, self.sep = path, dtype, sep
        self.counts = np.zeros(vocab_size, dtype=np.int64)  # of each token, separators included
        self.ends = array("q")  # one past the last token of each document
        self.waiting: list[np.ndarray] = []
        path.touch()

    def add(self, ids: np.ndarray) -> None:
        """Add a document of at least one token."""
        start = 0
        if self.ends:
            start = self.ends[-1] + 1
            self.waiting.append(np.array([self.sep]))
        self.waiting.append(ids)
        self.ends.append(start + len(ids))

    def write(self) -> int:
        """Append the added documents to the file; return how many tokens it has now."""
        stream = np.concatenate([np.empty(0, dtype=np.int64), *self.waiting])
        self.waiting = []
        self.counts += np.bincount(stream, minlength=len(self.counts))
        with self.path.open("ab") as file:
            file.write(stream.astype(self.dtype).tobytes())
        return int(self.counts.sum())

    def keep(self, chosen: np.ndarray) -> None:
        """Rewrite the file with only the chosen ones of its K documents; chosen: (K,) bool."""
        everything = self.path.rename(self.path.with_suffix(".all"))
        tokens = np.memmap(everything, dtype=self.dtype, mode="r")
        starts, ends = [0, *(end + 1 for end in self.ends[:-1])], self.ends
        self.ends = array("q")
        self.counts[:] = 0
        self.path.touch()
        for number in np.flatnonzero(chosen):
            self.add(tokens[starts[number] : ends[number]])
            if len(self.waiting) > 10_000:
                self.write()
        self.write()
        everything.unlink()


def count_sequences(stream: np.ndarray, length: int) -> int:
    """Count the whole sequences of `length` tokens, two of them special, in a stream."""
    return len(stream) // (length - 2)


def pack_sequences(
    stream: np.ndarray, rows: np.ndarray, length: int, bos: int, sep: int
) -> np.ndarray:
    """Return the sequences `rows` of a stream, (B, L) int64: bos, L − 2 tokens, sep."""
    body = length - 2
    table = stream[: count_sequences(stream, length) * body].reshape(-1, body)
    ids = np.empty((len(rows), length), dtype=np.int64)
    ids[:, 0], ids[:, -1] = bos, sep
    ids[:, 1:-1] = table[rows]
    return ids


def locate_documents(stream: np.ndarray, sep: int) -> np.ndarray:
    """Find the bounds of the documents of a stream: (K + 1,) int64.

    Document k has the tokens from bounds[k] + 1 up to bounds[k + 1], which is its separator's
    place; the first bound is -1.
    """
    starts = range(0, len(stream), CHUNK)
    ends = [start + np.flatnonzero(stream[start : start + CHUNK] == sep) for start in starts]
    last = [len(stream)] if len(stream) else []
    return np.concatenate([[-1], *ends, last]).astype(np.int64)


def pad_documents(
    stream: np.ndarray, bounds: np.ndarray, rows: np.ndarray, length: int, special: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents `rows` of a stream, each as a sequence of its own.

    bounds: of all documents, see `locate_documents`. length: the most tokens of a sequence; the
    end of a longer document is left out. special: the ids of bos, sep and padding. Returns ids and
    mask, both (B, L) int64, where L is the longest of these sequences; the mask is 1 where there is
    a token and 0 where there is padding.
    """
    bos, sep, pad = special
    starts = bounds[rows] + 1
    sizes = np.minimum(bounds[rows + 1] - starts, length - 2)  # (B,)
    columns = np.arange(sizes.max(initial=0) + 2)
    ids = np.full((len(rows), len(columns)), pad, dtype=np.int64)
    for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        ids[row, : size + 2] = bos, *stream[start : start + size], sep
    return ids, (columns < sizes[:, None] + 2).astype(np.int64)
