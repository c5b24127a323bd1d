"""The losses at masked positions, as functions of logits: distillation, masked words, entropy.

Letters: M masked positions, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bort.config.distill import DistillConfig
from bort.errors import BortError

CHUNK = {"cpu": 2**20, "cuda": 2**26}  # logits at a time: those of a CPU stay in its cache


def distillation_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    weights: DistillConfig,
    reduction: str = "mean",
) -> dict[str, Tensor]:
    """Weigh the two losses at masked positions: `loss` = w_kd · `kd_loss` + w_mlm · `mlm_loss`.

    student, teacher: logits (M, V); labels: the true words (M,). Losses are in nats per token, as
    the mean (or sum) over M. A loss of weight 0 is neither computed nor returned; with w_kd = 0 no
    teacher is needed.
    """
    weights, losses = weights.settle(), {}  # the teacher has a head: these are its logits
    if weights.w_kd:
        losses["kd_loss"] = kd_loss(student, teacher, weights.temperature, reduction)
    if weights.w_mlm:
        losses["mlm_loss"] = mlm_loss(student, labels, reduction)
    return weigh_losses(losses, weights)


def weigh_losses(losses: dict[str, Tensor], weights: DistillConfig) -> dict[str, Tensor]:
    """Put the weighted sum of some losses, called `loss`, before them."""
    shares = {
        "kd_loss": weights.w_kd,
        "mlm_loss": weights.w_mlm,
        "hidden_loss": weights.w_hidden,
        "relation_loss": weights.w_relation,
    }
    return {"loss": sum(shares[name] * loss for name, loss in losses.items()), **losses}


def kd_loss(
    student: Tensor, teacher: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Compute KL(teacher ‖ student) of softened distributions, times τ² (arXiv 1503.02531, §2).

    student, teacher: logits (M, V) at M masked positions; the teacher is a constant, which gets no
    gradient. The loss is in nats per token, as the mean (or sum) over M. It is zero if and only if
    both agree up to a constant per row, and zero for M = 0. It costs two softmaxes over M · V, and
    the memory of the student's gradient. Raises BortError if the vocabularies differ.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise BortError(
            f"the teacher's vocabulary has {teacher.shape[-1]} tokens, the student's "
            f"{student.shape[-1]}; KD needs the same vocabulary, id by id"
        )
    count = max(len(student), 1) if reduction == "mean" else 1
    return _Divergence.apply(student, teacher, temperature, temperature**2 / count)


def _divide(logits: Tensor) -> Iterator[slice]:
    """Divide the rows of (M, V) into chunks of at most CHUNK numbers."""
    rows = max(1, CHUNK.get(logits.device.type, CHUNK["cuda"]) // max(logits.shape[-1], 1))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


class _Memory:
    """Float32 memory for a chunk, which the next chunk writes again.

    The system clears the pages of a fresh tensor first. In bf16, a loss at V = 50,265 takes half
    the time without that (15 instead of 27 ms for 154 rows on 2 cores).
    """

    def __init__(self, logits: Tensor):
        self.logits, self.tensors = logits, {}

    def reserve(self, name: str, rows: int) -> Tensor:
        """Return (rows, V), whose values are those of its last use; the first use has most rows."""
        if name not in self.tensors:
            shape = (rows, self.logits.shape[-1])
            self.tensors[name] = self.logits.new_empty(shape, dtype=torch.float32)
        return self.tensors[name][:rows]


def _compute_softmax(logits: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the softmax of float32 logits (M, V), and the log of its normalizer (M, 1).

    out: where the softmax is written, which may be the logits' own memory; None for fresh memory.
    The normalizer follows from the largest logit and its probability, which is at least 1 / V: a
    third pass over the logits is not needed.
    """
    largest = logits.amax(-1, keepdim=True)
    softmax = torch.softmax(logits, -1) if out is None else torch.softmax(logits, -1, out=out)
    return softmax, largest - softmax.amax(-1, keepdim=True).log()


class _Divergence(torch.autograd.Function):
    """The sum over M of KL(teacher ‖ student), times `scale`, a chunk of rows at a time.

    The gradient, scale / τ · (q - p), is computed beside the loss while the softmaxes p and q are
    in the cache. By PyTorch's own operations it takes up to twice as long (2 cores).
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, temperature: float, scale: float) -> Tensor:
        gradient = _allocate_gradient(student) if ctx.needs_input_grad[0] else None
        sums, memory = [student.new_zeros((), dtype=torch.float32)], _Memory(student)
        for chunk in _divide(student):
            rows = len(student[chunk])
            x, y, q, p = (memory.reserve(name, rows) for name in "xyqp")
            x.copy_(student[chunk]).div_(temperature)
            y.copy_(teacher[chunk]).div_(temperature)
            target = None if gradient is None else gradient[chunk]
            student_normalizer = _compute_softmax(x, q)[1]
            teacher_normalizer = _compute_softmax(y, p)[1]
            sums.append(y.sub_(x).mul_(p).sum())
            sums.append((student_normalizer - teacher_normalizer).sum())
            if target is not None:
                target.copy_(q.sub_(p).mul_(scale / temperature))
        ctx.save_for_backward(gradient)
        return scale * torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None, None, None]:
        return _multiply(ctx.saved_tensors[0], outer), None, None, None


class _CrossEntropy(torch.autograd.Function):
    """The sum over M of the cross-entropy for the labels, times `scale`, as in `_Divergence`."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, scale: float) -> Tensor:
        gradient = _allocate_gradient(logits) if ctx.needs_input_grad[0] else None
        is_float32, memory = logits.dtype == torch.float32, _Memory(logits)
        sums = [logits.new_zeros((), dtype=torch.float32)]
        for chunk in _divide(logits):
            x, words = logits[chunk], labels[chunk, None]
            target = None if gradient is None else gradient[chunk]
            if not is_float32:
                x = memory.reserve("x", len(x)).copy_(x)
            right = x.gather(1, words)
            q, normalizer = _compute_softmax(x, target if is_float32 else x)
            sums.append((normalizer - right).sum())
            if target is not None:
                q.mul_(scale).scatter_add_(1, words, q.new_full(words.shape, -scale))
                target.copy_(q)
        ctx.save_for_backward(gradient)
        return scale * torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(ctx.saved_tensors[0], outer), None, None


def _allocate_gradient(logits: Tensor) -> Tensor:
    """Return room for the gradient, in float32 for float16: small numbers would be 0 in float16.

    A gradient scaler multiplies the loss against that, but only in the backward pass.
    """
    is_float16 = logits.dtype == torch.float16
    return torch.empty_like(logits, dtype=torch.float32 if is_float16 else None)


def _multiply(gradient: Tensor, outer: Tensor) -> Tensor:
    """Return the gradient times that of the loss, which is usually 1: then nothing is computed."""
    if outer.device.type == "cpu" and outer == 1:  # on a GPU the comparison would have to wait
        return gradient
    return gradient * outer.to(gradient.dtype)


def mlm_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the cross-entropy of logits (M, V) for the true words (M,), in nats; 0 if M = 0.

    It costs one softmax over M · V, and the memory of the gradient.
    """
    count = max(len(labels), 1) if reduction == "mean" else 1
    return _CrossEntropy.apply(logits, labels, 1 / count)


def compute_entropy(logits: Tensor) -> Tensor:
    """Compute the mean entropy of softmax(logits) over the rows of (M, V), in nats per token."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).mean()
