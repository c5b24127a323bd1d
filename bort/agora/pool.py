"""The generator `pool` of Agora: its rows are not made but taken from texts without labels.

Letters: N rows of the pool, H hidden.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.agora.generators import NEIGHBOURS, WORD, WordSource
from bort.tasks.task import Row

PART = 16_384  # rows of the pool that are compared at a time


class PoolSource:
    """Rows without labels, and where the student's word embeddings put them.

    words: the student's. A row is the mean of the embeddings of its words, of length 1; one without
    a known word is the null vector, near to nothing.
    """

    def __init__(self, rows: list[Row], words: WordSource):
        self.rows, self.words = rows, words
        self.vectors = self.embed(rows)  # (N, H)

    def embed(self, rows: list[Row]) -> Tensor:
        """Compute the vectors (rows, H) of rows."""
        table, width = self.words.vectors, self.words.vectors.shape[1]
        vectors = torch.zeros(len(rows), width)
        for number, row in enumerate(rows):
            ids = [self.words.id(word) for text in row.texts for word in WORD.findall(text)]
            lines = [self.words.place[k] for k in ids if k is not None]
            if lines:
                vectors[number] = table[lines].mean(0)
        return F.normalize(vectors, dim=-1)

    @torch.no_grad()
    def find_nearest(self, rows: list[Row]) -> np.ndarray:
        """Find the rows of the pool that are nearest to rows: their numbers (rows, NEIGHBOURS).

        Cost: a product of rows × H × N; PART rows of the pool are held at a time.
        """
        vectors, count = self.embed(rows), min(NEIGHBOURS, len(self.rows))
        best = torch.full((len(rows), count), -torch.inf)
        numbers = torch.zeros(len(rows), count, dtype=torch.long)
        for start in range(0, len(self.rows), PART):
            part = self.vectors[start : start + PART]
            near = (vectors @ part.T).topk(min(count, len(part)))
            values = torch.cat([best, near.values], dim=1).topk(count)
            both = torch.cat([numbers, near.indices + start], dim=1)
            best, numbers = values.values, both.gather(1, values.indices)
        return numbers.numpy()


def choose_nearest(
    rows: list[Row], random: np.random.Generator, pool: PoolSource
) -> list[Row | None]:
    """Choose for each row one of the rows of the pool that are nearest to it."""
    near = pool.find_nearest(rows)
    picks = random.integers(near.shape[1], size=len(rows))
    chosen = near[np.arange(len(rows)), picks]
    return [_take(pool.rows[number]) for number in chosen]


def choose_random(
    rows: list[Row], random: np.random.Generator, pool: PoolSource
) -> list[Row | None]:
    """Choose as many random rows of the pool as there are rows."""
    chosen = random.integers(len(pool.rows), size=len(rows))
    return [_take(pool.rows[number]) for number in chosen]


def _take(row: Row) -> Row:
    return replace(row, label=None, group=None)
