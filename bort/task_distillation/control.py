"""The control arm of a distillation: the same student, which learns the true labels alone."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.train import FinetuneRunConfig, TrainConfig
from bort.finetuning.recipe import finetune

logger = logging.getLogger(__name__)


def train_control(run: TrainConfig, folder: Path, steps: int) -> dict[str, float | None]:
    """Fine-tune the student on the labelled rows for as many steps as it was taught, once.

    Returns its scores by `SPLIT/METRIC`. Its run is kept in `folder`, and costs as much as that of
    the student.
    """
    logger.info(f"control: the student learns the true labels alone, for {steps:,} steps")
    trainer = {**run.trainer, "max_epochs": -1, "max_steps": steps}
    summary = finetune(build_plain_run(run, run.model, trainer=trainer), folder)
    return dict(summary.scores)


def build_plain_run(run: TrainConfig, model: str | None, **changes: Any) -> FinetuneRunConfig:
    """Build the settings of a plain fine-tuning of `model` on the labelled rows of a distillation.

    changes: fields with other values than the distillation has.
    """
    data = replace(run.data, unlabelled=None, unlabelled_rows=None, split_sentences=False)
    values = {item.name: getattr(run, item.name) for item in fields(TrainConfig)}
    values |= {
        "job": "finetune",
        "model": model,
        "teacher": TeacherConfig(),
        "distill": DistillConfig(),
        "callbacks": None,
        "data": data,
        "resume": True,
    }
    return FinetuneRunConfig(**(values | changes))
