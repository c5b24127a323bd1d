"""What a run folder holds, read for a page: settings, summary, curves."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bort.errors import BortError, nearest_path, shorten
from bort.files.untrusted import read_json as read_object
from bort.models.arch import Arch
from bort.runs.summary import RESTORE, check_numbers

LOSSES = ("train/loss", "train/kd_loss", "train/mlm_loss", "val/loss", "val_mm/loss", "val/kd_loss")
Curve = tuple[np.ndarray, np.ndarray]  # steps, values


@dataclass
class Run:
    """What a run folder holds; `summary` is empty while the run is not finished."""

    folder: Path
    settings: dict
    summary: dict
    curves: dict[str, Curve]

    @property
    def name(self) -> str:
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def scores(self) -> list[str]:
        """Columns with scores of validation sets."""
        other = (*LOSSES, "val/teacher_entropy")
        return [key for key in self.curves if key.startswith("val") and key not in other]


def read(folder: Path) -> Run:
    """The run in a folder; raises BortError where there is none, or one that cannot be read."""
    settings = read_json(folder / "settings.json")
    if not isinstance(settings, dict) or "job" not in settings:
        raise BortError(
            f"{folder} holds no run of bort: it has no settings.json of one; give a folder such as "
            "runs/kd_pretrain/NAME"
        )
    _check_settings(folder / "settings.json", settings)
    summary = read_json(folder / "summary.json") or {}
    check_numbers(folder / "summary.json", summary)
    curves = {}
    for name in ("metrics.csv", "perf.csv"):
        curves |= _curves(folder / name)
    return Run(folder, settings, summary, curves)


def expand(folder: Path) -> list[Run]:
    """The run in a folder, or the runs below one: a comparison, a sweep, a search."""
    if not folder.is_dir():
        raise BortError(f"{folder} does not exist{nearest_path(folder, folder.parent.glob('*/'))}")
    if (folder / "metrics.csv").is_file():
        return [read(folder)]
    inner = [path for depth in (1, 2, 3) for path in folder.glob("*/" * depth + "metrics.csv")]
    places = [path.parent for path in inner if (path.parent / "settings.json").is_file()]
    return [read(place) for place in sorted(places, key=_in_order)] or [read(folder)]


def _in_order(path: Path) -> list:
    """Numbers in names by their value, as the jobs of a sweep are numbered."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def read_json(path: Path) -> dict | None:
    """The object in a file of a run; None where there is no such file."""
    return read_object(path, RESTORE) if path.exists() else None


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


def _curves(path: Path) -> dict[str, Curve]:
    """The columns of a metrics file that hold numbers."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, tuple[list, list]] = {}
    try:
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            step = int(row.pop("step"))
            for key, value in row.items():
                if (number := _finite(value)) is not None:
                    steps, values = found.setdefault(key, ([], []))
                    steps.append(step)
                    values.append(number)
    except (ValueError, TypeError, KeyError, csv.Error):
        raise BortError(f"{path} is no table by step; restore it") from None
    return {key: (np.array(steps), np.array(values)) for key, (steps, values) in found.items()}


def _finite(cell: str) -> float | None:
    try:
        return value if math.isfinite(value := float(cell)) else None
    except ValueError:  # empty, or words
        return None
