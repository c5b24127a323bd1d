"""LoadedRun: the settings, the summary and the curves of a run, read at once for a page."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bort.errors import BortError, shorten, suggest_path
from bort.files.run_files import METRICS, THREADS
from bort.files.untrusted import read_json
from bort.models.arch import Arch
from bort.runs.folder import RunFolder
from bort.runs.summary import RESTORE, RunSummary

# What the loss of a pre-training is the sum of.
TRAINING_PARTS = ("train/kd_loss", "train/mlm_loss", "train/hidden_loss", "train/relation_loss")
LOSSES = ("train/loss", *TRAINING_PARTS, "val/loss", "val_mm/loss", "val/kd_loss")
LOSSES += ("val/hidden_loss", "val/relation_loss")
Curve = tuple[np.ndarray, np.ndarray]  # steps, values


@dataclass(frozen=True)
class LoadedRun:
    """What a run folder holds; `summary` is empty while the run is not finished."""

    folder: RunFolder
    settings: dict
    summary: RunSummary
    curves: dict[str, Curve]

    @property
    def name(self) -> str:
        """The last two parts of the folder's path: the experiment and the name."""
        return "/".join(self.folder.path.absolute().parts[-2:])

    @property
    def scores(self) -> list[str]:
        """The columns with scores of validation sets."""
        losses = (*LOSSES, "val/teacher_entropy")
        return [key for key in self.curves if key.startswith("val") and key not in losses]


def load_run(path: Path) -> LoadedRun:
    """Load the run in a folder; raises BortError where there is none that can be read."""
    folder = RunFolder(path)
    settings = _read_if_present(folder.settings_file)
    if settings is None or "job" not in settings:
        raise BortError(
            f"{folder} holds no run of bort: it has no settings.json of one; give a folder such as "
            "runs/kd_pretrain/NAME"
        )
    settings.pop(THREADS, None)  # it stands in the summary, too
    _check_settings(folder.settings_file, settings)
    values = _read_if_present(folder.summary_file) or {}
    summary = RunSummary.from_json(values, folder.summary_file)
    curves = read_curves(folder.metrics) | read_curves(folder.performance)
    return LoadedRun(folder, settings, summary, curves)


def load_runs(folder: Path) -> list[LoadedRun]:
    """Load the run in a folder, or the runs below it: of a comparison, a sweep or a search."""
    if not folder.is_dir():
        raise BortError(f"{folder} does not exist{suggest_path(folder, folder.parent.glob('*/'))}")
    if RunFolder(folder).metrics.is_file():
        return [load_run(folder)]
    tables = [path for depth in (1, 2, 3) for path in folder.glob("*/" * depth + METRICS)]
    runs = [path.parent for path in tables if RunFolder(path.parent).settings_file.is_file()]
    return [load_run(run) for run in sorted(runs, key=_order_by_numbers)] or [load_run(folder)]


def _order_by_numbers(path: Path) -> list:
    """Return a key that sorts numbers in names by their value: the jobs of a sweep are numbered."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read_if_present(path: Path) -> dict | None:
    """Return the object in a file of a run; None where there is no such file."""
    return read_json(path, RESTORE) if path.exists() else None


def _check_settings(path: Path, values: dict) -> None:
    """Raise BortError for a setting that a page reads and that is missing, or of another type."""
    kinds: dict[str, tuple] = {"data.length": (int,), "data.mask_rate": (int, float)}
    kinds |= {f"arch.{size}": (int,) for size in Arch.KEYS} | {"distill.w_kd": (int, float)}
    kinds |= {key: (str, type(None)) for key in ("task", "model", "data.path", "teacher.name")}
    kinds |= {key: (str,) for key in ("job", "data.source")}
    for key, allowed in kinds.items():
        if key not in values:
            raise BortError(f"{path} lacks {key}; restore it or remove the run")
        if not isinstance(values[key], allowed) or isinstance(values[key], bool):
            raise BortError(f"{path}: {key} is {shorten(repr(values[key]), 40)}; restore it")


def read_curves(path: Path) -> dict[str, Curve]:
    """Read the columns of a metrics file that hold numbers; of none where there is no such file.

    What a kill left half-written at the end is no row. Raises BortError for another table.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    curves: dict[str, tuple[list, list]] = {}
    try:
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            step = int(row.pop("step"))
            for key, value in row.items():
                if (number := _parse_finite(value)) is not None:
                    steps, values = curves.setdefault(key, ([], []))
                    steps.append(step)
                    values.append(number)
    except (ValueError, TypeError, KeyError, csv.Error):
        raise BortError(f"{path} is no table by step; restore it") from None
    return {key: (np.array(steps), np.array(values)) for key, (steps, values) in curves.items()}


def _parse_finite(cell: str) -> float | None:
    """Return the number in a cell; None for a cell that is empty, or holds words."""
    try:
        return value if math.isfinite(value := float(cell)) else None
    except ValueError:
        return None
