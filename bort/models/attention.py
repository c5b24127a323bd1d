"""Attention by the fastest kernel for the device, the precision and the length.

torch's `scaled_dot_product_attention` computes it everywhere but in one case: training in bfloat16
on a CPU. There its backward pass takes two to four times as long as products of whole matrices, and
with dropout it computes in float32. Two functions of this module take its place. The same random
bits serve the dropout of states.

Shape letters: B batch, S sequence, A heads, K = H / A, N = samples times heads of a block.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# The scores of a block stay in the second-level cache, and a block has work for every thread.
BLOCK_BYTES = 2**20  # of scores
BLOCK_HEADS = 2  # per thread, at least
# Below this many scores a step's other costs are larger than what is saved (0.3 ms).
LEAST_SCORES = 2**14
# The scores of longer heads leave the cache, and torch's backward pass is as fast.
MOST_TOKENS = 2048
MASKED = -1e30  # as a score: its weight is 0, and its product with any scale is finite
Block = tuple[slice, slice, slice]  # samples, all tokens, heads


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(query · keyᵀ / √K) · value of each head: (B, S, A, K).

    query, key, value: (B, S, A, K), of one dtype. mask: bool (B, 1, 1, S), True at the keys that
    are attended to, at least one in each sample; None for all. dropout: the share of the weights
    that are set to 0; the others are divided by 1 - dropout.
    """
    if not _is_faster(query, key, value, mask, dropout):
        heads_first = (x.transpose(1, 2) for x in (query, key, value))  # (B, A, S, K)
        mixed = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, dropout_p=dropout)
        return mixed.transpose(1, 2)
    bias = None  # what is added to scores: (B, 1, 1, S)
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, MASKED)
    if dropout:
        return _DroppedAttention.apply(query, key, value, bias, dropout)
    return _Attention.apply(query, key, value, bias)


def drop_states(x: Tensor, dropout: float, training: bool) -> Tensor:
    """Set a share of states to 0 in training, and divide the others by 1 - dropout.

    In bfloat16 on a CPU it draws random bits as attention does, and takes half of the time of
    `F.dropout`: 2.6 instead of 5.9 ms for 16 × 128 × 384, forward and backward (2 cores).
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if (
        not training
        or not dropout
        or is_traced
        or x.device.type != "cpu"
        or x.dtype != torch.bfloat16
    ):
        return F.dropout(x, dropout, training)
    return _DroppedStates.apply(x, dropout)


class _DroppedStates(torch.autograd.Function):
    """Dropout of bfloat16 numbers, whose share is rounded to a multiple of 2^-15."""

    @staticmethod
    def forward(ctx, x: Tensor, dropout: float) -> Tensor:
        limit = round(dropout * 2**15)
        signs = _Memory().draw_signs(x.shape, limit)
        ctx.factor = 2**15 / (2**15 - limit)
        mask = _mask_dropped(signs)
        ctx.save_for_backward(mask)
        return _zero_dropped(x * ctx.factor, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _zero_dropped(gradient * ctx.factor, ctx.saved_tensors[0]), None


def _is_faster(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> bool:
    """Return whether the functions of this module apply and are faster than torch's."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    batch, length, heads, _ = query.shape
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad or value.requires_grad)
        and batch * heads * length**2 >= LEAST_SCORES
        and (length <= MOST_TOKENS or dropout > 0)
        and (mask is None or mask.shape == (batch, 1, 1, length))
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class _Attention(torch.autograd.Function):
    """torch's forward pass, and a backward pass that computes the weights again, by blocks."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return the mixed values (B, S, A, K)."""
        mixed, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.transpose(1, 2) for x in (query, key, value)), attn_mask=bias
        )
        ctx.save_for_backward(query, key, value, bias, log_sums.transpose(1, 2))
        return mixed.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value.

        A weight is exp(score - log_sum). The difference and the bias are computed inside the
        product, in float32, by further columns of query and key. What is rounded to bfloat16 is
        then the logarithm of a weight, which is near 0 where the weight is large.
        """
        query, key, value, bias, log_sums = ctx.saved_tensors
        size, scale = query.shape[-1], query.shape[-1] ** -0.5
        query_columns = _split_in_three(log_sums / -scale)  # (B, S, A, 4): three parts and 1
        key_columns = torch.ones_like(query_columns)
        key_columns[..., -1] = 0 if bias is None else bias.view(*key.shape[:2], 1)
        gradients = tuple(torch.empty_like(x) for x in (query, key, value))
        memory = _Memory()
        for block in _split_blocks(query):
            wide_query = memory.take("query", query, block, query_columns)  # (N, S, K + 4)
            wide_key = memory.take("key", key, block, key_columns)
            weights = memory.multiply("weights", wide_query, wide_key.mT, scale).exp_()
            taken = (
                wide_query[..., :size],
                wide_key[..., :size],
                memory.take("value", value, block),
                memory.take("gradient", gradient, block),
            )
            _put_gradients(gradients, block, memory, taken, weights)
        return *gradients, None


class _DroppedAttention(torch.autograd.Function):
    """Attention with dropout, forward and backward by blocks; keeps its weights in bfloat16.

    It draws 15 random bits per weight, which takes a fifth of the time of torch's own draws: the
    share that is dropped is rounded to a multiple of 2^-15. Scores are rounded to bfloat16, which
    changes the weights much less than dropout does.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
    ) -> Tensor:
        """Return the mixed values (B, S, A, K)."""
        limit, scale = round(dropout * 2**15), query.shape[-1] ** -0.5
        ctx.factor = 2**15 / (2**15 - limit)
        mixed, saved, memory = torch.empty_like(query), [], _Memory()
        for block in _split_blocks(query):
            taken = [memory.take(name, x, block) for name, x in (("query", query), ("key", key))]
            scores = memory.multiply("scores", taken[0], taken[1].mT, scale)  # (N, S, S)
            if bias is not None:
                samples = bias[block[0]]
                scores.unflatten(0, (len(samples), -1)).add_(samples)
            weights = torch.softmax(scores, -1).abs_()  # a NaN may have the sign -
            weights.view(torch.int16).bitwise_or_(memory.draw_signs(weights.shape, limit))
            saved.append(weights)  # a weight with the sign - is dropped
            remaining = _zero_dropped(weights.clone(), _mask_dropped(weights))
            taken = memory.take("value", value, block)
            _put(mixed, block, memory.multiply("product", remaining, taken, ctx.factor))
        ctx.save_for_backward(query, key, value, *saved)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, *saved = ctx.saved_tensors
        gradients = tuple(torch.empty_like(x) for x in (query, key, value))
        memory = _Memory()
        operands = {"query": query, "key": key, "value": value, "gradient": gradient}
        for block, weights in zip(_split_blocks(query), saved, strict=True):
            taken = tuple(memory.take(name, x, block) for name, x in operands.items())
            mask = _mask_dropped(weights)
            _put_gradients(gradients, block, memory, taken, weights.abs(), mask, ctx.factor)
        return *gradients, None, None


def _put_gradients(
    gradients: tuple[Tensor, ...],
    block: Block,
    memory: "_Memory",
    taken: tuple[Tensor, ...],
    weights: Tensor,
    mask: Tensor | None = None,
    factor: float = 1.0,
) -> None:
    """Write the gradients of a block's query, key and value to the whole ones.

    taken: query, key, value and the gradient of the mixed values, (N, S, K). weights: (N, S, S),
    before dropout. mask: what `_mask_dropped` returned, None without dropout; factor: what the
    weights that are kept are multiplied with.
    """
    query, key, value, gradient = taken
    scale = query.shape[-1] ** -0.5
    remaining = weights if mask is None else _zero_dropped(weights.clone(), mask)
    _put(gradients[2], block, memory.multiply("product", remaining.mT, gradient, factor))
    changes = memory.multiply("changes", gradient, value.mT, factor)  # of the weights
    if mask is not None:
        _zero_dropped(changes, mask)
    # The gradient of a softmax, written over that of its result: now of the scores.
    torch._softmax_backward_data(changes, weights, -1, weights.dtype, grad_input=changes)
    _put(gradients[0], block, memory.multiply("product", changes, key, scale))
    _put(gradients[1], block, memory.multiply("product", changes.mT, query, scale))


def _split_in_three(x: Tensor) -> Tensor:
    """Return float32 numbers as three in bfloat16 whose sum they are, and a 1: (..., 4)."""
    high = x.bfloat16()
    middle = (x - high).bfloat16()
    low = (x - high - middle).bfloat16()
    return torch.stack([high, middle, low, torch.ones_like(high)], dim=-1)


def _mask_dropped(weights: Tensor) -> Tensor:
    """Return int16 with all bits set where weights have the sign +, and none elsewhere."""
    return weights.view(torch.int16).bitwise_right_shift(15).bitwise_not_()


def _zero_dropped(x: Tensor, mask: Tensor) -> Tensor:
    """Set bfloat16 numbers to 0 in place where a mask has no bits: ten times as fast as `where`."""
    x.view(torch.int16).bitwise_and_(mask)
    return x


def _split_blocks(x: Tensor) -> Iterator[Block]:
    """Yield blocks of (B, S, A, K): some samples with all their heads, or heads of one sample."""
    batch, length, heads, _ = x.shape
    fitting = BLOCK_BYTES // (length**2 * x.itemsize)
    most = max(fitting, BLOCK_HEADS * torch.get_num_threads())  # heads of a block
    samples = max(1, most // heads)
    for sample in range(0, batch, samples):
        for head in range(0, heads, most):
            last = min(sample + samples, batch), min(head + most, heads)
            yield slice(sample, last[0]), slice(None), slice(head, last[1])


def _put(whole: Tensor, block: Block, part: Tensor) -> None:
    """Copy (N, S, K) to a block of (B, S, A, K)."""
    heads = block[2].stop - block[2].start
    whole[block] = part.unflatten(0, (-1, heads)).transpose(1, 2)


class _Memory:
    """Memory for the tensors of a block, which the next block writes again.

    The system clears the pages of a fresh tensor of this size first, which takes as long as the
    computation.
    """

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}

    def reserve(self, name: str, *shape: int) -> Tensor:
        """Return a contiguous bfloat16 tensor whose values are those of its last use."""
        numel = math.prod(shape)
        if name not in self.tensors or len(self.tensors[name]) < numel:
            self.tensors[name] = torch.empty(numel, dtype=torch.bfloat16)
        return self.tensors[name][:numel].view(shape)

    def take(self, name: str, x: Tensor, block: Block, columns: Tensor | None = None) -> Tensor:
        """Copy a block of (B, S, A, K), with further columns, to (N, S, K + columns)."""
        part = x[block].transpose(1, 2)  # (samples, heads, S, K)
        size = part.shape[-1]
        further = 0 if columns is None else columns.shape[-1]
        copy = self.reserve(name, *part.shape[:-1], size + further)
        copy[..., :size] = part
        if columns is not None:
            copy[..., size:] = columns[block].transpose(1, 2)
        return copy.flatten(0, 1)

    def multiply(self, name: str, left: Tensor, right: Tensor, factor: float = 1.0) -> Tensor:
        """Return factor · left · right of each pair of matrices."""
        product = self.reserve(name, *left.shape[:2], right.shape[2])
        return product.baddbmm_(left, right, beta=0, alpha=factor)

    def draw_signs(self, shape: torch.Size, limit: int) -> Tensor:
        """Draw int16 numbers that are only a sign bit, with chance limit / 2^15, or else 0."""
        words = self.reserve("random", 4 * math.ceil(shape.numel() / 4)).view(torch.int64)
        words.random_(-(2**63), None)
        numbers = words.view(torch.int16)[: shape.numel()].view(shape).bitwise_and_(2**15 - 1)
        return numbers.sub_(limit).bitwise_and_(-(2**15))  # negative below the limit
