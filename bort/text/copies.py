"""The search for near-copies: texts that have runs of eleven words in common.

Letters: N runs of a text, K texts.
"""

import re
from zlib import crc32

import numpy as np

RUN = 11  # words; unrelated texts have no run of this length in common
SHARE = 0.1  # a text that shares more of its runs than this with others is a near-copy
PART = 0.2  # a text that has more than this share of a short text's runs contains much of it
ROOM = 1 << 24  # runs that are remembered, at 8 bytes each; beyond that, only a sample
WAITING = 100_000  # texts whose runs are still separate arrays
# Words are separated by spaces; in scripts without spaces, each character is a word.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
POWERS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(RUN)], dtype=np.uint64)


def hash_runs(text: str) -> np.ndarray:
    """Return 64-bit hashes (N,) of all runs of RUN words, ignoring case; one for a shorter text.

    They are the same in every process and on every machine.
    """
    text = text.lower()
    words = text.encode().split() if text.isascii() else [w.encode() for w in WORD.findall(text)]
    hashes = mix_bits(np.fromiter(map(crc32, words), dtype=np.uint64, count=len(words)))
    if len(hashes) < RUN:
        hashes = np.pad(hashes, (0, RUN - len(hashes)))
    return mix_bits(np.correlate(hashes, POWERS, "valid"))


def compute_common_key(hashes: np.ndarray) -> int:
    """Compute a 64-bit number from a text's runs that near-copies tend to share (MinHash).

    The probability that two texts have the same number equals their share of common runs. Over
    unrelated texts the numbers are evenly distributed.
    """
    return int(mix_bits(hashes.min(keepdims=True) + np.uint64(1))[0])


def mix_bits(hashes: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers one to one: the output function of SplitMix64 (Steele et al. 2014).

    Each bit of a result depends on all bits, so that it passes for random in tests.
    """
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def is_in_table(hashes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return which hashes are in a sorted table: (N,) bool."""
    return table.searchsorted(hashes, side="left") != table.searchsorted(hashes, side="right")


class Overlap:
    """Measures how much of each held-out text is also in training texts.

    The texts of both splits may come in any order.
    Memory is bounded: beyond ROOM runs, only those with a small hash are remembered, the same for
    all texts, and the shares become estimates.
    """

    def __init__(self):
        self.limit = np.uint64(2**64 - 1)  # the largest hash that is remembered
        self.training: list[np.ndarray] = []
        self.held: list[np.ndarray] = []
        self.owners: list[np.ndarray] = []  # the held-out text of each run of `held`
        self.texts = self.size = self.waiting = 0

    def add(self, hashes: np.ndarray, held: bool) -> None:
        """Remember the runs of one text."""
        hashes = hashes[hashes <= self.limit]
        (self.held if held else self.training).append(hashes)
        if held:
            self.owners.append(np.full(len(hashes), self.texts))
            self.texts += 1
        self.size += len(hashes)
        self.waiting += 1
        if self.size > ROOM or self.waiting > WAITING:
            self._join()
            while self.size > ROOM // 2:
                self.limit >>= np.uint64(1)
                self._join()

    def _join(self) -> None:
        """Join each list into one array, drop hashes over the limit, and sort the training runs."""
        joined = np.sort(np.concatenate([np.empty(0, np.uint64), *self.training]))
        first = np.ones(len(joined), dtype=bool)  # np.unique would take a hundred times as long
        first[1:] = joined[1:] != joined[:-1]
        self.training = [joined[first & (joined <= self.limit)]]
        held = np.concatenate([np.empty(0, np.uint64), *self.held])
        owners = np.concatenate([np.empty(0, np.int64), *self.owners])
        self.held, self.owners = [held[held <= self.limit]], [owners[held <= self.limit]]
        self.size = len(self.training[0]) + len(self.held[0])
        self.waiting = 0

    def shares(self) -> np.ndarray:
        """Return the share of each held-out text's runs that is in training: (K,), as added."""
        self._join()
        (training,), (held,), (owners,) = self.training, self.held, self.owners
        common = np.bincount(owners[is_in_table(held, training)], minlength=self.texts)
        return common / np.maximum(1, np.bincount(owners, minlength=self.texts))


def find_holders(texts: list[np.ndarray], parts: list[np.ndarray]) -> np.ndarray:
    """Return which texts (K,) hold more than PART of the runs of any of `parts`; both are runs."""
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    hashes = np.concatenate([np.empty(0, np.uint64), *parts])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    every_hash = np.concatenate([np.empty(0, np.uint64), *texts])
    text = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    first = hashes.searchsorted(every_hash, side="left")
    count = hashes.searchsorted(every_hash, side="right") - first
    hits = np.flatnonzero(count)
    if not len(hits):
        return np.zeros(len(texts), dtype=bool)
    # a run that a text repeats counts once
    _, single = np.unique(text[hits] * len(hashes) + first[hits], return_index=True)
    hits = hits[single]
    ends = np.cumsum(count[hits])
    entries = np.arange(ends[-1]) + np.repeat(first[hits] - ends + count[hits], count[hits])
    pairs = np.repeat(text[hits], count[hits]) * len(parts) + owners[entries]
    pairs, common = np.unique(pairs, return_counts=True)
    sizes = np.array([len(part) for part in parts])
    near = common > PART * sizes[pairs % len(parts)]
    return np.isin(np.arange(len(texts)), pairs[near] // len(parts))
