"""The LightningModule of pre-training: distillation (arXiv 2010.10499, §4.2), or MLM if w_kd = 0.

Letters: B sequences of a batch, S tokens of a sequence, M masked positions, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.models.in_bf16 import is_bf16_autocast
from bort.pretraining.losses import compute_entropy, distillation_loss, kd_loss, mlm_loss
from bort.teachers.opening import as_teacher
from bort.teachers.teacher import Teacher
from bort.training.module import StepModule


def list_scores(taught: bool) -> list[str]:
    """List the scores that a validation logs; taught: whether the run has a teacher."""
    names = ["val/loss", "val/mlm_accuracy"]
    return [*names, "val/kd_loss", "val/teacher_entropy"] if taught else names


class DistillationModule(StepModule):
    """A student that learns masked words from a teacher, from the text, or from both.

    Train it by any `lightning.Trainer` on a `PackedDataModule`, or on batches of your own with
    input_ids (B, S), flat positions (M,) and labels (M,).

    model: the student. teacher: a `MaskedLM` or another `Teacher` with the same vocabulary, which
    is frozen and is never part of `state_dict`; None for plain MLM. optim: if it has no rate, one
    that suits the student's width is used. distill: the weights of the two losses, and the
    temperature. compile: whether to use torch.compile. Raises BortError if the losses need a
    teacher and there is none.
    """

    def __init__(
        self,
        model: MaskedLM,
        teacher: Teacher | MaskedLM | None,
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
        # What computes the means of a validation batch; None: `compare_with_teacher`.
        self.judge: Callable[[Tensor, dict], tuple[Tensor, ...]] | None = None
        self.keep_outside("teacher", None if teacher is None else as_teacher(teacher))
        self.keep_outside("_teacher_in_bf16", None)  # made when a step in bf16 asks it
        # The inner module is compiled: a compiled LightningModule that logs crashes.
        self.keep_outside("student", torch.compile(model) if compile else model)
        # By default, a NaN would be left out, and the mean of the other losses would be reported as
        # the mean of all; with "disable", its weight would be left out as well.
        self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy = (
            MeanMetric(nan_strategy=math.nan) for _ in range(4)
        )

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Compute the student's logits (M, V) at the flat positions (M,)."""
        if self.student is not self.model:
            # M differs from batch to batch. The compiler would find that out at the second batch,
            # and compile everything once more.
            torch._dynamo.maybe_mark_dynamic(positions, 0)
        return self.student(input_ids, positions=positions)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch and add it to its optimizer step."""
        logits = self(batch["input_ids"], batch["positions"])  # (M, V)
        teacher = self.ask_teacher(batch) if self.distill.w_kd else None
        losses = distillation_loss(logits, teacher, batch["labels"], self.distill, self.reduction)
        self.count(batch, losses)
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Add a batch to the mean scores over all masked tokens; return predicted words (M,)."""
        with self.in_float32():
            return self._validate(batch)

    def _validate(self, batch: dict[str, Tensor]) -> Tensor:
        # The compiler would take longer to make a graph for validations than most of them take.
        logits = self.model(batch["input_ids"], positions=batch["positions"])  # (M, V)
        labels = batch["labels"]
        # `argmax` finds the same words, and takes three times as long on a CPU.
        predictions, count = logits.max(-1).indices, len(labels)
        if count == 0:
            return predictions
        self.val_accuracy.update((predictions == labels).float().mean(), count)
        metrics = (self.val_loss, self.val_kd, self.val_entropy)
        judge = self.judge or self.compare_with_teacher
        for metric, loss in zip(metrics, judge(logits, batch), strict=False):
            metric.update(loss, count)
        return predictions

    def compare_with_teacher(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute what a validation reports of a batch, as means in nats per masked word.

        Returns the loss against the true words, and of a student with a teacher also KL at τ = 1
        and the teacher's entropy.
        """
        mlm = mlm_loss(logits, batch["labels"])
        if self.teacher is None:
            return (mlm,)
        teacher = self.ask_teacher(batch)
        return mlm, kd_loss(logits, teacher, 1.0), compute_entropy(teacher)

    @torch.no_grad()
    def ask_teacher(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the teacher's logits (M, V), from its cached states if the batch has them."""
        teacher = self.teacher
        if is_bf16_autocast(self.device):
            if self._teacher_in_bf16 is None:
                self.keep_outside("_teacher_in_bf16", teacher.copy_in_bf16())
            teacher = self._teacher_in_bf16
        if (states := batch.get("teacher_states")) is not None:
            return teacher.decode(states.float())
        return teacher.compute_logits(batch["input_ids"], batch["positions"])

    def on_fit_start(self) -> None:
        """Move the teacher to the student's device, which Lightning does not do."""
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """Move the teacher to the student's device, for validations outside of a training too."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means of a validation; raise Diverged if its loss is not a finite number."""
        metrics = (self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy)
        by_name = dict(zip(self.scores, metrics, strict=False))
        # In training this is the row of step k; a later `trainer.validate` leaves the same row.
        self.log_dict({name: metric.compute() for name, metric in by_name.items()}, logger=False)
        values = {name: self.trainer.callback_metrics[name].item() for name in by_name}
        self.check_finite(values["val/loss"], self.trainer.global_step)
        for metric in by_name.values():
            metric.reset()
        self.log_validation(values)
