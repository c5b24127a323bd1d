"""Copies of frozen models for passes in bf16."""

from copy import deepcopy

import torch
from torch import nn

from bort.models.bert import MaskedLM


def is_bf16_autocast(device: torch.device) -> bool:
    """Return whether products on a device are computed in bf16 at the moment, by autocast."""
    kind = device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


def copy_in_bf16(model: MaskedLM) -> MaskedLM:
    """Copy a frozen model with the matrices of its products in bf16, to be run under autocast.

    Autocast would cast all of them anew in each pass, since it cannot know that they never change.
    LayerNorms and the tables of positions and types are the model's own, in float32.
    """
    copy = deepcopy(model, memo={id(weight): weight for weight in model.parameters()})
    cast_linear_layers(copy)
    words = copy.encoder.embeddings.words  # which are the decoder's matrix, too
    words.weight = _cast(words.weight)
    copy.head.bias = _cast(copy.head.bias)
    return copy


def cast_linear_layers(model: nn.Module) -> None:
    """Give each linear layer of a model new weights in bf16; they are no longer tied to others."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = _cast(module.weight)
            if module.bias is not None:
                module.bias = _cast(module.bias)


def _cast(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
