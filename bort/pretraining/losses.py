"""The losses at masked positions, as functions of logits: distillation, masked words, entropy.

Letters: M masked positions, V vocabulary.
"""

from torch import Tensor
from torch.nn import functional as F

from bort.config.distill import DistillConfig
from bort.errors import BortError


def distillation_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    weights: DistillConfig,
    reduction: str = "mean",
) -> dict[str, Tensor]:
    """Weigh the two losses of a distillation: `loss` = w_kd · `kd_loss` + w_mlm · `mlm_loss`.

    student, teacher: logits (M, V); labels: the true words (M,). Losses are in nats per token, as
    the mean (or sum) over M. A loss of weight 0 is neither computed nor returned; with w_kd = 0 no
    teacher is needed.
    """
    losses = {}
    if weights.w_kd:
        losses["kd_loss"] = kd_loss(student, teacher, weights.temperature, reduction)
    if weights.w_mlm:
        losses["mlm_loss"] = mlm_loss(student, labels, reduction)
    shares = {"kd_loss": weights.w_kd, "mlm_loss": weights.w_mlm}
    total = sum(shares[name] * loss for name, loss in losses.items())
    return {"loss": total, **losses}


def kd_loss(
    student: Tensor, teacher: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Compute KL(teacher ‖ student) of softened distributions, times τ² (arXiv 1503.02531, §2).

    student, teacher: logits (M, V) at M masked positions. The loss is in nats per token, as the
    mean (or sum) over M. It is zero if and only if both agree up to a constant per row, and zero
    for M = 0. It costs two softmaxes over M · V. Raises BortError if the vocabularies differ.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise BortError(
            f"the teacher's vocabulary has {teacher.shape[-1]} tokens, the student's "
            f"{student.shape[-1]}; KD needs the same vocabulary, id by id"
        )
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    total = F.kl_div(log_student, log_teacher, log_target=True, reduction="sum")
    return temperature**2 * _reduce(total, len(student), reduction)


def mlm_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the cross-entropy of logits (M, V) for the true words (M,), in nats; 0 if M = 0."""
    total = F.cross_entropy(logits.float(), labels, reduction="sum")
    return _reduce(total, len(labels), reduction)


def compute_entropy(logits: Tensor) -> Tensor:
    """Compute the mean entropy of softmax(logits) over the rows of (M, V), in nats per token."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).mean()


def _reduce(total: Tensor, count: int, reduction: str) -> Tensor:
    return total / max(count, 1) if reduction == "mean" else total
