"""The table of the runs of `python train.py -m …`, and the W-optimum where they have one."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bort import console
from bort.console import counted, decimal
from bort.errors import BortError
from bort.files.run_files import SUMMARY
from bort.files.untrusted import read_json
from bort.files.writing import replace_file, write_csv
from bort.models.arch import Arch
from bort.runs.commands import compose_training
from bort.runs.folder import RunFolder
from bort.runs.summary import RESTORE, RunSummary
from bort.search.answers import answer_by_all_aims, describe_answers
from bort.search.fptas import Scale, Selection

logger = logging.getLogger(__name__)

TABLE = "summary.csv"


@dataclass(frozen=True)
class PretrainingRow:
    """A pre-training of a sweep: its folder's name, its ξ, what it cost and what it reached.

    length: tokens of a sequence. operations: of one inference of the encoder at that length.
    """

    job: str
    xi: Arch
    length: int
    lr: float | None
    operations: float
    overrides: str
    summary: dict[str, Any]

    @property
    def loss(self) -> float | None:
        """The validation loss in nats."""
        return self.summary.get("val/loss")

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return self.summary["parameters"]

    def to_json(self, w: float | None) -> dict[str, Any]:
        """Return the row of summary.csv."""
        names = {"job": self.job, "w": w, "overrides": self.overrides}
        return self.summary | self.xi.to_table() | names | {"operations": self.operations}


@dataclass(frozen=True)
class ScoreRow:
    """A fine-tuning of a sweep, with its scores on the validation set.

    score: the task's first metric, None if it is not defined. rank: the same, or where lower scores
    are better its negative; -inf if it is not defined. mean: of the official metrics, of which one
    that is not defined counts 0.
    """

    job: str
    task: str
    score: float | None
    rank: float
    mean: float
    scores: dict[str, float | None]
    seconds: float
    overrides: str

    def to_json(self) -> dict[str, Any]:
        """Return the row of summary.csv."""
        row = {"job": self.job, "task": self.task, "score": self.score, "mean": self.mean}
        return row | self.scores | {"seconds": self.seconds, "overrides": self.overrides}


def write_sweep_table(folder: Path) -> None:
    """Sort the runs of a sweep by W, or by validation loss where there was no teacher.

    Leaves summary.csv, and where the runs had one teacher optimum.yaml, the ξ with the largest W,
    which optimum_w.yaml repeats under the name that it has beside a search.
    """
    paths = sorted(folder.glob(f"*/{SUMMARY}"), key=_rank_job)
    if any("task" in read_json(path, RESTORE) for path in paths):
        write_score_table(folder, paths)
        return
    rows = [_read_pretraining(path.parent) for path in paths]
    rows = [row for row in rows if row.loss is not None]
    if not rows:
        return
    selection = _weigh(rows)
    w = {xi: selection.w_coefficient(xi) for xi in selection.errors} if selection else {}
    rows.sort(key=lambda row: (-(w.get(row.xi) or -1), row.loss))
    columns = ["job", *Arch.KEYS, "w", "val/loss", "val/mlm_accuracy", "val/kd_loss", "parameters"]
    columns += ["operations", "seconds", "overrides"]
    write_csv(folder / TABLE, columns, [row.to_json(w.get(row.xi)) for row in rows])
    logger.info(f"sweep: {counted(len(rows), 'run')}, the best first")
    differences = _find_differences(row.overrides for row in rows)
    for row, difference in zip(rows[:10], differences, strict=False):
        w_text = f"W {w[row.xi]:.4f}  " if row.xi in w else ""
        logger.info(
            f"  {row.job:>4}  {row.xi:>18}  {w_text}val {row.loss:.3f} nats  "
            f"{row.parameters:,} parameters  {difference}"
        )
    if warning := RunSummary(min(rows, key=lambda row: row.loss).summary).find_doubt():
        logger.info(f"  warning: the best of them is {warning}")
    logger.info(f"  table     {folder / TABLE}")
    if selection is not None and selection.best is not None:
        answers = answer_by_all_aims(selection, unit="operations")
        for line in describe_answers(answers, "operations"):
            logger.info(f"  {line}")
        _write_optimum(folder, next(row for row in rows if row.xi == selection.best))


def _write_optimum(folder: Path, row: PretrainingRow) -> None:
    """Write the ξ of the best run to optimum.yaml, and tell how it is trained further."""
    path = RunFolder(folder).optimum
    for target in (path, RunFolder(folder).optimum_w):
        with replace_file(target) as file:
            file.write(OmegaConf.to_yaml(row.xi.to_table()).encode())
    logger.info(f"  optimum   {path}   {row.xi}, the largest W of these runs")
    command = compose_training(folder / row.job, path, row.xi.hidden, row.lr)
    logger.info(f"  next      {console.typed(command)}")


def write_score_table(folder: Path, paths: list[Path]) -> None:
    """Sort the runs of a sweep over tasks or settings by task and score, and average the best.

    paths: the summary.json of each run. Leaves summary.csv. A run's score is its task's first
    metric on the validation set.
    """
    from bort.tasks.submission import zip_submissions

    rows = [row for path in paths if (row := _read_scores(path)) is not None]
    if not rows:
        return
    rows.sort(key=lambda row: (row.task, -row.rank))
    metrics = list(dict.fromkeys(key for row in rows for key in row.scores))
    columns = ["job", "task", "score", "mean", *metrics, "seconds", "overrides"]
    write_csv(folder / TABLE, columns, [row.to_json() for row in rows])
    logger.info(f"sweep: {counted(len(rows), 'run')}, the best of each task first")
    differences = _find_differences(row.overrides for row in rows)
    for row, difference in zip(rows, differences, strict=True):
        logger.info(f"  {row.job:>4}  {row.task:>18}  {decimal(row.score)}  {difference}")
    best: dict[str, ScoreRow] = {}
    for row in rows:
        best.setdefault(row.task, row)
    if len(best) > 1:
        average = sum(row.mean for row in best.values()) / len(best)
        logger.info(
            f"  average of {len(best)} tasks, of each its best run's mean metric: {average:.4f}"
        )
    logger.info(f"  table     {folder / TABLE}")
    answers = {task: RunFolder(folder / row.job).predictions for task, row in best.items()}
    for line in zip_submissions(answers, folder):
        logger.info(line)


def _read_scores(path: Path) -> ScoreRow | None:
    """Read the summary.json of a fine-tuning; None for a diagnostic set, which has no scores."""
    from bort.tasks.metrics import ERRORS, is_falling

    summary = read_json(path, RESTORE)
    scores = {k: v for k, v in summary.items() if k.startswith("val") and "/loss" not in k}
    if not scores:
        return None
    official = [x or 0.0 for k, x in scores.items() if k.split("/")[1] not in ERRORS]
    score, sign = scores[summary["metric"]], -1 if is_falling(summary["metric"]) else 1
    return ScoreRow(
        job=path.parent.name,
        task=summary["task"],
        score=score,
        rank=-math.inf if score is None else sign * score,
        mean=sum(official) / len(official),
        scores=scores,
        seconds=summary["seconds"],
        overrides=_read_overrides(path.parent),
    )


def _read_overrides(folder: Path) -> str:
    """Read the overrides of one run of the sweep."""
    return " ".join(RunFolder(folder).read_overrides() or [])


def _find_differences(overrides: Iterable[str]) -> list[str]:
    """Keep of the overrides of each run those that not all runs have."""
    words = [text.split(" ") for text in overrides]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    differences = []
    for words_of_run in words:
        differences.append(" ".join(word for word in words_of_run if word not in common))
    return differences


def _rank_job(path: Path) -> tuple:
    """Return the sort key of a run: jobs by their numbers, then other names."""
    job = path.parent.name
    return (0, int(job), job) if job.isdigit() else (1, 0, job)


def _read_pretraining(folder: Path) -> PretrainingRow:
    """Read what one run of the sweep has left."""
    from bort.objectives.parameters import count_encoder_operations

    settings = read_json(RunFolder(folder).settings_file, RESTORE)
    arch, length = Arch.from_table(settings, "arch.").check(), settings["data.length"]
    return PretrainingRow(
        job=folder.name,
        xi=arch,
        length=length,
        lr=settings.get("optim.lr"),
        operations=count_encoder_operations(arch, 1, length),
        overrides=_read_overrides(folder),
        summary=read_json(RunFolder(folder).summary_file, RESTORE),
    )


def _weigh(rows: list[PretrainingRow]) -> Selection | None:
    """Select among runs that learnt from one teacher; the best training of a ξ counts.

    Latency is the operations of the encoder; p and i are as in a search with latency=analytic.
    None where there is no such teacher, or no run is smaller than it.
    """
    from bort.objectives.parameters import count_encoder_operations

    if len({row.summary.get("teacher_digest") for row in rows}) != 1:
        return None
    keys = ("teacher_parameters", *(f"teacher_{key}" for key in Arch.KEYS))
    teachers = {(*map(row.summary.get, keys), row.length) for row in rows}
    if len(teachers) != 1 or None in (numbers := teachers.pop()):
        return None
    entropies = [row.summary.get("val/teacher_entropy") for row in rows]
    if not all(entropies) or max(entropies) - min(entropies) > 1e-4:
        return None
    parameters, *sizes, length = numbers
    scale = Scale(parameters, count_encoder_operations(Arch(*sizes), 1, length), max(entropies))
    try:
        points = {row.xi: (row.parameters, row.operations) for row in rows}
        sizes = {row.xi: _count_megabytes(row) for row in rows}
        megabytes = {xi: size for xi, size in sizes.items() if size is not None}
        selection = Selection(points, scale, megabytes=megabytes)
    except BortError:  # none is smaller than the teacher
        return None
    for row in rows:
        loss = row.summary["val/kd_loss"]
        if row.xi not in selection.excluded and loss is not None and math.isfinite(loss):
            selection.tell(row.xi, scale.e + loss)
    return selection


def _count_megabytes(row: PretrainingRow) -> float | None:
    """Count the megabytes of a run's int8 file; None where its weights are not a student's own."""
    from bort.objectives.parameters import count_int8_bytes, infer_vocab_size

    positions = max(row.length, 512)
    vocab_size = infer_vocab_size(row.parameters, row.xi, positions)
    if vocab_size < 1 or vocab_size != int(vocab_size):
        return None
    return count_int8_bytes(row.xi, int(vocab_size), positions) / 1e6
