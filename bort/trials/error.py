"""The error e of a candidate: its cross-entropy against T's output at the held-out positions.

T ran once over them for the whole search: its head states at the masked positions are kept on disk,
and one product with its decoder rebuilds its logits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from bort.models.bert import MaskedLM
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import LOOK_EVERY, ValBatches
from bort.teachers.states import TeacherStates
from bort.teachers.teacher import Teacher

KEPT_BYTES = 2**29  # of T's probabilities, kept in memory between candidates
CHUNK = 2**19  # numbers of a softmax at a time on a CPU, so that they stay in its cache


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
        if number in self._kept:
            return self._kept[number]
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
    entropy: float  # T's mean one

    @property
    def error(self) -> float:
        """The mean cross-entropy against T's output: e."""
        return float(self.losses.mean(dtype=np.float64))

    def to_row(self) -> dict[str, float]:
        """Give what a validation logs."""
        scores = {"val/loss": self.mlm_loss, "val/mlm_accuracy": self.accuracy}
        return {
            **scores,
            "val/kd_loss": self.error - self.entropy,
            "val/teacher_entropy": self.entropy,
        }


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
    entropy = float(answers.entropy.mean(dtype=np.float64))
    return HeldScores(losses, mlm_loss, correct / len(losses), entropy)
