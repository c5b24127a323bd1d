"""What a search keeps of each training: one record, with a check value.

A record says what it was measured with: the settings of the search, T, the text and the masked
positions. One that was changed, damaged, or belongs to another search is refused.
"""

import math
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.files.checked import read_checked, write_checked
from bort.files.run_files import TRIAL
from bort.models.arch import Arch
from bort.trials.plan import Origin, SearchPlan, read_plan

REMEDY = "delete its folder and repeat the command"


@dataclass(frozen=True)
class Job:
    """One training: ξ, the seed of its start and its batches, and the rate before `kappa`.

    steps: of a training that stops before n, at one of the rungs; None for n steps.
    """

    xi: Arch
    seed: int
    lr: float
    steps: int | None = None

    def __str__(self) -> str:
        length = "" if self.steps is None else f", {self.steps} steps"
        return f"{self.xi} with seed {self.seed}, lr {self.lr:g}{length}"

    @property
    def folder(self) -> str:
        """The name of its folder in that of the search."""
        depth, heads, hidden, intermediate = self.xi.to_json()
        xi = f"D{depth}-A{heads}-H{hidden}-I{intermediate}"
        length = "" if self.steps is None else f"-n{self.steps}"
        return f"{xi}-s{self.seed}-lr{self.lr}{length}"

    @property
    def overrides(self) -> list[str]:
        """The settings in which it differs from the search, and its folder, as Hydra reads them."""
        sizes = [f"{key}={value}" for key, value in self.xi.to_table("arch.").items()]
        folder = f"hydra.sweep.subdir={self.folder}"
        length = [] if self.steps is None else [f"search.n={self.steps}", "search.halving=false"]
        return [*sizes, f"seed={self.seed}", f"optim.lr={self.lr}", *length, folder]

    def apply(self, run: SearchRunConfig) -> SearchRunConfig:
        """Return the settings of the search with those of this training, as `overrides` does."""
        search, optim = run.search, replace(run.optim, lr=self.lr)
        if self.steps is not None:
            search = replace(search, n=self.steps, halving=False)
        return replace(run, arch=self.xi, seed=self.seed, optim=optim, search=search)

    @classmethod
    def from_settings(cls, run: SearchRunConfig, n: int) -> Self:
        """Read out of settings which training they are of, in a search of n steps."""
        steps = None if run.search.n == n else run.search.n
        return cls(run.arch, run.seed, run.optim.lr, steps)


class TrialStatus(StrEnum):
    """How a training ended."""

    TRAINED = "trained"
    FAILED = "failed"
    CROWDED = "crowded"  # out of memory beside other trainings: no result yet


@dataclass(frozen=True)
class TrialRecord:
    """The record of one training, `point.json` in its folder.

    Of one that ended well: lr, the peak rate of its width; losses, the digest of losses.npy, nats
    at each masked position or 1 − cos at each token; error, their mean; kl_by_step, KL to T at
    earlier validations, which looked at look_positions of the masked positions (None: at all);
    seconds of training, those before a checkpoint that it continued included, and `wall` seconds in
    all; flops, of its own steps and of measuring its error. Of one that failed: the reason, and
    whether the loss became no number; otherwise nobody knows which error it would have.
    """

    job: Job
    origin: Origin
    status: TrialStatus
    lr: float | None = None
    losses: str | None = None
    error: float | None = None
    kl_by_step: dict[str, float] | None = None
    look_positions: int | None = None
    flops: float | None = None
    mlm_accuracy: float | None = None
    seconds: float | None = None
    wall: float | None = None
    reason: str = ""
    diverged: bool = False

    MEASURED = ("lr", "losses", "error", "kl_by_step", "mlm_accuracy", "seconds", "wall")
    LATER = ("look_positions", "flops")  # older records lack them
    FAILURE = ("reason", "diverged")

    @property
    def xi(self) -> Arch:
        """The architecture that was trained."""
        return self.job.xi

    @property
    def is_trained(self) -> bool:
        """Whether the training ended well, so that there is an error."""
        return self.status is TrialStatus.TRAINED

    @property
    def is_complete(self) -> bool:
        """Whether there is an error after all n steps."""
        return self.is_trained and self.job.steps is None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a point.json; raises KeyError, TypeError or ValueError for another content."""
        status = TrialStatus(content["status"])
        keys = cls.MEASURED if status is TrialStatus.TRAINED else cls.FAILURE
        return cls(
            Job(
                Arch.from_json(content["xi"]),
                content["seed"],
                content["base_lr"],
                content.get("steps"),
            ),
            Origin.from_json(content),
            status,
            **{key: content[key] for key in keys},
            **{key: content.get(key) for key in cls.LATER},
        )

    def to_json(self) -> dict[str, Any]:
        """Give the content of point.json."""
        job = {"xi": self.xi.to_json(), "seed": self.job.seed, "base_lr": self.job.lr}
        if self.job.steps is not None:
            job["steps"] = self.job.steps
        keys = (*self.MEASURED, *self.LATER) if self.is_trained else self.FAILURE
        measured = {key: getattr(self, key) for key in keys}
        return {**job, **asdict(self.origin), "status": str(self.status), **measured}


def write_record(path: Path, record: TrialRecord) -> TrialRecord:
    """Write a point.json; returns the record."""
    write_checked(path, record.to_json())
    return record


def read_record(path: Path, plan: SearchPlan) -> TrialRecord:
    """Read a point.json; raises BortError when it is changed or does not belong to this search."""
    content = read_checked(path, REMEDY)
    try:
        record = TrialRecord.from_json(content)
        if record.job.folder != path.parent.name:
            raise BortError(f"{path} is the record of {record.job.folder}; {REMEDY}")
        for key, words in Origin.WORDS.items():
            if (here := getattr(plan.origin, key)) != (there := getattr(record.origin, key)):
                raise BortError(
                    f"{path} was measured with another {words} ({there}, here {here}); {REMEDY}"
                )
        if record.is_trained and not math.isfinite(record.error):
            raise BortError(f"{path} has no number for an error; {REMEDY}")
    except (KeyError, TypeError, ValueError) as error:
        raise BortError(f"{path} lacks {error}; {REMEDY}") from None
    return record


def read_records(folder: Path, plan: SearchPlan | None = None) -> list[TrialRecord]:
    """Read every candidate training that has ended, in a fixed order.

    plan: of the search in `folder`, where it has been read. Raises BortError for a record that is
    changed or belongs to another search.
    """
    records = _read_all(folder, plan)
    return [record for record in records if record.status is not TrialStatus.CROWDED]


def read_crowded_jobs(folder: Path, plan: SearchPlan) -> list[Job]:
    """Read which trainings found no memory beside others, and are still to be tried alone."""
    records = _read_all(folder, plan)
    return [record.job for record in records if record.status is TrialStatus.CROWDED]


def _read_all(folder: Path, plan: SearchPlan | None) -> list[TrialRecord]:
    paths = sorted(folder.glob(f"D*/{TRIAL}"))
    if not paths:
        return []
    plan = plan or read_plan(folder)
    return [read_record(path, plan) for path in paths]


def find_best_record(records: list[TrialRecord], xi: Arch, run: SearchRunConfig) -> TrialRecord:
    """Find the training of ξ that counts: n steps with the search's seed, of the lowest error."""
    trainings = [record for record in records if record.xi == xi and record.is_complete]
    trainings = [record for record in trainings if record.job.seed == run.seed]
    return min(trainings, key=lambda record: (record.error, record.job.lr))
