"""The settings of a command, composed by Hydra from its words without running anything."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict

from bort.config.compose import CONF, find_local_settings
from bort.config.overrides import to_word
from bort.errors import BortError


@contextmanager
def compose_command(
    command: str, words: list[str], config_dir: str | os.PathLike | None = None
) -> Iterator[tuple[DictConfig, DictConfig]]:
    """Compose the settings of `train` or `search`; gives them and Hydra's own.

    words: settings as on the command line. config_dir: a folder of further configurations; by
    default `conf` of the folder that we are in, if it has a `local`. Within the context
    `${hydra:…}` resolves. Whatever of Hydra is in use already is set aside, and comes back.
    """
    extra = find_local_settings() if config_dir is None else Path(config_dir)
    if extra is not None:
        if not extra.is_dir():
            raise BortError(f"config_dir={extra} is not a folder; name one with files as conf/ has")
        address = to_word(f"file://{extra.absolute()}")
        words = [*words, f"hydra.searchpath=[{address}]"]
    before = (
        (GlobalHydra.instance(), "hydra", GlobalHydra.instance().hydra),
        (HydraConfig.instance(), "cfg", HydraConfig.instance().cfg),
        (VersionBase.instance(), "version_base", VersionBase.instance().version_base),
    )
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=command):
            cfg = compose(command, words, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            settings = cfg.copy()
            with open_dict(settings):
                del settings["hydra"]
            yield settings, HydraConfig.get()
    finally:
        for owner, name, value in before:
            setattr(type(owner).instance(), name, value)
