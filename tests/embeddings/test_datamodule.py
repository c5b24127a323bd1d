"""Batches with a teacher's embeddings, and the embeddings of many texts in their order."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bort.embeddings.datamodule import EmbeddingDataModule, TaughtTexts, embed_texts
from bort.errors import BortError

LINES = [f"the cat sees {'the dog ' * (k % 5)}in line {k}" for k in range(150)]


def test_batches_carry_the_embeddings_of_their_texts(tokenizer, run_of):
    vectors = np.arange(300, dtype=np.float16).reshape(150, 2)
    taught = TaughtTexts(LINES, vectors, tokenizer, 16)
    data = EmbeddingDataModule(taught, TaughtTexts(LINES[:9], vectors[:9], tokenizer, 16), run_of())
    seen = []
    for batch in data.train_dataloader():
        assert batch["teacher"].shape == (len(batch["rows"]), 2)
        torch.testing.assert_close(batch["teacher"], torch.from_numpy(vectors[batch["rows"]]))
        seen += batch["rows"].tolist()
    assert sorted(seen) == list(range(150)) and seen != sorted(seen)
    assert sum(len(batch["rows"]) for batch in data.val_dataloader()) == 9


def test_embeddings_come_in_the_order_of_the_texts(tokenizer):
    """Of more texts than a batch has, sorted by length on the way."""
    table = F.normalize(torch.randn(300, 4, generator=torch.Generator().manual_seed(0)), dim=-1)

    def compute(ids, mask):
        return (table[ids] * mask[..., None]).sum(1)

    vectors = embed_texts(LINES, tokenizer, 16, compute)
    for number in (0, 7, 149):
        ids = torch.tensor([tokenizer(LINES[number], truncation=True, max_length=16)["input_ids"]])
        expected = compute(ids, torch.ones_like(ids)).numpy()[0]
        np.testing.assert_allclose(vectors[number], expected, atol=1e-5)
    with pytest.raises(BortError, match="there are no texts to embed"):
        embed_texts([], tokenizer, 16, compute)
