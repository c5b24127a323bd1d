"""Lightning's trainer: the checks before a training, and the training itself."""

import inspect
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from bort.config.fingerprint import flatten_settings
from bort.config.train import TrainConfig
from bort.config.trainer import AUTO, FLOAT32
from bort.errors import BortError, shorten, suggest_name
from bort.files.run_files import CHECKPOINTS
from bort.machine import count_usable_cores, keep_freed_memory
from bort.training.checkpoint import (
    AtomicCheckpointIO,
    Checkpoints,
    Leg,
    find_newest_whole,
    read_run_identity,
    read_step,
)
from bort.training.loggers import MetricsCsv, build_loggers, finish_loggers
from bort.training.module import StepModule
from bort.training.progress import ProgressLine, Throughput

logger = logging.getLogger(__name__)

ALONE = Leg()  # a training that is no part of another one


def choose_device(run: TrainConfig) -> str:
    """Choose the device on which a model of this run works outside of its training."""
    cuda = torch.cuda.is_available() and run.trainer_config.accelerator != "cpu"
    return "cuda" if cuda else "cpu"


# Arguments of Lightning's trainer that bort sets itself → the setting to use instead.
SET_HERE = {
    "logger": "logger=NAME",
    "callbacks": "callbacks=NAME",
    "plugins": "trainer.strategy and trainer.precision",
    "default_root_dir": "name=NAME",
    "enable_checkpointing": "checkpoint_every=STEPS",
}


def check_trainer(run: TrainConfig) -> None:
    """Raise BortError, before any work is done, for settings that Lightning's trainer refuses."""
    hide_lightning_notes()
    parameters = inspect.signature(pl.Trainer).parameters
    for key in run.trainer:
        if key not in parameters and key != "_target_":
            raise BortError(f"trainer.{key} is not a setting{suggest_name(key, parameters)}")
        if key in SET_HERE and run.trainer[key]:
            raise BortError(f"trainer.{key} is set by bort; use {SET_HERE[key]}")
        if key != "_target_":
            _check_kind(key, run.trainer[key], parameters[key].annotation)
    if "fsdp" in str(run.trainer_config.strategy) and run.optim.name == "muon":
        raise BortError("trainer=fsdp cuts matrices up and Muon needs them whole; use optim=adamw")
    if "fsdp" in str(run.trainer_config.strategy) and run.job not in ("pretrain", "compare"):
        raise BortError(f"trainer=fsdp is for pre-training; use trainer=ddp for job={run.job}")
    if run.fits_task and run.trainer_config.limit_val_batches == 0:
        raise BortError(
            f"job={run.job} keeps the model of its best validation; trainer.limit_val_batches=0 "
            "leaves none"
        )
    if run.compile:
        _check_compiler(choose_device(run))
    devices, most = run.trainer_config.devices, max(8, 2 * count_usable_cores())
    if isinstance(devices, int) and devices > most and choose_device(run) == "cpu":
        raise BortError(f"trainer.devices={devices}: on this CPU use at most {most} processes")
    keys = run.trainer
    if run.trainer_config.precision == AUTO:
        keys = {**keys, "precision": FLOAT32}
    try:
        instantiate(keys, logger=False)
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
    """Raise BortError for a value of `trainer.` whose type Lightning does not declare.

    Lightning itself would find out in the middle of a training, if at all. Values of the right type
    are left to Lightning to check, and `_target_` may make an object of any type.
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
    raise BortError(f"trainer.{key}={shorten(str(value))} must be {words}")


def _check_compiler(device: str) -> None:
    """Raise BortError if the compiler that torch.compile calls is not installed."""
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
    label: str,
    callbacks: Sequence[pl.Callback] = (),
    looks: bool = False,
    leg: Leg = ALONE,
) -> tuple[pl.Trainer, Throughput]:
    """Train to the end, from the newest whole checkpoint in `folder` if there is one.

    module: lists in `scores` what a validation logs. data: has a sized `val` after its `setup`.
    label: of the progress line. callbacks: those of the job, besides the user's. looks: whether
    validations within the training read a part of `data.val`, so that one of all of it follows.
    leg: where the training is one of a longer one's.
    Returns the trainer and the callback that measured the time. When stopped, it saves a checkpoint
    and raises SystemExit (143) or KeyboardInterrupt. Raises BortError for what only data reveal.
    """
    keep_freed_memory()
    data.setup("fit")
    validates = len(data.val) > 0 and run.trainer_config.limit_val_batches != 0
    check_monitors(run, module.scores if validates else [])
    metrics = MetricsCsv(folder)
    loggers = [metrics, *build_loggers(run.logger, folder, flatten_settings(run))]
    checkpoints, start = _open_checkpoints(run, folder, leg)
    throughput = Throughput()
    trainer = instantiate(
        run.trainer if validates else {**run.trainer, "limit_val_batches": 0},
        logger=loggers,
        callbacks=[
            throughput,
            ProgressLine(label, throughput),
            *callbacks,
            *build_callbacks(run),
            checkpoints,  # the last one, since it saves the state of the others
        ],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    step = checkpoints.saved
    metrics.resume(-1 if step is None else step)  # drops rows after the checkpoint
    if start not in (None, leg.start):
        checkpoints.remove_old(trainer)
        logger.info(f"resume: {label} resumes after step {step:,} ({start})")
    try:
        with interruptible(), checkpoints.catching(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
            if validates and (looks or module.validated_step != trainer.global_step):
                trainer.validate(module, datamodule=data, verbose=False)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        if (line := _explain_mistake(error)) is None:
            raise
        raise BortError(line) from error
    finally:
        finish_loggers(loggers)
        # Lightning leaves the loader processes alive if it is stopped in a validation.
        trainer.fit_loop.teardown()
    _log_profile(trainer)
    return trainer, throughput


def _open_checkpoints(run: TrainConfig, folder: Path, leg: Leg) -> tuple[Checkpoints, Path | None]:
    """Open the checkpoints of a training; returns them and the one to start from, if any."""
    identity = read_run_identity(folder)
    start = find_newest_whole(folder / CHECKPOINTS, identity) or leg.start
    step = None if start is None else read_step(start)
    every, path = run.checkpoint_every, folder / CHECKPOINTS
    return Checkpoints(path, every, identity, saved=step, milestone=leg.keep), start


def _log_profile(trainer: pl.Trainer) -> None:
    """Log what a profiler has measured: Lightning's own logger is silenced."""
    if profile := trainer.profiler.summary():
        logger.info(profile)


def build_callbacks(run: TrainConfig) -> list[pl.Callback]:
    """Build the callbacks of `callbacks=` from their `_target_`."""
    return [instantiate(config) for config in (run.callbacks or {}).values() if config]


def _explain_mistake(error: Exception) -> str | None:
    """Return Lightning's message if an error is a mistake in the settings, otherwise None."""
    text = " ".join(str(error).split())
    if text.startswith("Early stopping conditioned on metric"):
        return f"callbacks: {text[:170]}"
    if isinstance(error, MisconfigurationException) or text.startswith("`val_check_interval`"):
        return f"trainer: {text[:170]}"
    return None


def check_monitors(run: TrainConfig, scores: list[str]) -> None:
    """Raise BortError for a callback that watches a score which is never logged.

    scores: the names that a validation logs; empty if there is no validation. Callbacks that are
    not Lightning's may log other scores, but none that begin with "val/" without a validation.
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
            hint = suggest_name(str(watched), scores) or f"; use one of {', '.join(scores)}"
            raise BortError(f"callbacks.{name}.monitor={watched} is no score of this run{hint}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C, which Lightning turns into exit code 1."""
    try:
        yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def hide_lightning_notes() -> None:
    """Hide Lightning's tips and the warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",  # masking a batch takes a fraction of a millisecond
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # comes from inside Lightning
        r".*overfit but enabled train dataloader shuffling.*",  # debug=overfit is meant to do this
        r".*lr_scheduler.step\(\)` before `optimizer.step.*",
        r".*GPU available but not used.*",  # trainer=cpu asks for that
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # the metrics do so themselves
    ):
        warnings.filterwarnings("ignore", message=message)
