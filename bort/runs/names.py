"""Names of run folders: one that no other run has, those inside a run, and short ones to show."""

import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bort.files import locks


def reserve_name(cfg: DictConfig, locate: Callable[[], Path]) -> bool:
    """Give a run that is named by the time of day a name that no run of the same second has.

    cfg: has `name` and `dry_run`; its name gets a suffix if the folder is taken. locate: returns
    the folder that belongs to the name. `locks.release` removes the folder if nothing is written
    there. Returns whether there was anything to do.
    """
    name = OmegaConf.to_container(OmegaConf.masked_copy(cfg, "name"), resolve=False)["name"]
    if "${now:" not in str(name) or cfg.dry_run or "LOCAL_RANK" in os.environ:
        return False
    number, stamp = 1, cfg.name
    cfg.name = stamp
    while not locks.reserve(locate()):
        number += 1
        cfg.name = f"{stamp}-{number}"
    return True


def locate_rate_folder(folder: str | os.PathLike, arm: str, lr: float) -> Path:
    """Return the folder of one arm of a comparison at one learning rate."""
    return Path(folder, arm, f"lr_{lr:g}")


def shorten_names(folders: list[Path]) -> list[str]:
    """Return the names of folders without the path that they share."""
    if len(folders) == 1:
        return [folders[0].name]
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]
