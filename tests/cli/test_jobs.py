"""The path that a command and bort.run share: the folder of a job, and what a sweeper minimises."""

import json
import math
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from tiny_runs import log_lines

from bort.cli.composing import compose_command
from bort.cli.jobs import locate_folder, make_launcher, read_objective, run_job
from bort.errors import BortError
from bort.runs.summary import RunSummary


def job(mode: RunMode, output_dir: str):
    """The settings of a job, and as much of Hydra's own as its folder depends on."""
    hydra = {"mode": mode, "runtime": {"output_dir": f"{output_dir}/3"}}
    settings = {"name": "x", "dry_run": False, "output_dir": output_dir}
    return OmegaConf.create(settings), OmegaConf.create(hydra)


def test_a_folder_is_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BORT_RUN_FOLDER", "")  # which is set, and comes back
    assert locate_folder(*job(RunMode.RUN, "runs/x")) == Path("runs/x")
    assert locate_folder(*job(RunMode.RUN, f"{tmp_path}/runs/x")) == Path("runs/x")
    assert locate_folder(*job(RunMode.RUN, "/elsewhere/x")) == Path("/elsewhere/x")
    assert locate_folder(*job(RunMode.MULTIRUN, f"{tmp_path}/runs")) == Path("runs/3")


def test_the_processes_of_a_training_share_the_first_ones_folder(monkeypatch):
    monkeypatch.setenv("BORT_RUN_FOLDER", "")
    locate_folder(*job(RunMode.RUN, "runs/12_00_00"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert locate_folder(*job(RunMode.RUN, "runs/12_00_01")) == Path("runs/12_00_00")


def test_no_launcher_is_used_where_none_was_chosen():
    with compose_command("train", ["experiment=agora", "name=x"]) as (_, hydra):
        assert make_launcher(hydra, Path("runs/agora/x")) is None


@pytest.mark.parametrize(
    ("summary", "value"),
    [
        ({"val/loss": 3.5}, 3.5),
        ({}, None),
        ({"metric": "val/accuracy", "val/accuracy": 0.5, "val/loss": 1.0}, 0.5),
    ],
)
def test_what_a_sweeper_minimises(summary, value):
    assert read_objective(RunSummary(summary)) == value


def test_a_score_that_is_not_defined_is_a_failed_trial():
    undefined = RunSummary({"metric": "val/pearson", "val/pearson": None})
    assert math.isnan(read_objective(undefined))


@pytest.mark.parametrize("words", [["data.path=/{long}"], ["data.path=/{long}", "model=/{long}"]])
def test_the_first_line_is_not_too_long(words, tmp_path):
    """Whatever the names: what it begins with and the folder at its end stay."""
    home = tmp_path / ("h" * 60)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 4}
    home.mkdir()
    (home / "config.json").write_text(json.dumps(shape | {"intermediate_size": 4}))
    names = [word.replace("/{long}", str(home)) for word in words]
    names += [f"teacher.name=/{'t' * 90}", "data=text", "experiment=kd_pretrain", "name=x"]
    lines = log_lines()
    with compose_command("train", names) as (cfg, hydra):
        with pytest.raises(BortError):
            run_job(cfg, hydra, Path("runs/kd_pretrain/x"))
    assert len(lines[0]) <= 200
    assert lines[0].startswith("kd_pretrain: ") and lines[0].endswith(" → runs/kd_pretrain/x")
