"""Lightning's trainer and loggers: the keys that bort reads, and the numbers it can work with.

They are checked before anything heavy is loaded. Lightning itself takes many other numbers: a
clipping of -1 climbs the loss, an interval of 0 divides by 0.
"""

import math
import re
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from bort.errors import BortError, check_choice

AUTO, FLOAT32, BF16 = "auto", "32-true", "bf16-mixed"  # of trainer.precision
PRECISIONS = (AUTO, FLOAT32, BF16, "16-mixed", "bf16-true", "16-true", "64-true")
# Lightning knows these, too.
MORE_PRECISIONS = ("32", "bf16", "16", "64", "transformer-engine", "transformer-engine-float16")


@dataclass(frozen=True)
class TrainerConfig:
    """What bort reads of the keys below `trainer.`, which all go to Lightning's Trainer."""

    max_steps: int = -1
    max_epochs: int | None = None
    max_time: Any = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    val_check_interval: int | float | None = None
    check_val_every_n_epoch: int | None = None
    accumulate_grad_batches: int = 1
    accelerator: str = "auto"
    strategy: Any = "auto"
    devices: Any = 1
    num_nodes: int = 1
    precision: Any = FLOAT32

    @classmethod
    def from_keys(cls, keys: dict[str, Any] | None) -> "TrainerConfig":
        """Read a trainer's keys; what is absent has the value above."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: keys[name] for name in names if name in (keys or {})})

    @property
    def is_one_device(self) -> bool:
        """Whether the training is one process."""
        return str(self.devices) == "1"


@dataclass(frozen=True)
class Range:
    """The numbers that a key takes: whole ones from `least` on.

    share: a fraction between 0 and 1 is allowed, too. integral: without it, any finite number from
    `least` on is allowed. null: no value at all is allowed. duration: a text such as 00:12:00:00 is
    allowed.
    """

    least: int
    share: bool = False
    integral: bool = True
    null: bool = True
    duration: bool = False

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.null
        if isinstance(value, str):
            return self.duration and re.fullmatch(r"\d+(:\d\d){3}", value) is not None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and self.integral:
            # 0.0 is a share of nothing; where nothing is too little, no share is
            return self.share and (0 < value <= 1 or value == self.least == 0)
        return math.isfinite(value) and value >= self.least

    def __str__(self) -> str:
        text = f"a {'whole ' if self.integral else ''}number, at least {self.least}"
        return text + (", or a share as 0.5" if self.share else "")


RANGES = {
    "max_steps": Range(-1, null=False),
    "min_steps": Range(0),
    "max_epochs": Range(-1),
    "min_epochs": Range(0),
    "limit_train_batches": Range(0, share=True),
    "limit_val_batches": Range(0, share=True),
    "limit_test_batches": Range(0, share=True),
    "limit_predict_batches": Range(0, share=True),
    "overfit_batches": Range(0, share=True, null=False),
    "val_check_interval": Range(1, share=True, duration=True),
    "check_val_every_n_epoch": Range(1),
    "num_sanity_val_steps": Range(-1),
    "log_every_n_steps": Range(1, null=False),
    "accumulate_grad_batches": Range(1, null=False),
    "gradient_clip_val": Range(0, integral=False),
    "num_nodes": Range(1, null=False),
}


def check_trainer_numbers(trainer: dict[str, Any], stops: bool) -> None:
    """Raise BortError for a number of `trainer.` with a wrong sign or outside of its range.

    An unknown precision is refused, too.

    stops: whether something besides its budgets can end a training.
    """
    for key, allowed in RANGES.items():
        if key in trainer and trainer[key] not in allowed:
            raise BortError(f"trainer.{key}={trainer[key]} must be {allowed}")
    precision = trainer.get("precision", AUTO)
    if isinstance(precision, int | str) and str(precision) not in MORE_PRECISIONS:
        check_choice("trainer.precision", str(precision), PRECISIONS)
    budget = trainer.get("max_time")
    if isinstance(budget, str) and not re.fullmatch(r"(?=.*[1-9])\d+(:\d\d){3}", budget):
        raise BortError(f"trainer.max_time={budget} must be DD:HH:MM:SS, as in 00:12:00:00")
    endless = trainer.get("max_steps") == -1 and trainer.get("max_epochs") == -1
    if endless and budget is None and not stops:
        raise BortError(
            "trainer.max_steps=-1 trains for ever; give a number of steps, trainer.max_epochs=N or "
            "trainer.max_time=DD:HH:MM:SS"
        )


@dataclass
class LoggerConfig:
    """Where metrics go besides the run folder's metrics.csv, which is always written."""

    name: str = "csv"  # csv, wandb, tensorboard or none
    mode: str = "auto"  # how wandb works: auto (offline without a key), online or offline
    project: str = "bort"  # the project of wandb
    job_type: str | None = None  # the job type of wandb; a search sets that of its candidates
    tags: list[str] = field(default_factory=list)  # the tags of wandb

    def __post_init__(self) -> None:
        check_choice("logger.name", self.name, ("csv", "wandb", "tensorboard", "none"))
        check_choice("logger.mode", self.mode, ("auto", "online", "offline"))
        if self.name in ("tensorboard", "wandb") and find_spec(self.name) is None:
            raise BortError(f"logger={self.name} needs the package {self.name}; pip install it")
