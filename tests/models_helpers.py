"""What several test files of one package share."""

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


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model.eval()


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


def edit_json(path: Path, **change) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
