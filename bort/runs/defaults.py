"""The settings that a run would have if its command line named its experiment alone."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bort.config.compose import CONF
from bort.runs.folder import RunFolder


def read_defaults(folder: Path) -> dict[str, Any]:
    """Return all settings of a run's experiment that have a default, flat.

    They are what conf/train.yaml and conf/experiment/ give without any other word on the command
    line. A run whose experiment is not recorded, or is gone, is compared with train.py alone.
    """
    overrides = RunFolder(folder).read_overrides() or []
    words = [word for word in overrides if word.startswith("experiment=")]
    name = words[-1].partition("=")[2] if words else ""
    exists = (CONF / "experiment" / f"{name}.yaml").is_file()
    return compose_defaults(name if exists else None)


@functools.cache
def compose_defaults(experiment: str | None) -> dict[str, Any]:
    """Compose the settings of an experiment, flat; None stands for train.py alone.

    A composition of Hydra that is in progress stays as it was.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = [f"experiment={experiment}"] if experiment else []
    running = GlobalHydra.instance().hydra  # of train.py, at the end of a run
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            values = OmegaConf.to_container(compose("train", words))
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)
    return {key: value for key, value in _flatten("", values) if value != "???"}


def _flatten(prefix: str, values: dict) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
