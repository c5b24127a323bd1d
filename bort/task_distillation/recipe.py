"""A task's distillation, from its settings to a finished run folder.

S, the teacher, labels the training rows D and the rows without labels softly. The student learns
these labels, and the true ones of D where `distill.w_ce` is above 0.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from bort.config.train import FinetuneRunConfig, TrainConfig
from bort.config.trainer import AUTO
from bort.console import counted, decimal
from bort.errors import BortError
from bort.files.run_files import CONTROL, TEACHER
from bort.finetuning.examples import TaskExamples, hash_rows
from bort.finetuning.fitting import TrainingRecord, train_classifier
from bort.finetuning.heads import match_outputs
from bort.finetuning.judge import Judge, load_fine_tuned, open_judge
from bort.finetuning.module import to_answers
from bort.finetuning.rates import choose_rate
from bort.finetuning.recipe import finetune
from bort.models import hub
from bort.models.bert import Classifier
from bort.models.huggingface import is_classifier, load_masked_lm
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.task_distillation.control import build_plain_run, train_control
from bort.task_distillation.labels import label_rows
from bort.task_distillation.module import TaskDistillationModule
from bort.tasks.encoding import encode_rows
from bort.tasks.metrics import compute_scores
from bort.tasks.task import Row, Task
from bort.tasks.unlabelled import Pool, read_pool
from bort.teachers.opening import is_own_family
from bort.training.trainer import choose_device

logger = logging.getLogger(__name__)

TEACHER_EPOCHS, TEACHER_BATCH = 3, 16  # of an encoder that is fine-tuned into S first


def distill_task(run: TrainConfig, folder: Path, record: dict | None = None) -> RunSummary:
    """Teach `run.model` the task `run.task` by `run.teacher.name`; return the summary.

    A teacher that is an encoder is first fine-tuned on the training rows, in `folder/teacher`.
    `teacher/SPLIT/METRIC` in the summary are its scores, and `control/SPLIT/METRIC` those of the
    control arm. Raises BortError for
    a teacher of another task, one that is no better than the most frequent label, wrong files, and
    as `finetune` does.
    """
    return finetune(run, folder, record, TaughtLesson(run))


class TaughtLesson:
    """What a student learns from S: its answers to the training rows and to the pool."""

    def __init__(self, run: TrainConfig):
        self.source = str(run.teacher.name)
        self.pool: Pool | None = None
        self.is_encoder = False

    def prepare(self, run: TrainConfig, task: Task, rows: dict[str, list[Row]]) -> dict[str, str]:
        """Check the teacher and read the pool; return the digest of its rows."""
        self.is_encoder = is_encoder(task, self.source)
        if not run.data.unlabelled:
            return {}
        self.pool = read_pool(task, run.data, (row for split in rows.values() for row in split))
        logger.info(f"data: {self.pool.describe()}")
        return {"pool": hash_rows({"pool": self.pool.rows})}

    def digest_models(self) -> dict[str, str]:
        """Return the digest of the teacher as it was named."""
        return {"teacher.name": hub.digest_model(self.source)}

    def teach(
        self, run: TrainConfig, folder: Path, model: Classifier, examples: TaskExamples
    ) -> tuple[Classifier, TrainingRecord, dict[str, Any]]:
        """Have S label all rows, and train the student on its labels."""
        source = self.source
        if self.is_encoder:
            source = str(train_teacher(run, folder / TEACHER, examples))
        task, device = examples.task, choose_device(run)
        judge = open_judge(task, source, run.data.length, device, "teacher.name")
        scores = examine_teacher(judge, examples, run.distill.guard, source)
        taught = self._join_pool(examples)
        labels = label_rows(judge, hub.digest_model(source), taught.rows["train"])
        run, choice = choose_rate(run, folder, model, taught, train_student, labels)
        pl.seed_everything(run.seed, verbose=False)  # as if S had been there before
        best, training = train_student(run, folder, model, taught, "distillation", labels)
        facts = {
            "teacher": self.source,
            "labelled_rows": len(examples.rows["train"]),
            "unlabelled_rows": 0 if self.pool is None else len(self.pool.rows),
        }
        facts |= {f"teacher/{key}": value for key, value in scores.items()} | choice.to_json()
        if run.distill.control:
            control = train_control(run, folder / CONTROL, training.steps)
            facts |= {f"control/{key}": value for key, value in control.items()}
        return best, training, facts

    def _join_pool(self, examples: TaskExamples) -> TaskExamples:
        """Add the rows of the pool to the training rows."""
        if self.pool is None:
            return examples
        rows = examples.rows["train"] + self.pool.rows
        inputs = encode_rows(examples.task, rows, examples.tokenizer, examples.length)
        return replace(
            examples,
            rows=examples.rows | {"train": rows},
            inputs=examples.inputs | {"train": inputs},
        )


def train_student(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    examples: TaskExamples,
    label: str,
    teacher: np.ndarray,
) -> tuple[Classifier, TrainingRecord]:
    """Train on the outputs (N, classes) of S to the training rows, as `train_classifier` does."""
    module = TaskDistillationModule(model, run.optim, examples, run.distill)
    return train_classifier(run, folder, model, examples, label, teacher, module)


def is_encoder(task: Task, source: str) -> bool:
    """Return whether a teacher is an encoder that must be fine-tuned first.

    Raises BortError for a classifier of another task, and for an encoder of a family that is not
    fine-tuned here.
    """
    if is_own_family(source) and not is_classifier(source):
        load_masked_lm(source, head_required=False)
        return True
    match_outputs(task, *load_fine_tuned(source, "teacher.name"), f"teacher.name={source}")
    return False


def train_teacher(run: TrainConfig, folder: Path, examples: TaskExamples) -> Path:
    """Fine-tune the encoder that was named on the training rows, once; return its model's folder.

    It has its own rate, by its width, and TEACHER_EPOCHS epochs, of which the best one on the
    validation rows is kept.
    """
    if RunFolder(folder).find_summary() is None:
        logger.info(f"teacher: fine-tuning {run.teacher.name} first, kept in {folder}")
    finetune(build_teacher_run(run), folder)
    return RunFolder(folder).model


def build_teacher_run(run: TrainConfig) -> FinetuneRunConfig:
    """Build the settings of the fine-tuning of S."""
    encoder = load_masked_lm(str(run.teacher.name), head_required=False)
    plain = build_plain_run(run, run.teacher.name)
    texts = 2 if run.head == "towers" else 1  # which S reads in one sequence
    length = min(texts * run.data.length, encoder.config.limit)
    limits = {"max_steps": -1, "max_epochs": TEACHER_EPOCHS, "max_time": None, "precision": AUTO}
    return replace(
        plain,
        head="linear",
        patience=None,
        data=replace(plain.data.with_length(length), batch_size=TEACHER_BATCH),
        optim=replace(run.optim, lr=None),
        trainer={**run.trainer, **limits},
    )


def examine_teacher(
    judge: Judge, examples: TaskExamples, guard: float, name: str, rows_name: str = ""
) -> dict[str, float | None]:
    """Score S on the validation sets; return its scores by `SPLIT/METRIC`.

    name: of S, for messages. rows_name: what the line says of the rows, behind the scores.

    Raises BortError where the share of the first set's rows that it answers rightly is not more
    than `guard` above that of the most frequent training label; of several labels a row, the
    decisions about a label are counted. A regression is not refused.
    """
    task, scores = examples.task, {}
    sets = examples.validation_rows
    answers = {split: to_answers(task, judge.answer(rows)) for split, rows in sets.items()}
    for split, rows in sets.items():
        values = compute_scores(task, rows, answers[split])
        scores |= {f"{split}/{metric}": value for metric, value in values.items()}
    shown = ", ".join(f"{key} {decimal(value)}" for key, value in scores.items())
    logger.info(f"teacher: {name}: {shown}{rows_name}")
    if task.kind in ("classes", "spans", "labels") and task.form != "record":
        split, rows = next(iter(sets.items()))
        labels = np.array([row.label for row in rows])
        usual = find_usual_label(examples.rows["train"])
        accuracy, majority = (answers[split] == labels).mean(), (labels == usual).mean()
        if accuracy <= majority + guard:
            unit = "label" if task.kind == "labels" else "row"
            raise BortError(
                f"teacher.name={name} is right in {accuracy:.3f} of {counted(labels.size, unit)}"
                f", the most frequent label in {majority:.3f}; give a better one, or lower "
                "distill.guard"
            )
    return scores


def find_usual_label(rows: list[Row]) -> np.ndarray:
    """Find the most frequent label of rows; of several a row, (labels,), which most rows have."""
    labels = np.array([row.label for row in rows if row.label is not None])
    return labels.mean(0) > 0.5 if labels.ndim > 1 else np.bincount(labels).argmax()
