"""What a search keeps on the disk: its plan and one record per training, each with a check value.

A record says what it was measured with: the settings of the search, T, the text and the masked
positions. One that was changed, damaged, or belongs to another search is refused.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.files.checked import (
    compute_check_value,
    digest_content,
    load_array,
    read_checked,
    write_checked,
)
from bort.files.run_files import DOCUMENTS, ENTROPY, PLAN, TRIAL
from bort.models.arch import Arch
from bort.objectives.parameters import count_int8_bytes, infer_vocab_size
from bort.runs.folder import RunFolder

VERSION = 1  # of the files below; another one is refused
ARRAYS = (ENTROPY, DOCUMENTS)  # in `teacher`, one number per masked position
REMEDY = "delete its folder and repeat the command"


@dataclass(frozen=True)
class Job:
    """One training: ξ, the seed of its start and its batches, and the rate before `kappa`."""

    xi: Arch
    seed: int
    lr: float

    def __str__(self) -> str:
        return f"{self.xi} with seed {self.seed}, lr {self.lr:g}"

    @property
    def folder(self) -> str:
        """The name of its folder in that of the search."""
        depth, heads, hidden, intermediate = self.xi.to_json()
        xi = f"D{depth}-A{heads}-H{hidden}-I{intermediate}"
        return f"{xi}-s{self.seed}-lr{self.lr}"

    @property
    def overrides(self) -> list[str]:
        """The settings in which it differs from the search, and its folder, as Hydra reads them."""
        sizes = [f"{key}={value}" for key, value in self.xi.to_table("arch.").items()]
        folder = f"hydra.sweep.subdir={self.folder}"
        return [*sizes, f"seed={self.seed}", f"optim.lr={self.lr}", folder]


# ------------------------------------------------------------------------------------ the plan


@dataclass(frozen=True)
class Origin:
    """What all records of a search were measured with; every record repeats it.

    settings: digest of settings.json; teacher: of T; corpus: of the text; positions: of the masked
    positions and of T's entropies there; n: training steps of a candidate.
    """

    version: int
    settings: str
    teacher: str
    corpus: str
    positions: str
    n: int

    WORDS = {
        "version": "version of bort",
        "settings": "set of settings",
        "teacher": "teacher",
        "corpus": "text",
        "positions": "set of masked positions",
        "n": "number of steps",
    }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read it out of a record or a plan; raises KeyError for a value that is missing."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class GridPoint:
    """A candidate before it is trained.

    parameters: p; body: parameters without embeddings and output layer; latency: median, lower and
    upper quartile, in the unit of the plan; flops: of its training, 0 until they are counted.
    """

    xi: Arch
    parameters: int
    body: int
    latency: list[float]
    flops: float = 0.0


@dataclass(frozen=True)
class MaximumPoint:
    """T, the maximum point: the teacher of all candidates.

    error: the mean entropy of its own output, in nats; unigram_error: the cross-entropy of word
    frequencies against its output.
    """

    xi: Arch
    name: str | None
    digest: str
    parameters: int
    latency: list[float]
    error: float = 1.0
    unigram_error: float = math.inf


def _read_point(kind: type, content: dict[str, Any]) -> Any:
    """Read T or a candidate as search.json has it."""
    return kind(**content | {"xi": Arch.from_json(content["xi"])})


def _spell_point(point: GridPoint | MaximumPoint) -> dict[str, Any]:
    """Spell T or a candidate as search.json has it."""
    return asdict(point) | {"xi": point.xi.to_json()}


@dataclass(frozen=True)
class SearchPlan:
    """What is known before the first training: T, what its pass gave, every candidate's p and î.

    invalid: points of the grid without a whole head size. positions, documents: how many masked
    positions decide an error, and of how many documents. teacher_flops: of T's pass over the
    training batches of one seed; teacher_val_flops: over the held-out ones. arrays: digests of the
    files of T's pass.
    """

    teacher: MaximumPoint
    points: list[GridPoint]
    invalid: list[Arch]
    exponents: list[float]
    latency_unit: str
    latency_note: str
    positions: int = 0
    documents: int = 0
    teacher_flops: float = 0.0
    teacher_val_flops: float = 0.0
    teacher_pass_seconds: float = 0.0
    arrays: dict[str, str] | None = None
    origin: Origin | None = None

    @property
    def flops(self) -> dict[Arch, float]:
        """The FLOPs of each candidate's training."""
        return {point.xi: point.flops for point in self.points}

    def count_megabytes(self, positions: int) -> dict[Arch, float]:
        """Count the megabytes of each candidate's int8 file: embeddings and layers, without a head.

        positions: how many a model has.
        """
        sizes = {}
        for point in self.points:
            vocab_size = round(infer_vocab_size(point.parameters, point.xi, positions))
            sizes[point.xi] = count_int8_bytes(point.xi, vocab_size, positions) / 1e6
        return sizes

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read the content of search.json; raises KeyError or TypeError for another content."""
        latency = content["latency"]
        return cls(
            teacher=_read_point(MaximumPoint, content["teacher"]),
            points=[_read_point(GridPoint, point) for point in content["points"]],
            invalid=[Arch.from_json(sizes) for sizes in content["invalid"]],
            latency_unit=latency["unit"],
            latency_note=latency["note"],
            origin=Origin.from_json(content["origin"]),
            **{key: content[key] for key in ("exponents", "positions", "documents", "arrays")},
            **{key: content[key] for key in ("teacher_flops", "teacher_pass_seconds")},
            teacher_val_flops=content.get("teacher_val_flops", 0.0),  # older plans lack it
        )

    def to_json(self) -> dict[str, Any]:
        """Give the content of search.json."""
        content = {
            "teacher": _spell_point(self.teacher),
            "points": [_spell_point(point) for point in self.points],
            "invalid": [xi.to_json() for xi in self.invalid],
            "latency": {"unit": self.latency_unit, "note": self.latency_note},
            "origin": asdict(self.origin),
        }
        plain = ("exponents", "positions", "documents", "teacher_flops", "teacher_val_flops")
        plain += ("teacher_pass_seconds", "arrays")
        return content | {key: getattr(self, key) for key in plain}


def locate_training_pass(folder: Path, seed: int) -> Path:
    """Return the path, without suffix, of T's states over the training batches of a seed."""
    return RunFolder(folder).teacher / f"train-s{seed}"


def locate_val_pass(folder: Path) -> Path:
    """Return the path, without suffix, of T's states over the held-out batches."""
    return RunFolder(folder).teacher / "val"


def list_training_passes(folder: Path) -> list[Path]:
    """List the indices of T's passes over training batches, one per seed."""
    return sorted(RunFolder(folder).teacher.glob("train-s*.npy"))


def write_plan(folder: Path, plan: SearchPlan, run: SearchRunConfig, corpus: str) -> SearchPlan:
    """Write search.json; returns the plan with what every record of the search will carry.

    corpus: the digest of the text; the arrays of T lie in the folder already.
    """
    run_folder = RunFolder(folder)
    digests = {key: digest_content(run_folder.teacher / key) for key in ARRAYS}
    origin = Origin(
        version=VERSION,
        settings=digest_content(run_folder.settings_file),
        teacher=plan.teacher.digest,
        corpus=corpus,
        positions=compute_check_value(digests),
        n=run.search.n,
    )
    plan = replace(plan, arrays=digests, origin=origin)
    write_checked(folder / PLAN, plan.to_json())
    return plan


def read_plan(folder: Path) -> SearchPlan:
    """Read search.json.

    Raises BortError when it, or a file that it rests on, is not as it was written.
    """
    remedy = "use another name=, or resume=false"
    content = read_checked(folder / PLAN, remedy)
    try:
        if content["origin"]["version"] != VERSION:
            raise BortError(f"{folder} was written by another version of bort; {remedy}")
        plan = SearchPlan.from_json(content)
    except (KeyError, TypeError) as error:
        raise BortError(f"{folder / PLAN} lacks {error}; {remedy}") from None
    run_folder = RunFolder(folder)
    if digest_content(run_folder.settings_file) != plan.origin.settings:
        raise BortError(f"{run_folder.settings_file} is missing, changed or damaged; {remedy}")
    for key, digest in plan.arrays.items():
        load_array(run_folder.teacher / key, digest, remedy)
    return plan


# ------------------------------------------------------------------------------------ records


class TrialStatus(StrEnum):
    """How a training ended."""

    TRAINED = "trained"
    FAILED = "failed"
    CROWDED = "crowded"  # out of memory beside other trainings: no result yet


@dataclass(frozen=True)
class TrialRecord:
    """The record of one training, `point.json` in its folder.

    Of one that ended well: lr, the peak rate of its width; losses, the digest of losses.npy, nats
    at each masked position; error, their mean; kl_by_step, KL to T at earlier validations, which
    looked at look_positions of the masked positions (None: at all); seconds of training and `wall`
    seconds in all. Of one that failed: the reason, and whether the loss
    became no number; otherwise nobody knows which error it would have.
    """

    job: Job
    origin: Origin
    status: TrialStatus
    lr: float | None = None
    losses: str | None = None
    error: float | None = None
    kl_by_step: dict[str, float] | None = None
    look_positions: int | None = None
    mlm_accuracy: float | None = None
    seconds: float | None = None
    wall: float | None = None
    reason: str = ""
    diverged: bool = False

    MEASURED = ("lr", "losses", "error", "kl_by_step", "mlm_accuracy", "seconds", "wall")
    LATER = ("look_positions",)  # older records lack it
    FAILURE = ("reason", "diverged")

    @property
    def xi(self) -> Arch:
        """The architecture that was trained."""
        return self.job.xi

    @property
    def is_trained(self) -> bool:
        """Whether the training ended well, so that there is an error."""
        return self.status is TrialStatus.TRAINED

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a point.json; raises KeyError, TypeError or ValueError for another content."""
        status = TrialStatus(content["status"])
        keys = cls.MEASURED if status is TrialStatus.TRAINED else cls.FAILURE
        return cls(
            Job(Arch.from_json(content["xi"]), content["seed"], content["base_lr"]),
            Origin.from_json(content),
            status,
            **{key: content[key] for key in keys},
            **{key: content.get(key) for key in cls.LATER},
        )

    def to_json(self) -> dict[str, Any]:
        """Give the content of point.json."""
        job = {"xi": self.xi.to_json(), "seed": self.job.seed, "base_lr": self.job.lr}
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
    """Find the training of ξ that counts: with the search's seed, the rate of the lowest error."""
    trainings = [r for r in records if r.xi == xi and r.job.seed == run.seed and r.is_trained]
    return min(trainings, key=lambda record: (record.error, record.job.lr))
