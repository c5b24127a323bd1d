"""The thin Hydra sweeper of search.py: asks a Sweep for jobs and hands them to the launcher.

Hydra finds sweepers only under `hydra_plugins`, and imports them at each start: nothing heavy here.
"""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FptasSweeper(Sweeper):
    """Candidates of the grid, best bound first, until the rest is proven worse."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over, and make the launcher of its configuration."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Launch the jobs of the search that these overrides describe, batch by batch."""
        from bort.search import callback

        parsed = OverridesParser.create().parse_overrides(overrides=arguments)
        sweeps = [override.input_line for override in parsed if override.is_sweep_override()]
        done = 0
        for opened in callback.open_searches(self.config, arguments, sweeps):
            with opened as search:
                while search and (batch := search.ask()):
                    # what a job finds no memory for beside others is tried again alone
                    beside = f"search.parallel={len(batch)}"
                    overrides = [[*search.arguments, *job.overrides, beside] for job in batch]
                    self.validate_batch_is_legal(overrides)
                    callback.launch(self.launcher, overrides, done, search, batch)
                    done += len(batch)


@dataclass
class FptasSweeperConf:
    """What hydra/sweeper=fptas stands for."""

    _target_: str = "hydra_plugins.bort_fptas.FptasSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="fptas", node=FptasSweeperConf, provider="bort"
)
