"""The part that every training shares: Lightning's trainer, resume, signals, progress."""

import inspect
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from bort.checkpoint import AtomicCheckpointIO, Checkpoints, newest_whole
from bort.config import Train
from bort.errors import BortError, nearest
from bort.logger import finish_loggers
from bort.progress import ProgressLine, Throughput


def check_trainer(run: Train) -> None:
    """Raises BortError, before any work is done, for what Lightning's trainer does not take."""
    quiet()
    known = inspect.signature(pl.Trainer).parameters
    for key in run.trainer:
        if key not in known and key != "_target_":
            raise BortError(f"trainer.{key} is not a setting{nearest(key, known)}")
    if "fsdp" in str(run.trainer.get("strategy")) and run.optim.name == "muon":
        raise BortError("trainer=fsdp cuts matrices up and Muon needs them whole; use optim=adamw")
    try:
        instantiate(run.trainer, logger=False)
    except InstantiationException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise BortError(f"trainer: {reason}") from None


def fit(
    run: Train,
    folder: Path,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    loggers: list,
    label: str,
    say: Callable[[str], None],
) -> tuple[pl.Trainer, Throughput]:
    """Train from the newest whole checkpoint in `folder`, if there is one, to the end.

    module: has `tokens`, `log_row` and `validated`; data: has `val`, sized. loggers: the first one
    is the run's MetricsCsv. Raises SystemExit (143) or KeyboardInterrupt when it is stopped, after
    a checkpoint.
    """
    start = newest_whole(folder / "checkpoints", say)
    throughput = Throughput()
    trainer = _trainer(run, folder, label, loggers, throughput, validate=len(data.val) > 0)
    if start is not None:
        step = int(start.stem.split("_")[1].split("-")[0])
        loggers[0].resume(step)
        say(f"resume: {label} goes on after step {step:,} ({start})")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        if len(data.val) and module.validated != trainer.global_step:
            trainer.validate(module, datamodule=data, verbose=False)
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Lightning makes it exit code 1
        raise
    finally:
        finish_loggers(loggers)
        # Lightning leaves the loader's processes alive when it is stopped in a validation.
        trainer.fit_loop.teardown()
    if profile := trainer.profiler.summary():  # Lightning's own way of saying it is silenced
        say(profile)
    return trainer, throughput


def _trainer(
    run: Train, folder: Path, label: str, loggers: list, throughput, validate: bool
) -> pl.Trainer:
    own = [throughput, ProgressLine(label, throughput)]
    extra = [instantiate(c) for c in (run.callbacks or {}).values() if c]
    saves = Checkpoints(folder / "checkpoints", run.checkpoint_every)
    return instantiate(
        run.trainer if validate else {**run.trainer, "limit_val_batches": 0},
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
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # the metrics sync themselves
    ):
        warnings.filterwarnings("ignore", message=message)
