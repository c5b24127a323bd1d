"""`python search.py …` and `bort search …`: the optimal architecture of a grid."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bort import shell
from bort.config import search as search_config
from bort.config.compose import CONF, parse_settings
from bort.console import show_log

search_config.register(search_config.SearchRunConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="search")
def main(cfg: DictConfig) -> float:
    """One candidate, as the sweeper's launcher runs it; returns its error, NaN for a failed one."""
    show_log()  # a launcher's process has not passed through the shell
    run = parse_settings(cfg, search_config.SearchRunConfig)
    with shell.loading(shell.program()):  # torch, only now
        from bort.search import sweep

    folder = Path(HydraConfig.get().runtime.output_dir)
    with shell.resumable(cfg.name):
        record = sweep.evaluate(run, Path(run.output_dir), folder)
    return record.get("error", float("nan"))
