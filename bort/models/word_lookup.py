"""Look up word vectors whose gradient joins that of a decoder without a second dense matrix.

The decoder of a masked LM gives the (V, H) word matrix a dense gradient. That of the lookup touches
only the words of the batch, but torch's embedding fills a second (V, H) matrix for it with zeros.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Numbers in a word matrix from which on the sparse gradient pays: at V = 8,192 both are equally
# fast at H = 256, and the sparse one takes half the time at H = 1024.
WORTHWHILE = 2**22


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
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        words, numbers = ids.flatten().unique(return_inverse=True)  # (U,), (B · S,)
        at = (words == ctx.pad).nonzero().flatten().tolist()
        pad = at[0] if at else -1  # padding has no gradient
        gradient = gradient.flatten(0, -2)
        sums = torch.ops.aten.embedding_dense_backward(gradient, numbers, len(words), pad, False)
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
    weight = words.weight
    is_worthwhile = weight.numel() >= WORTHWHILE and weight.device.type == "cpu"
    is_plain = type(weight) is nn.Parameter and weight.requires_grad and torch.is_grad_enabled()
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if is_worthwhile and is_plain and not is_traced:
        return _TiedLookup.apply(
            weight, ids, -1 if words.padding_idx is None else words.padding_idx
        )
    return words(ids)
