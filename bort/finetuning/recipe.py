"""A fine-tuning run, from its settings to a finished run folder (arXiv 2010.10499, §5)."""

import logging
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch

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
from bort.finetuning.examples import (
    TaskExamples,
    check_class_weights,
    encode_examples,
    hash_rows,
)
from bort.finetuning.fitting import TrainingRecord, train_classifier
from bort.finetuning.heads import (
    arrange_texts,
    build_task_classifier,
    find_overlap,
    match_outputs,
)
from bort.finetuning.module import list_scores, to_answers
from bort.finetuning.rates import check_rows, choose_rate
from bort.models import hub
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.pretraining.recipe import pretrain_encoder
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.answers import list_answers, write_answers, write_class_scores
from bort.tasks.baselines import add_baselines, compute_baselines
from bort.tasks.encoding import EncodedRows
from bort.tasks.overview import DataReport, examine_data
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.precision import settle_precision
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import (
    check_monitors,
    check_trainer,
    choose_device,
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
    ) -> tuple[Classifier, TrainingRecord, dict[str, Any]]:
        """Train the model; return the best one, what it took, and more for summary.json."""


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
        teach = _learn_labels if lesson is None else lesson.teach
        best, training, more = teach(run, folder, model, examples)
        values = _answer_splits(best, examples, folder) | training.to_json() | more
        answer_diagnostics(run, best, examples, folder)
        summary = _summarize(task, rows, values | overview.to_json())
        run_folder.write_summary(summary)
        return summary


def _learn_labels(
    run: TrainConfig, folder: Path, model: Classifier, examples: TaskExamples
) -> tuple[Classifier, TrainingRecord, dict[str, Any]]:
    """Choose the rate and train on the labels of the rows; return as `Lesson.teach` does."""
    run, choice = choose_rate(run, folder, model, examples, train_classifier)
    best, training = train_classifier(run, folder, model, examples)
    return best, training, choice.to_json()


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


def check_settings_of_task(run: TrainConfig, task: Task, rows: dict[str, list[Row]]) -> None:
    """Raise BortError for a setting that this task cannot have.

    These are a callback that watches no score, weights of absent classes, and rates that are to be
    tried on too few rows.
    """
    check_monitors(run, list_scores(task, rows))
    check_class_weights(task, run.optim.class_weights)
    check_rows(task, rows["train"], run.optim)


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
