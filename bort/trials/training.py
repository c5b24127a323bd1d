"""One candidate of a search: train it for n steps, and record its error against T's output.

The validations of a training only look at a quarter of the held-out batches; the error is measured
at all positions, once, after the training.
"""

import csv
import math
import time
from dataclasses import replace
from pathlib import Path

from bort.config.optim import WSD, OptimConfig, width_lr
from bort.config.search import SearchConfig, SearchRunConfig
from bort.config.train import PretrainRunConfig
from bort.console import hide_notes
from bort.errors import BortError, Diverged, is_out_of_memory
from bort.files.checked import save_array
from bort.files.run_files import CHECKPOINT, CHECKPOINTS, LOSSES, TRIAL
from bort.models.huggingface import load_masked_lm
from bort.pretraining.datamodule import LOOK_EVERY, PackedDataModule
from bort.pretraining.flops import Text, count_candidate_flops
from bort.pretraining.recipe import train_leg
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.teachers.states import KeptStates
from bort.training.checkpoint import Leg, find_newest_whole, read_run_identity, read_step
from bort.training.loggers import MetricsCsv
from bort.training.optim import count_peak_steps
from bort.training.threads import use_threads
from bort.training.trainer import ALONE
from bort.trials.error import measure_scores
from bort.trials.inputs import (
    make_val_batches,
    measure_leg,
    name_texts,
    open_answers,
    open_corpus_and_teacher,
    open_states,
)
from bort.trials.plan import SearchPlan, locate_training_pass, locate_val_pass, read_plan
from bort.trials.records import Job, TrialRecord, TrialStatus, read_record, write_record
from bort.trials.rungs import list_rungs
from bort.trials.states import keep_projection, measure_state_scores
from bort.trials.task import train_candidate as train_task_candidate


def evaluate(run: SearchRunConfig, folder: Path, trial_folder: Path) -> TrialRecord:
    """Train one candidate and record its error; what is recorded is returned at once.

    folder: the search's; trial_folder: the candidate's own in it. It takes `search.n` steps: those
    of the whole search, or fewer where a search by halving stops it at a rung. A failure that is
    the candidate's own (no memory, a loss that is no number) is a record with its reason.
    """
    run = run.with_precision(RunFolder(folder).precision)
    run = run.settle_as(RunFolder(folder).read_settings() or {})
    plan, path = read_plan(folder), trial_folder / TRIAL
    if path.exists():
        record = read_record(path, plan)
        if record.status is not TrialStatus.CROWDED:
            return record
    job, n = Job.from_settings(run, plan.origin.n), plan.origin.n
    if job.steps is not None:
        run = replace(run, search=replace(run.search, n=n, halving=True))
    try:
        with use_threads(RunFolder(folder).threads):
            train = train_task_candidate if run.fits_task else _train_and_measure
            record = train(run, job, plan, folder)
    except Exception as error:
        if (reason := explain_failure(error)) is None:
            raise
        diverged = isinstance(error, Diverged)
        crowded = not diverged and run.search.parallel > 1
        status = TrialStatus.CROWDED if crowded else TrialStatus.FAILED
        record = TrialRecord(job, plan.origin, status, reason=reason, diverged=diverged)
    write_record(path, record)
    if record.is_trained:  # the next rung continues this one
        for shorter in list_shorter(job, n):
            RunFolder(folder / shorter.folder).remove_checkpoints()
    return record


def _train_and_measure(
    run: SearchRunConfig, job: Job, plan: SearchPlan, folder: Path
) -> TrialRecord:
    """Train and measure a candidate; raises Diverged when its error is no number."""
    start, trial_folder = time.monotonic(), folder / job.folder
    with hide_notes():  # the search has shown them, which may be another process
        corpus, teacher = open_corpus_and_teacher(run, folder)
    val = make_val_batches(corpus, run)
    answers = None if run.compares_states else open_answers(folder, teacher)
    training = open_states(locate_training_pass(folder, run.seed), teacher, run)
    held = answers.states if answers else open_states(locate_val_pass(folder), teacher, run)
    states = KeptStates(training, held, LOOK_EVERY, answers.judge if answers else None)
    settings = make_candidate_settings(run, len(val.chosen), job.steps)
    label, texts = f"candidate {run.arch}", name_texts(run)
    data = PackedDataModule(
        settings.data, seed=settings.seed, corpus=corpus, states=states, unmasked=texts
    )
    leg = find_leg(settings, job, folder, run.search)
    summary = train_leg(settings, trial_folder, corpus, teacher, data, label, leg)
    if answers is None:
        keep_projection(trial_folder)
    # Before there is a record: a recorded candidate is left alone.
    keep_checkpoint(trial_folder, leg.keep)
    if answers is None:
        scores = measure_state_scores(trial_folder, val, held, teacher)
    else:
        scores = measure_scores(load_masked_lm(RunFolder(trial_folder).model), val, answers)
    if not math.isfinite(scores.error):
        raise Diverged("its error is no number")
    _complete_training(trial_folder, summary, scores.to_row())
    curve = _read_kl_by_step(RunFolder(trial_folder).metrics)
    flops = plan.flops[run.arch]
    if run.search.halving:
        curve = _read_rung_kl(job, plan, folder) | curve
        positions = 0 if run.compares_states else plan.positions
        held_text = Text(len(val.chosen) * run.data.length, run.data.length, positions)
        first = 0 if leg.start is None else read_step(leg.start)
        amount = measure_leg(run, corpus, training, first, settings.trainer_config.max_steps)
        flops = count_candidate_flops(settings, teacher.arch, teacher.vocab_size, amount, held_text)
    return TrialRecord(
        job,
        plan.origin,
        TrialStatus.TRAINED,
        lr=settings.optim.lr,
        losses=save_array(trial_folder / LOSSES, scores.losses),
        error=scores.error,
        look_positions=answers.count_looked() if answers and not run.search.halving else None,
        flops=flops,
        kl_by_step=curve,
        mlm_accuracy=scores.accuracy,
        seconds=summary.seconds,
        wall=time.monotonic() - start,
    )


def make_candidate_settings(
    run: SearchRunConfig, val_sequences: int, steps: int | None = None
) -> PretrainRunConfig:
    """Make the settings of a candidate's training.

    It takes n steps; its error is also measured at a quarter and at half of them. In a search by
    halving, it may take fewer `steps`, and its error is measured at the end alone.
    """
    n, steps = run.search.n, steps or run.search.n
    accumulate = run.trainer_config.accumulate_grad_batches
    trainer = {**run.trainer, "max_steps": steps, "max_epochs": -1, "max_time": None}
    trainer["val_check_interval"] = max(1, n // 4) * accumulate
    if run.search.halving:
        trainer["limit_val_batches"] = 0
    lr = width_lr(run.arch.hidden, run.optim.lr, run.search.kappa)
    return run.to_pretraining(
        data=replace(run.data, val_sequences=val_sequences),
        optim=replace(run.optim, lr=lr),
        trainer=trainer,
        logger=replace(run.logger, job_type="candidate"),
    )


def list_shorter(job: Job, n: int) -> list[Job]:
    """List the trainings that a job may continue, in a search of n steps; the shortest is first."""
    return [replace(job, steps=rung) for rung in list_rungs(n) if rung < (job.steps or n)]


def stretch_warmup(optim: OptimConfig, n: int, steps: int) -> OptimConfig:
    """Return an optimizer for a training of fewer steps, with the steps of warm-up of n steps."""
    return replace(optim, schedule=WSD, warmup=optim.warmup * (n + 1) / (steps + 1))


def list_legs(optim: OptimConfig, n: int) -> list[tuple[int, int]]:
    """List the trainings of a candidate that reaches n, as (steps before, steps in all)."""
    legs, start = [], 0
    for steps in list_rungs(n):
        legs.append((start, steps))
        start = max(count_peak_steps(steps, stretch_warmup(optim, n, steps)) - 1, 0)
    return legs


def find_leg(settings: PretrainRunConfig, job: Job, folder: Path, search: SearchConfig) -> Leg:
    """Find the checkpoint that a training continues, and the step after which it leaves one.

    After that step the rates of a longer training are still the same. A checkpoint that is lost or
    damaged only costs the steps before it.
    """
    if not search.halving:
        return ALONE
    start = None
    for shorter in list_shorter(job, search.n):
        before = folder / shorter.folder
        if (before / TRIAL).is_file():
            start = find_intact(before / CHECKPOINTS, before) or start
    # The settings keep the schedule of the search, by which a teacher that is trained is known.
    optim = stretch_warmup(settings.optim, search.n, job.steps or search.n)
    # The rate of the step after it is already set when a checkpoint is saved.
    keep = count_peak_steps(job.steps or search.n, optim) - 1
    return Leg(start, keep if job.steps is not None and keep > 0 else None, optim)


def find_intact(checkpoints: Path, run_folder: Path) -> Path | None:
    """Find the checkpoint that a shorter training has left; None where none is whole."""
    try:
        return find_newest_whole(checkpoints, read_run_identity(run_folder))
    except BortError:
        return None


def keep_checkpoint(trial_folder: Path, step: int | None) -> None:
    """Remove the checkpoints of a training, but for the one that a longer training continues."""
    if step is None:
        RunFolder(trial_folder).remove_checkpoints()
        return
    for path in (trial_folder / CHECKPOINTS).glob(CHECKPOINT):
        if read_step(path) != step:
            path.unlink()


def explain_failure(error: Exception) -> str | None:
    """Give the reason when it is the candidate's own; None for anything that would hit them all."""
    if isinstance(error, Diverged):
        return str(error)
    return "out of memory" if is_out_of_memory(error) else None


def _complete_training(trial_folder: Path, summary: RunSummary, row: dict[str, float]) -> None:
    """Put the scores at all positions in the place of the last validation's, which are a part's."""
    MetricsCsv(trial_folder).log_metrics(row, summary.steps)
    RunFolder(trial_folder).write_summary(RunSummary(summary.to_json() | row))


def _read_kl_by_step(path: Path) -> dict[str, float]:
    """Read KL to T at each validation of a training from its metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/kd_loss")]
    return {row["step"]: float(row["val/kd_loss"]) for row in rows}


def _read_rung_kl(job: Job, plan: SearchPlan, folder: Path) -> dict[str, float]:
    """Read KL to T at the rungs at which a candidate was measured before."""
    paths = {job.steps: folder / job.folder / TRIAL for job in list_shorter(job, plan.origin.n)}
    records = {rung: read_record(path, plan) for rung, path in paths.items() if path.is_file()}
    return {
        str(rung): record.error - plan.teacher.error
        for rung, record in records.items()
        if record.is_trained
    }
