"""The rounds of Agora: Θ, the grid of training settings, and how it shrinks from round to round.

Numbers and functions in, rounds out: nothing here trains. θ is one point of Θ.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np

from bort.config.agora import ThetaConfig
from bort.config.train import LoggerConfig, TrainConfig


@dataclass(frozen=True)
class Theta:
    """θ: one set of hyperparameters; None is the run's own value."""

    lr: float | None = None
    lr_factor: float = 1.0
    seed: int | None = None
    weight_decay: float | None = None
    warmup: float | None = None
    batch_size: int | None = None
    epochs: int | None = None

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.lr is not None or self.lr_factor == 1.0:
            del given["lr_factor"]
        shown = [f"{k} {v:g}" for k, v in given.items() if v is not None]
        return ", ".join(shown).replace("lr_factor ", "lr × ") or "the run's own"


def list_thetas(grid: ThetaConfig) -> list[Theta]:
    """Every combination of the grid's values."""
    names = [f.name for f in fields(Theta)]
    values = {name: getattr(grid, name) or [getattr(Theta, name)] for name in names}
    if grid.lr:
        values["lr_factor"] = [1.0]
    return [
        Theta(**dict(zip(names, found, strict=True)))
        for found in product(*(values[name] for name in names))
    ]


def keep_better_half(ordered: list[Theta]) -> list[Theta]:
    """The better half of θs, the best first; none of one: Θ is used up."""
    return ordered[: math.ceil(len(ordered) / 2)] if len(ordered) > 1 else []


def drop_like_worst(ordered: list[Theta]) -> list[Theta]:
    """Θ without the θs like the worst (the original pruning); the best first in and out.

    Of all but the best, those are dropped that hold the longest sequence of values which the worst
    shares with one of them.
    """
    if len(ordered) < 2:
        return []
    best, *others, worst = ordered
    varied = [f.name for f in fields(Theta) if len({getattr(t, f.name) for t in ordered}) > 1]
    shared = [{n for n in varied if getattr(t, n) == getattr(worst, n)} for t in others]
    longest = max(reversed(shared), key=len, default=set())  # of equals that of the worse θ
    if not longest:
        return [best, *others]
    return [best, *(t for t, own in zip(others, shared, strict=True) if not longest <= own)]


PRUNE = {"half": keep_better_half, "lcs": drop_like_worst}


def apply_theta(run: TrainConfig, theta: Theta, rate: float, steps: int | None) -> TrainConfig:
    """The settings of one training: the run's, with θ.

    rate: where neither names one. steps: instead of the run's epochs.
    """
    given = {"lr": theta.lr, "weight_decay": theta.weight_decay, "warmup": theta.warmup}
    optim = replace(run.optim, **{k: v for k, v in given.items() if v is not None})
    optim.lr = (optim.lr or rate) * theta.lr_factor
    data = replace(run.data, batch_size=theta.batch_size or run.data.batch_size)
    trainer = dict(run.trainer)
    if steps is not None:
        trainer |= {"max_steps": steps, "max_epochs": -1}
    elif theta.epochs is not None:
        trainer |= {"max_epochs": theta.epochs}
    seed = run.seed if theta.seed is None else theta.seed
    csv_only = LoggerConfig(name="csv")  # a run of each training would bury the run
    return replace(run, optim=optim, data=data, trainer=trainer, seed=seed, logger=csv_only)


def count_epoch_steps(run: TrainConfig, rows: int) -> int:
    """Steps of the run's own epochs over so many rows."""
    epochs = max(1, run.trainer_config.max_epochs or 1)
    return epochs * math.ceil(rows / run.data.batch_size)


def count_samples(run: TrainConfig, rows: int) -> int:
    """Rows that are generated for a round, with D of so many rows."""
    return run.agora.samples or max(1, rows // 4)


def count_planned_steps(run: TrainConfig, rows: int) -> int:
    """Steps of all rounds on D of so many rows, if no round is replayed."""
    thetas, number, total, more = list_thetas(run.agora.grid), 0, 0, count_samples(run, rows)
    while thetas and number < (run.agora.rounds or math.inf):
        total += len(thetas) * count_epoch_steps(run, rows + number * more)
        thetas, number = PRUNE[run.agora.prune](thetas), number + 1
    return total


@dataclass
class Round:
    """What a round did: scores on E of its θs, trained on `data`."""

    number: int
    replay: int
    thetas: list[Theta]
    scores: list[float]
    data: object

    @property
    def best(self) -> int:
        """Number of the best θ; of equals the first."""
        return int(np.argmax(self.scores))

    @property
    def score(self) -> float:
        return self.scores[self.best]

    @property
    def ordered(self) -> list[Theta]:
        """θs, the best first; equals in their order."""
        order = sorted(range(len(self.scores)), key=lambda k: -self.scores[k])
        return [self.thetas[k] for k in order]


def play_rounds(
    thetas: list[Theta],
    data: object,
    train: Callable[[int, int, list[Theta], object], list[float]],
    grow: Callable[[Round, int, int], object | None],
    prune: Callable[[list[Theta]], list[Theta]] = keep_better_half,
    replays: int = 0,
    limit: int | None = None,
) -> Iterator[Round]:
    """The rounds of Agora, as they end; of a round that was done again, the better attempt.

    train(round, replay, Θ, D) gives the scores on E, -inf of a θ that diverged. grow(round before,
    number, replay) gives D of a round, None when no row could be made, which ends the rounds. A
    round worse on E than the one before is replayed with fresh rows while `replays`, of all rounds
    together, are left. Ends when Θ is used up or after `limit` rounds.
    """
    previous, number = None, 1
    while thetas and (limit is None or number <= limit):
        if previous is not None and (data := grow(previous, number, 0)) is None:
            return
        found = Round(number, 0, thetas, train(number, 0, thetas, data), data)
        replay = 0
        while previous is not None and found.score < previous.score and replays > 0:
            replays, replay = replays - 1, replay + 1
            if (data := grow(previous, number, replay)) is None:
                break
            again = Round(number, replay, thetas, train(number, replay, thetas, data), data)
            found = max(found, again, key=lambda attempt: attempt.score)
        yield found
        previous, number, thetas = found, number + 1, prune(found.ordered)
