"""What several test files of one package share."""

import dataclasses
import json
from pathlib import Path

import torch

from bort.models.bert import ModelConfig

SIZES = dict(
    vocab_size=300,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=20,
    layer_norm_eps=1e-6,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.1,
    hidden_act="gelu_new",
)


OWN = ModelConfig(depth=2, heads=2, hidden=8, intermediate=12, vocab_size=300, positions=18)
TINY = ModelConfig(depth=2, heads=2, hidden=8, intermediate=12, vocab_size=40, positions=16)
BERT = dataclasses.replace(TINY, pad_id=0, type_vocab=2)
ROBERTA = dataclasses.replace(TINY, position_offset=2, type_vocab=1)


def randomise(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model.eval()


def padded_batch(config: ModelConfig, seed: int, rows: int = 3):
    """Rows of unequal length padded on the right, the first one full."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, config.positions + 1, (rows, 1), generator=generator)
    lengths[0] = config.positions
    mask = (torch.arange(config.positions) < lengths).long()
    words = torch.randint(4, config.vocab_size, mask.shape, generator=generator)
    ids = torch.where(mask.bool(), words, config.pad_id)
    types = torch.randint(0, max(config.type_vocab, 1), mask.shape, generator=generator)
    return ids, mask, types


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def edit_json(path: Path, **change) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
