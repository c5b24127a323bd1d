"""The part that every training shares: steps, Lightning's trainer, resume, signals, progress."""

import inspect
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.errors import BortError, Diverged, nearest
from bort.files.untrusted import short
from bort.machine import usable_cores
from bort.training import optim
from bort.training.checkpoint import AtomicCheckpointIO, Checkpoints, newest_whole, run_identity
from bort.training.loggers import finish_loggers
from bort.training.progress import ProgressLine, Throughput

logger = logging.getLogger(__name__)

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


def device_of(run: TrainConfig) -> str:
    """Where a model of this run answers outside of its training."""
    cuda = torch.cuda.is_available() and (run.trainer or {}).get("accelerator") != "cpu"
    return "cuda" if cuda else "cpu"


# Keys of Lightning's trainer that every run fills itself, and what to give instead.
SET_HERE = {
    "logger": "logger=NAME",
    "callbacks": "callbacks=NAME",
    "plugins": "trainer.strategy and trainer.precision",
    "default_root_dir": "name=NAME",
    "enable_checkpointing": "checkpoint_every=STEPS",
}


def check_trainer(run: TrainConfig) -> None:
    """Raises BortError, before any work is done, for what Lightning's trainer does not take."""
    quiet()
    known = inspect.signature(pl.Trainer).parameters
    for key in run.trainer:
        if key not in known and key != "_target_":
            raise BortError(f"trainer.{key} is not a setting{nearest(key, known)}")
        if key in SET_HERE and run.trainer[key]:
            raise BortError(f"trainer.{key} is set by bort; use {SET_HERE[key]}")
        if key != "_target_":
            _check_kind(key, run.trainer[key], known[key].annotation)
    if "fsdp" in str(run.trainer.get("strategy")) and run.optim.name == "muon":
        raise BortError("trainer=fsdp cuts matrices up and Muon needs them whole; use optim=adamw")
    if "fsdp" in str(run.trainer.get("strategy")) and run.job not in ("pretrain", "compare"):
        raise BortError(f"trainer=fsdp is for pre-training; use trainer=ddp for job={run.job}")
    if run.fits_task and run.trainer.get("limit_val_batches") == 0:
        raise BortError(
            f"job={run.job} keeps the model of its best validation; trainer.limit_val_batches=0 "
            "leaves none"
        )
    if run.compile:
        _check_compiler(device_of(run))
    devices, most = run.trainer.get("devices"), max(8, 2 * usable_cores())
    if isinstance(devices, int) and devices > most and device_of(run) == "cpu":
        raise BortError(f"trainer.devices={devices}: on this CPU use at most {most} processes")
    try:
        instantiate(run.trainer, logger=False)
    except InstantiationException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        missing = "backend found" in reason or "not available" in reason
        hint = "; trainer=default takes what is here" if missing else ""
        raise BortError(f"trainer: {reason}{hint}") from None


KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
}


def _check_kind(key: str, value: Any, annotation: Any) -> None:
    """Raises BortError for a value of `trainer.` of a kind that Lightning does not declare.

    Lightning itself finds out in the middle of a training, if at all. Words and numbers within
    their kinds are for Lightning to judge, and `_target_` makes an object of any kind.
    """
    if value is None or (isinstance(value, dict) and "_target_" in value):
        return
    union = get_origin(annotation) in (Union, UnionType)
    kinds = set()
    for part in get_args(annotation) if union else (annotation,):
        if get_origin(part) is Literal:
            kinds |= {type(literal) for literal in get_args(part)}
        else:
            kinds.add(get_origin(part) or part)
    if type(value) in kinds or (type(value) is int and float in kinds):
        return
    words = " or ".join(text for kind, text in KINDS.items() if kind in kinds) or "left out"
    raise BortError(f"trainer.{key}={short(str(value))} must be {words}")


def _check_compiler(device: str) -> None:
    """Raises BortError where torch.compile would not find the compiler that it calls."""
    if device == "cpu":
        names = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    else:
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(map(shutil.which, names)):
        raise BortError(
            f"compile=true needs a compiler, and {' or '.join(names)} is not found; use "
            "compile=false"
        )


def fit(
    run: TrainConfig,
    folder: Path,
    module: StepModule,
    data: pl.LightningDataModule,
    loggers: list,
    label: str,
) -> tuple[pl.Trainer, Throughput]:
    """Train from the newest whole checkpoint in `folder`, if there is one, to the end.

    module: says in `scores` what it logs; data: has `val`, sized. loggers: the first one is the
    run's MetricsCsv. Raises SystemExit (143) or KeyboardInterrupt when it is stopped, after a
    checkpoint.
    """
    validates = len(data.val) > 0 and run.trainer.get("limit_val_batches") != 0
    check_watched(run, module.scores if validates else [])
    module.run_identity = run_identity(folder)
    start = newest_whole(folder / "checkpoints", module.run_identity)
    step = None if start is None else int(start.stem.split("_")[1].split("-")[0])
    throughput = Throughput()
    saves = Checkpoints(folder / "checkpoints", run.checkpoint_every, saved=step)
    own = [throughput, ProgressLine(label, throughput)]
    trainer = _trainer(run, folder, loggers, own, saves, validates)
    if step is None:
        loggers[0].resume(-1)  # rows of a run that was killed before its first checkpoint
    else:
        loggers[0].resume(step)
        saves.remove_old(trainer)
        logger.info(f"resume: {label} goes on after step {step:,} ({start})")
    try:
        with interruptible(), saves.catching(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
            if validates and module.validated != trainer.global_step:
                trainer.validate(module, datamodule=data, verbose=False)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        if (line := _mistake_in_settings(error)) is None:
            raise
        raise BortError(line) from error
    finally:
        finish_loggers(loggers)
        # Lightning leaves the loader's processes alive when it is stopped in a validation.
        trainer.fit_loop.teardown()
    if profile := trainer.profiler.summary():  # Lightning's own way of saying it is silenced
        logger.info(profile)
    return trainer, throughput


def _mistake_in_settings(error: Exception) -> str | None:
    """Lightning's words about settings that only the data or a first validation show wrong."""
    text = " ".join(str(error).split())
    if text.startswith("Early stopping conditioned on metric"):
        return f"callbacks: {text[:170]}"
    if isinstance(error, MisconfigurationException) or text.startswith("`val_check_interval`"):
        return f"trainer: {text[:170]}"
    return None


def check_watched(run: TrainConfig, scores: list[str]) -> None:
    """Raises BortError for a callback that watches a score which never comes.

    scores: what a validation logs; empty where nothing is validated. A callback that is not of
    Lightning's may log more, but none of "val/" without a validation.
    """
    callbacks = {name: callback for name, callback in (run.callbacks or {}).items() if callback}
    targets = [str(callback.get("_target_")) for callback in callbacks.values()]
    logs_more = not all(target.startswith("lightning.") for target in targets)
    for name, callback in callbacks.items():
        watched = callback.get("monitor")
        if watched is None or watched in scores:
            continue
        if not scores and str(watched).startswith("val/"):
            raise BortError(
                f"callbacks.{name} watches {watched}, and nothing is validated here; "
                "use callbacks=none, or hold text out"
            )
        if not logs_more:
            hint = nearest(str(watched), scores) or f"; use one of {', '.join(scores)}"
            raise BortError(f"callbacks.{name}.monitor={watched} is no score of this run{hint}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt again, of which Lightning makes exit code 1."""
    try:
        yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _trainer(
    run: TrainConfig,
    folder: Path,
    loggers: list,
    own: list[pl.Callback],
    saves: Checkpoints,
    validates: bool,
) -> pl.Trainer:
    extra = [instantiate(c) for c in (run.callbacks or {}).values() if c]
    return instantiate(
        run.trainer if validates else {**run.trainer, "limit_val_batches": 0},
        logger=loggers,
        callbacks=[*own, *extra, saves],  # the last: it saves what the others did
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )


def quiet() -> None:
    """Lightning's tips and the warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",  # masking a batch takes a fraction of a millisecond
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # inside Lightning
        r".*overfit but enabled train dataloader shuffling.*",  # debug=overfit: that is the purpose
        r".*lr_scheduler.step\(\)` before `optimizer.step.*",
        r".*GPU available but not used.*",  # trainer=cpu asks for that
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # the metrics sync themselves
    ):
        warnings.filterwarnings("ignore", message=message)
