"""The LightningModule that every training shares: optimizer steps, their rows, exact resume."""

import math

import lightning.pytorch as pl
import torch
from torch import Tensor

from bort.config.optim import OptimConfig
from bort.errors import Diverged
from bort.training import optim

# Part of the name of every kept training: raise it when the same settings would give other weights.
VERSION = 2


class StepModule(pl.LightningModule):
    """Losses that are means over all targets of an optimizer step; its rows; exact resume.

    A step may be of several batches and devices, with unequal numbers of targets (a batch's
    `labels`). A logged row belongs to one optimizer step, counted from 1.
    """

    def __init__(self, model: torch.nn.Module, optim: OptimConfig):
        super().__init__()
        self.model, self.optim = model, optim
        self.validated: int | None = None  # the step of the last validation
        self.metric = "val/mlm_accuracy"  # what the progress line shows beside val/loss
        self.scores: list[str] = []  # what a validation logs
        self.run_identity: str | None = None  # in its checkpoints: no other run goes on from them
        self.tokens = 0  # input tokens seen in training
        self._targets = 0  # in the current optimizer step
        self._sums: dict[str, Tensor] = {}
        self._grad_norm: Tensor | None = None
        self._last_loss: Tensor | None = None
        self._rng: dict | None = None
        self.whole: dict[str, Tensor] | None = None  # after training by FSDP, the weights

    def configure_optimizers(self):
        mixed = "mixed" in str(self.trainer.precision)
        optimizer = optim.build_optimizer(self.model, self.optim, fused=not mixed)
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: optim.schedule_rate(self.progress(step), self.optim.warmup)
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
    def one_batch_per_step(self) -> bool:
        return self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1

    @property
    def reduction(self) -> str:
        """How a batch's loss is to be reduced.

        Sums, made means by the whole step's count before the optimizer steps: batches hold unequal
        numbers of targets, so a mean of means would weigh them wrongly.
        """
        return "mean" if self.one_batch_per_step else "sum"

    def count(self, batch: dict[str, Tensor], losses: dict[str, Tensor]) -> None:
        """Add a batch to the step's sums; `losses` has "loss", reduced by `reduction`."""
        targets = len(batch["labels"])
        self.tokens += batch["input_ids"].numel() * self.trainer.world_size
        self._targets += targets
        weight = targets if self.one_batch_per_step else 1  # means become sums
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * weight

    def on_before_optimizer_step(self, optimizer) -> None:
        if self.one_batch_per_step:
            return
        targets = torch.tensor(float(self._targets), device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(targets)
        # Lightning divided by the number of batches, the strategy by the number of devices.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        factor = scale / targets.clamp(min=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        if gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # Clips as Lightning does and keeps the norm, which Lightning computes and throws away.
        limit = gradient_clip_val or math.inf
        if self.sharded:  # the norm is that of all pieces, and Lightning has no clipping by it
            self._grad_norm = self.trainer.strategy.model.clip_grad_norm_(limit)
        else:
            self._grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    @property
    def sharded(self) -> bool:
        """Whether a process holds pieces of the weights only."""
        return type(self.trainer.strategy).__name__ == "FSDPStrategy"

    def on_train_end(self) -> None:
        if self.sharded:  # of all processes together, while they still talk to each other
            weights = self.trainer.strategy.lightning_module_state_dict()
            self.whole = {key.removeprefix("model."): value for key, value in weights.items()}

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        step = self.trainer.global_step + 1  # Lightning counts this step after the hook
        self._last_loss = self._sums["loss"]
        if step % self.trainer.log_every_n_steps == 0 or step == self.trainer.max_steps:
            targets = torch.tensor(float(self._targets), device=self.device)
            if self.trainer.world_size > 1:
                for value in (targets, *self._sums.values()):
                    torch.distributed.all_reduce(value)
            count = max(float(targets), 1.0)
            row = {f"train/{k}": float(v) / count for k, v in self._sums.items()}
            self.check_finite(row["train/loss"], step)
            if self._grad_norm is not None:
                row["train/grad_norm"] = float(self._grad_norm)
            row["train/lr"] = optimizer.param_groups[-1]["lr"]
            row["train/epoch"] = self.trainer.current_epoch
            self.log_row(row, step)
        self._targets, self._sums = 0, {}

    def check_finite(self, loss: float, step: int) -> None:
        """Raises Diverged for a loss that is no number."""
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {step}; lower optim.lr (now {self.optim.lr:g}) "
                "or lengthen optim.warmup"
            )

    def log_row(self, row: dict[str, float], step: int) -> None:
        """Hand one row to every logger; also what the progress line shows."""
        self.last_row = {**getattr(self, "last_row", {}), **row}
        for metrics_logger in self.trainer.loggers:
            metrics_logger.log_metrics(row, step)

    def log_validation(self, values: dict[str, float]) -> None:
        """The row of a validation at the current step."""
        if not self.trainer.sanity_checking:
            self.log_row(values, self.trainer.global_step)
            self.validated = self.trainer.global_step

    # ---- exact resume

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # Steps between two logged ones are not looked at, and nobody can go on from NaN.
        if self._last_loss is not None:
            self.check_finite(float(self._last_loss), self.trainer.global_step)
        checkpoint["bort"] = {
            "run": self.run_identity,
            "tokens": self.tokens,
            "rng": torch.get_rng_state(),
        }
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
