"""Closed forms of what an architecture costs: parameters and operations (arXiv 2010.10499, §3.1).

They equal what the module itself and torch's counter of FLOPs count. Nothing here needs torch.
"""

from bort.models.arch import Arch

# Bytes that an exported graph takes beside its numbers, for itself and for each layer, as measured.
GRAPH_BYTES, LAYER_BYTES = 4_150, 15_440


def count_parameters(arch: Arch, vocab_size: int, positions: int) -> int:
    """Count the weights of a student: embeddings without token types, encoder, tied MLM head."""
    V, P, D, H, I = vocab_size, positions, arch.depth, arch.hidden, arch.intermediate  # noqa: E741
    embeddings = V * H + P * H + 2 * H
    attention = 4 * (H * H + H) + 2 * H
    feed_forward = 2 * H * I + I + H + 2 * H
    head = H * H + H + 2 * H + V
    return embeddings + D * (attention + feed_forward) + head


def infer_vocab_size(parameters: int, arch: Arch, positions: int) -> float:
    """Return the vocabulary with which a student has this many weights: a whole number for one."""
    return (parameters - count_parameters(arch, 0, positions)) / (arch.hidden + 1)


def count_int8_bytes(arch: Arch, vocab_size: int, positions: int) -> int:
    """Count the bytes of embeddings and layers as an int8 ONNX file, as `models/onnx.py` writes it.

    The word table and all matrices of the layers are int8, with one scale (float32) and one zero
    point (int8) for each column of a matrix. Positions, biases and layer norms stay float32. Exact
    but for the graph itself, whose size was measured: real files differ by less than 1%. The head
    of a task is not counted.
    """
    V, P, D, H, I = vocab_size, positions, arch.depth, arch.hidden, arch.intermediate  # noqa: E741
    columns = 5 * H + I  # of queries, keys, values, output, and both matrices of the feed-forward
    int8 = 4 * H * H + 2 * H * I + columns
    float32 = 2 * columns + 4 * H  # scales, biases, two layer norms
    embeddings = V * H + 4 * (P * H + 2 * H)
    return embeddings + D * (int8 + 4 * float32 + LAYER_BYTES) + GRAPH_BYTES


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
