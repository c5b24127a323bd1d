"""The dry run of Agora: it prints the cost and refuses whatever the run would refuse."""

import logging
from pathlib import Path

from bort.agora.dataset import split_rows
from bort.agora.judge import find_teacher_source
from bort.agora.rounds import count_planned_steps
from bort.agora.student import check_task
from bort.config.train import TrainConfig
from bort.console import data_size
from bort.finetuning import dry_run as finetuning
from bort.models import hub
from bort.models.identity import find_local_model
from bort.objectives.parameters import count_parameters
from bort.tasks.task import Task
from bort.tasks.unlabelled import check_pool_file
from bort.teachers.opening import read_shape

logger = logging.getLogger(__name__)


def show(run: TrainConfig, folder: Path) -> None:
    """Print the plan of a run of Agora; raises BortError for what the run itself would refuse."""
    finetuning.show(run, folder, count_steps)


def count_steps(run: TrainConfig, task: Task, train: list) -> int:
    """Steps of the rounds and of both control arms; says how the rows are divided."""
    check_task(task)
    if run.agora.generator == "pool":
        check_pool_file(run.data)
    D, E = split_rows(task, train, run.agora.eval_fraction)
    logger.info(f"  E           {len(E):,} of the training rows; D has the others")
    source = run.agora.teacher
    if source:
        hub.find_model(source)
    elif run.model:
        source = find_teacher_source(run)  # raises when nobody is known to have taught the model
    if (folder := find_local_model(source)) is not None:
        shape = read_shape(folder)
        size = count_parameters(shape.arch, shape.vocab_size, shape.limit)
        logger.info(
            f"  S           {shape.arch}, {data_size(4 * size)} of memory beside the student"
        )
    return 3 * count_planned_steps(run, len(D))
