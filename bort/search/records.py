"""What a search keeps on the disk: its plan and one record per training, each with a check value.

A record says what it was measured with: the settings of the search, T, the text and the masked
positions. One that was changed, damaged, or belongs to another search is refused.
"""

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.files.untrusted import parse_json
from bort.files.writing import replacing, write_json
from bort.models.arch import Arch

VERSION = 1  # of the files below; another one is refused
ORIGIN = ("version", "settings", "teacher", "corpus", "positions", "n")  # what all records share
ARRAYS = ("entropy.npy", "documents.npy")  # in `teacher`, one number per masked position


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
        """As conf/search.yaml names it."""
        return f"{self.xi.folder_name}-s{self.seed}-lr{self.lr}"

    @property
    def overrides(self) -> list[str]:
        sizes = [f"{key}={value}" for key, value in self.xi.to_table("arch.").items()]
        return [*sizes, f"seed={self.seed}", f"optim.lr={self.lr}"]


# ------------------------------------------------------------------------------- checked files


def check_value(content: dict[str, Any]) -> str:
    """16 digits that change with any value of what JSON keeps of `content`."""
    plain = json.loads(json.dumps(content, default=str))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_checked(path: Path, content: dict[str, Any]) -> None:
    write_json(path, content | {"check": check_value(content)})


def read_checked(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a file of `write_checked`, without the check value.

    Raises BortError, with what to do, for one that is not as it was written.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
        check = content.pop("check")
        fits = check == check_value(content)
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise BortError(f"{path} was changed, damaged or written by another version; {remedy}")
    return content


def save_array(path: Path, array: np.ndarray) -> str:
    """Write an array, whole and on the disk; returns a digest of its file."""
    file = io.BytesIO()
    np.save(file, array)
    with replacing(path) as target:
        target.write(file.getvalue())
    return hashlib.sha256(file.getvalue()).hexdigest()[:16]


def load_array(path: Path, digest: str, remedy: str) -> np.ndarray:
    """An array of `save_array`; raises BortError when it is not the one with this digest."""
    if _file_digest(path) != digest:
        raise BortError(f"{path} is missing, changed or damaged; {remedy}")
    return np.load(path, allow_pickle=False)


# ------------------------------------------------------------------------------------ the plan


def write_plan(folder: Path, plan: dict, run: SearchRunConfig, corpus: str) -> dict:
    """Write search.json and return it, with what every record of the search will carry.

    corpus: the digest of the text; the arrays of T lie in the folder already.
    """
    digests = {key: _file_digest(folder / "teacher" / key) for key in ARRAYS}
    origin = {
        "version": VERSION,
        "settings": _file_digest(folder / "settings.json"),
        "teacher": plan["teacher"]["digest"],
        "corpus": corpus,
        "positions": check_value(digests),
        "n": run.search.n,
    }
    plan = plan | {"arrays": digests, "origin": origin}
    write_checked(folder / "search.json", plan)
    return plan


def read_plan(folder: Path) -> dict:
    """Raises BortError when it, or a file that it rests on, is not as it was written."""
    remedy = "use another name=, or resume=false"
    plan = read_checked(folder / "search.json", remedy)
    if plan["origin"]["version"] != VERSION:
        raise BortError(f"{folder} was written by another version of bort; {remedy}")
    if _file_digest(folder / "settings.json") != plan["origin"]["settings"]:
        raise BortError(f"{folder}/settings.json is missing, changed or damaged; {remedy}")
    for key, digest in plan["arrays"].items():
        load_array(folder / "teacher" / key, digest, remedy)
    return plan


def _file_digest(path: Path) -> str:
    """Of the content; of an absent file that of an empty one."""
    content = path.read_bytes() if path.is_file() else b""
    return hashlib.sha256(content).hexdigest()[:16]


# ------------------------------------------------------------------------------------ records


REMEDY = "delete its folder and repeat the command"
CROWDED = "crowded"  # out of memory beside other trainings: no result yet


def job_of(record: dict) -> Job:
    return Job(record["xi"], record["seed"], record["base_lr"])


def origin_of(plan: dict, job: Job) -> dict:
    """The first part of a record: what was trained, and what it is measured with."""
    return {"xi": job.xi.to_json(), "seed": job.seed, "base_lr": job.lr, **plan["origin"]}


def failed_record(plan: dict, job: Job, reason: str, diverged: bool = False) -> dict:
    """diverged: the loss became no number; otherwise nobody knows which error it would have."""
    failure = {"status": "failed", "reason": reason, "diverged": diverged}
    return origin_of(plan, job) | failure


def read_record(path: Path, plan: dict) -> dict:
    """A point.json; raises BortError for one that is changed or does not belong to this search."""
    record = read_checked(path, REMEDY)
    try:
        record["xi"] = Arch.from_json(record["xi"])
        job = job_of(record)
        if job.folder != path.parent.name:
            raise BortError(f"{path} is the record of {job.folder}; {REMEDY}")
        for key in ORIGIN:
            if record[key] != (ours := plan["origin"][key]):
                raise BortError(
                    f"{path} was measured with another {_words(key)} ({record[key]}, here {ours}); "
                    f"{REMEDY}"
                )
        if record["status"] == "trained" and not math.isfinite(record["error"]):
            raise BortError(f"{path} has no number for an error; {REMEDY}")
    except (KeyError, TypeError) as error:
        raise BortError(f"{path} lacks {error}; {REMEDY}") from None
    return record


def _words(key: str) -> str:
    words = {"version": "version of bort", "settings": "set of settings", "corpus": "text"}
    words |= {"positions": "set of masked positions", "n": "number of steps"}
    return words.get(key, key)


def records(folder: Path, plan: dict | None = None) -> list[dict]:
    """Every candidate training that has ended, in a fixed order.

    plan: of the search in `folder`, where it has been read. Raises BortError for a record that is
    changed or belongs to another search.
    """
    paths = sorted(folder.glob("D*/point.json"))
    if not paths:
        return []
    plan = plan or read_plan(folder)
    content = [read_record(path, plan) for path in paths]
    return [record for record in content if record["status"] != CROWDED]


def crowded_jobs(folder: Path, plan: dict) -> list[Job]:
    """Trainings that found no memory beside others, and are still to be tried alone."""
    paths = sorted(folder.glob("D*/point.json"))
    content = [read_record(path, plan) for path in paths]
    return [job_of(record) for record in content if record["status"] == CROWDED]


def best_record(found: list[dict], xi: Arch, run: SearchRunConfig) -> dict:
    """The training of ξ that counts: of the sweep's own seed, the rate with the lowest error."""
    own = [r for r in found if r["xi"] == xi and r["seed"] == run.seed and r["status"] == "trained"]
    return min(own, key=lambda r: (r["error"], r["base_lr"]))


class Paired:
    """Paired bootstrap over documents: all candidates are scored at the same positions."""

    def __init__(self, folder: Path, found: list[dict], run: SearchRunConfig, count: int = 1000):
        self.folder, self.run, self.count = folder, run, count
        self.found = found
        self._weights: np.ndarray | None = None
        self._errors: dict[Arch, np.ndarray] = {}

    def _resampled(self, losses: np.ndarray) -> np.ndarray:
        """Means (count,) of resampled documents."""
        if self._weights is None:
            documents = np.load(self.folder / "teacher" / "documents.npy")
            _, self.inverse = np.unique(documents, return_inverse=True)
            self.sizes = np.bincount(self.inverse)
            rng = np.random.default_rng(0)
            n = len(self.sizes)
            self._weights = rng.multinomial(n, np.full(n, 1 / n), self.count).astype(float)
        sums = np.bincount(self.inverse, weights=losses.astype(float))
        return (self._weights @ sums) / (self._weights @ self.sizes)

    def teacher(self) -> np.ndarray:
        return self._resampled(np.load(self.folder / "teacher" / "entropy.npy"))

    def error(self, xi: Arch) -> np.ndarray:
        """Resampled errors (count,) of the training of ξ that counts."""
        if xi not in self._errors:
            record = best_record(self.found, xi, self.run)
            path = self.folder / Job(xi, self.run.seed, record["base_lr"]).folder / "losses.npy"
            self._errors[xi] = self._resampled(load_array(path, record["losses"], REMEDY))
        return self._errors[xi]

    def worse(self, small: Arch, large: Arch) -> bool:
        """Whether the larger one's error is higher beyond the 95% interval of their difference."""
        return float(np.quantile(self.error(large) - self.error(small), 0.025)) > 0
