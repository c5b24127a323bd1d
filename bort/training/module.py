"""The LightningModule of every training: optimizer steps, logged rows and exact resume."""

import math

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from bort.config.optim import OptimConfig
from bort.errors import Diverged
from bort.training.optim import build_optimizer, clip_gradients, compute_rate_factor

# Part of the name of every cached training. Raise it whenever the same settings would give other
# weights.
VERSION = 3


class StepModule(pl.LightningModule):
    """Takes optimizer steps on the mean loss over all targets, logs them, and resumes exactly.

    A step may span several batches and devices with unequal numbers of targets (the `labels` of a
    batch). What is trained is all parameters of this module: those of `model`, and of what else a
    subclass registers. A logged row belongs to one optimizer step, counted from 1. Any
    `lightning.Trainer` with any loggers can train it. A subclass has a `training_step` that passes
    its losses to `count`, and lists in `scores` what a validation logs.
    """

    def __init__(self, model: torch.nn.Module, optim: OptimConfig):
        super().__init__()
        self.model, self.optim = model, optim
        self.scores: list[str] = []  # the names that a validation logs
        self.metric = "val/mlm_accuracy"  # shown by the progress line beside val/loss
        self.last_row: dict[str, float] = {}  # the newest value of each logged name
        self.validated_step: int | None = None  # the step of the last validation
        self.tokens = 0  # input tokens seen in training
        self.full_weights: dict[str, Tensor] | None = None  # after a training by FSDP
        self._targets = 0  # the number of targets in the current optimizer step
        self._sums: dict[str, Tensor] = {}  # the sums of its losses
        self._grad_norm: Tensor | None = None
        self._last_loss: Tensor | None = None
        self._resumed: dict | None = None  # the state in the checkpoint that is resumed
        self._first_step_s = 0.0  # of a new training by the clock; models are compiled in it

    def in_float32(self) -> torch.autocast:
        """Return a context without mixed precision: all that is measured is float32."""
        return torch.autocast(self.device.type, enabled=False)

    def keep_outside(self, name: str, value: object) -> None:
        """Set an attribute that is not registered as part of this module.

        Checkpoints, optimizers, moves to a device and counts of parameters ignore it, even if it is
        a module itself.
        """
        object.__setattr__(self, name, value)

    def configure_optimizers(self) -> dict:
        """Build the optimizer and its schedule, which ends with the budget."""
        optimizer = build_optimizer(
            self,
            self.optim,
            fused=getattr(self.trainer.precision_plugin, "scaler", None) is None,
            precision=torch.bfloat16 if "bf16" in str(self.trainer.precision) else torch.float32,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: compute_rate_factor(self.progress(step), self.optim)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def progress(self, step: int) -> float:
        """The share of the budget used at `step`: of steps, epochs or time, the largest.

        The schedule by the clock begins after the first step, in which models are compiled: that
        may take as long as the rate is meant to rise.
        """
        total = self.trainer.estimated_stepping_batches
        done = (step + 1) / (total + 1) if math.isfinite(total) and total > 0 else 0.0
        for timer in self._list_timers():
            elapsed = max(timer.time_elapsed() - self._first_step_s, 0.0)
            done = max(done, elapsed / (elapsed + max(timer.time_remaining(), 1e-9)))
        return done

    def _list_timers(self) -> list[pl.callbacks.Timer]:
        """List the callbacks that end the training by the clock."""
        timers = [c for c in self.trainer.callbacks if isinstance(c, pl.callbacks.Timer)]
        return [timer for timer in timers if timer.time_remaining() is not None]

    # -------------------------------------------------------- one optimizer step of several batches

    @property
    def one_batch_per_step(self) -> bool:
        """Whether each batch is its own optimizer step."""
        return self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1

    @property
    def reduction(self) -> str:
        """How the loss of a batch must be reduced: `mean` or `sum`.

        Before an optimizer step, sums are divided by the number of targets of the whole step.
        Batches hold unequal numbers of targets, so a mean of means would weigh them wrongly.
        """
        return "mean" if self.one_batch_per_step else "sum"

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return isinstance(self.trainer.strategy, FSDPStrategy)

    def count_targets(self, batch: dict[str, Tensor]) -> int:
        """Count what the loss of a batch is a mean over: its labels."""
        return len(batch["labels"])

    def count_tokens(self, batch: dict[str, Tensor]) -> int:
        """Count the tokens of a batch."""
        return batch["input_ids"].numel()

    def count(self, batch: dict[str, Tensor], losses: dict[str, Tensor]) -> None:
        """Add a batch to the sums of its step; `losses` holds "loss", reduced by `reduction`."""
        targets = self.count_targets(batch)
        self.tokens += self.count_tokens(batch) * self.trainer.world_size
        self._targets += targets
        weight = targets if self.one_batch_per_step else 1  # means become sums
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * weight

    def on_before_optimizer_step(self, optimizer) -> None:
        """Turn gradients of sums into gradients of the mean over all targets of the step."""
        if self.one_batch_per_step:
            return
        targets = torch.tensor(float(self._targets), device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(targets)
        # Lightning divides by the number of batches, and the strategy by the number of devices.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        factor = scale / targets.clamp(min=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        """Clip as Lightning does, and keep the norm, which Lightning computes and discards.

        Lightning's own clipping refuses a fused optimizer in mixed precision, although nothing is
        scaled in bfloat16.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val or math.inf)
            return
        limit = gradient_clip_val or math.inf
        if self.is_sharded:  # The norm spans all shards, and Lightning cannot clip by it.
            self._grad_norm = self.trainer.strategy.model.clip_grad_norm_(limit)
        else:
            self._grad_norm = clip_gradients(self, limit)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        """Take an optimizer step, and log a row if one is due."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.trainer.global_step == 0:
            self._first_step_s = max((t.time_elapsed() for t in self._list_timers()), default=0.0)
        step = self.trainer.global_step + 1  # Lightning counts this step after the hook.
        self._last_loss = self._sums["loss"]
        if step % self.trainer.log_every_n_steps == 0 or step == self.trainer.max_steps:
            self._log_step(optimizer, step)
        self._targets, self._sums = 0, {}

    def _log_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Log the means of a step's losses over its targets, on all devices."""
        targets = torch.tensor(float(self._targets), device=self.device)
        if self.trainer.world_size > 1:
            for value in (targets, *self._sums.values()):
                torch.distributed.all_reduce(value)
        count = max(float(targets), 1.0)
        row = {f"train/{name}": float(value) / count for name, value in self._sums.items()}
        self.check_finite(row["train/loss"], step)
        if self._grad_norm is not None:
            row["train/grad_norm"] = float(self._grad_norm)
        row["train/lr"] = optimizer.param_groups[-1]["lr"]
        row["train/epoch"] = self.trainer.current_epoch
        self.log_row(row, step)

    def on_train_end(self) -> None:
        """Gather the weights that FSDP has sharded, while all processes are still connected."""
        if self.is_sharded:
            weights = self.trainer.strategy.lightning_module_state_dict()
            self.full_weights = {
                key.removeprefix("model."): weight
                for key, weight in weights.items()
                if key.startswith("model.")
            }

    # ------------------------------------------------------------------------------- what is logged

    def check_finite(self, loss: float, step: int) -> None:
        """Raise Diverged if a loss is not a finite number."""
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {step}; lower optim.lr (now {self.optim.lr:g}) "
                "or lengthen optim.warmup"
            )

    def log_row(self, row: dict[str, float], step: int) -> None:
        """Pass the row of a step to every logger, and keep it for the progress line."""
        self.last_row |= row
        for metrics_logger in self.trainer.loggers:
            metrics_logger.log_metrics(row, step)

    def log_validation(self, values: dict[str, float]) -> None:
        """Log the row of a validation at the current step."""
        if not self.trainer.sanity_checking:
            self.log_row(values, self.trainer.global_step)
            self.validated_step = self.trainer.global_step

    # --------------------------------------------------------------------------------- exact resume

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add the tokens and the state of torch's generators to a checkpoint.

        Raises Diverged if the loss is not a finite number: nothing else checks the steps between
        two logged ones, and no training can resume from NaN.
        """
        if self._last_loss is not None:
            self.check_finite(float(self._last_loss), self.trainer.global_step)
        state = checkpoint.setdefault("bort", {})
        state |= {"tokens": self.tokens, "rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore the tokens from a checkpoint; `on_train_start` restores the generators."""
        self._resumed = checkpoint["bort"]
        self.tokens = self._resumed["tokens"]

    def on_train_start(self) -> None:
        """Restore torch's generators; building the model and the loaders has drawn from them."""
        if self._resumed is not None:
            torch.set_rng_state(self._resumed["rng"].cpu())
            if "cuda_rng" in self._resumed and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._resumed["cuda_rng"].cpu())
