"""Commands, as a user types them, that repeat a run or resume it."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bort.config.distill import TeacherConfig
from bort.config.optim import width_lr
from bort.config.search import STATES
from bort.console import typed
from bort.models.arch import Arch
from bort.runs.folder import RunFolder

# Settings of a search that decide how its candidates are trained.
CARRIED = ("data", "teacher", "optim", "init", "distill", "dropout")
LESSON = ("task", "teacher.name", "head", "dropout", "optim")  # on a task; all of data and distill


def compose_task_training(folder: Path, trial: Path) -> str:
    """Return the words after `python` that go on teaching the optimum of a search on a task.

    folder: holds the settings of the search. trial: the run folder of the optimum's training there.
    """
    words = ["train.py", "experiment=kd_finetune", f"model={trial}"]
    for word in RunFolder(folder).read_overrides() or []:
        key = word.partition("=")[0].lstrip("+~")
        if key in LESSON or key.split(".")[0] in ("data", "distill"):
            words.append(word)
    return shlex.join(words)


def compose_training(folder: Path, optimum: Path, hidden: int, lr: float | None) -> str:
    """Return the words after `python` that pre-train an optimum as its search trained it.

    folder: holds the settings of the search, or of the winning run of a sweep. hidden, lr: the
    optimum's width and the rate that it was trained at.
    """
    words = ["train.py", "experiment=kd_pretrain", f"arch_file={optimum}"]
    settings = RunFolder(folder).read_settings() or {}
    teacher = spell_teacher(settings)
    for word in RunFolder(folder).read_overrides() or []:
        key = word.partition("=")[0].lstrip("+~")
        is_spelled = teacher and key.startswith("teacher.arch")
        if key.split(".")[0] in CARRIED and key != "optim.lr" and not is_spelled:
            words.append(word)
    words += teacher
    if settings.get("search.proxy") == STATES:
        words.append("distill.w_hidden=1")
    by_rule = lr is None or math.isclose(lr, width_lr(hidden), rel_tol=1e-4)
    if not by_rule or any(word.startswith("optim=") for word in words):  # the group has a rate
        words.append(f"optim.lr={lr:.6g}")
    return shlex.join(words)


def spell_teacher(settings: Mapping[str, Any]) -> list[str]:
    """Spell the sizes of a teacher that is trained first, if they are not those of train.py.

    settings: flat ones.
    """
    if settings.get("teacher.name") or "teacher.arch.depth" not in settings:
        return []
    arch = Arch.from_table(settings, "teacher.arch.")
    if arch == TeacherConfig().arch.to_arch():
        return []
    sizes = ", ".join(f"{key}: {size}" for key, size in arch.to_table().items())
    return [f"teacher.arch={{{sizes}}}"]


def compose_command(folder: Path, program: str, name: str) -> str | None:
    """Return the command that started the run in `folder`; None where that is not recorded."""
    if (words := RunFolder(folder).read_overrides()) is None:
        return None
    if not any(word.startswith("name=") for word in words):
        words.append(f"name={name}")
    return typed(f"{program} {shlex.join(words)}")
