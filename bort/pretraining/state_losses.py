"""The losses on unmasked text, as functions of final states and of attention's projections.

They need no masked-LM head. Letters: B texts of a batch, S tokens of a text, H hidden size, R
relation heads.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bort.errors import BortError

LEAST_HEAD = 16  # numbers that a relation head of the narrower model has at least, by default
MASKED = -1e30  # as a score: its weight is 0, and the logarithm of that weight is finite


def hidden_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute 1 - cosine of the states of tokens, plus 1 - cosine of the mean states of texts.

    student, teacher: final states (B, S, H); those of the student have passed through the
    projection. mask: (B, S), nonzero where there is a token, None for everywhere. The first part is
    a mean over the tokens of a text, and the loss the mean (or sum) over texts; a text without a
    token counts as none. It is zero where both point in the same directions, and at most 4.
    """
    student, teacher = _widen(student), _widen(teacher)
    weights = _weigh_tokens(student, mask)  # (B, S)
    tokens = (1 - F.cosine_similarity(student, teacher, dim=-1)).mul(weights).sum(1)  # (B,)
    pooled = (_pool(states, weights) for states in (student, teacher))  # (B, H)
    texts = 1 - F.cosine_similarity(*pooled, dim=-1)
    return _reduce(tokens + texts, mask, reduction)


def relation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    heads: int,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute KL(teacher ‖ student) of how tokens relate to each other (MiniLMv2, 2012.15828).

    student, teacher: queries, keys and values of one layer, each (B, S, …) with H numbers a token.
    These are divided anew into `heads` relation heads, whose relations are softmax(X · Xᵀ / √(H /
    heads)) of queries, of keys and of values. The loss is a mean over tokens and heads, summed over
    the three kinds, in nats; the mean (or sum) over texts. mask: as of `hidden_loss`.
    """
    losses = [
        _compare_relations(_split_heads(x, heads), _split_heads(y, heads), mask)
        for x, y in zip(student, teacher, strict=True)
    ]
    return _reduce(torch.stack(losses).sum(0), mask, reduction)


def choose_relation_heads(student: int, teacher: int, heads: int | None = None) -> int:
    """Return the number of relation heads; None is the largest with at least LEAST_HEAD numbers.

    student, teacher: both hidden sizes. Raises BortError for a number that does not divide both.
    """
    common = math.gcd(student, teacher)
    divisors = [number for number in range(1, common + 1) if common % number == 0]
    if heads is None:
        return max(n for n in divisors if n == 1 or min(student, teacher) // n >= LEAST_HEAD)
    if heads not in divisors:
        nearest = sorted(sorted(divisors, key=lambda number: abs(number - heads))[:3])
        raise BortError(
            f"distill.relation_heads={heads} must divide the student's hidden size {student} and "
            f"the teacher's {teacher}; use {', '.join(map(str, nearest))}"
        )
    return heads


def count_texts(texts: Tensor, mask: Tensor | None) -> int:
    """Count the texts of a batch (B, S) that have a token."""
    return len(texts) if mask is None else int(mask.any(1).sum())


def _widen(states: Tensor) -> Tensor:
    """Return states of half precision in float32."""
    return states.float() if states.dtype in (torch.bfloat16, torch.float16) else states


def _weigh_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the share of each token in the mean over its text: (B, S)."""
    if mask is None:
        return states.new_full(states.shape[:2], 1 / states.shape[1])
    weights = mask.to(states.dtype)
    return weights / weights.sum(1, keepdim=True).clamp(min=1)


def _pool(states: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted sum (B, H) of the states (B, S, H) of each text, in their precision."""
    with torch.autocast(states.device.type, enabled=False):
        return (weights[:, None] @ states).squeeze(1)


def _reduce(losses: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Return the mean or the sum of the losses (B,) of texts with at least one token."""
    if mask is not None:
        losses = losses * mask.any(1)
    if reduction == "sum":
        return losses.sum()
    count = len(losses) if mask is None else mask.any(1).sum()
    return losses.sum() / torch.as_tensor(count).clamp(min=1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Divide the numbers of each token into relation heads: (B, R, S, H / R)."""
    return _widen(x).flatten(2).unflatten(2, (heads, -1)).transpose(1, 2)


def _compare_relations(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the mean KL over tokens and heads of one kind of relation, for each text: (B,)."""
    weights = _weigh_tokens(student[:, 0], mask)  # (B, S)
    log_q, log_p = (_relate(x, mask) for x in (student, teacher))  # (B, R, S, S)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # (B, R, S)
    return (divergence.mean(1) * weights).sum(1)


def _relate(x: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the logarithm of softmax(X · Xᵀ / √K) over the tokens of a text: (B, R, S, S)."""
    with torch.autocast(x.device.type, enabled=False):
        scores = x @ x.mT / math.sqrt(x.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], MASKED)
    return scores.log_softmax(-1)
