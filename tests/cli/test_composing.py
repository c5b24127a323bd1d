"""Settings are composed as by the command line, and Hydra is left as it was."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from bort.cli.composing import compose_command
from bort.config.compose import CONF
from bort.errors import BortError


def test_what_only_a_job_of_hydra_has_resolves_inside():
    with compose_command("train", ["experiment=finetune", "name=x", "seed=3"]) as (cfg, hydra):
        assert cfg.output_dir == "runs/finetune/x" and cfg.seed == 3 and "hydra" not in cfg
        assert list(hydra.overrides.task) == ["experiment=finetune", "name=x", "seed=3"]


@pytest.mark.parametrize("words", [["seed=1"], ["no.such.key=1"]])
def test_hydra_comes_back_as_it_was(words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        try:
            with compose_command("train", words):
                assert GlobalHydra.instance().hydra is not before[0]
        except Exception as error:
            assert "no.such.key" in str(error)
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before
        assert compose("train", ["name=y"]).name == "y"


def test_settings_of_this_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("conf", 7), ("it's mine", 8)):
        Path(folder, "local").mkdir(parents=True)
        text = f"# @package _global_\nseed: {seed}\n"
        Path(folder, "local", "default.yaml").write_text(text, "utf-8")
    for config_dir, seed in ((None, 7), ("it's mine", 8), (tmp_path / "conf", 7)):
        with compose_command("search", ["name=x"], config_dir) as (cfg, _):
            assert cfg.seed == seed
    with pytest.raises(BortError, match="config_dir=none is not a folder"):
        with compose_command("train", [], "none"):
            pass
