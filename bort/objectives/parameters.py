"""Closed forms of what an architecture costs: parameters and operations (arXiv 2010.10499, §3.1).

They equal what the module itself and torch's counter of FLOPs count. Nothing here needs torch.
"""

from bort.models.arch import Arch


def count_parameters(arch: Arch, vocab_size: int, positions: int) -> int:
    """Count the weights of a student: embeddings without token types, encoder, tied MLM head."""
    V, P, D, H, I = vocab_size, positions, arch.depth, arch.hidden, arch.intermediate  # noqa: E741
    embeddings = V * H + P * H + 2 * H
    attention = 4 * (H * H + H) + 2 * H
    feed_forward = 2 * H * I + I + H + 2 * H
    head = H * H + H + 2 * H + V
    return embeddings + D * (attention + feed_forward) + head


def count_forward_flops(arch: Arch, vocab_size: int, length: int, mask_rate: float) -> float:
    """Count the operations (2 per multiply-add) of matrix products, per token of a forward pass.

    The head counts only for the masked tokens: mask_rate = 0 for the encoder alone.
    """
    H, I = arch.hidden, arch.intermediate  # noqa: E741
    layer = 2 * (4 * H * H + 2 * H * I) + 4 * length * H
    return arch.depth * layer + mask_rate * (2 * H * H + 2 * H * vocab_size)


def count_training_flops(arch: Arch, vocab_size: int, length: int, mask_rate: float) -> float:
    """Count the operations per input token of a step; a backward pass costs two forward passes."""
    return 3 * count_forward_flops(arch, vocab_size, length, mask_rate)


def count_encoder_operations(arch: Arch, batch: int, length: int) -> float:
    """Count the operations of one inference of embeddings and D layers, without the vocabulary.

    The paper's latency surrogate: exact, the same on every machine, blind to what a machine does
    badly (short products, many layers).
    """
    return count_forward_flops(arch, 0, length, mask_rate=0.0) * batch * length
