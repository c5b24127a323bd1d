"""One candidate of a search: train it for n steps, and record its error against T's output.

T ran once per batch for the whole search: its head states at the masked positions are kept on disk,
and one product with its decoder rebuilds its logits.
"""

import csv
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from bort.config.data import DataConfig
from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig
from bort.config.train import PretrainRunConfig, TrainConfig
from bort.errors import Diverged, is_out_of_memory
from bort.files.checked import save_array
from bort.files.run_files import LOSSES, TRIAL
from bort.models.bert import MaskedLM
from bort.models.huggingface import load_masked_lm
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.recipe import prepare, train
from bort.pretraining.teacher import hash_teacher
from bort.pretraining.teacher_states import TeacherStates
from bort.runs.folder import RunFolder
from bort.search.records import (
    Job,
    SearchPlan,
    TrialRecord,
    TrialStatus,
    locate_training_pass,
    locate_val_pass,
    read_plan,
    read_record,
    write_record,
)

POSITIONS = 8192  # at least so many masked positions decide an error

_open: dict[Path, tuple[Corpus, MaskedLM]] = {}  # of this process: not opened per candidate


def open_corpus_and_teacher(run: SearchRunConfig, folder: Path) -> tuple[Corpus, MaskedLM]:
    """Open the corpus and T of the search in `folder`; the second time costs nothing."""
    key = folder.resolve()
    if key not in _open:
        _open.clear()
        corpus, teacher = prepare(run, folder)
        RunFolder(folder).check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
        _open[key] = corpus, teacher
    return _open[key]


def forget_corpus_and_teacher() -> None:
    """Have them opened again: the cache may be another one by now."""
    _open.clear()


def count_held_sequences(data: DataConfig) -> int:
    """Count the held-out sequences that decide an error, if the text has so many."""
    return max(data.val_sequences, math.ceil(POSITIONS / (0.14 * data.length)))


def make_val_batches(corpus: Corpus, run: TrainConfig) -> ValBatches:
    """Make held-out batches with at least POSITIONS masked positions, if the text has them."""
    return ValBatches(corpus, replace(run.data, val_sequences=count_held_sequences(run.data)))


def get_device(model: MaskedLM) -> torch.device:
    """Get the device that a model's weights are on."""
    return next(model.parameters()).device


def compute_log_probabilities(teacher: MaskedLM, states: TeacherStates, batch: int) -> torch.Tensor:
    """Compute T's log-probabilities (M, V) at the M masked positions of a batch."""
    rows = torch.from_numpy(states[batch]).to(get_device(teacher)).float()
    return F.log_softmax(teacher.decode(rows).float(), -1)  # (M, V)


def evaluate(run: SearchRunConfig, folder: Path, trial_folder: Path) -> TrialRecord:
    """Train one candidate for n steps and record its error; what is recorded is returned at once.

    folder: the search's; trial_folder: the candidate's own in it. A failure that is the candidate's
    own (no memory, a loss that is no number) is a record with its reason.
    """
    run = run.with_precision(RunFolder(folder).precision)
    plan, path = read_plan(folder), trial_folder / TRIAL
    if path.exists():
        record = read_record(path, plan)
        if record.status is not TrialStatus.CROWDED:
            return record
    try:
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
    corpus, teacher = open_corpus_and_teacher(run, folder)
    val = make_val_batches(corpus, run)
    passes = (locate_training_pass(folder, run.seed), locate_val_pass(folder))
    states = [TeacherStates(path, teacher.config.hidden) for path in passes]
    settings = make_candidate_settings(run, len(val.chosen))
    label = f"candidate {run.arch}"
    summary = train(settings, trial_folder, corpus, teacher, label, states=tuple(states))
    # Before there is a record: a recorded candidate is left alone.
    RunFolder(trial_folder).remove_checkpoints()
    model = load_masked_lm(RunFolder(trial_folder).model)
    losses = measure_losses(model, teacher, val, states[1])
    error = float(losses.mean(dtype=np.float64))
    if not math.isfinite(error):
        raise Diverged("its error is no number")
    return TrialRecord(
        Job(run.arch, run.seed, run.optim.lr),
        plan.origin,
        TrialStatus.TRAINED,
        lr=settings.optim.lr,
        losses=save_array(trial_folder / LOSSES, losses),
        error=error,
        kl_by_step=_read_kl_by_step(RunFolder(trial_folder).metrics),
        mlm_accuracy=summary.accuracy,
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


@torch.no_grad()
def measure_losses(
    model: MaskedLM, teacher: MaskedLM, val: ValBatches, states: TeacherStates
) -> np.ndarray:
    """Measure the cross-entropy against T's output at each held-out position, τ = 1, in nats."""
    device = get_device(teacher)
    model.eval().to(device)
    losses = []
    for number in range(len(val)):
        batch = val[number]
        ids, positions = (batch[key].to(device) for key in ("input_ids", "positions"))
        logits = model(ids, positions=positions).float()
        p = compute_log_probabilities(teacher, states, number).exp()
        losses.append(-(p * F.log_softmax(logits, -1)).sum(-1).cpu())
    return torch.cat(losses).numpy()


def _read_kl_by_step(path: Path) -> dict[str, float]:
    """Read KL to T at each validation of a training from its metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/kd_loss")]
    return {row["step"]: float(row["val/kd_loss"]) for row in rows}
