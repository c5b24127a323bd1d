"""The LightningModule of fine-tuning: it trains a classifier with the loss of a task.

Letters: N rows of a split, B rows of a batch.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.optim import OptimConfig, finetuning_lr
from bort.finetuning.examples import TaskExamples, weigh_classes
from bort.models.bert import Classifier
from bort.tasks.metrics import compute_scores, is_falling, list_metrics
from bort.tasks.task import Task
from bort.training.module import StepModule

# Windows that a model reads at once where no gradient is computed, so that memory is bounded.
WINDOWS_AT_ONCE = 64


def compute_batch_outputs(model: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Compute a model's outputs (B, classes) of a batch.

    Of a task with choices, the scores of a row's choices stand side by side. Of a row in windows,
    `windows` (B,) many of them, the outputs are the mean of its windows'.
    """
    names = ("input_ids", "attention_mask", "token_types", "spans")
    inputs = {name: batch[name] for name in names if name in batch}
    if "windows" not in batch:
        return model(**inputs).view(len(batch["labels"]), -1)
    windows = batch["windows"].tolist()
    size = sum(windows) if torch.is_grad_enabled() else WINDOWS_AT_ONCE
    parts = zip(*(tensor.split(size) for tensor in inputs.values()), strict=True)
    outputs = torch.cat([model(**dict(zip(inputs, part, strict=True))) for part in parts])
    return torch.stack([of_row.mean(0) for of_row in outputs.split(windows)])


def compute_loss(
    kind: str,
    outputs: Tensor,
    labels: Tensor,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy of outputs (B, classes), or for a regression the squared error.

    kind: that of the task; the outputs of a regression are (B, 1) and its labels (B,) numbers.
    labels: classes (B,), or probabilities (B, classes). Where a row has several labels, 1 or 0 for
    each, the loss of a row is the mean of their binary cross-entropies. The loss is in nats, or in
    the square of the labels' own unit. weights: see `weigh_classes`.
    """
    if kind == "labels":
        loss = F.binary_cross_entropy_with_logits(
            outputs.float(), labels.float(), reduction="none", pos_weight=weights
        ).mean(-1)
        return loss if reduction == "none" else getattr(loss, reduction)()
    if kind == "regression":
        return F.mse_loss(outputs.squeeze(-1).double(), labels.double(), reduction=reduction)
    if weights is not None and reduction == "mean":  # over rows, where torch divides by weights
        return F.cross_entropy(outputs.float(), labels, weights, reduction="sum") / len(labels)
    return F.cross_entropy(outputs.float(), labels, weights, reduction=reduction)


def to_answers(task: Task, outputs: Tensor) -> np.ndarray:
    """Turn outputs (B, classes) into answers (B,): numbers of classes, or numbers.

    Where a row has several labels, an answer (B, classes) has 1 for those with a probability of at
    least 1/2, else 0.
    For ReCoRD an answer says how likely it is that the row's entity is right.
    """
    if task.kind == "regression":
        return outputs.squeeze(-1).double().cpu().numpy()
    if task.kind == "labels":
        return (outputs >= 0).long().cpu().numpy()
    if task.form == "record":
        return (outputs[:, 1] - outputs[:, 0]).double().cpu().numpy()
    return outputs.argmax(-1).cpu().numpy()


def list_scores(task: Task, splits: Iterable[str]) -> list[str]:
    """List what a validation logs, of those of the splits that are for validation."""
    names = ("loss", *list_metrics(task))
    return [f"{split}/{name}" for split in splits if split.startswith("val") for name in names]


class FineTuningModule(StepModule):
    """A classifier that is trained on one task; every validation is scored over the whole set.

    optim: without a rate, it is that of the model's width. examples: those of
    the task, with the rows of its validation sets. The scores of a validation are logged as
    `val/accuracy` and the like. A score may not be defined, as Pearson's correlation of answers
    that are all the same; for callbacks, the task's first metric is -inf then.
    """

    def __init__(self, model: Classifier, optim: OptimConfig, examples: TaskExamples):
        if optim.lr is None:
            optim = replace(optim, lr=finetuning_lr(model.config.hidden))
        super().__init__(model, optim)
        self.task, self.rows = examples.task, examples.validation_rows
        self.scores = list_scores(self.task, self.rows)
        self.metric = f"val/{self.task.metrics[0]}"
        # Those of the last validation, by set: (N,), or (N, classes) of several labels a row.
        self.answers: dict[str, np.ndarray] = {}
        self.validation: dict[str, float | None] = {}  # its scores; None where one is not defined
        self._losses: dict[str, float] = {}  # sums over the rows of a set
        weights = weigh_classes(examples) if optim.class_weights else None  # (classes,)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the outputs (B, classes) of a batch."""
        return compute_batch_outputs(self.model, batch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch and count it into its optimizer step."""
        labels, weights = batch["labels"], self.class_weights
        loss = compute_loss(self.task.kind, self(batch), labels, self.reduction, weights)
        self.count(batch, {"loss": loss})
        return self.drop_unit(loss)

    def drop_unit(self, loss: Tensor) -> Tensor:
        """Turn a loss into what is minimised, which has no unit.

        What is logged of a regression is in the square of the labels' unit. A rate suits euros as
        it suits cents.
        """
        return loss if self.model.scale is None else loss / self.model.scale[1] ** 2

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the answers to a batch of a validation set."""
        name = list(self.rows)[dataloader_idx]
        with self.in_float32():
            outputs = self(batch)
        self._losses[name] += float(compute_loss(self.task.kind, outputs, batch["labels"], "sum"))
        self.answers[name][batch["rows"].cpu().numpy()] = to_answers(self.task, outputs)

    def on_validation_epoch_start(self) -> None:
        """Forget the answers of the validation before."""
        width = (len(self.task.labels),) if self.task.kind == "labels" else ()
        self.answers = {name: np.zeros((len(rows), *width)) for name, rows in self.rows.items()}
        self._losses = dict.fromkeys(self.rows, 0.0)

    def on_validation_epoch_end(self) -> None:
        """Score the answers to each validation set, and log the scores that are defined."""
        values: dict[str, float | None] = {}
        for name, rows in self.rows.items():
            values[f"{name}/loss"] = self._losses[name] / len(rows)
            scores = compute_scores(self.task, rows, self.answers[name])
            values |= {f"{name}/{metric}": value for metric, value in scores.items()}
        self.validation = values
        defined = {name: value for name, value in values.items() if value is not None}
        worst = math.inf if is_falling(self.metric) else -math.inf
        watched = {self.metric: worst} | defined  # early stopping always needs its metric
        self.log_dict(watched, logger=False, add_dataloader_idx=False)
        self.log_validation(defined)
