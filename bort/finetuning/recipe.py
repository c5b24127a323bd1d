"""A fine-tuning run, from its settings to a finished run folder (arXiv 2010.10499, §5)."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping

from bort.config.fingerprint import fingerprint
from bort.config.train import TrainConfig
from bort.config.trainer import AUTO, FLOAT32
from bort.console import counted
from bort.errors import BortError
from bort.finetuning.answering import (
    answer_diagnostics,
    answer_task,
    compute_outputs,
    score_answers,
)
from bort.finetuning.callbacks import LogAnswers, SaveBestModel
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import (
    TaskExamples,
    check_class_weights,
    encode_examples,
    hash_rows,
)
from bort.finetuning.heads import (
    arrange_texts,
    build_task_classifier,
    find_overlap,
    match_outputs,
)
from bort.finetuning.module import FineTuningModule, list_scores, to_answers
from bort.models import hub
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.pretraining.recipe import pretrain_encoder
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.answers import list_answers, write_answers, write_class_scores
from bort.tasks.baselines import add_baselines, compute_baselines
from bort.tasks.encoding import EncodedRows
from bort.tasks.metrics import is_falling
from bort.tasks.overview import DataReport, examine_data
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.precision import settle_precision
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import (
    check_monitors,
    check_trainer,
    choose_device,
    fit,
    hide_lightning_notes,
)

logger = logging.getLogger(__name__)


class Lesson(Protocol):
    """How a model learns a task, where it learns from more than the labels of its rows."""

    def prepare(self, run: TrainConfig, task: Task, rows: dict[str, list[Row]]) -> dict[str, str]:
        """Read and check what else is learnt from, before anything is written.

        Returns digests of it, by name.
        """

    def digest_models(self) -> dict[str, str]:
        """Return the digests of the models that are read, by the setting that names them."""

    def teach(
        self, run: TrainConfig, folder: Path, model: Classifier, examples: TaskExamples
    ) -> tuple[Classifier, "TrainingRecord", dict[str, Any]]:
        """Train the model; return the best one, what it took, and more for summary.json."""


@dataclass(frozen=True)
class TrainingRecord:
    """What a classifier's training took, and what it was of."""

    parameters: int  # of the model that is kept
    tokens: int
    steps: int
    tokens_per_s: float
    seconds: float  # of training, validation left out
    lr: float
    seed: int
    precision: str
    task: str
    metric: str  # that chose the checkpoint, as in val/accuracy

    def to_json(self) -> dict:
        """Spell the record as summary.json has it."""
        return asdict(self)


def finetune(
    run: TrainConfig, folder: Path, record: dict | None = None, lesson: Lesson | None = None
) -> RunSummary:
    """Fine-tune `run.model` on `run.task` into `folder`; return the summary.

    The best epoch by the task's first metric is what `model/`, the scores and `predictions/` are
    of. lesson: what the model learns from besides the labels of the rows. Raises BortError for
    wrong data or a wrong model before anything is written.
    """
    check_trainer(run)
    run_folder = RunFolder(folder)
    if (summary := run_folder.find_result(run)) is not None:
        return summary
    hide_lightning_notes()
    if run.model:
        hub.find_model(run.model)  # a wrong name is told before rows are read
    task, rows = load_task(run.task, run.data)
    if task.parent:
        if lesson is not None:
            raise BortError(f"task={task.name} has no training rows; use task={task.parent}")
        return diagnose(run, task, rows, folder, record)
    task = arrange_texts(task, run.head, run.data.overlap)
    check_settings_of_task(run, task, rows)
    facts = {"digest": hash_rows(rows), "source": task.name}
    if lesson is not None:
        facts["digest"] = fingerprint(lesson.prepare(run, task, rows) | facts)
    if run.resume and (summary := run_folder.find_summary()) is not None:
        # A data file was touched, and its content is the same as before.
        run_folder.check_inputs(facts, run=run)
        return summary
    run = settle_precision(run, run_folder.precision)
    source = run.model or pretrain_encoder(run)
    body = load_masked_lm(source, head_required=False)
    tokenizer = load_tokenizer(source)
    check_length(run, body.config.positions)
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    overview = _describe_data(run, examples, source, body.config.limit)
    with use_threads(choose_threads(run, run_folder.threads)), run_folder.lock(False):
        run_folder.begin(run, record, torch.get_num_threads())
        models = {"model": hub.digest_model(source)}
        if lesson is not None:
            models |= lesson.digest_models()
        run_folder.check_inputs(facts, models, run)
        pl.seed_everything(run.seed, verbose=False)
        model = build_task_classifier(body, examples, run.head, run.dropout, run.seed)
        outputs = counted(model.out.out_features, "output")
        logger.info(f"model: the encoder of {source}, a new head with {outputs}")
        if line := explain_selection(task, rows):
            logger.info(f"model: {line}")
        if lesson is None:
            (best, training), more = train_classifier(run, folder, model, examples), {}
        else:
            best, training, more = lesson.teach(run, folder, model, examples)
        values = _answer_splits(best, examples, folder) | training.to_json() | more
        answer_diagnostics(run, best, examples, folder)
        summary = _summarize(task, rows, values | overview.to_json())
        run_folder.write_summary(summary)
        return summary


def _summarize(task: Task, rows: dict[str, list[Row]], values: dict[str, Any]) -> RunSummary:
    """Put the results of a run beside those of simple answers."""
    values = add_baselines(values, compute_baselines(task, rows))
    line = explain_selection(task, rows)
    return RunSummary(values | ({"selected_by": line} if line else {}))


def _describe_data(run: TrainConfig, examples: TaskExamples, source: str, limit: int) -> DataReport:
    """Log what the rows are like, what is missing, and whether they are too long."""
    task, rows = examples.task, examples.rows
    overview = examine_data(task, rows, examples.inputs)
    for line in overview.list_lines():
        logger.info(line)
    if warning := explain_length(run, source, limit, examples.inputs["train"]):
        logger.warning(warning)
    missing = [name for name in task.splits if name not in rows]
    if missing and task.name != "custom":
        logger.info(f"data: no {' and no '.join(missing)} set there, so no submission file of it")
    return overview


def _answer_splits(model: Classifier, examples: TaskExamples, folder: Path) -> dict:
    """Answer all splits but that of training; return the scores as summary.json has them.

    The answers to the validation sets and the submission files are in `predictions`.
    """
    task, rows, inputs = examples.task, examples.rows, examples.inputs
    outputs = {
        split: compute_outputs(model, rows[split], inputs[split], examples.pad_id)
        for split in rows
        if split != "train"
    }
    answers = {split: to_answers(task, values) for split, values in outputs.items()}
    scores = score_answers(task, rows, answers, folder)
    for split in examples.validation_rows:
        predictions, lengths = RunFolder(folder).predictions, inputs[split].lengths
        listed = list_answers(task, rows[split], lengths, outputs[split].numpy())
        write_answers(predictions / f"{split}.jsonl", listed)
        write_class_scores(predictions / f"{split}_classes.csv", listed)
    return scores.to_json()


def explain_selection(task: Task, rows: dict[str, list[Row]]) -> str | None:
    """Say which of several validation sets chooses the checkpoint; None where there is one."""
    names = [name for name in rows if name.startswith("val")]
    if len(names) < 2:
        return None
    first, *more = (task.splits[name].files[0] for name in names)
    return (
        f"the checkpoint is chosen by {task.metrics[0]} on {first}; "
        f"{' and '.join(more)} is scored with it and chooses nothing"
    )


def train_classifier(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    examples: TaskExamples,
    label: str = "fine-tuning",
    teacher: np.ndarray | None = None,
    module: FineTuningModule | None = None,
) -> tuple[Classifier, TrainingRecord]:
    """Train on the `train` rows; return the model of the best validation, and what it took.

    That model is in `folder/model`, too. label: the training's name in its progress lines. teacher:
    a teacher's outputs (N, classes) to the training rows, for a `module` that learns from them.
    """
    data = TaskDataModule.from_examples(examples, run.data, run.seed, teacher)
    module = module or FineTuningModule(model, run.optim, examples)
    callbacks = [SaveBestModel(RunFolder(folder).model, examples), LogAnswers()]
    if run.patience:
        callbacks.append(_stop_early(module.metric, run.patience))
    trainer, throughput = fit(run, folder, module, data, label, callbacks)
    trainer.strategy.barrier()  # until the process that saves the best model has saved it
    best, _ = load_classifier(RunFolder(folder).model)
    return best.to(choose_device(run)), TrainingRecord(
        parameters=sum(p.numel() for p in best.parameters()),
        tokens=module.tokens,
        steps=trainer.global_step,
        tokens_per_s=module.tokens / max(throughput.seconds, 1e-9),
        seconds=throughput.seconds,
        lr=module.optim.lr,
        seed=run.seed,
        precision=str(run.trainer_config.precision),
        task=examples.task.name,
        metric=module.metric,
    )


def _stop_early(metric: str, patience: int) -> EarlyStopping:
    """Build the callback that ends a training `patience` validations after the best one."""
    return EarlyStopping(
        monitor=metric,
        mode="min" if is_falling(metric) else "max",
        patience=patience,
        check_finite=False,  # a score that is not defined is infinitely bad
        strict=False,  # a run may end before its first validation
    )


def diagnose(
    run: TrainConfig, task: Task, rows: dict, folder: Path, record: dict | None
) -> RunSummary:
    """Answer a diagnostic set by the model of its parent task; nothing is trained."""
    if run.trainer_config.precision == AUTO:
        run = run.with_precision(FLOAT32)
    model, labels = load_classifier(run.model)
    tokenizer = load_tokenizer(run.model)
    check_length(run, model.config.positions)
    order = match_outputs(task, model, labels, f"model={run.model}")
    task = arrange_texts(task, model.head, find_overlap(run.model, run.data))
    model.to(choose_device(run))
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    run_folder = RunFolder(folder)
    with run_folder.lock(False):
        run_folder.begin(run, record)
        data_facts = {"digest": hash_rows(rows), "source": task.name}
        run_folder.check_inputs(data_facts, {"model": hub.digest_model(run.model)}, run)
        scores = answer_task(model, examples, order, folder)
        facts = {"task": task.name, "model": run.model, "seed": run.seed}
        summary = RunSummary(scores.to_json() | facts)
        run_folder.write_summary(summary)
        return summary


def check_settings_of_task(run: TrainConfig, task: Task, splits: Iterable[str]) -> None:
    """Raise BortError for a callback that watches no score, and for weights of absent classes."""
    check_monitors(run, list_scores(task, splits))
    check_class_weights(task, run.optim.class_weights)


def check_length(run: TrainConfig, positions: int) -> None:
    """Raise BortError when rows may be longer than the model takes."""
    if run.data.length > positions:
        raise BortError(
            f"data.length={run.data.length} is longer than the {positions} tokens of "
            f"model={run.model}; use data.length={positions} or less"
        )


def explain_length(
    run: TrainConfig, source: str | Path, limit: int, inputs: EncodedRows
) -> str | None:
    """Warn of rows that may be longer than the `limit` tokens that the model was trained at."""
    if run.data.length <= limit:
        return None
    longer = int((inputs.lengths > limit).sum())
    return (
        f"model={source} was trained at {limit} tokens, data.length={run.data.length} is longer; "
        f"{longer:,} of {counted(len(inputs.lengths), 'row')} reach positions that it never saw"
    )
