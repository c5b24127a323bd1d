"""Texts as rows: a text is embedded alone, whatever stands beside it in a file."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bort.config.data import DataConfig
from bort.config.train import EMBED
from bort.console import counted
from bort.errors import BortError
from bort.tasks.custom import define_task
from bort.tasks.task import Row, Task
from bort.tasks.unlabelled import Pool, read_pool

HELD_SHARE, MOST_HELD = 0.02, 1000  # of the texts, that no student learns from
LEAST = 8  # texts, of which half are held out; their cosines need a few

# What a teacher's texts are, as a task of one text.
TEXTS: Task = define_task(EMBED, "regression", ("text",), ("0", "1"))


def make_rows(texts: Iterable[str]) -> list[Row]:
    """Make rows of texts, in their order."""
    return [Row(number, (text,)) for number, text in enumerate(texts)]


def read_texts(data: DataConfig, excluded: Iterable[str] = ()) -> tuple[list[str], Pool]:
    """Read the texts of `data.unlabelled`, each once; of a table with two columns, both.

    excluded: texts that are scored later; documents that hold one of them are left out. Raises
    BortError for files that cannot be read, and where fewer than LEAST texts are left.
    """
    pool = read_pool(replace(TEXTS, columns=data.texts), data, make_rows(excluded))
    texts = list(dict.fromkeys(text for row in pool.rows for text in row.texts if text.strip()))
    if len(texts) < LEAST:
        raise BortError(
            f"data.unlabelled={data.unlabelled} has {counted(len(texts), 'text')}; give {LEAST} at "
            "least"
        )
    return texts, pool


def split_texts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide texts into those that are learnt and those that are held out, by their hashes."""
    count = min(MOST_HELD, max(LEAST // 2, round(HELD_SHARE * len(texts))))
    held = set(sorted(texts, key=_hash)[:count])
    return [text for text in texts if text not in held], [text for text in texts if text in held]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
