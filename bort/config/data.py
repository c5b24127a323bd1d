"""The settings of text and rows, and of how they become batches."""

import os
from dataclasses import dataclass, replace
from typing import Any, Self

from bort.errors import BortError, check_at_least, check_at_most, check_choice

BPE_SIZE = 8192  # of a trained vocabulary, unless data.vocab_size= says another
BPE_LEAST = 261  # 256 bytes and 5 special tokens


@dataclass
class DataConfig:
    """Text or rows, and how they become batches."""

    source: str = "docstrings"  # docstrings (of the installed packages) or text (data.path)
    path: str | None = None  # your text: a file, a folder or the name of a data set on the hub
    text: Any = "text"  # the key or column with the text; task=custom takes two as [first,second]
    sample_by: str = "line"  # what a document of a .txt or .md file is: line, paragraph or file
    length: int = 128  # tokens in a sequence, the first and last special token included
    # of a pre-training: true joins documents and cuts them into whole sequences; false makes each
    # document a sequence of its own, which is cut to data.length or padded
    packing: bool = True
    batch_size: int = 8  # sequences (of a task: rows) in a batch
    mask_rate: float = 0.3  # share of tokens that are masked in training; validation masks 0.15
    tokenizer: str = "auto"  # auto (the teacher's, else bpe), bpe, or a folder or hub name
    # tokens of a tokenizer that is trained on the text (null: 8192), or how many of an existing
    # one's tokens are taken, those that the text uses most (null: all)
    vocab_size: int | None = None
    val_fraction: float = 0.03  # share of documents that are held out, chosen by their own hash
    val_sequences: int = 512  # sequences that a validation reads
    workers: int = 0  # processes that prepare batches; masking takes under a millisecond without
    root: str | None = None  # folder with the official files of a suite; null: from the hub
    train: str | None = None  # your rows for task=custom: a csv, tsv, jsonl or parquet file
    val: str | None = None  # rows that choose the checkpoint; null: a tenth of data.train
    test: str | None = None  # rows to answer after the training; they need no labels
    # the column with the labels of task=custom, or a column of 0 and 1 for each of several labels
    # of a row, as [toxic,insult,threat]
    label: Any = "label"
    kind: str = "auto"  # what the labels are: classes, number, or auto (by how they look)
    # of a task: the score that chooses the checkpoint, such as macro_f1; null: the task's first one
    metric: str | None = None
    # of experiment=kd_finetune: a file or folder of texts without labels, which the teacher labels
    unlabelled: str | None = None
    unlabelled_rows: int | None = None  # the most rows that are taken from there; null: all
    split_sentences: bool = False  # whether each sentence of these texts is a row
    # of a task: mean divides a text that is longer than data.length into windows and averages the
    # answers to them; null cuts it
    windows: str | None = None
    # tokens that two windows of a text share; null: a quarter of data.length
    window_stride: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.source", self.source, ("docstrings", "text"))
        check_choice("data.sample_by", self.sample_by, ("line", "paragraph", "file"))
        check_choice("data.kind", self.kind, ("auto", "classes", "number"))
        texts = self.texts
        if not 1 <= len(texts) <= 2 or not all(isinstance(name, str) for name in texts):
            raise BortError(f"data.text={self.text} must name one column, or two as in [a,b]")
        self._check_labels()
        if self.windows is not None:
            check_choice("data.windows", self.windows, ("mean",))
        if self.window_stride is not None:
            check_at_least("data.window_stride", self.window_stride, 0)
            if 2 * self.window_stride > self.length:
                raise BortError(
                    f"data.window_stride={self.window_stride} is what two windows share; give at "
                    f"most half of data.length={self.length}"
                )
        if self.source != "text" and self.path:
            raise BortError(f"data.path={self.path} is read with data=text only; add data=text")
        check_at_least("data.length", self.length, 4)
        check_at_least("data.batch_size", self.batch_size, 1)
        if self.vocab_size is not None:
            check_at_least("data.vocab_size", self.vocab_size, 1)
            check_at_most("data.vocab_size", self.vocab_size, 10_000_000)
        if self.tokenizer == "bpe":
            self.check_bpe_size()
        if self.unlabelled_rows is not None:
            check_at_least("data.unlabelled_rows", self.unlabelled_rows, 1)
        check_at_least("data.val_sequences", self.val_sequences, 1)
        check_at_least("data.workers", self.workers, 0)
        check_at_least("data.val_fraction", self.val_fraction, 0, below=1)
        check_at_most("data.length", self.length, 65_536)  # a table of positions has a row for each
        check_at_most("data.workers", self.workers, max(16, 4 * (os.cpu_count() or 1)))
        if not 0 < self.mask_rate < 1:
            raise BortError(f"data.mask_rate={self.mask_rate:g} must be above 0 and below 1")

    def _check_labels(self) -> None:
        """Raise BortError for columns of labels that are no names, or too few of them."""
        names = self.labels
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise BortError(f"data.label={self.label} must name a column, or several as in [a,b]")
        if isinstance(self.label, list) and len(names) < 2:
            raise BortError(
                f"data.label={self.label} must name two columns at least; a single column, of any "
                "two classes, is data.label=COLUMN"
            )

    def check_bpe_size(self) -> None:
        """Raise BortError for a vocabulary that is too small for a byte-level BPE."""
        if self.vocab_size is not None:
            check_at_least("data.vocab_size", self.vocab_size, BPE_LEAST)

    @property
    def bpe_size(self) -> int:
        """The size of the vocabulary, where a tokenizer is trained on the text."""
        return BPE_SIZE if self.vocab_size is None else self.vocab_size

    @property
    def least_tokens(self) -> int:
        """The fewest tokens of text in a sequence of a pre-training."""
        return self.length - 2 if self.packing else 1

    def with_length(self, length: int) -> Self:
        """Return these settings for inputs of another length, which windows overlap less in."""
        stride = self.window_stride
        stride = None if stride is None else min(stride, length // 2)
        return replace(self, length=length, window_stride=stride)

    @property
    def overlap(self) -> int | None:
        """The tokens that neighbouring windows of a long text share; None: it is cut."""
        if self.windows is None:
            return None
        return self.length // 4 if self.window_stride is None else self.window_stride

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two columns that data.text names."""
        return tuple(self.text) if isinstance(self.text, list) else (self.text,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that data.label names: one, or one for each of several labels of a row."""
        return tuple(self.label) if isinstance(self.label, list) else (self.label,)
