"""One candidate of a search: train it for n steps, and record its error against T's output.

The validations of a training only look at a quarter of the held-out batches; the error is measured
at all positions, once, after the training.
"""

import csv
import math
import time
from dataclasses import replace
from pathlib import Path

from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig
from bort.config.train import PretrainRunConfig
from bort.console import hide_notes
from bort.errors import Diverged, is_out_of_memory
from bort.files.checked import save_array
from bort.files.run_files import LOSSES, TRIAL
from bort.models.huggingface import load_masked_lm
from bort.pretraining.datamodule import LOOK_EVERY, PackedDataModule
from bort.pretraining.recipe import train
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.teachers.states import KeptStates
from bort.training.loggers import MetricsCsv
from bort.training.threads import use_threads
from bort.trials.error import measure_scores
from bort.trials.inputs import (
    make_val_batches,
    name_texts,
    open_answers,
    open_corpus_and_teacher,
    open_states,
)
from bort.trials.plan import SearchPlan, locate_training_pass, locate_val_pass, read_plan
from bort.trials.records import Job, TrialRecord, TrialStatus, read_record, write_record
from bort.trials.states import keep_projection, measure_state_scores


def evaluate(run: SearchRunConfig, folder: Path, trial_folder: Path) -> TrialRecord:
    """Train one candidate for n steps and record its error; what is recorded is returned at once.

    folder: the search's; trial_folder: the candidate's own in it. A failure that is the candidate's
    own (no memory, a loss that is no number) is a record with its reason.
    """
    run = run.with_precision(RunFolder(folder).precision)
    run = run.settle_as(RunFolder(folder).read_settings() or {})
    plan, path = read_plan(folder), trial_folder / TRIAL
    if path.exists():
        record = read_record(path, plan)
        if record.status is not TrialStatus.CROWDED:
            return record
    try:
        with use_threads(RunFolder(folder).threads):
            record = _train_and_measure(run, plan, folder, trial_folder)
    except Exception as error:
        if (reason := explain_failure(error)) is None:
            raise
        diverged = isinstance(error, Diverged)
        crowded = not diverged and run.search.parallel > 1
        status = TrialStatus.CROWDED if crowded else TrialStatus.FAILED
        job = Job(run.arch, run.seed, run.optim.lr)
        record = TrialRecord(job, plan.origin, status, reason=reason, diverged=diverged)
    return write_record(path, record)


def _train_and_measure(
    run: SearchRunConfig, plan: SearchPlan, folder: Path, trial_folder: Path
) -> TrialRecord:
    """Train and measure a candidate; raises Diverged when its error is no number."""
    start = time.monotonic()
    with hide_notes():  # the search has shown them, which may be another process
        corpus, teacher = open_corpus_and_teacher(run, folder)
    val = make_val_batches(corpus, run)
    answers = None if run.compares_states else open_answers(folder, teacher)
    training = open_states(locate_training_pass(folder, run.seed), teacher, run)
    held = answers.states if answers else open_states(locate_val_pass(folder), teacher, run)
    states = KeptStates(training, held, LOOK_EVERY, answers.judge if answers else None)
    settings = make_candidate_settings(run, len(val.chosen))
    label, texts = f"candidate {run.arch}", name_texts(run)
    data = PackedDataModule(
        settings.data, seed=settings.seed, corpus=corpus, states=states, unmasked=texts
    )
    summary = train(settings, trial_folder, corpus, teacher, label, data=data)
    if answers is None:
        keep_projection(trial_folder)
    # Before there is a record: a recorded candidate is left alone.
    RunFolder(trial_folder).remove_checkpoints()
    if answers is None:
        scores = measure_state_scores(trial_folder, val, held, teacher)
    else:
        scores = measure_scores(load_masked_lm(RunFolder(trial_folder).model), val, answers)
    if not math.isfinite(scores.error):
        raise Diverged("its error is no number")
    _complete_training(trial_folder, summary, scores.to_row())
    return TrialRecord(
        Job(run.arch, run.seed, run.optim.lr),
        plan.origin,
        TrialStatus.TRAINED,
        lr=settings.optim.lr,
        losses=save_array(trial_folder / LOSSES, scores.losses),
        error=scores.error,
        look_positions=answers.count_looked() if answers else None,
        kl_by_step=_read_kl_by_step(RunFolder(trial_folder).metrics),
        mlm_accuracy=scores.accuracy,
        seconds=summary.seconds,
        wall=time.monotonic() - start,
    )


def make_candidate_settings(run: SearchRunConfig, val_sequences: int) -> PretrainRunConfig:
    """Make the settings of a candidate's training.

    It takes n steps; its error is also measured at a quarter and at half of them.
    """
    n = run.search.n
    accumulate = run.trainer_config.accumulate_grad_batches
    trainer = {**run.trainer, "max_steps": n, "max_epochs": -1, "max_time": None}
    trainer["val_check_interval"] = max(1, n // 4) * accumulate
    lr = width_lr(run.arch.hidden, run.optim.lr, run.search.kappa)
    return run.to_pretraining(
        data=replace(run.data, val_sequences=val_sequences),
        optim=replace(run.optim, lr=lr),
        trainer=trainer,
        logger=replace(run.logger, job_type="candidate"),
    )


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
