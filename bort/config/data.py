"""The settings of text and rows, and of how they become batches."""

import os
from dataclasses import dataclass
from typing import Any

from bort.errors import BortError, at_least, at_most, one_of


@dataclass
class DataConfig:
    """Text and how it becomes batches."""

    source: str = "docstrings"  # docstrings (embedded) or text (data.path)
    path: str | None = None  # file, folder or hub name with the user's text
    text: Any = "text"  # key or column that holds the text; of task=custom also [first, second]
    sample_by: str = "line"  # a document of a .txt or .md file: line, paragraph or file
    length: int = 128  # tokens in a sequence, first and last special token included
    batch_size: int = 8  # sequences in a batch
    mask_rate: float = 0.3  # share of tokens masked in training; evaluation always uses 0.15
    tokenizer: str = "auto"  # auto (the teacher's, else bpe), bpe, or a folder or hub name
    vocab_size: int = 8192  # of a tokenizer trained on the text
    val_fraction: float = 0.03  # share of documents held out, chosen by their own hash
    val_sequences: int = 512  # sequences that one evaluation reads
    workers: int = 0  # loader processes; masking takes well under a millisecond without any
    root: str | None = None  # folder of a suite's official files (task=); null: from the hub
    train: str | None = None  # files of task=custom: csv, tsv, jsonl or parquet
    val: str | None = None  # null: a tenth of the training rows is held out
    test: str | None = None
    label: str = "label"  # column of task=custom
    kind: str = "auto"  # of its labels: classes, number, or auto (by how they look)

    def __post_init__(self) -> None:
        one_of("data.source", self.source, ("docstrings", "text"))
        one_of("data.sample_by", self.sample_by, ("line", "paragraph", "file"))
        one_of("data.kind", self.kind, ("auto", "classes", "number"))
        texts = self.texts
        if not 1 <= len(texts) <= 2 or not all(isinstance(name, str) for name in texts):
            raise BortError(f"data.text={self.text} must name one column, or two as in [a,b]")
        if self.source != "text" and self.path:
            raise BortError(f"data.path={self.path} is read with data=text only; add data=text")
        at_least("data.length", self.length, 4)
        at_least("data.batch_size", self.batch_size, 1)
        at_least("data.vocab_size", self.vocab_size, 261)  # 256 bytes and 5 special tokens
        at_least("data.val_sequences", self.val_sequences, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.val_fraction", self.val_fraction, 0, below=1)
        at_most("data.length", self.length, 65_536)  # a table of positions has a row for each
        at_most("data.vocab_size", self.vocab_size, 10_000_000)
        at_most("data.workers", self.workers, max(16, 4 * (os.cpu_count() or 1)))
        if not 0 < self.mask_rate < 1:
            raise BortError(f"data.mask_rate={self.mask_rate:g} must be above 0 and below 1")

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two columns that data.text names."""
        return tuple(self.text) if isinstance(self.text, list) else (self.text,)
