"""Pre-training by knowledge distillation (arXiv 2010.10499, §4.2); plain MLM is its w_kd = 0.

Shape letters: B batch, S sequence, M masked positions, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig
from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.pretraining.losses import entropy, kd_loss, mlm_loss
from bort.training.module import StepModule


def list_scores(taught: bool) -> list[str]:
    """What a validation of a pre-training logs; taught: with a teacher beside it."""
    names = ["val/loss", "val/mlm_accuracy"]
    return [*names, "val/kd_loss", "val/teacher_entropy"] if taught else names


class DistillationModule(StepModule):
    """A student that learns masked words from a teacher, from the text, or from both.

    teacher: frozen `MaskedLM`, or None for plain MLM; never part of `state_dict`.
    samples: decodes a few predictions for the loggers; called with (inputs, labels, predictions).
    """

    def __init__(
        self,
        model: MaskedLM,
        teacher: MaskedLM | None,
        optim: OptimConfig,
        distill: DistillConfig,
        compile: bool = False,
        samples: Callable | None = None,
    ):
        super().__init__(model, optim)
        if distill.w_kd > 0 and teacher is None:
            raise BortError("distill.w_kd is above 0 but there is no teacher; set teacher.name")
        # Outside the module tree: no checkpoint, no optimizer and no count sees the teacher.
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False) if teacher else None
        # The inner module is compiled: a compiled LightningModule that logs crashes.
        self.__dict__["student"] = torch.compile(model) if compile else model
        self.distill, self.samples = distill, samples
        self.scores = list_scores(teacher is not None)
        # By default, what is no number would be left out, and the mean of the rest pass for all;
        # with "disable" the weights would be.
        self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy = (
            MeanMetric(nan_strategy=math.nan) for _ in range(4)
        )

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (M, V) at the flat positions (M,)."""
        return self.student(input_ids, positions=positions)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"], batch["positions"])  # (M, V)
        reduction = self.reduction
        parts = {}
        if self.distill.w_kd:
            teacher = self.teacher_logits(batch)
            parts["kd_loss"] = kd_loss(logits, teacher, self.distill.temperature, reduction)
        if self.distill.w_mlm:
            parts["mlm_loss"] = mlm_loss(logits, batch["labels"], reduction)
        weights = {"kd_loss": self.distill.w_kd, "mlm_loss": self.distill.w_mlm}
        loss = sum(weights[name] * part for name, part in parts.items())
        self.count(batch, {"loss": loss, **parts})
        return loss

    @torch.no_grad()
    def teacher_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's logits (M, V), once per batch; from its kept head states if there are."""
        if (states := batch.get("teacher_states")) is not None:
            return self.teacher.decode(states.float())
        return self.teacher(batch["input_ids"], positions=batch["positions"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits, labels = self(batch["input_ids"], batch["positions"]), batch["labels"]
        predictions, count = logits.argmax(-1), len(labels)
        if count == 0:
            return
        self.val_loss.update(mlm_loss(logits, labels), count)
        self.val_accuracy.update((predictions == labels).float().mean(), count)
        if self.teacher is not None:
            teacher = self.teacher_logits(batch)
            self.val_kd.update(kd_loss(logits, teacher, 1.0), count)
            self.val_entropy.update(entropy(teacher), count)
        if batch_idx == 0 and self.samples:
            self.samples(batch["input_ids"], batch["positions"], labels, predictions)

    def on_validation_epoch_end(self) -> None:
        metrics = (self.val_loss, self.val_accuracy, self.val_kd, self.val_entropy)
        values = dict(zip(self.scores, metrics, strict=False))
        # In training, a row of step k; `trainer.validate` after it leaves the same row.
        self.log_dict({name: metric.compute() for name, metric in values.items()}, logger=False)
        self.check_finite(
            float(self.trainer.callback_metrics["val/loss"]), self.trainer.global_step
        )
        for metric in values.values():
            metric.reset()
        self.log_validation({n: self.trainer.callback_metrics[n].item() for n in values})

    def on_fit_start(self) -> None:
        self.on_validation_start()

    def on_validation_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)
