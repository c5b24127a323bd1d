"""The dry run of Agora: it prints the cost and refuses whatever the run would refuse."""

import logging
from pathlib import Path

from bort.agora.dataset import split_rows
from bort.agora.judge import find_teacher_source
from bort.agora.rounds import count_planned_steps
from bort.agora.student import check_task
from bort.config.train import TrainConfig
from bort.finetuning import dry_run as finetuning
from bort.models import hub
from bort.tasks.task import Task

logger = logging.getLogger(__name__)


def show(run: TrainConfig, folder: Path) -> None:
    """Print the plan of a run of Agora; raises BortError for what the run itself would refuse."""
    finetuning.show(run, folder, count_steps)


def count_steps(run: TrainConfig, task: Task, train: list) -> int:
    """Steps of the rounds and of both control arms; says how the rows are divided."""
    check_task(task)
    D, E = split_rows(task, train, run.agora.eval_fraction)
    logger.info(f"  E           {len(E):,} of the training rows; D has the others")
    if run.agora.teacher:
        hub.find_model(run.agora.teacher)
    elif run.model:
        find_teacher_source(run)  # raises when nobody is known to have taught the model
    return 3 * count_planned_steps(run, len(D))
