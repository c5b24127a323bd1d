"""The rounds of Agora, in which the grid Θ of training settings shrinks.

Numbers and functions in, rounds out: nothing here trains. θ is one point of Θ.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from operator import attrgetter
from typing import Any

import numpy as np

from bort.config.agora import ThetaConfig
from bort.config.train import TrainConfig
from bort.config.trainer import LoggerConfig


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
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.lr is not None or self.lr_factor == 1.0:
            del values["lr_factor"]
        shown = [f"{name} {value:g}" for name, value in values.items() if value is not None]
        return ", ".join(shown).replace("lr_factor ", "lr × ") or "the run's own"


def list_thetas(grid: ThetaConfig) -> list[Theta]:
    """List every combination of the grid's values."""
    names = [f.name for f in fields(Theta)]
    values = {name: getattr(grid, name) or [getattr(Theta, name)] for name in names}
    if grid.lr:
        values["lr_factor"] = [1.0]
    combinations = product(*(values[name] for name in names))
    return [Theta(**dict(zip(names, combination, strict=True))) for combination in combinations]


def keep_better_half(ordered: list[Theta]) -> list[Theta]:
    """Keep the better half of θs, which are ordered with the best first; none of a single θ."""
    return ordered[: math.ceil(len(ordered) / 2)] if len(ordered) > 1 else []


def drop_like_worst(ordered: list[Theta]) -> list[Theta]:
    """Drop the worst θ and those like it, as the original pruning does; the best stays first.

    The settings that the worst θ has in common with each other θ are compared. The largest such set
    decides: every θ but the best that has these settings too is dropped.
    """
    if len(ordered) < 2:
        return []
    best, *middle, worst = ordered
    varied = [name for name in vars(best) if len(set(map(attrgetter(name), ordered))) > 1]
    shared = [_list_shared(theta, worst, varied) for theta in middle]
    longest = max(reversed(shared), key=len, default=set())  # of equals that of the worse θ
    if not longest:
        return [best, *middle]
    return [best, *(t for t, names in zip(middle, shared, strict=True) if not longest <= names)]


def _list_shared(theta: Theta, worst: Theta, names: list[str]) -> set[str]:
    return {name for name in names if getattr(theta, name) == getattr(worst, name)}


PRUNE = {"half": keep_better_half, "lcs": drop_like_worst}


def apply_theta(run: TrainConfig, theta: Theta, rate: float, steps: int | None) -> TrainConfig:
    """Make the settings of one training: the run's, with θ.

    rate: the peak rate where neither the run nor θ names one. steps: how many steps to train,
    instead of the run's epochs.
    """
    values = {"lr": theta.lr, "weight_decay": theta.weight_decay, "warmup": theta.warmup}
    optim = replace(run.optim, **{k: v for k, v in values.items() if v is not None})
    optim.lr = (optim.lr or rate) * theta.lr_factor
    data = replace(run.data, batch_size=theta.batch_size or run.data.batch_size)
    trainer = dict(run.trainer)
    if steps is not None:
        trainer |= {"max_steps": steps, "max_epochs": -1}
    elif theta.epochs is not None:
        trainer |= {"max_epochs": theta.epochs}
    seed = run.seed if theta.seed is None else theta.seed
    csv_only = LoggerConfig(name="csv")  # in wandb, dozens of trainings would bury the run itself
    return replace(run, optim=optim, data=data, trainer=trainer, seed=seed, logger=csv_only)


def count_training_steps(run: TrainConfig, theta: Theta, rows: int) -> int:
    """Count the steps of one training with θ over so many rows."""
    epochs = max(1, theta.epochs or run.trainer_config.max_epochs or 1)
    return epochs * math.ceil(rows / (theta.batch_size or run.data.batch_size))


def count_samples(run: TrainConfig, rows: int) -> int:
    """Count the rows that are generated for a round, with D of so many rows."""
    return run.agora.samples or max(1, rows // 4)


def count_planned_steps(run: TrainConfig, rows: int) -> int:
    """Estimate the steps of all rounds on D of so many rows, if no round is repeated.

    Which θs a round drops is not known before; each that stays counts as the average of all.
    """
    grid = list_thetas(run.agora.grid)
    thetas, number, total, more = grid, 0, 0, count_samples(run, rows)
    while thetas and number < (run.agora.rounds or math.inf):
        steps = [count_training_steps(run, theta, rows + number * more) for theta in grid]
        total += math.ceil(len(thetas) * sum(steps) / len(grid))
        thetas, number = PRUNE[run.agora.prune](thetas), number + 1
    return total


def name_round(number: int, replay: int) -> str:
    """Name the folder of a round below the run's; replay: 0 for its first attempt."""
    return f"rounds/{number}" + (f"_replay_{replay}" if replay else "")


def name_training(number: int, replay: int, theta: int) -> str:
    """Name the folder of a round's training below the run's; theta: its number in the round."""
    return f"{name_round(number, replay)}/theta_{theta}"


@dataclass(frozen=True)
class Round:
    """What a round did."""

    number: int
    replay: int  # 0 of the first attempt
    thetas: list[Theta]
    scores: list[float]  # on E, by θ; -inf of one that diverged
    data: Any  # D, on which the θs were trained

    @property
    def best(self) -> int:
        """The index of the best θ in `thetas`; of equals the first."""
        return int(np.argmax(self.scores))

    @property
    def score(self) -> float:
        """The best score."""
        return self.scores[self.best]

    @property
    def ordered(self) -> list[Theta]:
        """The θs, with the best first; equals stay in their order."""
        order = sorted(range(len(self.scores)), key=lambda k: -self.scores[k])
        return [self.thetas[k] for k in order]

    def to_json(self, next_thetas: list[Theta]) -> dict:
        """Spell the round as rounds.json has it; next_thetas: those that the next round tries."""
        scores = zip(map(str, self.thetas), self.scores, strict=True)
        return {
            "round": self.number,
            "replay": self.replay,
            "rows": len(self.data),
            "scores": {name: score if score > -math.inf else None for name, score in scores},
            "best": str(self.thetas[self.best]),
            "pruned": [str(theta) for theta in self.thetas if theta not in next_thetas],
        }


def play_rounds(
    thetas: list[Theta],
    data: Any,
    train: Callable[[int, int, list[Theta], Any], list[float]],
    grow: Callable[[Round, int, int], Any | None],
    prune: Callable[[list[Theta]], list[Theta]] = keep_better_half,
    replays: int = 0,
    limit: int | None = None,
) -> Iterator[Round]:
    """Play the rounds of Agora, and yield each when it ends.

    train(round, replay, Θ, D) gives the scores on E, -inf of a θ that diverged. grow(round before,
    number, replay) gives D of a round, and None when no row could be made, which ends the rounds.
    A round that is worse on E than the one before is repeated with fresh rows, `replays` times in
    all rounds together, and the better of its attempts counts. The rounds end when Θ is used up or
    after `limit` of them.
    """
    previous, number = None, 1
    while thetas and (limit is None or number <= limit):
        if previous is not None and (data := grow(previous, number, 0)) is None:
            return
        played = Round(number, 0, thetas, train(number, 0, thetas, data), data)
        replay = 0
        while previous is not None and played.score < previous.score and replays > 0:
            replays, replay = replays - 1, replay + 1
            if (data := grow(previous, number, replay)) is None:
                break
            again = Round(number, replay, thetas, train(number, replay, thetas, data), data)
            played = max(played, again, key=lambda attempt: attempt.score)
        yield played
        previous, number, thetas = played, number + 1, prune(played.ordered)
