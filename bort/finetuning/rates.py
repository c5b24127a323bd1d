"""The rate of a fine-tuning: that of the model's width, or the best of three that are tried.

Letters: N training rows.
"""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from bort.config.optim import AUTO_RATE, LR_WIDTH, OptimConfig, finetuning_lr
from bort.config.train import TrainConfig
from bort.config.trainer import LoggerConfig
from bort.console import counted, decimal
from bort.errors import BortError, Diverged
from bort.files.run_files import TRIALS
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import TaskExamples, hash_rows
from bort.finetuning.held_out import divide_rows
from bort.models.bert import Classifier
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.metrics import compute_scores, is_falling
from bort.tasks.task import Row, Task

logger = logging.getLogger(__name__)

FACTORS = (1.0, 0.5, 2.0)  # times the default rate; of equal scores the first one counts
LEAST_ROWS = 50  # with labels: of fewer, the five that are held out would tell nothing
MOST_TRIED = 4000  # rows that a rate is tried on
# Trains a model by settings into a folder, on examples, with a label for its progress lines and a
# teacher's outputs to the training rows; returns the best model first.
Fit = Callable[[TrainConfig, Path, Classifier, TaskExamples, str, np.ndarray | None], tuple]


@dataclass(frozen=True)
class RateTrial:
    """A rate that was tried, and the score on held-out rows; None where it is not defined."""

    lr: float
    score: float | None


@dataclass(frozen=True)
class RateChoice:
    """The peak rate of a fine-tuning, why it is that one, and what was tried."""

    lr: float
    reason: str
    trials: tuple[RateTrial, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give its part of the flat summary: `lr_reason`, and `rates/RATE` of what was tried."""
        tried = {f"rates/{trial.lr:g}": trial.score for trial in self.trials}
        return {"lr_reason": self.reason} | tried


def explain_rate(optim: OptimConfig, hidden: int) -> RateChoice:
    """Explain which rate a fine-tuning takes where none is tried.

    hidden: the width of the model.
    """
    if optim.lr is not None and optim.lr != AUTO_RATE:
        return RateChoice(optim.lr, "as given")
    reason = f"{LR_WIDTH:g} / {hidden}, for a pre-trained model of this width"
    return RateChoice(finetuning_lr(hidden), reason)


def list_rates(hidden: int) -> list[float]:
    """List the rates that are tried for a model of this width, the default one first."""
    return [factor * finetuning_lr(hidden) for factor in FACTORS]


def choose_rate(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    examples: TaskExamples,
    fit: Fit,
    teacher: np.ndarray | None = None,
) -> tuple[TrainConfig, RateChoice]:
    """Choose the rate of a fine-tuning; return the settings with it, and why it is that one.

    With `optim.lr=auto`, each of three rates trains a copy of `model` on a part of the training
    rows, and the one with the best score on another part is taken. A trial that is finished is in
    `folder/trials` and is not repeated. torch's generators are left as they were.
    """
    choice = explain_rate(run.optim, model.config.hidden)
    if run.optim.lr == AUTO_RATE:
        with torch.random.fork_rng():
            choice = _try_rates(run, folder, model, examples, fit, teacher)
    logger.info(f"rate: {choice.lr:.3g}, {choice.reason}")
    return replace(run, optim=replace(run.optim, lr=choice.lr)), choice


def _try_rates(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    examples: TaskExamples,
    fit: Fit,
    teacher: np.ndarray | None,
) -> RateChoice:
    """Try three rates; of those without a score that is defined, the default one is taken."""
    train, held = choose_rows(examples.task, examples.rows["train"])
    part = _take_rows(examples, train, held)
    labels = None if teacher is None else teacher[train]
    share = len(train) / len(examples.rows["train"])
    logger.info(
        f"rate: three are tried on {counted(len(train), 'training row')} and scored on "
        f"{len(held):,} others"
    )
    trials = []
    for lr in list_rates(model.config.hidden):
        trial_run = _build_trial_run(run, lr, share)
        trial_folder = folder / TRIALS / f"lr_{lr:g}"
        score = _score_rate(trial_run, trial_folder, copy.deepcopy(model), part, fit, labels)
        trials.append(RateTrial(lr, score))
        logger.info(f"rate: {lr:.3g} has {examples.task.metrics[0]} {decimal(score)}")
    sign = -1 if is_falling(examples.task.metrics[0]) else 1
    ranks = [-math.inf if trial.score is None else sign * trial.score for trial in trials]
    best = trials[int(np.argmax(ranks))]
    if best.score is None:
        reason = f"{LR_WIDTH:g} / {model.config.hidden}: no rate that was tried has a score"
        return RateChoice(best.lr, reason, tuple(trials))
    scores = ", ".join(f"{trial.lr:.3g} {decimal(trial.score)}" for trial in trials)
    reason = f"the best of three on {counted(len(held), 'held-out training row')} ({scores})"
    return RateChoice(best.lr, reason, tuple(trials))


def choose_rows(task: Task, rows: list[Row]) -> tuple[list[int], list[int]]:
    """Choose training rows that a rate is tried on, at most MOST_TRIED, and is scored on.

    Returns their numbers, in order.
    """
    others, held = divide_rows(task, rows)
    if len(others) > MOST_TRIED:
        numbers = np.linspace(0, len(others) - 1, MOST_TRIED).astype(int)
        others = [others[k] for k in numbers]
    return others, held


def plan_trials(run: TrainConfig, task: Task, rows: list[Row], hidden: int) -> tuple[float, str]:
    """Plan the choice of the rate: the steps that it adds, as a share of the run's, and a line."""
    if run.optim.lr != AUTO_RATE:
        choice = explain_rate(run.optim, hidden)
        return 0.0, f"{choice.lr:.3g}, {choice.reason}"
    train, held = choose_rows(task, rows)
    rates = ", ".join(f"{lr:.3g}" for lr in sorted(list_rates(hidden)))
    line = f"the best of {rates}, each tried on {len(train):,} rows and scored on {len(held):,}"
    return len(FACTORS) * len(train) / len(rows), line


def check_rows(task: Task, rows: list[Row], optim: OptimConfig) -> None:
    """Raise BortError where rates are to be tried and there are too few rows for that."""
    count = sum(row.label is not None for row in rows)
    if optim.lr == AUTO_RATE and count < LEAST_ROWS:
        raise BortError(
            f"optim.lr=auto scores rates on a tenth of the training rows, and there are {count:,}; "
            f"give at least {LEAST_ROWS}, or a rate"
        )


def _take_rows(examples: TaskExamples, train: list[int], held: list[int]) -> TaskExamples:
    """Make the examples of a trial out of the training rows: those to train on, and as `val`."""
    rows, inputs = examples.rows["train"], examples.inputs["train"]
    parts = {"train": train, "val": held}
    return replace(
        examples,
        rows={name: list(map(rows.__getitem__, part)) for name, part in parts.items()},
        inputs={name: inputs.of(part) for name, part in parts.items()},
    )


def _build_trial_run(run: TrainConfig, lr: float, share: float) -> TrainConfig:
    """Make the settings of a trial on this share of the rows: as many epochs as the run has."""
    trainer = dict(run.trainer)
    if run.trainer_config.max_steps > 0:
        trainer["max_steps"] = math.ceil(share * run.trainer_config.max_steps)
    if trainer.get("val_check_interval"):  # which may be longer than the trial
        trainer |= {"val_check_interval": None, "check_val_every_n_epoch": 1}
    csv_only = LoggerConfig(name="csv")
    optim = replace(run.optim, lr=lr)
    return replace(run, optim=optim, trainer=trainer, logger=csv_only, resume=True)


def _score_rate(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    part: TaskExamples,
    fit: Fit,
    teacher: np.ndarray | None,
) -> float | None:
    """Train a model in `folder`, unless that is done; return its score on the held-out rows.

    It is None where the training diverges, and where the score is not defined.
    """
    run_folder, key = RunFolder(folder), f"val/{part.task.metrics[0]}"
    if (summary := run_folder.settle_finished()) is not None:
        return summary.get(key)
    with run_folder.lock(False):
        run_folder.begin(run, None, torch.get_num_threads())
        run_folder.check_inputs({"digest": hash_rows(part.rows), "source": part.task.name})
        pl.seed_everything(run.seed, verbose=False)
        try:
            best, *_ = fit(run, folder, model, part, f"rate {run.optim.lr:.3g}", teacher)
            scores = compute_scores(part.task, part.rows["val"], answer_split(best, part, "val"))
            values = {f"val/{name}": value for name, value in scores.items()}
        except Diverged as error:
            values = {"failed": str(error), key: None}
        run_folder.remove_checkpoints()
        run_folder.remove_model()
        run_folder.write_summary(RunSummary(values))
    return values[key]
