"""The batches of texts with a teacher's embeddings, and the embeddings of many texts.

Letters: N texts, B texts of a batch, S tokens, E numbers of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bort.config.train import TrainConfig
from bort.embeddings.texts import TEXTS, make_rows
from bort.errors import BortError
from bort.finetuning.datamodule import RowBatches
from bort.tasks.encoding import EncodedRows, encode_rows
from bort.training.loader import ResumeSampler, make_loader

BATCH = 64  # texts that are embedded at once


class TaughtTexts:
    """Texts as token ids, and a teacher's embeddings (N, E) of them."""

    def __init__(self, texts: Sequence[str], vectors: np.ndarray, tokenizer: Any, length: int):
        self.rows, self.vectors = make_rows(texts), vectors
        self.inputs = encode_rows(TEXTS, self.rows, tokenizer, length)
        self.pad = tokenizer.pad_token_id

    def batch(self, size: int, seed: int | None) -> RowBatches:
        """Divide the texts into batches, in an order by the seed, or by their lengths."""
        return RowBatches(self.inputs, self.rows, size, self.pad, seed, self.vectors)


class EmbeddingDataModule(pl.LightningDataModule):
    """Training and validation batches, which are the same after a resume.

    A batch is one of `RowBatches`, in which `teacher` are the teacher's embeddings (B, E).
    """

    def __init__(self, train: TaughtTexts, held: TaughtTexts, run: TrainConfig):
        super().__init__()
        self.train = train.batch(run.data.batch_size, run.seed)
        self.val = held.batch(4 * run.data.batch_size, None)
        self.workers = run.data.workers

    def train_dataloader(self) -> DataLoader:
        """Load the training batches from where the trainer stands."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total if self.trainer else None
        sampler = ResumeSampler(len(self.train), lambda: progress.processed if progress else 0)
        return make_loader(self.train, sampler, self.workers)

    def val_dataloader(self) -> DataLoader:
        """Load the batches of the held-out texts."""
        return make_loader(self.val, None, self.workers)


@torch.no_grad()
def embed_texts(
    texts: Sequence[str],
    tokenizer: Any,
    length: int,
    compute: Callable[[Tensor, Tensor], Tensor],
    device: str = "cpu",
) -> np.ndarray:
    """Return the embeddings (N, E) of texts in their order, in float32.

    compute: turns ids and mask (B, S) on the device into embeddings (B, E). Raises BortError for no
    texts.
    """
    if not len(texts):
        raise BortError("there are no texts to embed")
    rows = make_rows(texts)
    inputs: EncodedRows = encode_rows(TEXTS, rows, tokenizer, length)
    parts, numbers = [], []
    for batch in RowBatches(inputs, rows, BATCH, tokenizer.pad_token_id, None):
        ids, mask = (batch[key].to(device) for key in ("input_ids", "attention_mask"))
        parts.append(compute(ids, mask).float().cpu().numpy())
        numbers.append(batch["rows"].numpy())
    return np.concatenate(parts)[np.concatenate(numbers).argsort()]
