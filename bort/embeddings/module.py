"""The LightningModule that teaches a small encoder the embeddings of a large one.

Letters: B texts of a batch, H hidden size of the student, E numbers of the teacher's embedding.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.embeddings.embedder import Embedder
from bort.embeddings.losses import compute_embedding_losses
from bort.embeddings.scores import compare_cosines
from bort.models.initialization import draw_weights
from bort.training.module import StepModule

BASE_LR = 2e-3  # the default rate at a width of 128
AGREEMENT = "val/agreement"  # of the student's cosines with the teacher's, on held-out texts


class EmbeddingModule(StepModule):
    """A student whose embeddings learn the teacher's, and are compared with them by their cosines.

    A batch has input_ids and attention_mask (B, S) and `teacher` (B, E), the teacher's embeddings;
    one of a validation has `rows` (B,), too, the places of its texts among the held-out ones.

    projection: brings the student's embeddings to the width of the teacher's; it is trained with
    the student and is no part of it. There is none where the widths are equal. held: the teacher's
    embeddings (N, E) of the held-out texts.
    """

    def __init__(
        self, model: Embedder, optim: OptimConfig, distill: DistillConfig, held: np.ndarray
    ):
        if optim.lr is None:
            optim = replace(optim, lr=width_lr(model.config.hidden, BASE_LR))
        super().__init__(model, optim)
        self.distill, self.held = distill, held
        self.metric, self.scores = AGREEMENT, [AGREEMENT, "val/loss"]
        self.projection = build_projection(model.config.hidden, held.shape[1])
        self.embeddings = np.zeros((0, 0))  # (N, H) of the held-out texts, of the last validation
        self.validation: dict[str, float | None] = {}  # the scores of the last one
        self._loss = 0.0  # the sum over the held-out texts

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the embeddings (B, H) of a batch."""
        return self.model(batch["input_ids"], batch["attention_mask"])

    def compute_losses(self, batch: dict[str, Tensor], reduction: str) -> dict[str, Tensor]:
        """Compare a batch with the teacher's embeddings; note those of a validation."""
        embeddings, teacher = self(batch).float(), batch["teacher"].float()
        projected = embeddings if self.projection is None else self.projection(embeddings)
        if not self.training:
            self.embeddings[batch["rows"].cpu().numpy()] = embeddings.cpu().numpy()
        return compute_embedding_losses(embeddings, projected, teacher, self.distill, reduction)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the losses of a batch and count them into its optimizer step."""
        losses = self.compute_losses(batch, self.reduction)
        self.count(batch, losses)
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch of held-out texts to the loss, and note its embeddings."""
        with self.in_float32():
            self._loss += float(self.compute_losses(batch, "sum")["loss"])

    def on_validation_epoch_start(self) -> None:
        """Forget the embeddings of the validation before."""
        self.embeddings = np.zeros((len(self.held), self.model.config.hidden), dtype=np.float32)
        self._loss = 0.0

    def on_validation_epoch_end(self) -> None:
        """Log how far the student's cosines agree with the teacher's, and the loss."""
        agreement = compare_cosines(self.embeddings, self.held.astype(np.float32))
        self.validation = {AGREEMENT: agreement, "val/loss": self._loss / len(self.held)}
        defined = {name: value for name, value in self.validation.items() if value is not None}
        self.log_dict(defined, logger=False)
        self.log_validation(defined)


def build_projection(hidden: int, width: int) -> nn.Linear | None:
    """Build the matrix that brings embeddings (B, H) to the teacher's width; None if it is H."""
    if hidden == width:
        return None
    layer = nn.utils.skip_init(nn.Linear, hidden, width, bias=False)
    draw_weights(layer, hidden**-0.5, torch.Generator().manual_seed(0))
    return layer
