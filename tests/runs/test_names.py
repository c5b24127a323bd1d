"""Names of run folders."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bort.files import locks
from bort.runs.names import locate_rate_folder, reserve_name


@pytest.mark.parametrize("lr, name", [(4e-3, "lr_0.004"), (1e-5, "lr_1e-05"), (1.0, "lr_1")])
def test_a_rate_gives_the_same_folder_always(lr, name):
    assert locate_rate_folder("runs/x", "kd", lr) == Path("runs/x/kd", name)


def test_runs_of_one_second_have_names_of_their_own(tmp_path):
    def reserve() -> str:
        cfg = OmegaConf.create({"name": "${now:%Y}", "dry_run": False})
        assert reserve_name(cfg, lambda: tmp_path / cfg.name)
        return cfg.name

    if not OmegaConf.has_resolver("now"):
        OmegaConf.register_new_resolver("now", lambda form: "2020")
    first = reserve()
    assert [reserve(), reserve()] == [f"{first}-2", f"{first}-3"]
    locks.release()
    assert list(tmp_path.iterdir()) == []  # nothing was written there


def test_a_name_of_the_user_stays(tmp_path):
    cfg = OmegaConf.create({"name": "mine", "dry_run": False})
    assert not reserve_name(cfg, lambda: tmp_path / "mine")
    assert cfg.name == "mine" and list(tmp_path.iterdir()) == []
