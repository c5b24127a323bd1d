"""The encoder as it is exported to ONNX: the same numbers, in the order that ONNX Runtime likes.

Two things make the exported graph faster than a plain export of `bert.Encoder`, in ONNX Runtime
1.32 on a CPU (benchmarks/latency.py times both):

- States are (S · B, H), tokens first. ONNX Runtime then reads queries, keys and values where they
  are, without transposing them, and adds the bias within a float32 product. It also leaves each
  addition before a layer norm alone: of three-dimensional states it would make a
  `SkipLayerNormalization`, whose kernel is several times slower than the two.
- GELU is written in the form that ONNX Runtime knows as one operation, the mask is computed once
  for all layers, and the scale of the scores is part of the queries' weights.

Queries, keys and values stay three products: they share the int8 form of the states, and splitting
the result of a joined product costs what joining saves.

Shape letters: B batch, S sequence, A heads, H hidden, K = H / A.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bort.models.bert import Classifier, Encoder, Layer, MaskedLM, make_attention_mask
from bort.models.trained_weights import SharedWords

GRAPH = 2  # the version of what is exported; 1 was the plain export of `bert.Encoder`


class _Product(nn.Module):
    """A linear layer of states (tokens, H), as a product and a sum: int8 replaces the product."""

    def __init__(self, linear: nn.Linear, factor: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter((factor * linear.weight).detach().T.contiguous())
        self.bias = nn.Parameter((factor * linear.bias).detach())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class _ExportedAttention(nn.Module):
    """Attention over states (S · B, H)."""

    def __init__(self, layer: Layer):
        super().__init__()
        attention = layer.attention
        self.heads = layer.config.heads
        width = layer.config.hidden // self.heads
        self.query = _Product(attention.query, 1 / math.sqrt(width))
        self.key = _Product(attention.key)
        self.value = _Product(attention.value)
        self.output = _Product(attention.output)

    def forward(self, x: Tensor, mask: Tensor | None, batch: int, length: int) -> Tensor:
        q, k, v = (  # (B, A, S, K)
            project(x).reshape(length, batch, self.heads, -1).permute(1, 2, 0, 3)
            for project in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2)  # (B, A, S, S)
        if mask is not None:
            scores = scores + mask
        mixed = scores.softmax(-1) @ v
        return self.output(mixed.permute(2, 0, 1, 3).reshape(x.shape))


class _ExportedLayer(nn.Module):
    """An encoder layer over states (S · B, H)."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.activation = layer.config.activation
        self.attention = _ExportedAttention(layer)
        self.attention_norm, self.norm = layer.attention_norm, layer.norm
        self.up, self.down = _Product(layer.up), _Product(layer.down)

    def forward(self, x: Tensor, mask: Tensor | None, batch: int, length: int) -> Tensor:
        x = self.attention_norm(x + self.attention(x, mask, batch, length))
        return self.norm(x + self.down(_activate(self.up(x), self.activation)))


class ExportedEncoder(nn.Module):
    """An encoder with the weights and the answers of another one, to be traced for ONNX."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.config, embeddings = encoder.config, encoder.embeddings
        shared = {id(weight): weight for weight in embeddings.parameters()}
        self.norm = embeddings.norm  # is for later, when the states are two-dimensional
        self.embeddings = copy.deepcopy(embeddings, shared | {id(self.norm): nn.Identity()})
        self.layers = nn.ModuleList(_ExportedLayer(layer) for layer in encoder.layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        shared: SharedWords | None = None,
    ) -> Tensor:
        """Return the final hidden states (B, S, H) that `Encoder.forward` returns.

        shared: as there; it only matters for gradients, which a graph has none of.
        """
        batch, length = input_ids.shape
        mask = make_attention_mask(attention_mask)
        if mask is not None:
            mask = torch.where(mask, 0.0, -math.inf)  # (B, 1, 1, S), added to the scores
        x = self.embeddings(input_ids, token_types).transpose(0, 1)  # (S, B, H)
        shape, x = x.shape, self.norm(x.reshape(length * batch, self.config.hidden))
        for layer in self.layers:
            x = layer(x, mask, batch, length)
        return x.reshape(shape).transpose(0, 1)


def _activate(x: Tensor, name: str) -> Tensor:
    """Compute the activation, GELU in operations that ONNX Runtime joins to one."""
    if name == "relu":
        return F.relu(x)
    if name == "gelu":
        return x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5
    return F.gelu(x, approximate="tanh")


def arrange_for_export(
    model: MaskedLM | Classifier | Encoder,
) -> MaskedLM | Classifier | ExportedEncoder:
    """Return a model of the same answers whose encoder is made for ONNX; `model` stays as it is."""
    if isinstance(model, Encoder):
        return ExportedEncoder(model)
    return copy.deepcopy(model, {id(model.encoder): ExportedEncoder(model.encoder)})
