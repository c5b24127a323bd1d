"""Fine-tuning on a task: a classifier on a pre-trained encoder (arXiv 2010.10499, §5).

Letters: N rows of a split, B rows of a batch.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.data import DataConfig
from bort.config.fingerprint import flatten_settings
from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.console import counted
from bort.errors import BortError
from bort.files.cache import cache_folder
from bort.finetuning.datamodule import RowBatches, TaskDataModule
from bort.finetuning.heads import fresh_classifier, label_names, output_order
from bort.models import hub
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer, save_model
from bort.pretraining.recipe import pretrain_encoder
from bort.runs.folder import RunFolder
from bort.tasks import custom, docstrings, registry
from bort.tasks.encoding import Cast, cast, data_report
from bort.tasks.metrics import doubt, metric_names, readable, score, write_answers, write_submission
from bort.tasks.task import Row, Task
from bort.training.loggers import MetricsCsv, extra_loggers, log_samples
from bort.training.module import StepModule
from bort.training.trainer import (
    check_monitors,
    check_trainer,
    choose_device,
    fit,
    silence_lightning,
)

logger = logging.getLogger(__name__)

FEW_ROWS = 50  # of a validation set: of fewer, a single one is more than two hundredths of a score
LR_WIDTH = 0.064  # the default rate times the width: 1e-3 at 64 (measured), 8e-5 at BERT's 768


def task_outputs(model: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
    """(B, classes): of a task with choices, their scores side by side."""
    names = ("input_ids", "attention_mask", "token_types", "spans")
    found = model(**{name: batch[name] for name in names if name in batch})
    return found.view(len(batch["labels"]), -1)


def task_loss(kind: str, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of outputs (B, classes), or squared error of (B, 1) and numbers (B,).

    labels: (B,), or probabilities (B, classes). Nats, or the square of the labels' own unit.
    """
    if kind == "regression":
        return F.mse_loss(outputs.squeeze(-1).double(), labels.double(), reduction=reduction)
    return F.cross_entropy(outputs.float(), labels, reduction=reduction)


def score_names(task: Task, splits: Iterable[str]) -> list[str]:
    """What a validation of a fine-tuning logs, of those of the splits that are for validation."""
    names = ("loss", *metric_names(task))
    return [f"{split}/{name}" for split in splits if split.startswith("val") for name in names]


class FineTuningModule(StepModule):
    """A classifier on one task; every validation is scored over the whole set.

    rows: validation set → its rows. keep: called with the module when the task's first metric on
    the first validation set is better than ever; only then. A score that is not defined, as
    Pearson's of answers that are all the same, is below any other; of two such the lower loss wins.
    """

    def __init__(
        self,
        model: Classifier,
        optim: OptimConfig,
        task: Task,
        rows: dict[str, list[Row]],
        keep: Callable[["FineTuningModule"], None],
    ):
        super().__init__(model, optim)
        self.task, self.rows, self.keep = task, rows, keep
        self.scores = score_names(task, rows)
        self.metric = f"val/{task.metrics[0]}"
        self.best: tuple[bool, float] | None = None  # whether the score is defined; it, or -loss
        self._answers: dict[str, np.ndarray] = {}
        self._loss: dict[str, float] = {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = task_outputs(self.model, batch)
        loss = task_loss(self.task.kind, outputs, batch["labels"], self.reduction)
        self.count(batch, {"loss": loss})
        # What is logged is in the square of the labels' unit; what is minimised has none, so that
        # a rate suits euros as it suits cents.
        return loss if self.model.scale is None else loss / self.model.scale[1] ** 2

    def on_validation_epoch_start(self) -> None:
        self._answers = {name: np.zeros(len(rows)) for name, rows in self.rows.items()}
        self._loss = dict.fromkeys(self.rows, 0.0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0):
        name = list(self.rows)[dataloader_idx]
        outputs = task_outputs(self.model, batch)
        loss = task_loss(self.task.kind, outputs, batch["labels"], "sum")
        self._loss[name] += float(loss)
        self._answers[name][batch["rows"].cpu().numpy()] = answers(self.task, outputs)

    def on_validation_epoch_end(self) -> None:
        values = {}
        for name, rows in self.rows.items():
            values[f"{name}/loss"] = self._loss[name] / len(rows)
            found = score(self.task, rows, self._answers[name])
            values |= {f"{name}/{metric}": value for metric, value in found.items()}
        defined = {name: value for name, value in values.items() if value is not None}
        first = values[self.metric]
        watched = {self.metric: -math.inf} | defined  # early stopping needs its metric always
        self.log_dict(watched, logger=False, add_dataloader_idx=False)
        self.log_validation(defined)
        log_samples(self.trainer.loggers, self._samples())
        name = next(iter(self.rows))
        rank = (True, first) if first is not None else (False, -values[f"{name}/loss"])
        if not self.trainer.sanity_checking and (self.best is None or rank > self.best):
            self.best = rank
            if self.trainer.is_global_zero:
                self.keep(self)

    def _samples(self, count: int = 5) -> list[list[str]]:
        """Text, true label and answer of some rows, spread over the first validation set."""
        name, rows = next(iter(self.rows.items()))
        some = range(0, len(rows), max(1, len(rows) // count))
        pairs = [(rows[k], self._answers[name][k]) for k in some][:count]
        return [
            [" / ".join(r.texts), *(readable(self.task, x) for x in (r.label, a))] for r, a in pairs
        ]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["bort"]["best_rank"] = self.best

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        rank = checkpoint["bort"].get("best_rank")
        self.best = rank and tuple(rank)


def answers(task: Task, outputs: Tensor) -> np.ndarray:
    """Of outputs (B, classes): class numbers, or numbers; for ReCoRD how likely each entity is."""
    if task.kind == "regression":
        return outputs.squeeze(-1).double().cpu().numpy()
    if task.form == "record":
        return (outputs[:, 1] - outputs[:, 0]).double().cpu().numpy()
    return outputs.argmax(-1).cpu().numpy()


# ------------------------------------------------------------------------------------ a whole run


def finetune(run: TrainConfig, folder: Path, record: dict | None = None) -> dict:
    """Fine-tune `run.model` on `run.task` into `folder`; returns the content of summary.json.

    The best epoch by the task's first metric is what `model/`, the scores and `predictions/` are
    of. Raises BortError for wrong data or a wrong model before anything is written.
    """
    check_trainer(run)
    run_folder = RunFolder(folder)
    if (summary := run_folder.find_result(run)) is not None:
        return summary
    silence_lightning()
    if run.model:
        hub.find_model(run.model)  # a wrong name, before rows are read
    task, rows = load_task(run.task, run.data)
    if task.parent:
        return diagnose(run, task, rows, folder, record)
    check_monitors(run, score_names(task, rows))
    facts = {"digest": digest(rows), "source": task.name}
    if run.resume and (summary := run_folder.find_summary()) is not None:
        # a file was touched, and holds what it held
        run_folder.check_inputs(facts, run=run)
        return summary
    source = run.model or pretrain_encoder(run)
    body = load_masked_lm(source, head_required=False)
    tokenizer = load_tokenizer(source)
    check_length(run, body.config.positions)
    inputs = {name: cast(task, split, tokenizer, run.data.length) for name, split in rows.items()}
    for line in data_report(task, rows, inputs):
        logger.info(line)
    if warning := length_doubt(run, source, body.config.limit, inputs["train"]):
        logger.warning(warning)
    missing = [name for name in task.splits if name not in rows]
    if missing and task.name != "custom":
        logger.info(f"data: no {' and no '.join(missing)} set there, so no submission file of it")
    with run_folder.lock(False):
        run_folder.begin(run, record)
        run_folder.check_inputs(facts, {"model": hub.digest_model(source)}, run)
        if run.patience:
            patience = {"patience": _patience(run, task)}
            run = replace(run, callbacks={**(run.callbacks or {}), **patience})
        pl.seed_everything(run.seed, verbose=False)
        model = fresh_classifier(task, body, run, rows["train"])
        outputs = counted(model.out.out_features, "output")
        logger.info(f"model: the encoder of {source}, a new head with {outputs}")
        if line := selection(task, rows):
            logger.info(line)
        best, numbers = train_classifier(run, folder, task, model, tokenizer, rows, inputs)
        pad, asked = tokenizer.pad_token_id, [name for name in rows if name != "train"]
        outputs = {name: row_outputs(best, rows[name], inputs[name], pad) for name in asked}
        found = {name: answers(task, given) for name, given in outputs.items()}
        scores = outcome(task, rows, found, folder)
        for name in (name for name in asked if name.startswith("val")):
            path = folder / "predictions" / f"{name}.jsonl"
            write_answers(path, task, rows[name], inputs[name].lengths, outputs[name].numpy())
        answer_diagnostics(run, task, best, tokenizer, folder)
        summary = {**scores, **numbers}
        if line := selection(task, rows):
            summary["selected_by"] = line.removeprefix("model: ")
        run_folder.write_summary(summary)
        return summary


def selection(task: Task, rows: dict[str, list[Row]]) -> str | None:
    """Which of several validation sets chooses the checkpoint; None where there is one."""
    vals = [name for name in rows if name.startswith("val")]
    if len(vals) < 2:
        return None
    first, *others = (task.splits[name].files[0] for name in vals)
    return (
        f"model: the checkpoint is chosen by {task.metrics[0]} on {first}; "
        f"{' and '.join(others)} is scored with it and chooses nothing"
    )


def load_task(name: str, data: DataConfig) -> tuple[Task, dict[str, list[Row]]]:
    """A task and all its rows; raises BortError for an unknown task or wrong files."""
    if name == "custom":
        return custom.read(data)
    if name == "docstrings":
        return docstrings.read(cache_folder())
    task = registry.find(name)
    return task, registry.read(task, Path(data.root) if data.root else None)


def _patience(run: TrainConfig, task: Task) -> dict:
    return {
        "_target_": "lightning.pytorch.callbacks.EarlyStopping",
        "monitor": f"val/{task.metrics[0]}",
        "mode": "max",
        "patience": run.patience,
        "check_finite": False,  # a score that is not defined is -inf
        "strict": False,  # a run may end before its first validation
    }


def train_classifier(
    run: TrainConfig,
    folder: Path,
    task: Task,
    model: Classifier,
    tokenizer,
    rows: dict[str, list[Row]],
    inputs: dict[str, Cast],
    label: str = "fine-tuning",
) -> tuple[Classifier, dict]:
    """Train on the `train` rows; the model of the best validation, and what it took.

    That model is in `folder/model`, too. Its scores are the caller's to tell.
    """
    pad, size = tokenizer.pad_token_id, run.data.batch_size
    vals = {name: split for name, split in rows.items() if name.startswith("val")}
    data = TaskDataModule(
        RowBatches(inputs["train"], rows["train"], size, pad, run.seed),
        {name: RowBatches(inputs[name], vals[name], 4 * size, pad, None) for name in vals},
        run.data.workers,
    )
    loggers = [MetricsCsv(folder), *extra_loggers(run.logger, folder, flatten_settings(run))]

    def keep(module: FineTuningModule) -> None:
        save_model(module.model, tokenizer, folder / "model", label_names(task))

    rate = run.optim.lr or LR_WIDTH / model.config.hidden
    module = FineTuningModule(model, replace(run.optim, lr=rate), task, vals, keep)
    trainer, throughput = fit(run, folder, module, data, loggers, label)
    trainer.strategy.barrier()  # until the process that keeps the best model has kept it
    best, _ = load_classifier(folder / "model")
    return best.to(choose_device(run)), {
        "parameters": sum(p.numel() for p in best.parameters()),  # as in model/
        "tokens": module.tokens,
        "steps": trainer.global_step,
        "tokens_per_s": module.tokens / max(throughput.seconds, 1e-9),
        "seconds": throughput.seconds,
        "lr": rate,
        "seed": run.seed,
        "task": task.name,
        "metric": f"val/{task.metrics[0]}",
    }


def outcome(
    task: Task,
    rows: dict[str, list[Row]],
    predictions: dict[str, np.ndarray],
    folder: Path,
) -> dict[str, float]:
    """Scores of the splits with labels; writes the submission files of the test sets.

    `rows/SPLIT` says how many rows a score is of, `doubt` in one line what to doubt in the scores;
    it is absent where there is nothing.
    """
    scores, doubts, doubted = {}, [], False
    for name, values in predictions.items():
        labelled = sum(row.label is not None for row in rows[name])
        if labelled == len(rows[name]):
            found = score(task, rows[name], values)
            scores |= {f"{name}/{metric}": value for metric, value in found.items()}
            scores[f"rows/{name}"] = len(rows[name])
            if not name.startswith("test") and 1 < len(rows[name]) < FEW_ROWS:
                doubts.append(
                    f"{name}: only {len(rows[name])} rows; one of them is "
                    f"{100 / len(rows[name]):.2g}% of a score"
                )
        elif labelled:
            logger.info(
                f"data: {name}: {labelled:,} of {len(rows[name]):,} rows have a label: no scores"
            )
        told = doubted and name.startswith(
            "test"
        )  # what the validation sets say goes for the tests
        if not told and (line := doubt(task, rows[name], values)):
            doubted = True
            doubts.append(f"{name}: {line}")
    tests = {name: values for name, values in predictions.items() if name.startswith("test")}
    write_submission(task, rows, tests, folder / "predictions")
    return scores | ({"doubt": "; ".join(doubts)} if doubts else {})


def diagnose(run: TrainConfig, task: Task, rows: dict, folder: Path, record: dict | None) -> dict:
    """Answer a diagnostic set by the model of its parent task; nothing is trained."""
    model, labels = load_classifier(run.model)
    tokenizer = load_tokenizer(run.model)
    check_length(run, model.config.positions)
    order = output_order(task, model, labels, f"model={run.model}")
    model.to(choose_device(run))
    run_folder = RunFolder(folder)
    with run_folder.lock(False):
        run_folder.begin(run, record)
        info = {"digest": digest(rows), "source": task.name}
        run_folder.check_inputs(info, {"model": hub.digest_model(run.model)}, run)
        scores = _answer(run, task, rows, model, order, tokenizer, folder)
        summary = {**scores, "task": task.name, "model": run.model, "seed": run.seed}
        run_folder.write_summary(summary)
        return summary


def _answer(
    run: TrainConfig,
    task: Task,
    rows: dict[str, list[Row]],
    model: Classifier,
    order: list[int],
    tokenizer,
    folder: Path,
) -> dict[str, float]:
    """Scores and submission files of all splits by a model whose outputs have another order."""
    pad, found = tokenizer.pad_token_id, {}
    for name, split in rows.items():
        inputs = cast(task, split, tokenizer, run.data.length)
        found[name] = predict(task, model, split, inputs, pad, order)
    return outcome(task, rows, found, folder)


def answer_diagnostics(
    run: TrainConfig, task: Task, model: Classifier, tokenizer, folder: Path
) -> None:
    """Write the submissions of the diagnostic sets that are to be answered by this task's model."""
    root = Path(run.data.root).expanduser() if run.data.root else None
    for child in (each for each in registry.TASKS.values() if each.parent == task.name):
        if root is None or not registry.present(child, root):
            continue  # from the hub only when it is asked for: task=glue/ax
        rows = registry.read(child, root)
        order = [task.labels.index(label) for label in child.labels]
        _answer(run, child, rows, model, order, tokenizer, folder)
        logger.info(f"data: {child.name} is there too, and answered by this model")


def predict(
    task: Task,
    model: Callable[..., Tensor],
    rows: list[Row],
    inputs: Cast,
    pad: int,
    order: list[int] | None = None,
) -> np.ndarray:
    """The answers (N,) of a model to rows, in their order; see `row_outputs`."""
    return answers(task, row_outputs(model, rows, inputs, pad, order))


@torch.no_grad()
def row_outputs(
    model: Callable[..., Tensor],
    rows: list[Row],
    inputs: Cast,
    pad: int,
    order: list[int] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """The outputs (N, classes) of a model, in evaluation mode, to rows, in their order.

    model: wherever it is, or whatever takes a classifier's inputs on the CPU. order: which output
    of the model is the first label of the task, which the second, …
    """
    batches = RowBatches(inputs, rows, batch_size, pad, None)
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    places, found = [], []
    for batch in batches:
        places.append(batch["rows"])
        moved = {name: value.to(device) for name, value in batch.items()}
        given = task_outputs(model, moved)
        found.append(given.to(torch.promote_types(given.dtype, torch.float32)).cpu())
    outputs = torch.cat(found)[torch.cat(places).argsort()]
    return outputs if order is None else outputs[:, order]


def digest(rows: dict[str, list[Row]]) -> str:
    """Names the content of all rows."""
    content = {
        name: [[row.texts, row.label, row.spans, str(row.index)] for row in split]
        for name, split in rows.items()
    }
    text = json.dumps(content)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_length(run: TrainConfig, positions: int) -> None:
    """Raises BortError when rows may be longer than the model."""
    if run.data.length > positions:
        raise BortError(
            f"data.length={run.data.length} is longer than the {positions} tokens of "
            f"model={run.model}; use data.length={positions} or less"
        )


def length_doubt(run: TrainConfig, source: str | Path, limit: int, inputs: Cast) -> str | None:
    """A warning when rows may be longer than the `limit` tokens that the model was trained at."""
    if run.data.length <= limit:
        return None
    longer = int((inputs.lengths > limit).sum())
    return (
        f"model={source} was trained at {limit} tokens, data.length={run.data.length} is longer; "
        f"{longer:,} of {counted(len(inputs.lengths), 'row')} reach positions that it never saw"
    )
