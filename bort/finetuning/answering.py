"""The answers of a fine-tuned model to the rows of a task, their scores, and submissions.

Letters: N rows of a split.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bort.config.train import TrainConfig
from bort.finetuning.datamodule import RowBatches
from bort.finetuning.examples import TaskExamples, encode_examples
from bort.finetuning.heads import arrange_texts
from bort.finetuning.module import compute_batch_outputs, to_answers
from bort.models.bert import Classifier
from bort.runs.folder import RunFolder
from bort.tasks import reading, registry
from bort.tasks.encoding import EncodedRows
from bort.tasks.metrics import compute_scores, find_doubt
from bort.tasks.submission import write_submission
from bort.tasks.task import Row, Task

logger = logging.getLogger(__name__)

# In a validation set of fewer rows, a single row is more than two hundredths of a score.
FEW_ROWS = 50


@dataclass(frozen=True)
class SplitScores:
    """The scores of the answers to a split whose rows all have labels."""

    split: str
    rows: int
    values: dict[str, float | None]  # by metric; None where a metric is not defined


@dataclass(frozen=True)
class Scores:
    """The scores of a model on the splits of a task, and what is to be doubted in them."""

    splits: list[SplitScores]
    doubts: list[str]

    def to_json(self) -> dict[str, float | None | str]:
        """Spell the scores as summary.json has them.

        `SPLIT/METRIC` is a score and `rows/SPLIT` the number of its rows. `doubt` is one line, and
        absent where nothing is to be doubted.
        """
        flat: dict = {}
        for scores in self.splits:
            flat |= {f"{scores.split}/{metric}": value for metric, value in scores.values.items()}
            flat[f"rows/{scores.split}"] = scores.rows
        return flat | ({"doubt": "; ".join(self.doubts)} if self.doubts else {})


@torch.no_grad()
def compute_outputs(
    model: Callable[..., Tensor],
    rows: list[Row],
    inputs: EncodedRows,
    pad: int,
    order: list[int] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Compute the outputs (N, classes) of a model in evaluation mode to rows, in their order.

    model: a module on any device, or a function that takes a classifier's inputs on the CPU.
    order: which output of the model is the first label of the task, which the second, …
    """
    batches = RowBatches(inputs, rows, batch_size, pad, None)
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    numbers, parts = [], []
    for batch in batches:
        numbers.append(batch["rows"])
        moved = {name: value.to(device) for name, value in batch.items()}
        part = compute_batch_outputs(model, moved)
        parts.append(part.to(torch.promote_types(part.dtype, torch.float32)).cpu())
    outputs = torch.cat(parts)[torch.cat(numbers).argsort()]
    return outputs if order is None else outputs[:, order]


def answer_split(
    model: Callable[..., Tensor],
    examples: TaskExamples,
    split: str,
    order: list[int] | None = None,
) -> np.ndarray:
    """Compute the answers of a model to the rows of a split; see `to_answers`."""
    rows, inputs = examples.rows[split], examples.inputs[split]
    outputs = compute_outputs(model, rows, inputs, examples.pad_id, order)
    return to_answers(examples.task, outputs)


def score_answers(
    task: Task, rows: dict[str, list[Row]], answers: dict[str, np.ndarray], folder: Path
) -> Scores:
    """Score the answers to the splits with labels; write the submission files of the test sets.

    answers: as `to_answers` gives them, by split. folder: the run's, which gets the files in
    `predictions`.
    """
    scores, doubts, is_doubted = [], [], False
    for split, values in answers.items():
        count, labelled = len(rows[split]), sum(row.label is not None for row in rows[split])
        is_test = split.startswith("test")
        if labelled == count:
            scores.append(SplitScores(split, count, compute_scores(task, rows[split], values)))
            if not is_test and 1 < count < FEW_ROWS:
                share = f"{100 / count:.2g}% of a score"
                doubts.append(f"{split}: only {count} rows; one of them is {share}")
        elif labelled:
            logger.info(f"data: {split}: {labelled:,} of {count:,} rows have a label: no scores")
        # What the validation sets are doubted for goes for the test sets too.
        if not (is_doubted and is_test) and (line := find_doubt(task, rows[split], values)):
            is_doubted = True
            doubts.append(f"{split}: {line}")
    tests = {split: values for split, values in answers.items() if split.startswith("test")}
    write_submission(task, rows, tests, RunFolder(folder).predictions)
    return Scores(scores, doubts)


def answer_task(
    model: Classifier, examples: TaskExamples, order: list[int] | None, folder: Path
) -> Scores:
    """Answer all splits with a model whose outputs have another order, score them, and submit."""
    answers = {split: answer_split(model, examples, split, order) for split in examples.rows}
    return score_answers(examples.task, examples.rows, answers, folder)


def answer_diagnostics(
    run: TrainConfig, model: Classifier, examples: TaskExamples, folder: Path
) -> None:
    """Write the submissions of the diagnostic sets that the model of this task is to answer.

    Only what lies in the folder of the suite is answered: a set of the hub is read when it is
    asked for, with task=glue/ax.
    """
    task = examples.task
    root = Path(run.data.root).expanduser() if run.data.root else None
    for child in registry.TASKS.values():
        if child.parent != task.name or root is None or not reading.has_files(child, root):
            continue
        rows = reading.read_rows(child, root)
        order = [task.labels.index(label) for label in child.labels]
        child = arrange_texts(child, model.head, task.overlap)
        encoded = encode_examples(child, rows, examples.tokenizer, run.data.length)
        answer_task(model, encoded, order, folder)
        logger.info(f"data: {child.name} is there too, and answered by this model")
