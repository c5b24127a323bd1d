"""The losses of a task's distillation: how far a student's outputs are from its teacher's.

Letters: B rows of a batch, C outputs of a row: its classes or its choices, or one number.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.distill import DistillConfig
from bort.finetuning.module import compute_loss


def compute_logit_loss(outputs: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the squared error of centred logits (B, C), as a mean over the C of a row.

    What all logits of a row have in common changes no probability, so it is taken off both sides.
    """
    outputs, teacher = (x.float() - x.float().mean(-1, keepdim=True) for x in (outputs, teacher))
    return F.mse_loss(outputs, teacher, reduction=reduction) / (
        1 if reduction == "mean" else outputs.shape[-1]
    )


def compute_probability_loss(
    outputs: Tensor, teacher: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Compute τ² · KL(teacher ‖ student) of logits (B, C), in nats a row."""
    student, target = (F.log_softmax(x.float() / temperature, dim=-1) for x in (outputs, teacher))
    kind = "batchmean" if reduction == "mean" else reduction
    return temperature**2 * F.kl_div(student, target, reduction=kind, log_target=True)


def compute_label_loss(outputs: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the squared error of logits (B, C) of several labels a row, as a mean over the C.

    Nothing is taken off: each logit is a probability of its own.
    """
    loss = F.mse_loss(outputs.float(), teacher.float(), reduction="none").mean(-1)
    return getattr(loss, reduction)()


def compute_label_probability_loss(
    outputs: Tensor, teacher: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Compute τ² · KL(teacher ‖ student) of several labels a row, in nats a row.

    The KLs of the C labels, each of them right or wrong, are added up.
    """
    student, target = (outputs.float() / temperature, teacher.float() / temperature)
    loss = torch.zeros_like(student)
    for sign in (1, -1):  # the label is right, or it is wrong
        likely, log_likely = (sign * target).sigmoid(), F.logsigmoid(sign * target)
        loss = loss + likely * (log_likely - F.logsigmoid(sign * student))
    return temperature**2 * getattr(loss.sum(-1), reduction)()


def compute_task_losses(
    kind: str, outputs: Tensor, batch: dict[str, Tensor], distill: DistillConfig, reduction: str
) -> dict[str, Tensor]:
    """Compute the losses of a batch: `kd_loss`, `ce_loss`, and their weighted sum, `loss`.

    kind: that of the task. batch: with `teacher` (B, C), and `labels`, which count where
    `is_labelled` (B,). Means are over all rows of the batch: rows without a label add nothing to
    `ce_loss`. Of a regression, both are squared errors in the square of the labels' unit.
    """
    teacher, losses = batch["teacher"], {}
    if distill.w_kd:
        if kind == "regression":
            losses["kd_loss"] = compute_loss(kind, outputs, teacher.squeeze(-1), reduction)
        elif distill.kd_loss == "mse":
            compare = compute_label_loss if kind == "labels" else compute_logit_loss
            losses["kd_loss"] = compare(outputs, teacher, reduction)
        else:
            is_several = kind == "labels"
            compare = compute_label_probability_loss if is_several else compute_probability_loss
            losses["kd_loss"] = compare(outputs, teacher, distill.temperature, reduction)
    if distill.w_ce:
        losses["ce_loss"] = _compute_labelled_loss(kind, outputs, batch, reduction)
    weights = {"kd_loss": distill.w_kd, "ce_loss": distill.w_ce}
    losses["loss"] = sum(weights[name] * loss for name, loss in losses.items())
    return losses


def _compute_labelled_loss(
    kind: str, outputs: Tensor, batch: dict[str, Tensor], reduction: str
) -> Tensor:
    """Compute the loss of the rows with a label; as a mean, it is over all rows of the batch."""
    rows = torch.nonzero(batch["is_labelled"])[:, 0]
    total = compute_loss(kind, outputs[rows], batch["labels"][rows], "sum")
    return total / len(outputs) if reduction == "mean" else total
