"""Pre-training by knowledge distillation (arXiv 2010.10499, §4.2); plain MLM is its w_kd = 0.

Shape letters: B batch, S sequence, M masked positions, V vocabulary.
"""

import math
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from bort import optim
from bort.config import Distill, Optim
from bort.errors import BortError, Diverged
from bort.model import MaskedLM


def kd_loss(
    student: Tensor, teacher: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """KL(teacher ‖ student) of softened distributions, times temperature² (arXiv 1503.02531, §2).

    student, teacher: logits (M, V) of M masked positions; nats per token, mean (or sum) over M.
    Zero iff they agree up to a constant per row; zero for M = 0. Cost: two softmaxes over M · V.
    Raises BortError if the vocabularies differ.
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
    """Cross-entropy of logits (M, V) at the true words (M,); nats per token, zero for M = 0."""
    total = F.cross_entropy(logits.float(), labels, reduction="sum")
    return _reduce(total, len(labels), reduction)


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of softmax(logits) over rows (M, V); nats per token."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).mean()


def _reduce(total: Tensor, count: int, reduction: str) -> Tensor:
    return total / max(count, 1) if reduction == "mean" else total


class Pretraining(pl.LightningModule):
    """A student that learns masked words from a teacher, from the text, or from both.

    Losses are means over the masked tokens of the whole optimizer step, however many batches and
    devices it is made of. A logged row belongs to one optimizer step, counted from 1.

    teacher: frozen `MaskedLM`, or None for plain MLM; never part of `state_dict`.
    samples: decodes a few predictions for the loggers; called with (inputs, labels, predictions).
    """

    def __init__(
        self,
        model: MaskedLM,
        teacher: MaskedLM | None,
        optim: Optim,
        distill: Distill,
        compile: bool = False,
        samples: Callable | None = None,
    ):
        super().__init__()
        if distill.w_kd > 0 and teacher is None:
            raise BortError("distill.w_kd is above 0 but there is no teacher; set teacher.name")
        self.model = model
        # Outside the module tree: no checkpoint, no optimizer and no count sees the teacher.
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False) if teacher else None
        # The inner module is compiled: a compiled LightningModule that logs crashes.
        self.__dict__["student"] = torch.compile(model) if compile else model
        self.optim, self.distill, self.samples = optim, distill, samples
        self.val_loss, self.val_accuracy = MeanMetric(), MeanMetric()
        self.val_kd, self.val_entropy = MeanMetric(), MeanMetric()
        self.validated: int | None = None  # the step of the last validation
        self.tokens = 0  # input tokens seen in training
        self._masked = 0  # masked tokens in the current optimizer step
        self._sums: dict[str, Tensor] = {}
        self._grad_norm: Tensor | None = None
        self._last_loss: Tensor | None = None
        self._rng: Tensor | None = None

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (M, V) at the flat positions (M,)."""
        return self.student(input_ids, positions=positions)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"], batch["positions"])  # (M, V)
        # Sums, made means by the whole step's count in `on_before_optimizer_step`: batches hold
        # unequal numbers of masked tokens, so a mean of means would weigh them wrongly.
        reduction = "mean" if self._one_batch_per_step else "sum"
        parts = {}
        if self.distill.w_kd:
            teacher = self.teacher_logits(batch)
            parts["kd_loss"] = kd_loss(logits, teacher, self.distill.temperature, reduction)
        if self.distill.w_mlm:
            parts["mlm_loss"] = mlm_loss(logits, batch["labels"], reduction)
        weights = {"kd_loss": self.distill.w_kd, "mlm_loss": self.distill.w_mlm}
        loss = sum(weights[name] * part for name, part in parts.items())
        self._count(batch, {"loss": loss, **parts})
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
        values = {"val/loss": self.val_loss, "val/mlm_accuracy": self.val_accuracy}
        if self.teacher is not None:
            values["val/kd_loss"] = self.val_kd
            values["val/teacher_entropy"] = self.val_entropy
        # In training, a row of step k; `trainer.validate` after it leaves the same row.
        self.log_dict({name: metric.compute() for name, metric in values.items()}, logger=False)
        for metric in values.values():
            metric.reset()
        if not self.trainer.sanity_checking:
            found = {name: self.trainer.callback_metrics[name].item() for name in values}
            self.log_row(found, self.trainer.global_step)
            self.validated = self.trainer.global_step

    def configure_optimizers(self):
        mixed = "mixed" in str(self.trainer.precision)
        optimizer = optim.build(self.model, self.optim, fused=not mixed)
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: optim.schedule(self.progress(step), self.optim.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def progress(self, step: int) -> float:
        """Share of the budget at `step`: of steps, epochs or wall clock, the nearest its end."""
        total = self.trainer.estimated_stepping_batches
        done = (step + 1) / (total + 1) if math.isfinite(total) and total > 0 else 0.0
        for callback in self.trainer.callbacks:
            if isinstance(callback, pl.callbacks.Timer) and callback.time_remaining() is not None:
                elapsed = callback.time_elapsed()
                done = max(done, elapsed / (elapsed + max(callback.time_remaining(), 1e-9)))
        return done

    # ---- one optimizer step of several batches

    @property
    def _one_batch_per_step(self) -> bool:
        return self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1

    def _count(self, batch: dict[str, Tensor], losses: dict[str, Tensor]) -> None:
        masked = len(batch["labels"])
        self.tokens += batch["input_ids"].numel() * self.trainer.world_size
        self._masked += masked
        weight = masked if self._one_batch_per_step else 1  # means become sums
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * weight

    def on_before_optimizer_step(self, optimizer) -> None:
        if self._one_batch_per_step:
            return
        masked = torch.tensor(float(self._masked), device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(masked)
        # Lightning divided by the number of batches, the strategy by the number of devices.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        factor = scale / masked.clamp(min=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        sharded = type(self.trainer.strategy).__name__ == "FSDPStrategy"
        if sharded or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # Clips as Lightning does and keeps the norm, which Lightning computes and throws away.
        limit = gradient_clip_val or math.inf
        self._grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        step = self.trainer.global_step + 1  # Lightning counts this step after the hook
        self._last_loss = self._sums["loss"]
        if step % self.trainer.log_every_n_steps == 0 or step == self.trainer.max_steps:
            masked = torch.tensor(float(self._masked), device=self.device)
            if self.trainer.world_size > 1:
                for value in (masked, *self._sums.values()):
                    torch.distributed.all_reduce(value)
            count = max(float(masked), 1.0)
            row = {f"train/{k}": float(v) / count for k, v in self._sums.items()}
            self._check_finite(row["train/loss"], step)
            if self._grad_norm is not None:
                row["train/grad_norm"] = float(self._grad_norm)
            row["train/lr"] = optimizer.param_groups[-1]["lr"]
            row["train/epoch"] = self.trainer.current_epoch
            self.log_row(row, step)
        self._masked, self._sums = 0, {}

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {step}; lower optim.lr (now {self.optim.lr:g}) "
                "or lengthen optim.warmup"
            )

    def log_row(self, row: dict[str, float], step: int) -> None:
        """Hand one row to every logger; also what the progress line shows."""
        self.last_row = {**getattr(self, "last_row", {}), **row}
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step)

    # ---- teacher's device, and exact resume

    def on_fit_start(self) -> None:
        self.on_validation_start()

    def on_validation_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # Steps between two logged ones are not looked at, and nobody can go on from NaN.
        if self._last_loss is not None:
            self._check_finite(float(self._last_loss), self.trainer.global_step)
        checkpoint["bort"] = {"tokens": self.tokens, "rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["bort"]["cuda_rng"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.tokens, self._rng = checkpoint["bort"]["tokens"], checkpoint["bort"]

    def on_train_start(self) -> None:
        # Only now: building the model and the loaders drew from the generators too.
        if self._rng is not None:
            torch.set_rng_state(self._rng["rng"].cpu())
            if "cuda_rng" in self._rng and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._rng["cuda_rng"].cpu())
