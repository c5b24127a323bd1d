"""Settings as the command line composes them."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.search import (
    SearchRunConfig,
)
from bort.config.train import TrainConfig

CONF = Path(__file__).resolve().parents[1] / "conf"
NEEDED = ["name=test", "output_dir=runs/test"]  # what only a job of Hydra has


def composed(*overrides: str, of: type[TrainConfig] = TrainConfig) -> TrainConfig:
    name = {TrainConfig: "train", SearchRunConfig: "search"}[of]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_settings(compose(name, [*NEEDED, *overrides]), of)
