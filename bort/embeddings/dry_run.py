"""The dry run of a distillation of embeddings: what it reads, and what it will cost."""

import logging
from pathlib import Path

from bort.config.train import TrainConfig
from bort.console import counted, data_size
from bort.embeddings.recipe import EmbeddingLesson
from bort.embeddings.texts import TEXTS, make_rows
from bort.finetuning.dry_run import count_own_steps
from bort.objectives.parameters import count_training_flops
from bort.pretraining.dry_run import describe_time
from bort.pretraining.flops import count_optimizer_flops
from bort.runs.folder import RunFolder
from bort.tasks.encoding import encode_rows
from bort.training.precision import describe_precision, foresee_precision
from bort.training.trainer import check_trainer

logger = logging.getLogger(__name__)


def show(run: TrainConfig, folder: Path) -> None:
    """Print the plan of a distillation: its texts, its steps, FLOPs, disk and hours.

    The passes of the teacher are counted, as if none were kept yet. Raises BortError for what the
    run itself would refuse.
    """
    check_trainer(run)
    RunFolder(folder).check_settings(run)
    run = foresee_precision(run, RunFolder(folder).precision)
    lesson = EmbeddingLesson(run)
    teacher, student = lesson.teacher.teacher, lesson.student
    inputs = encode_rows(TEXTS, make_rows(lesson.texts), lesson.tokenizer, run.data.length)
    tokens = int(inputs.lengths.sum())
    steps, per_epoch = count_own_steps(run, len(lesson.texts))
    read = tokens * steps / per_epoch
    work = count_training_flops(student.config.arch, 0, run.data.length, 0.0) * read
    work += steps * count_optimizer_flops(student.config.arch, run.optim.name)
    passes = count_training_flops(teacher.arch, 0, run.data.length, 0.0) / 3 * tokens
    size = sum(weight.numel() for weight in student.encoder.parameters())
    cached = 2 * teacher.arch.hidden * (len(lesson.texts) + len(lesson.held))
    logger.info(f"  texts       {len(lesson.texts):,}, and {len(lesson.held):,} held out")
    logger.info(f"  teacher     {run.teacher.name}, {teacher.arch}: {passes:.2e} FLOPs, once")
    logger.info(f"  student     {student.config.arch} with {size:,} parameters")
    logger.info(f"  steps       {steps:,} of {counted(run.data.batch_size, 'text')}")
    logger.info(f"  tokens      about {read:,.0f}")
    logger.info(f"  FLOPs       {work:.2e}, validations and the teacher's passes not counted")
    logger.info(f"  precision   {describe_precision(run)}")
    logger.info(f"  disk        {data_size(cached + 28 * size)}, the teacher's embeddings included")
    logger.info(f"  time        about {describe_time(work + passes, run)}")
    logger.info("dry_run=true: nothing was started")
