"""`python train.py …` and `bort train …`: one training, or a sweep of several."""

import logging
import sys
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bort import shell
from bort.config.command_line import asks_for_help
from bort.config.compose import CONF
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import shorten

logger = logging.getLogger(__name__)


def main() -> None:
    """Run what the command line asks for, or explain what it may ask for."""
    if asks_for_help(sys.argv[1:]):
        from bort.cli.help import show_help

        show_help("train", TrainConfig)
    else:
        run_composed()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run_composed(cfg: DictConfig) -> float | None:
    """Run one job; in a sweep, a mistake in it is a result of the sweep and not its end."""
    # Not at the top: --help, --cfg and completion need none of it.
    from bort.cli import jobs
    from bort.runs.failures import note_failure

    show_log()  # a launcher's process has not passed through the shell
    hydra_settings = HydraConfig.get()
    is_sweep = hydra_settings.mode is RunMode.MULTIRUN
    folder = None
    try:
        with shell.resumable(cfg.name):
            folder = jobs.locate_folder(cfg, hydra_settings)
            loading = partial(shell.loading, shell.program())
            summary = jobs.run_job(cfg, hydra_settings, folder, loading)
            return None if summary is None else jobs.read_objective(summary)
    except Exception as error:
        line = shell.mistake(error)
        if line is None:
            raise
        if not is_sweep:
            shell.stop(1, f"{shell.program()}: {line}")  # now: Hydra would add a line of its own
        line = f"{shell.program()}: {folder}: {line}"
        logger.info(shorten(line, shell.LONGEST_LINE, keep_end=True))
        if folder is not None:
            note_failure(folder)
        return float("nan")
