"""`python search.py …` and `bort search …`: the optimal architecture of a grid."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bort import shell
from bort.config.command_line import asks_for_help
from bort.config.compose import CONF, parse_settings
from bort.config.search import SearchRunConfig, register
from bort.console import show_log

register(SearchRunConfig)


def main() -> None:
    """Run what the command line asks for, or explain what it may ask for."""
    if asks_for_help(sys.argv[1:]):
        from bort.cli.help import show_help

        show_help("search", SearchRunConfig)
    else:
        run_composed()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="search")
def run_composed(cfg: DictConfig) -> float:
    """Train one candidate, as the sweeper's launcher asks; returns its error, NaN if it failed."""
    show_log()  # a launcher's process has not passed through the shell
    run = parse_settings(cfg, SearchRunConfig)
    with shell.loading(shell.program()):  # torch, only now
        from bort.search import sweep

    folder = Path(HydraConfig.get().runtime.output_dir)
    with shell.resumable(cfg.name):
        record = sweep.evaluate(run, Path(run.output_dir), folder)
    return float("nan") if record.error is None else record.error
