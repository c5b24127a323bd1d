"""Pre-training by knowledge distillation (arXiv 2010.10499, §4.2); plain MLM is its w_kd = 0.

Letters: B sequences of a batch, S tokens of a sequence, M masked positions, V vocabulary.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.pretraining.losses import compute_entropy, distillation_loss, kd_loss, mlm_loss
from bort.training.module import StepModule


def list_scores(taught: bool) -> list[str]:
    """List what a validation of a pre-training logs; taught: with a teacher beside it."""
    names = ["val/loss", "val/mlm_accuracy"]
    return [*names, "val/kd_loss", "val/teacher_entropy"] if taught else names


class DistillationModule(StepModule):
    """A student that learns masked words from a teacher, from the text, or from both.

    Train it by any `lightning.Trainer` on a `PackedDataModule`, or on batches of your own with
    input_ids (B, S), flat positions (M,) and labels (M,).

    model: the student. teacher: a frozen `MaskedLM` with the same vocabulary, or None for plain
    MLM; it is never part of `state_dict`. optim: without a rate, the rate suits the student's
    width. distill: the weights of the two losses and the temperature. compile: by torch.compile.
    Raises BortError where the losses need a teacher and there is none.
    """

    def __init__(
        self,
        model: MaskedLM,
        teacher: MaskedLM | None,
        optim: OptimConfig,
        distill: DistillConfig,
        compile: bool = False,
    ):
        if distill.w_kd > 0 and teacher is None:
            raise BortError("distill.w_kd is above 0 but there is no teacher; set teacher.name")
        if optim.lr is None:
            optim = replace(optim, lr=width_lr(model.config.hidden))
        super().__init__(model, optim)
        self.distill = distill
        self.scores = list_scores(taught=teacher is not None)
        if teacher is not None:
            teacher = teacher.eval().requires_grad_(False)
        self.keep_outside("teacher", teacher)
        # The inner module is compiled: a compiled LightningModule that logs crashes.
        self.keep_outside("student", torch.compile(model) if compile else model)
        # By default a loss that is no number would be left out, and the mean of the others would
        # pass for that of all; with "disable" its weight would be left out, too.
        self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy = (
            MeanMetric(nan_strategy=math.nan) for _ in range(4)
        )

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Compute the student's logits (M, V) at the flat positions (M,)."""
        return self.student(input_ids, positions=positions)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch and count it into its optimizer step."""
        logits = self(batch["input_ids"], batch["positions"])  # (M, V)
        teacher = self.ask_teacher(batch) if self.distill.w_kd else None
        losses = distillation_loss(logits, teacher, batch["labels"], self.distill, self.reduction)
        self.count(batch, losses)
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Score a batch, for means over all masked tokens; return the predicted words (M,)."""
        logits, labels = self(batch["input_ids"], batch["positions"]), batch["labels"]
        predictions, count = logits.argmax(-1), len(labels)
        if count == 0:
            return predictions
        self.val_loss.update(mlm_loss(logits, labels), count)
        self.val_accuracy.update((predictions == labels).float().mean(), count)
        if self.teacher is not None:
            teacher = self.ask_teacher(batch)
            self.val_kd.update(kd_loss(logits, teacher, 1.0), count)
            self.val_entropy.update(compute_entropy(teacher), count)
        return predictions

    @torch.no_grad()
    def ask_teacher(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the teacher's logits (M, V), from its kept states where a batch has them."""
        if (states := batch.get("teacher_states")) is not None:
            return self.teacher.decode(states.float())
        return self.teacher(batch["input_ids"], positions=batch["positions"])

    def on_fit_start(self) -> None:
        """Move the teacher to the student's device, which Lightning does not."""
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """Move the teacher to the student's device, also for a validation of its own."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means of a validation; raise Diverged where its loss is no number."""
        metrics = (self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy)
        by_name = dict(zip(self.scores, metrics, strict=False))
        # In training this is a row of step k; `trainer.validate` after it leaves the same row.
        self.log_dict({name: metric.compute() for name, metric in by_name.items()}, logger=False)
        values = {name: self.trainer.callback_metrics[name].item() for name in by_name}
        self.check_finite(values["val/loss"], self.trainer.global_step)
        for metric in by_name.values():
            metric.reset()
        self.log_validation(values)
