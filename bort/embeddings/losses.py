"""The losses of a distillation of embeddings: how far a student's are from its teacher's.

Letters: B texts of a batch, E numbers of an embedding; those of student and teacher may differ.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.distill import DistillConfig


def compute_direction_loss(student: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """Compute 1 - cosine of embeddings (B, E), those of the student in the teacher's width.

    It is zero where both point in the same direction, and at most 2.
    """
    losses = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return losses.mean() if reduction == "mean" else losses.sum()


def compute_matrix_loss(student: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """Compare the cosines of all pairs of a batch's texts: the mean square of their difference.

    student, teacher: embeddings (B, E) of any widths. A text alone in a batch has no pair, and
    costs nothing. The sum is over the texts, each with the mean over its pairs.
    """
    cosines = [compute_cosines(embeddings.float()) for embeddings in (student, teacher)]
    squares = (cosines[0] - cosines[1]).square()  # (B, B), whose diagonal is zero
    total = squares.sum() / max(len(squares) - 1, 1)
    return total / len(squares) if reduction == "mean" else total


def compute_cosines(embeddings: Tensor) -> Tensor:
    """Compute the cosine (B, B) of each embedding (B, E) with each other one."""
    unit = F.normalize(embeddings, dim=-1)
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.T


def compute_embedding_losses(
    student: Tensor, projected: Tensor, teacher: Tensor, distill: DistillConfig, reduction: str
) -> dict[str, Tensor]:
    """Compute the losses of a batch: `kd_loss`, `relation_loss`, and their weighted sum, `loss`.

    student: embeddings (B, E) as they are used later; projected: the same in the teacher's width.
    """
    losses = {}
    if distill.w_kd:
        losses["kd_loss"] = compute_direction_loss(projected, teacher, reduction)
    if distill.w_relation:
        losses["relation_loss"] = compute_matrix_loss(student, teacher, reduction)
    weights = {"kd_loss": distill.w_kd, "relation_loss": distill.w_relation}
    losses["loss"] = sum(weights[name] * loss for name, loss in losses.items())
    return losses
