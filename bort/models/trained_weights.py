"""Products with weights in training, and lookups of words whose gradient joins a decoder's.

The decoder of a masked LM gives the (V, H) word matrix a dense gradient. That of the lookup touches
only the words of the batch, but torch's embedding fills a second (V, H) matrix for it with zeros.
In float32, the lookup has a sparse gradient instead. In a bf16 training on a CPU, both share the
memory of one gradient, which is kept from step to step, and so is the copy of the matrix in bf16: a
step of ⟨4,8,1024,768⟩ with V = 50,265 and 8 × 128 tokens takes a tenth less time.

Shape letters: V vocabulary, H hidden, U different words of a batch, N rows.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

# Numbers in a word matrix from which on the sparse gradient pays: at V = 8,192 both are equally
# fast at H = 256, and the sparse one takes half the time at H = 1024.
WORTHWHILE = 2**22
# Bytes from which on memory is kept: the system clears the pages of a fresh tensor of this size.
KEPT = 2**24
ROWS = 4096  # of a gradient that are computed at a time in bf16


class _TiedLookup(torch.autograd.Function):
    """`F.embedding` with a coalesced sparse gradient, whose sums are those of the dense one.

    Torch's own sparse gradient adds a repeated word to the decoder's gradient one occurrence at a
    time, which rounds in another order.
    """

    @staticmethod
    def forward(weight: Tensor, ids: Tensor, pad: int) -> Tensor:
        return F.embedding(ids, weight)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        weight, ids, ctx.pad = inputs
        ctx.shape = weight.shape
        ctx.save_for_backward(ids)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        words, sums = _sum_by_word(gradient, ctx.saved_tensors[0], ctx.pad)
        rows = torch.sparse_coo_tensor(
            words[None], sums, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return rows, None, None


def look_up_tied(words: nn.Embedding, ids: Tensor) -> Tensor:
    """Look up the vectors (…, H) of words, some of which a tied decoder multiplies later on.

    Use it only where the same backward pass also reaches the decoder: otherwise the gradient of the
    matrix is sparse, which optimizers refuse. Values and gradients equal those of `words(ids)` bit
    by bit. It calls that for small matrices, for a matrix that is a part of another parameter,
    under the compiler, and on a GPU, where sums of sparse gradients are not deterministic.
    """
    if words.weight.numel() >= WORTHWHILE and _is_trained(words.weight):
        return _TiedLookup.apply(words.weight, ids, _get_pad(words))
    return words(ids)


def _get_pad(words: nn.Embedding) -> int:
    """Return the word without a gradient, -1 for none."""
    return -1 if words.padding_idx is None else words.padding_idx


def _sum_by_word(gradient: Tensor, ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Sum the gradients (…, H) of words: the different words (U,), and their sums (U, H)."""
    words, numbers = ids.flatten().unique(return_inverse=True)  # (U,), (N,)
    at = (words == pad).nonzero().flatten().tolist()
    pad = at[0] if at else -1  # padding has no gradient
    gradient = gradient.flatten(0, -2)
    sums = torch.ops.aten.embedding_dense_backward(gradient, numbers, len(words), pad, False)
    return words, sums


def _is_trained(weight: Tensor) -> bool:
    """Return whether a weight on a CPU gets a gradient now, and is no part of another parameter."""
    is_plain = type(weight) is nn.Parameter and weight.requires_grad and torch.is_grad_enabled()
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_plain and weight.device.type == "cpu" and not is_traced


# ------------------------------------------------------------------- in a bf16 training on a CPU


def _is_trained_in_bf16(weight: Tensor) -> bool:
    """Return whether a float32 weight is trained by autocast to bf16, with oneDNN's products."""
    return (
        _is_trained(weight)
        and weight.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight → dtype → the storage of its copies


def _reserve(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory of a weight's shape, that of the last step if nobody holds that any more.

    Large memory is kept as long as the weight is there.
    """
    if weight.numel() * dtype.itemsize < KEPT:
        return torch.empty_like(weight, dtype=dtype)
    storages = _kept.setdefault(weight, {})
    storage = storages.get(dtype)
    if storage is None or _count_holders(storage) > 1:
        fresh = torch.empty_like(weight, dtype=dtype)
        if storage is None:
            storages[dtype] = fresh.untyped_storage()
        return fresh
    return torch.empty(0, dtype=dtype).set_(storage, 0, weight.shape)


def _count_holders(storage: torch.UntypedStorage) -> int:
    """Count who holds a storage; a version of torch that does not tell counts as many."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return 2 if count is None else count(storage._cdata)


class Linear(nn.Linear):
    """`nn.Linear` with less work beside its products in a bf16 training on a CPU.

    oneDNN adds the bias within the product: 2.1 instead of 2.4 ms for 1024 × 1024 × 1024, and 0.6
    instead of 0.85 ms for 4096 × 256 × 512 (2 cores with AMX). Values and gradients are those of
    autocast, bit by bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias."""
        if x.numel() and _is_trained_in_bf16(self.weight):
            return _Product.apply(x, self.weight, self.bias)
        return super().forward(x)


class _Product(torch.autograd.Function):
    """x · weightᵀ + bias in bf16, of float32 or bf16 rows x and float32 parameters."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.to(torch.bfloat16)
        cast = _reserve(weight, torch.bfloat16).copy_(weight)
        ctx.save_for_backward(x, cast)
        ctx.weight = weight
        bias = None if bias is None else bias.to(torch.bfloat16)
        return torch.ops.mkldnn._linear_pointwise(x, cast, bias, "none", [], None)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, cast = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            (rows @ cast).view(x.shape) if needs_x else None,
            _multiply_by_parts(rows, x.reshape(-1, x.shape[-1]), ctx.weight),
            rows.sum(0).float() if needs_bias else None,
        )


def _multiply_by_parts(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the float32 gradient of a weight: gradientᵀ · x of bf16 rows, rounded to bf16.

    A large one is computed by parts, whose values in bf16 take little memory.
    """
    if weight.numel() * weight.itemsize < KEPT:
        return (gradient.t() @ x).float()
    whole = _reserve(weight, torch.float32)
    for start in range(0, len(weight), ROWS):
        part = slice(start, start + ROWS)
        whole[part] = gradient[:, part].t() @ x
    return whole


class SharedWords:
    """The word matrix in one pass of a masked LM: looked up first, and a decoder's matrix last.

    Under bf16 autocast in a training on a CPU, the gradients of both are computed in one matrix:
    that of the decoder, to which the lookup adds its rows. Elsewhere `look_up_tied` and `F.linear`
    take its place. The lookup also gives the decoder an empty tensor, so that in every backward
    pass it is asked after the decoder.
    """

    def __init__(self, words: nn.Embedding):
        self.words = words
        self.gradient: Tensor | None = None  # of the decoder, until the lookup takes it
        self.token: Tensor | None = None

    def look_up(self, ids: Tensor) -> Tensor:
        """Return the float32 vectors (…, H) of words."""
        weight = self.words.weight
        if weight.numel() < WORTHWHILE or not _is_trained_in_bf16(weight):
            return look_up_tied(self.words, ids)
        vectors, self.token = _SharedLookup.apply(weight, ids, self)
        return vectors

    def decode(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return the logits (…, V) of states (…, H)."""
        if self.token is None or not states.numel():
            return F.linear(states, self.words.weight, bias)
        return _SharedDecoder.apply(states, self.words.weight, bias, self.token, self)

    def add(self, gradient: Tensor) -> None:
        """Add the gradient of a decoder, which may be written over."""
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)

    def take(self) -> Tensor:
        """Return the gradient of all decoders of a backward pass, and forget it."""
        gradient, self.gradient = self.gradient, None
        return torch.zeros_like(self.words.weight) if gradient is None else gradient


class _SharedLookup(torch.autograd.Function):
    """The lookup of `SharedWords`: it returns the gradient of the decoder together with its own."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, shared: SharedWords) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.shared = shared
        return F.embedding(ids, weight), weight.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        words, sums = _sum_by_word(gradient, ctx.saved_tensors[0], _get_pad(ctx.shared.words))
        return ctx.shared.take().index_add_(0, words, sums), None, None


class _SharedDecoder(torch.autograd.Function):
    """The decoder of `SharedWords`: it leaves the gradient of the matrix to the lookup."""

    @staticmethod
    def forward(
        ctx, states: Tensor, weight: Tensor, bias: Tensor, token: Tensor, shared: SharedWords
    ) -> Tensor:
        ctx.shared = shared
        return _Product.forward(ctx, states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, cast = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        ctx.shared.add(_multiply_by_parts(rows, x.reshape(-1, x.shape[-1]), ctx.weight))
        bias = rows.sum(0).float() if ctx.needs_input_grad[2] else None
        return (rows @ cast).view(x.shape), None, bias, rows.new_empty(0), None
