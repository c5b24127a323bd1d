"""The error of a candidate by final states: 1 − cos of its states and T's, on held-out text.

A teacher without a masked-LM head has no probabilities to compare with; the direction of its states
is what a student can learn of it. T's own error is 0, and no error is below. Letters: B texts of a
batch, S tokens of a text, N tokens in all, H hidden size, H_T that of T.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bort.errors import BortError
from bort.files.checked import save_array
from bort.files.run_files import CHECKPOINTS, PROJECTION
from bort.models.huggingface import load_masked_lm_or_encoder
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.state_losses import hidden_loss
from bort.runs.folder import RunFolder
from bort.teachers.states import TeacherStates
from bort.teachers.teacher import Teacher
from bort.training.checkpoint import find_newest_whole


@dataclass(frozen=True)
class StateScores:
    """How near a candidate's final states come to T's on all held-out text.

    losses: 1 − cos (N,) at each token, in float32. hidden_loss: the loss that the training
    minimises, as a mean over texts.
    """

    losses: np.ndarray
    hidden_loss: float
    accuracy: float | None = None  # of masked words: none are predicted

    @property
    def error(self) -> float:
        """The mean over all tokens: e."""
        return float(self.losses.mean(dtype=np.float64))

    def to_row(self) -> dict[str, float]:
        """Give what a validation logs."""
        return {"val/hidden_loss": self.hidden_loss}


def keep_projection(trial_folder: Path) -> None:
    """Keep the projection of a finished training out of its last checkpoint, if there is one.

    A model of T's width has none.
    """
    # After a kill, what is left there may be the checkpoint that a longer training continues.
    is_kept = (trial_folder / PROJECTION).exists()
    path = None if is_kept else find_newest_whole(trial_folder / CHECKPOINTS)
    if path is None:
        return
    content = torch.load(path, map_location="cpu", weights_only=True)
    weight = content["state_dict"].get("projection.weight")
    if weight is not None:
        save_array(trial_folder / PROJECTION, weight.float().numpy())


def load_projection(trial_folder: Path, hidden: int, target: int) -> nn.Module:
    """Load what brings states of width H to T's width H_T: nothing where the widths are equal.

    Raises BortError where it is missing.
    """
    if hidden == target:
        return nn.Identity()
    path = trial_folder / PROJECTION
    try:
        weight = torch.from_numpy(np.load(path, allow_pickle=False))  # (H_T, H)
    except (OSError, ValueError, EOFError) as error:
        raise BortError(f"{path} cannot be read; delete its folder and repeat") from error
    layer = nn.Linear(hidden, target, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


@torch.no_grad()
def measure_state_scores(
    trial_folder: Path, val: ValBatches, states: TeacherStates, teacher: Teacher
) -> StateScores:
    """Measure the model in a folder at all tokens of the held-out texts, in float32.

    Its projection is that of the training, which is kept for this alone.
    """
    model, _ = load_masked_lm_or_encoder(RunFolder(trial_folder).model)
    projection = load_projection(trial_folder, model.config.hidden, teacher.arch.hidden)
    encoder, device = model.encoder.eval().to(teacher.device), teacher.device
    projection = projection.to(device)
    losses, total, texts = [], 0.0, 0
    for number in range(len(val)):
        ids = val[number]["texts"].to(device)  # (B, S)
        rows = torch.from_numpy(states[number]).to(device).float()
        target = rows.unflatten(0, ids.shape)  # (B, S, H_T)
        answers = projection(encoder(ids)).float()
        losses.append((1 - F.cosine_similarity(answers, target, dim=-1)).flatten().cpu())
        total += float(hidden_loss(answers, target, reduction="sum"))
        texts += len(ids)
    return StateScores(torch.cat(losses).numpy(), total / texts)


def measure_constant(states: TeacherStates, count: int) -> tuple[int, float]:
    """Count the tokens of T's states in the first batches, and measure the best constant state.

    That one points in the mean direction of T's states, and its error is 1 minus the length of the
    mean of their unit vectors: what a model scores that does not read its text.
    """
    total, tokens = 0.0, 0
    for number in range(count):
        rows = torch.from_numpy(states[number]).double()
        total = total + F.normalize(rows, dim=-1).sum(0)
        tokens += len(rows)
    return tokens, 1 - float(total.norm()) / tokens
