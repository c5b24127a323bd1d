"""The path that a command and bort.run share: the folder of a job, and what a sweeper minimises."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from tiny_runs import log_lines

from bort.cli.composing import compose_command
from bort.cli.jobs import locate_folder, make_launcher, read_objective, run_job
from bort.errors import BortError
from bort.pretraining.comparison import ARMS
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_arms_of_a_comparison_by_a_launcher(text, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [
        *("experiment=kd_vs_mlm", "name=far", "data=text", f"data.path={text}", "trainer=cpu"),
        *("arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}", "data.vocab_size=280"),
        *("teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 64}", "data.length=16"),
        *("teacher.max_steps=2", "trainer.max_steps=3", "data.val_fraction=0.2"),
        *("compare.lrs=[1e30,4e-3]", "trainer.val_check_interval=3"),
    ]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "train.py"), *words, *launcher],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "8 trainings go to the launcher" in result.stdout
    assert result.stdout.count("drops out: the loss became") == 4
    folder = tmp_path / "runs" / "kd_vs_mlm" / "far"
    summary = RunFolder(folder).find_summary()
    assert [summary[f"{arm}/lr"] for arm in ARMS] == [0.004] * 4
    assert (folder / "report.html").exists()


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
