"""The candidates of a search on a task: what they learn, and the rows that decide their error.

S, the fine-tuned teacher, answers all rows once. A candidate starts from S's embeddings and learns
S's answers to the training rows, and to rows without labels, for n steps. Its error e is the
cross-entropy of its distribution against S's on training rows that are held out, whose mean entropy
is S's own error and bounds e from below. Where distill.w_kd=0, only the labels are learnt and e is
that against the labels; no bound above 0 is known then. Letters: N training rows, M held-out rows,
C classes.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.optim import width_lr
from bort.config.search import TaskSearchConfig
from bort.config.train import TaskDistillationConfig
from bort.config.trainer import TrainerConfig
from bort.console import counted
from bort.errors import BortError, Diverged
from bort.files.checked import save_array
from bort.files.run_files import DOCUMENTS, ENTROPY, LOSSES
from bort.finetuning.answering import compute_outputs
from bort.finetuning.datamodule import RowBatches
from bort.finetuning.examples import TaskExamples, encode_examples, hash_rows
from bort.finetuning.heads import arrange_texts, build_task_classifier
from bort.finetuning.held_out import divide_rows
from bort.finetuning.judge import Judge, open_judge
from bort.models import hub
from bort.models.arch import Arch
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.pretraining.flops import (
    Text,
    count_batches,
    count_states_flops,
    count_training_flops,
)
from bort.pretraining.recipe import start_student
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.task_distillation.labels import label_rows
from bort.task_distillation.recipe import examine_teacher, train_student
from bort.tasks.encoding import EncodedRows
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.tasks.unlabelled import read_pool
from bort.teachers.opening import open_teacher
from bort.teachers.teacher import Teacher
from bort.training.trainer import choose_device
from bort.trials.plan import SearchPlan, write_plan
from bort.trials.records import Job, TrialRecord, TrialStatus

logger = logging.getLogger(__name__)

FEWEST = 20  # rows that are held out; fewer decide nothing


@dataclass(frozen=True)
class TaskLesson:
    """What all candidates of a search learn, and what decides their errors.

    examples: `train`, the rows that are learnt, those without labels last, and `val`, those that
    are held out. labels: S's logits (N, C) to the former. target: the distributions (M, C) that e
    is measured against. digest: of all rows.
    """

    examples: TaskExamples
    teacher: Teacher
    judge: Judge
    labels: np.ndarray
    target: Tensor
    digest: str

    @property
    def entropies(self) -> np.ndarray:
        """S's entropy at each held-out row (M,), in nats; 0 where e is measured against labels."""
        return -torch.xlogy(self.target, self.target).sum(-1).float().numpy()

    def measure_constant(self) -> float:
        """Measure the error of one constant answer: S's mean distribution over what is learnt."""
        mean = torch.from_numpy(self.labels).double().softmax(-1).mean(0)
        return float(-(self.target @ mean.log()).mean())


# What this process has opened for the search in a folder, and not again for each candidate.
_open: dict[Path, TaskLesson] = {}


def open_lesson(run: TaskSearchConfig, folder: Path) -> TaskLesson:
    """Open rows, T and T's answers for the search in `folder`; the second time costs nothing.

    T answers each row once, for all searches: its answers are kept in the cache. Raises BortError
    for wrong data and a teacher of another task.
    """
    key = folder.resolve()
    if key not in _open:
        _open.clear()
        _open[key] = _prepare_lesson(run)
    return _open[key]


def check_inputs(run: TaskSearchConfig, folder: RunFolder, lesson: TaskLesson) -> None:
    """Note what a search or a candidate is trained on; raise BortError for other rows than then."""
    facts = {"digest": lesson.digest, "source": lesson.examples.task.name}
    folder.check_inputs(facts, {"teacher.name": hub.digest_model(run.teacher.name)}, run)


def forget_lesson() -> None:
    """Have rows and T opened again: the files may be others by now."""
    _open.clear()


def _prepare_lesson(run: TaskSearchConfig) -> TaskLesson:
    """Read all rows, and have S answer them."""
    examples = read_examples(run)
    source, digest = run.teacher.name, hub.digest_model(run.teacher.name)
    judge = open_judge(examples.task, source, run.data.length, choose_device(run), "teacher.name")
    labels = label_rows(judge, digest, examples.rows["train"])
    held = examples.rows["val"]
    if run.distill.w_kd:
        logits = torch.from_numpy(label_rows(judge, digest, held))
        target = logits.double().softmax(-1)
    else:
        classes = torch.tensor([row.label for row in held])
        target = F.one_hot(classes, len(examples.task.labels)).double()
    teacher = open_teacher(source)
    return TaskLesson(examples, teacher, judge, labels, target, hash_rows(examples.rows))


def read_examples(run: TaskSearchConfig) -> TaskExamples:
    """Read and encode the rows that candidates learn and those that are held out.

    The validation and test rows of the task are not read by any candidate; they are only kept out
    of the rows without labels. Raises BortError for a task whose answers are no classes.
    """
    task, rows = load_task(run.task, run.data)
    _check_task(task)
    task = arrange_texts(task, run.head, run.data.overlap)
    learnt, held = divide_rows(task, rows["train"])
    if len(held) < FEWEST:
        raise BortError(
            f"search.proxy=task measures errors on a tenth of the training rows, and there are "
            f"{counted(len(rows['train']), 'row')}; give at least {10 * FEWEST}"
        )
    train = [rows["train"][number] for number in learnt]
    if run.data.unlabelled:
        pool = read_pool(task, run.data, (row for split in rows.values() for row in split))
        logger.info(f"data: {pool.describe()}")
        train += pool.rows
    parts: dict[str, list[Row]] = {"train": train, "val": [rows["train"][k] for k in held]}
    logger.info(f"data: {counted(len(train), 'row')} to learn, {len(held):,} held out of training")
    tokenizer = load_tokenizer(run.teacher.name)
    return encode_examples(task, parts, tokenizer, run.data.length)


def _check_task(task: Task) -> None:
    """Raise BortError for a task without training rows, or whose answers are no classes."""
    if task.parent:
        raise BortError(f"task={task.name} has no training rows; use task={task.parent}")
    if task.kind != "classes":
        answers = "numbers" if task.kind == "regression" else task.kind
        raise BortError(
            f"search.proxy=task compares distributions over classes, and task={task.name} has "
            f"{answers}; use search.proxy=words or states on text"
        )


# ---------------------------------------------------------------------------- before the trainings


def complete_plan(
    plan: SearchPlan, run: TaskSearchConfig, folder: Path, lesson: TaskLesson
) -> SearchPlan:
    """Write the plan with T's error and the FLOPs of all trainings, heads left out.

    Raises BortError for a teacher that is hardly better than the most frequent label.
    """
    start, examples = time.monotonic(), lesson.examples
    entropies, count = lesson.entropies, len(lesson.target)
    rows_name = f" (at {counted(count, 'training row')} held out of the candidates' training)"
    examine_teacher(lesson.judge, examples, run.distill.guard, run.teacher.name, rows_name)
    teacher_folder = RunFolder(folder).teacher
    save_array(teacher_folder / ENTROPY, entropies)
    save_array(teacher_folder / DOCUMENTS, np.arange(count))
    learnt, held = (measure_text(make_batches(examples, split)) for split in ("train", "val"))
    steps = measure_training(run, examples)
    plan = replace(
        plan,
        teacher=replace(
            plan.teacher,
            error=float(entropies.mean(dtype=np.float64)),
            unigram_error=lesson.measure_constant(),
        ),
        positions=count,
        documents=count,
        points=[
            replace(point, flops=count_task_flops(run, point.xi, steps, held))
            for point in plan.points
        ],
        teacher_flops=count_states_flops(lesson.teacher.arch, learnt),
        teacher_val_flops=count_states_flops(lesson.teacher.arch, held),
        teacher_pass_seconds=time.monotonic() - start,
    )
    return write_plan(folder, plan, run, lesson.digest)


def count_task_flops(run: TaskSearchConfig, xi: Arch, text: Text, held: Text) -> float:
    """Count a candidate's n steps, and the pass over the held-out rows that decides its error.

    text: of the steps; held: of these rows.
    """
    steps = count_training_flops(xi, 0, text, run.search.n, run.optim.name)
    return steps + count_states_flops(xi, held)


def measure_training(run: TaskSearchConfig, examples: TaskExamples) -> Text:
    """Measure the text of the first n steps of a candidate's training, padding included."""
    batches = make_batches(examples, "train", run.data.batch_size, run.seed)
    count = count_batches(run, run.search.n, len(batches))
    return measure_text(batches[number] for number in range(count))


def make_batches(
    examples: TaskExamples, split: str, batch_size: int = 64, seed: int | None = None
) -> RowBatches:
    """Make the batches of a split; seed: None puts the rows in the order of their lengths."""
    inputs: EncodedRows = examples.inputs[split]
    return RowBatches(inputs, examples.rows[split], batch_size, examples.pad_id, seed)


def measure_text(batches: Iterable[dict[str, Tensor]]) -> Text:
    """Measure batches as a text of sequences that cost as much.

    A layer's work rises with the tokens, and with the sum of tokens times their sequence's length.
    """
    tokens = weighted = 0
    for batch in batches:
        number = batch["input_ids"].numel()
        tokens += number
        weighted += number * batch["input_ids"].shape[-1]
    return Text(tokens, weighted / max(tokens, 1), 0)


# ------------------------------------------------------------------------------------- a candidate


def make_candidate_settings(run: TaskSearchConfig) -> TaskDistillationConfig:
    """Make the settings of a candidate's training: n steps, validated once, at the end."""
    accumulate = TrainerConfig.from_keys(run.trainer).accumulate_grad_batches
    n = run.search.n
    trainer = {**run.trainer, "max_steps": n, "max_epochs": -1, "max_time": None}
    trainer |= {"val_check_interval": n * accumulate, "check_val_every_n_epoch": None}
    lr = width_lr(run.arch.hidden, run.optim.lr, run.search.kappa)
    return run.to_task_distillation(
        optim=replace(run.optim, lr=lr),
        trainer=trainer,
        logger=replace(run.logger, job_type="candidate"),
    )


def train_candidate(run: TaskSearchConfig, job: Job, plan: SearchPlan, folder: Path) -> TrialRecord:
    """Train a candidate on the task and measure its error; raises Diverged for one that is none."""
    start, trial_folder = time.monotonic(), RunFolder(folder / job.folder)
    lesson = open_lesson(run, folder)
    check_inputs(run, RunFolder(folder), lesson)
    settings = make_candidate_settings(run)
    with trial_folder.lock():
        summary = trial_folder.find_summary() if run.resume else None
        if summary is None:
            summary = _train(run, settings, trial_folder, lesson)
        trial_folder.remove_checkpoints()
    model, _ = load_classifier(trial_folder.model)
    losses = measure_losses(model.to(choose_device(run)), lesson)
    error = float(losses.mean(dtype=np.float64))
    if not np.isfinite(error):
        raise Diverged("its error is no number")
    return TrialRecord(
        job,
        plan.origin,
        TrialStatus.TRAINED,
        lr=settings.optim.lr,
        losses=save_array(trial_folder.path / LOSSES, losses),
        error=error,
        flops=plan.flops[run.arch],
        kl_by_step={},
        seconds=summary.seconds,
        wall=time.monotonic() - start,
    )


def _train(
    run: TaskSearchConfig,
    settings: TaskDistillationConfig,
    trial_folder: RunFolder,
    lesson: TaskLesson,
) -> RunSummary:
    """Train a candidate in a folder that this process has locked, and write down what it took."""
    examples, teacher = lesson.examples, lesson.teacher
    trial_folder.begin(settings, None, torch.get_num_threads())
    check_inputs(run, trial_folder, lesson)
    pl.seed_everything(settings.seed, verbose=False)
    body = start_student(settings, teacher.vocab_size, examples.pad_id, teacher)
    model = build_task_classifier(body, examples, run.head, run.dropout, run.seed)
    label = f"candidate {run.arch}"
    _, training = train_student(settings, trial_folder.path, model, examples, label, lesson.labels)
    summary = RunSummary(training.to_json())
    trial_folder.write_summary(summary)
    return summary


def measure_losses(model: Classifier, lesson: TaskLesson) -> np.ndarray:
    """Measure a model's cross-entropy (M,) against the target at each held-out row, in nats."""
    examples = lesson.examples
    logits = compute_outputs(model, examples.rows["val"], examples.inputs["val"], examples.pad_id)
    return -(lesson.target * logits.double().log_softmax(-1)).sum(-1).float().numpy()
