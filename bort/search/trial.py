"""One candidate of a search: train it for n steps, and record its error against T's output.

T ran once per batch for the whole search: its head states at the masked positions are kept on disk,
and one product with its decoder rebuilds its logits. The validations of a training only look at a
quarter of the held-out batches; the error is measured at all positions, once, after the training.
"""

import csv
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from bort.config.data import DataConfig
from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig
from bort.config.train import PretrainRunConfig, TrainConfig
from bort.console import hide_notes
from bort.errors import Diverged, is_out_of_memory
from bort.files.checked import save_array
from bort.files.run_files import ENTROPY, LOSSES, TRIAL
from bort.models.bert import MaskedLM
from bort.models.huggingface import load_masked_lm
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import LOOK_EVERY, PackedDataModule, ValBatches
from bort.pretraining.flops import Text
from bort.pretraining.recipe import prepare, train
from bort.pretraining.teacher import Sources, hash_teacher
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
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
from bort.teachers.states import KeptStates, TeacherStates
from bort.teachers.teacher import Teacher
from bort.training.loggers import MetricsCsv
from bort.training.threads import use_threads

POSITIONS = 8192  # at least so many masked positions decide an error
KEPT_BYTES = 2**29  # of T's probabilities, kept in memory between candidates
CHUNK = 2**19  # numbers of a softmax at a time on a CPU, so that they stay in its cache

# What this process has opened for the search in a folder, and not again for each candidate.
_open: dict[Path, tuple[Corpus, Teacher]] = {}
_answers: dict[Path, "TeacherAnswers"] = {}


def open_corpus_and_teacher(
    run: SearchRunConfig, folder: Path, sources: Sources | None = None
) -> tuple[Corpus, Teacher]:
    """Open the corpus and T of the search in `folder`; the second time costs nothing.

    sources: what `open_sources` has opened, where it has.
    """
    key = folder.resolve()
    if key not in _open:
        _open.clear()
        corpus, teacher = prepare(run, folder, sources)
        RunFolder(folder).check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
        _open[key] = corpus, teacher
    return _open[key]


def forget_corpus_and_teacher() -> None:
    """Have them opened again: the cache may be another one by now."""
    _open.clear()
    _answers.clear()


def count_held_sequences(data: DataConfig) -> int:
    """Count the held-out sequences that decide an error, if the text has so many."""
    return max(data.val_sequences, math.ceil(POSITIONS / (0.14 * data.length)))


def make_val_batches(corpus: Corpus, run: TrainConfig) -> ValBatches:
    """Make held-out batches with at least POSITIONS masked positions, if the text has them."""
    return ValBatches(corpus, replace(run.data, val_sequences=count_held_sequences(run.data)))


def measure_look(val: ValBatches) -> Text:
    """Measure the text that a validation of a candidate's training reads."""
    batches = [val[number] for number in range(0, len(val), LOOK_EVERY)]
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    positions = sum(len(batch["positions"]) for batch in batches)
    return Text(tokens, val.sequences.length, positions)


def expect_look(held: Text, data: DataConfig) -> Text:
    """Return what `measure_look` is expected to measure of so much held-out text."""
    size = 4 * data.batch_size * data.length  # tokens of a batch of ValBatches
    starts = range(0, math.ceil(held.tokens), LOOK_EVERY * size)
    tokens = sum(min(size, held.tokens - start) for start in starts)
    return Text(tokens, held.length, held.positions * tokens / max(held.tokens, 1))


def compute_log_probabilities(teacher: Teacher, states: TeacherStates, batch: int) -> torch.Tensor:
    """Compute T's log-probabilities (M, V) at the M masked positions of a batch."""
    rows = torch.from_numpy(states[batch]).to(teacher.device).float()
    return F.log_softmax(teacher.decode(rows).float(), -1)  # (M, V)


@torch.no_grad()
def measure_teacher(
    teacher: Teacher, val: Dataset, states: TeacherStates, corpus: Corpus
) -> tuple[np.ndarray, float]:
    """Measure T's entropy at each position, and the cross-entropy of word frequencies against T."""
    counts = np.bincount(corpus.train, minlength=teacher.vocab_size) + 1.0
    unigram = torch.from_numpy(np.log(counts / counts.sum())).float().to(teacher.device)
    entropies, total = [], 0.0
    for batch in range(len(val)):
        logp = compute_log_probabilities(teacher, states, batch)
        p = logp.exp()
        entropies.append(-(p * logp).sum(-1).cpu())
        total += float(-(p @ unigram).sum())
    entropy = torch.cat(entropies).numpy()
    return entropy, total / len(entropy)


class TeacherAnswers:
    """What T says at the held-out positions, by batch: its probabilities, from its kept states.

    Those of the first batches stay in memory, up to KEPT_BYTES: a small candidate answers a batch
    in less time than it takes to compute what T says of it. entropy: T's, at each position (N,).
    """

    def __init__(self, teacher: Teacher, states: TeacherStates, entropy: np.ndarray):
        self.teacher, self.states, self.entropy = teacher, states, entropy
        self._kept: dict[int, torch.Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def __getitem__(self, number: int) -> torch.Tensor:
        """Return T's probabilities (M, V) of a batch."""
        if (kept := self._kept.get(number)) is not None:
            return kept
        p = compute_log_probabilities(self.teacher, self.states, number).exp_()
        if self._bytes + p.nbytes <= KEPT_BYTES:
            self._kept[number] = p
            self._bytes += p.nbytes
        return p

    def count_looked(self) -> int | None:
        """Count the positions at which a candidate's validations look; None where at all."""
        sizes = np.diff(self.states.ends)
        looked = int(sizes[::LOOK_EVERY].sum())
        return None if looked == sizes.sum() else looked

    def judge(self, logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Do what `compare_with_teacher` does, of the logits of a candidate in its training."""
        number, labels = int(batch["number"]), batch["labels"]
        losses, surprisals = compare_answers(self[number], logits.float(), labels)
        start, end = self.states.ends[number : number + 2]
        entropy = losses.new_tensor(self.entropy[start:end].mean(dtype=np.float64))
        return surprisals.mean(), losses.mean() - entropy, entropy


def open_answers(folder: Path, teacher: Teacher) -> TeacherAnswers:
    """Open T's answers to the held-out batches of the search in `folder`; the second time is free.

    They are opened again when the states on the disk are other ones by then.
    """
    key = folder.resolve()
    states = TeacherStates(locate_val_pass(folder), teacher.head_width)
    answers = _answers.get(key)
    if answers is None or not np.array_equal(answers.states.digests, states.digests):
        entropy = np.load(RunFolder(folder).teacher / ENTROPY)
        _answers.clear()
        _answers[key] = answers = TeacherAnswers(teacher, states, entropy)
    return answers


def compare_answers(
    p: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare logits (M, V) with probabilities (M, V) and with the true words (M,).

    Returns the cross-entropy of each row against both, (M,) and (M,). On a CPU some rows are done
    at a time, never a single one, whose sum would be split over threads: the numbers are those of
    all rows at once, in a third of the time.
    """
    parts = 1 if logits.is_cuda else max(1, min(logits.numel() // CHUNK, len(logits) // 2))
    losses, surprisals = [], []
    pieces = (numbers.tensor_split(parts) for numbers in (p, logits, labels))
    for target, rows, words in zip(*pieces, strict=True):
        log_q = F.log_softmax(rows, -1)
        surprisals.append(-log_q.gather(1, words[:, None])[:, 0])
        losses.append(-log_q.mul_(target).sum(-1))
    return torch.cat(losses), torch.cat(surprisals)


@dataclass(frozen=True)
class HeldScores:
    """How a candidate answers at all held-out positions.

    losses: the cross-entropy (N,) against T's output at each position, τ = 1, in nats. mlm_loss,
    accuracy: their means against the true words.
    """

    losses: np.ndarray
    mlm_loss: float
    accuracy: float

    @property
    def error(self) -> float:
        """The mean cross-entropy against T's output: e."""
        return float(self.losses.mean(dtype=np.float64))

    def to_row(self, entropy: np.ndarray) -> dict[str, float]:
        """Give what a validation logs. entropy: T's, at each position."""
        teacher_entropy = float(entropy.mean(dtype=np.float64))
        scores = {"val/loss": self.mlm_loss, "val/mlm_accuracy": self.accuracy}
        return {
            **scores,
            "val/kd_loss": self.error - teacher_entropy,
            "val/teacher_entropy": teacher_entropy,
        }


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
    answers = open_answers(folder, teacher)
    training = TeacherStates(locate_training_pass(folder, run.seed), teacher.head_width)
    states = KeptStates(training, answers.states, LOOK_EVERY, answers.judge)
    settings = make_candidate_settings(run, len(val.chosen))
    label = f"candidate {run.arch}"
    data = PackedDataModule(settings.data, seed=settings.seed, corpus=corpus, states=states)
    summary = train(settings, trial_folder, corpus, teacher, label, data=data)
    # Before there is a record: a recorded candidate is left alone.
    RunFolder(trial_folder).remove_checkpoints()
    scores = measure_scores(load_masked_lm(RunFolder(trial_folder).model), val, answers)
    if not math.isfinite(scores.error):
        raise Diverged("its error is no number")
    _complete_training(trial_folder, summary, scores.to_row(answers.entropy))
    return TrialRecord(
        Job(run.arch, run.seed, run.optim.lr),
        plan.origin,
        TrialStatus.TRAINED,
        lr=settings.optim.lr,
        losses=save_array(trial_folder / LOSSES, scores.losses),
        error=scores.error,
        look_positions=answers.count_looked(),
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


@torch.no_grad()
def measure_scores(model: MaskedLM, val: ValBatches, answers: TeacherAnswers) -> HeldScores:
    """Measure how a model answers at all held-out positions."""
    device = answers.teacher.device
    model.eval().to(device)
    losses, surprisals, correct = [], [], 0
    for number in range(len(val)):
        batch = val[number]
        ids, positions, labels = (
            batch[key].to(device) for key in ("input_ids", "positions", "labels")
        )
        logits = model(ids, positions=positions).float()
        for parts, values in zip(
            (losses, surprisals), compare_answers(answers[number], logits, labels), strict=True
        ):
            parts.append(values.cpu())
        correct += int((logits.max(-1).indices == labels).sum())
    mlm_loss = float(torch.cat(surprisals).mean(dtype=torch.float64))
    losses = torch.cat(losses).numpy()
    return HeldScores(losses, mlm_loss, correct / len(losses))


def _complete_training(trial_folder: Path, summary: RunSummary, row: dict[str, float]) -> None:
    """Put the scores at all positions in the place of the last validation's, which are a part's."""
    MetricsCsv(trial_folder).log_metrics(row, summary.steps)
    RunFolder(trial_folder).write_summary(RunSummary(summary.to_json() | row))


def _read_kl_by_step(path: Path) -> dict[str, float]:
    """Read KL to T at each validation of a training from its metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/kd_loss")]
    return {row["step"]: float(row["val/kd_loss"]) for row in rows}
