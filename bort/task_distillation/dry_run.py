"""The dry run of a task's distillation: a fine-tuning's, on as many rows as are learnt."""

import logging
from pathlib import Path

from bort.config.train import TrainConfig
from bort.finetuning import dry_run
from bort.models import hub
from bort.task_distillation.recipe import TaughtLesson, build_teacher_run
from bort.tasks.reading import load_task

logger = logging.getLogger(__name__)


def show(run: TrainConfig, folder: Path) -> None:
    """Print the plan of a distillation: its rows, its teacher, and the cost as of a fine-tuning.

    The passes of the teacher are not part of the cost. Raises BortError for what the run itself
    would refuse.
    """
    hub.find_model(run.model or run.teacher.name)
    task, rows = load_task(run.task, run.data)
    lesson = TaughtLesson(run)
    lesson.prepare(run, task, rows)
    if lesson.is_encoder:
        epochs = build_teacher_run(run).trainer["max_epochs"]
        logger.info(f"  teacher     {run.teacher.name} is fine-tuned first, for {epochs} epochs")
    else:
        logger.info(f"  teacher     {run.teacher.name}")
    if run.distill.control:
        logger.info("  control     as many steps more, on the true labels alone")
    pool = [] if lesson.pool is None else lesson.pool.rows
    dry_run.show(run, folder, pool=pool)
