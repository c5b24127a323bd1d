"""What a run is compared with: the defaults of its experiment, as Hydra composes them."""

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from bort.config.compose import CONF
from bort.runs.defaults import compose_defaults, read_defaults


def record(folder, *words: str):
    """A run folder whose command line had these words."""
    (folder / ".hydra").mkdir(parents=True)
    lines = "".join(f"- {word}\n" for word in words)
    (folder / ".hydra" / "overrides.yaml").write_text(lines or "[]")
    return folder


def test_defaults_are_composed_inside_a_job_of_hydra(tmp_path):
    """As at the end of train.py; what the job composes from is in place again afterwards."""
    folder = record(tmp_path / "run", "experiment=kd_pretrain", "arch.hidden=16")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        compose_defaults.cache_clear()
        assert read_defaults(folder)["arch.hidden"] == 64
        assert GlobalHydra.instance().hydra is running
    assert not GlobalHydra.instance().is_initialized()


def test_an_experiment_that_is_gone_or_not_recorded_is_train_alone(tmp_path):
    alone = compose_defaults(None)
    assert read_defaults(record(tmp_path / "gone", "experiment=nobody_has_it")) == alone
    assert read_defaults(record(tmp_path / "none")) == read_defaults(tmp_path) == alone
    assert read_defaults(record(tmp_path / "agora", "experiment=agora"))["job"] == "agora"
    assert alone["job"] != "agora"
