"""The comparison of KD with plain MLM from the same start (arXiv 2010.10499, §4.3).

It has three arms: KD, MLM for as many steps, and MLM for as much time, where the time of KD
includes the teacher's passes. They start from the teacher's embeddings, and a fourth arm, MLM for
as many steps, starts afresh: who has no teacher has none to start from. Each arm uses its best
learning rate from the same list. The time of a step is measured with the steps of both kinds taken
in turns, because the wall clock of separate trainings would also measure whatever else the machine
was doing. So no arm waits for another one, and a launcher of Hydra may train several at once.
"""

import csv
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table

from bort import html
from bort.config.distill import DistillConfig
from bort.config.train import TrainConfig
from bort.console import clock, counted, hide_notes
from bort.errors import BortError, Diverged
from bort.files.run_files import CURVES, SUMMARY, TIMING
from bort.files.untrusted import read_json
from bort.files.writing import write_json
from bort.pretraining.comparison import ARMS, FRESH, HEAD, ArmResult, Comparison
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import PackedDataModule
from bort.pretraining.module import DistillationModule, list_scores
from bort.pretraining.recipe import build_student, make_batches_with_looks, prepare, train
from bort.pretraining.teacher import hash_teacher, locate_teacher, open_sources
from bort.runs.folder import RunFolder
from bort.runs.names import locate_rate_folder
from bort.runs.summary import RunSummary
from bort.teachers.teacher import Teacher
from bort.training.loggers import MetricsCsv
from bort.training.precision import settle_precision
from bort.training.progress import Throughput
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import check_monitors, check_trainer, interruptible

logger = logging.getLogger(__name__)

MLM = DistillConfig(w_kd=0.0, w_mlm=1.0).settle()  # the losses of the arms without a teacher
TIMED_STEPS = 30  # of each arm at most; the median of so many varies by a few percent


def compare(
    run: TrainConfig,
    folder: Path,
    record: dict | None = None,
    launch: Callable[[list[str]], None] | None = None,
) -> RunSummary:
    """Train the arms into sub-folders of `folder`; print and write the comparison.

    launch: has one of Hydra's launchers do the trainings of these names, see `train_one`; without
    it, trainings run here, one after the other. Returns the flat summary. Arms that have finished
    are not trained again.
    """
    check_trainer(run)
    run_folder = RunFolder(folder)
    run_folder.check_settings(run)
    check_arms(run)
    if run.resume and (earlier := run_folder.read_settings()) is not None:
        run = run.settle_as(earlier)
    run = run.settle()
    sources = open_sources(run)  # a mistake is told before the precision is timed
    run = settle_precision(run, run_folder.precision)
    corpus, teacher = prepare(run, folder, sources)
    if not corpus.count_sequences("val", run.data) or run.trainer_config.limit_val_batches == 0:
        raise BortError(
            "experiment=kd_vs_mlm needs validation text; raise data.val_fraction, lower "
            "data.length, and leave trainer.limit_val_batches above 0"
        )
    with use_threads(choose_threads(run, run_folder.threads)), run_folder.lock(False):
        run_folder.begin(run, record, torch.get_num_threads())
        run_folder.check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
        run = replace(run, resume=True)  # whatever is here belongs to this comparison
        return _train_arms(run, folder, corpus, teacher, launch)


def _train_arms(
    run: TrainConfig,
    folder: Path,
    corpus: Corpus,
    teacher: Teacher | None,
    launch: Callable[[list[str]], None] | None,
) -> RunSummary:
    seconds = measure_step_seconds(run, folder, corpus, teacher)
    jobs = {arm: list_jobs(run, folder, arm, seconds) for arm in list_arms(run)}
    if launch is not None:
        launch_trainings([path for paths in jobs.values() for path in paths], folder, launch)
    results: dict[str, ArmResult] = {}
    trainings: dict[str, RunSummary] = {}  # of the best rate of each arm
    for arm in jobs:
        tries = _train_rates(arm, jobs[arm], corpus, teacher)
        best = max(tries, key=lambda path: tries[path].accuracy)
        trainings[arm] = training = tries[best]
        results[arm] = ArmResult(
            loss=training.loss,
            accuracy=training.accuracy,
            steps=training.steps,
            tokens=training.tokens,
            seconds=training.steps * seconds["kd" if arm == "kd" else "mlm"],
            wall_seconds=training.seconds,
            lr=jobs[arm][best].optim.lr,
            folder=str(best),
        )
    is_own = run.teacher.name is None
    cost = RunFolder(locate_teacher(run, corpus)).find_summary().seconds if is_own else None
    comparison = Comparison(results, trainings["kd"], cost)
    summary = RunSummary(comparison.to_json())
    RunFolder(folder).write_summary(summary)
    html.write_page(folder / CURVES, "KD against plain MLM", draw_curves(comparison))
    show_comparison(comparison, folder)
    return summary


def list_jobs(
    run: TrainConfig, folder: Path, arm: str, seconds: dict[str, float]
) -> dict[Path, TrainConfig]:
    """List the folders and settings of an arm's trainings, one for each rate.

    seconds: of a step, see `measure_step_seconds`.
    """
    ratio = seconds["kd"] / seconds["mlm"]
    return {
        locate_rate_folder(folder, arm, lr): build_arm_run(run, arm, lr, ratio)
        for lr in run.compare.lrs
    }


def launch_trainings(
    folders: list[Path], folder: Path, launch: Callable[[list[str]], None]
) -> None:
    """Have the launcher do those of the trainings in these folders that have not ended."""
    waiting = [path for path in folders if not has_ended(path)]
    if len(waiting) > 1:
        logger.info(f"{counted(len(waiting), 'training')} go to the launcher")
        launch([str(path.relative_to(folder)) for path in waiting])


def has_ended(folder: Path) -> bool:
    """Return whether a training has a result: its scores, or that it diverged."""
    return RunFolder(folder).failure_file.exists() or RunFolder(folder).find_summary() is not None


def train_one(run: TrainConfig, folder: Path, name: str) -> None:
    """Do the training in the sub-folder of this name for the comparison in `folder`.

    A launcher has it done in a process of its own. What the comparison has settled before, such as
    the precision and the time of a step, is read from the folder.
    """
    comparison = RunFolder(folder)
    run = replace(run, resume=True).settle_as(comparison.read_settings() or {}).settle()
    run = run.with_precision(comparison.precision)
    with use_threads(comparison.threads):
        with hide_notes():
            corpus, teacher = prepare(run, folder, open_sources(run))
        seconds = measure_step_seconds(run, folder, corpus, teacher)
        arm = name.split("/")[0]
        job = list_jobs(run, folder, arm, seconds)[folder / name]
        train_rate(arm, job, folder / name, corpus, teacher)


def train_rate(
    arm: str, job: TrainConfig, folder: Path, corpus: Corpus, teacher: Teacher | None
) -> RunSummary | None:
    """Train an arm with one of its rates; return None where it diverges, which is kept, too."""
    failure = RunFolder(folder).failure_file
    label = f"{ARMS[arm]}, lr {job.optim.lr:g}"
    if failure.exists():
        return None
    if RunFolder(folder).find_summary() is None:
        logger.info(f"{label} → {folder}")
    try:
        data = make_batches_with_looks(job, corpus)
        return train(job, folder, corpus, teacher, label, data=data)
    except Diverged as error:  # this is a result; the arm still has its other rates
        logger.info(f"{label} drops out: {error}")
        write_json(failure, {"reason": str(error)})
        return None


def _train_rates(
    arm: str, jobs: dict[Path, TrainConfig], corpus: Corpus, teacher: Teacher | None
) -> dict[Path, RunSummary]:
    """Train an arm with each of its rates; return the summaries of those that did not diverge.

    jobs: the settings by the folder of the training. Raises BortError where every rate diverged.
    """
    tries = {path: train_rate(arm, job, path, corpus, teacher) for path, job in jobs.items()}
    tries = {path: summary for path, summary in tries.items() if summary is not None}
    if not tries:
        raise BortError(f"{ARMS[arm]}: every rate of compare.lrs diverged; add lower ones")
    return tries


def list_arms(run: TrainConfig) -> list[str]:
    """List the arms of a comparison; if all start afresh, no arm is needed that alone does."""
    is_taught = run.settle().init == "teacher"
    return [arm for arm in ARMS if is_taught or arm != FRESH]


def check_arms(run: TrainConfig) -> None:
    """Raise BortError for settings under which one of the arms would make no sense."""
    if run.distill.w_kd == 0:
        raise BortError(
            "experiment=kd_vs_mlm needs distill.w_kd above 0: it is the arm with a teacher"
        )
    if run.distill.reads_unmasked:
        raise BortError(
            "experiment=kd_vs_mlm compares losses on masked words; distill.w_hidden and w_relation "
            "are for experiment=kd_pretrain"
        )
    check_monitors(run, list_scores(MLM))  # the scores that all arms have
    trainer = run.trainer_config
    if trainer.max_steps < 1 or trainer.limit_train_batches == 0:
        raise BortError(
            "experiment=kd_vs_mlm needs trainer.max_steps: both arms get that many steps"
        )


def build_arm_run(run: TrainConfig, arm: str, lr: float, ratio: float = 1.0) -> TrainConfig:
    """Build the settings of one arm; arms differ only in loss weights, learning rate and budget.

    `mlm_fresh` differs in its start, too. ratio: the time of a step of KD to that of one of plain
    MLM, by which `mlm_equal_time` takes more steps.
    """
    trainer = dict(run.trainer)
    distill, init, layers = run.distill, run.settle().init, run.init_layers
    if arm != "kd":
        distill = MLM
    if arm == FRESH:
        init, layers = "default", None
    if arm == "mlm_equal_time":
        # This, too, is a budget of steps, so that the schedule ends with the training.
        trainer["max_steps"] = max(1, round(trainer["max_steps"] * ratio))
        if isinstance(interval := trainer["val_check_interval"], int):  # else a share of an epoch
            # Rounded up: the last look is not a step before the end, which is looked at anyway.
            trainer["val_check_interval"] = max(1, math.ceil(interval * ratio))
    optim = replace(run.optim, lr=lr)
    return run.to_pretraining(
        distill=distill, trainer=trainer, optim=optim, init=init, init_layers=layers
    )


# ---------------------------------------------------------------------------------- time of a step


class Turns(pl.Callback):
    """Trains with several losses in turns, one per step, and times each step.

    losses: arm → the weights of its loss. `seconds`: arm → the time of each of its steps, without
    the first one, which only warms up.
    """

    def __init__(self, losses: dict[str, DistillConfig]):
        self.losses = losses
        self.seconds: dict[str, list[float]] = {arm: [] for arm in losses}
        self._mark = 0.0

    def on_train_start(self, trainer, module) -> None:
        """Start with the first of the losses."""
        self._step = trainer.global_step
        self._next(module)

    def _next(self, module) -> None:
        self._arm = list(self.losses)[self._step % len(self.losses)]
        module.distill = self.losses[self._arm]
        self._mark = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Record the time of a step, and switch to the next loss."""
        if trainer.global_step == self._step:
            return  # the step has more batches
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._step >= len(self.losses):
            self.seconds[self._arm].append(time.perf_counter() - self._mark)
        self._step = trainer.global_step
        self._next(module)


def measure_step_seconds(
    run: TrainConfig, folder: Path, corpus: Corpus, teacher: Teacher
) -> dict[str, float]:
    """Measure the seconds of a step of the arms `kd` and `mlm` once, and keep them in TIMING.

    The steps are taken in turns, so that other work on the machine slows both alike.
    """
    path = folder / TIMING
    if path.exists():
        seconds = read_json(path, "remove it, and the steps are timed again")
        if all(isinstance(seconds.get(arm), float) and seconds[arm] > 0 for arm in ("kd", "mlm")):
            return seconds
    turns = Turns({"kd": run.distill, "mlm": MLM})
    count = min(TIMED_STEPS, max(3, run.trainer["max_steps"] // 10)) + 1  # of each arm
    budget = {"max_steps": count * len(turns.losses), "max_epochs": -1, "max_time": None}
    pl.seed_everything(run.seed, verbose=False)
    optim = replace(run.optim, lr=1e-9)  # so that no step diverges
    model = build_student(run, corpus, teacher)
    module = DistillationModule(model, teacher, optim, run.distill, compile=run.compile)
    with tempfile.TemporaryDirectory() as temporary, interruptible():
        trainer = instantiate(
            {**run.trainer, **budget, "limit_val_batches": 0},
            logger=[MetricsCsv(Path(temporary))],
            callbacks=[Throughput(), turns],
            default_root_dir=temporary,
        )
        data = PackedDataModule(replace(run.data, workers=0), seed=run.seed, corpus=corpus)
        trainer.fit(module, datamodule=data)
    seconds = {arm: float(np.median(values)) for arm, values in turns.seconds.items()}
    logger.info(
        f"a step takes {1000 * seconds['kd']:.1f} ms with the teacher, "
        f"{1000 * seconds['mlm']:.1f} ms without (in turns, {count - 1} each)"
    )
    write_json(path, seconds)
    return seconds


def show_comparison(comparison: Comparison, folder: Path) -> None:
    """Print the table of the comparison, and its conclusions in words."""
    console = Console(highlight=False)
    table = Table(*HEAD, title="was the teacher worth it?")
    for row in comparison.list_rows("unigram frequencies"):
        table.add_row(*row)
    console.print(table)
    for line in comparison.compare_accuracies():
        console.print(line, soft_wrap=True)
    if warning := comparison.find_doubt():
        console.print(f"warning: the best of them is {warning}", soft_wrap=True)
    if comparison.teacher_seconds is not None:
        console.print(
            f"The teacher's own training took {clock(comparison.teacher_seconds)}: "
            "paid once, for every student on this text",
        )
    for label, file in (("table ", SUMMARY), ("curves", CURVES)):
        console.print(f"  {label}    {folder}/{file}", soft_wrap=True)
    console.print(f"  model     {RunFolder(comparison.arms['kd'].folder).model}", soft_wrap=True)


def draw_curves(comparison: Comparison) -> Iterator[Any]:
    """Draw the validation accuracy of the arms over steps and time, as the parts of a page."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=("over steps", "over training time (s)"))
    for number, (arm, result) in enumerate(comparison.arms.items()):
        points = read_curve(RunFolder(result.folder).metrics)
        steps = [step for step, _ in points]
        accuracy = [100 * value for _, value in points]
        seconds = [step * result.seconds / result.steps for step in steps]
        for column, x in ((1, steps), (2, seconds)):
            figure.add_scatter(
                x=x,
                y=accuracy,
                name=ARMS[arm],
                legendgroup=arm,
                showlegend=column == 1,
                line={"color": html.COLORS[number]},
                row=1,
                col=column,
            )
    levels = {"word frequencies": comparison.distilled.unigram_accuracy}
    levels["teacher"] = comparison.distilled.get("teacher_accuracy")
    for name, level in levels.items():
        if level is not None:
            figure.add_hline(y=100 * level, line_dash="dot", annotation_text=name)
    figure.update_yaxes(title_text="validation MLM accuracy (%)", col=1)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(template="plotly_white", height=450)
    yield from ["<h1>KD against plain MLM</h1>", figure]


def read_curve(path: Path) -> list[tuple[int, float]]:
    """Read the validation accuracy from a metrics.csv, as (step, share of masked words)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/mlm_accuracy"]]
    return [(int(row["step"]), float(row["val/mlm_accuracy"])) for row in rows]
