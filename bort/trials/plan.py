"""What is known of a search before its first training, and how it is kept on the disk.

T, what its pass over the texts gave, and parameters and latency of every candidate. A plan that was
changed or damaged is refused.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
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
from bort.files.run_files import DOCUMENTS, ENTROPY, PLAN
from bort.models.arch import Arch
from bort.objectives.parameters import count_int8_bytes, infer_vocab_size
from bort.runs.folder import RunFolder

VERSION = 1  # of a search's files; another one is refused
ARRAYS = (ENTROPY, DOCUMENTS)  # in `teacher`, one number per masked position


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
    positions (or tokens, of final states) decide an error, and of how many documents.
    teacher_flops: of T's pass over the training batches of one seed; teacher_val_flops: over the
    held-out ones. arrays: digests of the files of T's pass.
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
