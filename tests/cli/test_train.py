"""The border to the shell: one line for each mistake, exit codes, a light start, paths to paste."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from shown_commands import print_made

from bort import shell
from bort.pretraining.recipe import pretrain

ROOT = Path(__file__).resolve().parents[2]
PASTED = re.compile(r"[A-Za-z0-9_.:/+-]+")  # case C1: needs no quotes in any shell, nor in Hydra


def train_py(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    # wandb's service of another test in this process would also get the files of this one.
    settings |= {"WANDB_SERVICE": ""}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("experiment=kd_pretain", "did you mean 'kd_pretrain'?"),
        ("optim.lrr=3", "optim.lrr is not a setting; did you mean 'optim.lr'?"),
        ("+data.xyz=3", "data.xyz is not a setting; known here: "),
        ("optim.lr=abc", "could not be converted to Float"),
        ("arch.heads=3", "arch.heads=3 does not divide arch.hidden=64"),
        ("data=text", "data=text needs data.path="),
        ("name=a b", "cannot name a run folder; use letters, digits and _ - . : +"),
        ("trainer=3", "a group takes the name of one of its files"),
        (
            "--lr=0.1",
            "--lr=0.1 is not an option; settings are written without dashes: optim.lr=0.1",
        ),
        ("~arch", "arch has no value; give arch=…"),
        ("trainer.max_steps=abc", "trainer.max_steps=abc must be a whole number"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, override, line):
    """Exit code 1, one line on standard error, nothing left behind, no heavy import."""
    result = train_py(override, cwd=tmp_path, PYTHONPATH=str(blocked(tmp_path / "heavy")))
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("train.py: ") and line in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["heavy"]


def test_a_signal_before_training_is_one_line(monkeypatch, capsys):
    """As while a text is encoded; only after a checkpoint there is something to go on with."""
    from bort.cli import jobs, train

    no_hydra = SimpleNamespace(get=lambda: SimpleNamespace(mode=1))
    monkeypatch.setattr(train, "HydraConfig", no_hydra)
    monkeypatch.setattr(jobs, "locate_folder", lambda *_: Path("x"))
    monkeypatch.setattr(jobs, "run_job", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as stopped:
            settings = OmegaConf.create({"name": "x"})
            shell.run(lambda: train.run_composed.__wrapped__(settings), "train.py")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stopped.value.code == 143
    assert capsys.readouterr().err == f"train.py: {shell.STOPPED}\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["pipeline", "demo", "search"])
def test_make_refuses_a_setting_that_no_command_would_see(target):
    refused = print_made(target, "data.train=x.csv")
    assert refused.returncode != 0 and not refused.stdout
    assert f'write make {target} ARGS="data.train=x.csv"' in refused.stderr
    passed = print_made(target, "ARGS=data.train=x.csv seed=1", "WORKERS=3", "PYTHON=python3.12")
    assert passed.returncode == 0 and "data.train=x.csv seed=1\n" in passed.stdout


def test_a_closed_pipe_is_no_error(tmp_path):
    """`python train.py --help | head -1`"""
    line = f"{sys.executable} {ROOT / 'train.py'} --help | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[1:] == ["0"] and result.stderr == ""


# ------------------------------------------------------------------------------------ light start


def blocked(folder: Path) -> Path:
    """A folder for PYTHONPATH in which each heavy package fails as soon as it is imported."""
    folder.mkdir(exist_ok=True)
    for name in ("torch", "lightning", "transformers", "datasets", "numpy", "pandas"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    return folder


COMPLETION = {"COMP_LINE": "python train.py arch=bert_l2_h1", "COMP_POINT": "31", "COMP_CWORD": "2"}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--cfg", "job"], {}, "max_steps: 1200"),
        (["--help"], {}, "  experiment=kd_vs_mlm  "),
        (["-sc", "query=bash"], COMPLETION, "arch=bert_l2_h128"),
        (["--cfg", "job", "experiment=paper", "data.path=x"], {}, "max_steps: 100000"),
    ],
)
def test_start_is_light(tmp_path, arguments, environment, expected):
    """Without any heavy package, within 1.5 s (best of three: other work may go on here)."""
    heavy, seconds = blocked(tmp_path / "heavy"), []
    while not seconds or (min(seconds) >= 1.5 and len(seconds) < 3):
        start = time.monotonic()
        result = train_py(*arguments, cwd=tmp_path, PYTHONPATH=str(heavy), **environment)
        seconds.append(time.monotonic() - start)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout and result.stderr == ""
    assert min(seconds) < 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["heavy"]


def test_the_block_works(tmp_path, tiny):
    """Else the test above would prove nothing."""
    result = train_py(*tiny, cwd=tmp_path, PYTHONPATH=str(blocked(tmp_path / "heavy")))
    assert result.returncode != 0 and "was imported" in result.stderr


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run by the command line: its folder's parent and what it printed."""
    cwd = tmp_path_factory.mktemp("cwd")
    result = train_py(*tiny, "name=first", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result


def test_what_a_user_sees(run):
    cwd, result = run
    first, *_, model, metrics, samples, page, following = result.stdout.splitlines()
    assert first.startswith("mlm_pretrain: ⟨1,2,16,32⟩ learns by plain MLM on ")
    assert first.endswith("2 steps of 8 × 16 tokens, lr 0.0161 → runs/mlm_pretrain/first")
    named = ((model, "model"), (metrics, "metrics.csv"), (samples, "samples.txt"))
    for line, path in (*named, (page, "report.html")):
        assert f"runs/mlm_pretrain/first/{path}" in line
        assert (cwd / "runs/mlm_pretrain/first" / path).exists()
    assert following.split("next")[1].strip().startswith("python train.py experiment=")
    assert result.stderr == ""


def test_the_next_command_exists(run, tmp_path):
    """What the last line tells the user to try is understood."""
    command = run[1].stdout.splitlines()[-1].split("python train.py")[1].split()
    result = train_py(*command, "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_paths_can_be_pasted(run):
    """Case C1: every path that was printed or left behind."""
    cwd, result = run
    left = [str(path.relative_to(cwd)) for path in cwd.rglob("*")]
    assert len(left) > 15 and "runs/mlm_pretrain/first/model/config.json" in left
    assert {path.split("/")[0] for path in left} == {"runs"}
    printed = re.findall(r"\S*/\S*", result.stdout)
    # after model=, data.path= and the like
    printed = [word.strip("().,").rpartition("=")[2] for word in printed if "model   (" not in word]
    assert len(printed) >= 5
    assert not [path for path in [*left, *printed] if not PASTED.fullmatch(path)]


def test_the_folder_of_a_run_is_a_model(run, tmp_path):
    """`runs/mlm_pretrain/first`, as printed, after teacher.name=; nothing but the plan is made."""
    cwd, _ = run
    line = ["teacher.name=runs/mlm_pretrain/first", "data.length=16", "dry_run=true"]
    line.append("data.tokenizer=auto")  # with words of its own, plan and run refuse this teacher
    before = sorted(cwd.rglob("*"))
    result = train_py(*line, cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout and "dry_run=true: nothing was started" in result.stdout
    assert sorted(cwd.rglob("*")) == before


def test_the_same_command_again(run, tiny):
    cwd, _ = run
    before = {path: path.stat().st_mtime_ns for path in cwd.rglob("*")}
    again = train_py(*tiny, "name=first", cwd=cwd)
    assert again.returncode == 0 and "is finished" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in cwd.rglob("*")}


def test_wrong_folder(run, tmp_path):
    """Case C2: the nearest name that exists, at once, nothing left behind."""
    cwd, _ = run
    start = time.monotonic()
    result = train_py("teacher.name=runs/mlm_pretrain/frist", "name=c2", cwd=cwd)
    seconds = time.monotonic() - start
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "runs/mlm_pretrain/frist does not exist; did you mean 'first'?" in result.stderr
    assert seconds < 30 and not (cwd / "runs" / "kd_pretrain").exists()


def test_the_plan_with_a_model_of_another_kind(tmp_path):
    """Its config.json has other keys; the plan reads nothing more of it."""
    (tmp_path / "distil").mkdir()
    settings = {"model_type": "distilbert", "n_layers": 2, "n_heads": 2, "dim": 64}
    settings["vocab_size"] = 100
    (tmp_path / "distil" / "config.json").write_text(json.dumps(settings))
    tuned = ("experiment=finetune", "task=docstrings", "model=distil")
    taught = ("experiment=kd_pretrain", "teacher.name=distil")
    for given, message in ((taught, "holds no tokenizer"), (tuned, "says model_type=distilbert;")):
        result = train_py(*given, "dry_run=true", cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert message in result.stderr


def test_sweep(tiny, tmp_path):
    """Two jobs of one process; the one that cannot run says why and the other finishes."""
    result = train_py("-m", *tiny[:-1], "arch=tiny", "arch.heads=2,3", "name=sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    line = "train.py: runs/mlm_pretrain/sweep/1: arch.heads=3 does not divide arch.hidden=64"
    assert line in result.stdout
    assert (tmp_path / "runs/mlm_pretrain/sweep/0/model/config.json").exists()
    assert not (tmp_path / "runs/mlm_pretrain/sweep/1/settings.json").exists()
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not [path for path in left if not PASTED.fullmatch(path)]


def test_a_finished_run_says_so_without_torch(run, tiny):
    cwd, first = run
    again = train_py(*tiny, "name=first", cwd=cwd, PYTHONPATH=str(blocked(cwd / "heavy")))
    assert (again.returncode, again.stderr) == (0, "")
    assert "runs/mlm_pretrain/first is finished; name= starts another" in again.stdout
    assert again.stdout.splitlines()[-5:] == first.stdout.splitlines()[-5:]


def test_wandb_offline_adds_nothing_to_the_terminal(tiny, tmp_path):
    """No account, no question, not even the line that wandb has for one of Lightning's settings."""
    environment = {"WANDB_API_KEY": "", "HOME": str(tmp_path)}
    result = train_py(*tiny, "name=w", "logger=wandb", cwd=tmp_path, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    said = [line for line in result.stdout.splitlines() if "wandb" in line]
    assert len(said) == 1 and "wandb sync runs/mlm_pretrain/w/wandb/offline-run-*" in said[0]
    assert len(list(tmp_path.glob("runs/mlm_pretrain/w/wandb/offline-run-*/*.wandb"))) == 1


def test_two_processes_are_one(tiny, settings_of, text, tmp_path):
    """DDP on two processes of 4 is one of 8: losses, gradients and weights, over an epoch's end."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=ddp"]
    steps = "trainer.max_steps=9"  # an epoch has 7, and the last of them fewer sequences
    result = train_py(*tiny, *ddp, "data.batch_size=4", steps, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    pretrain(settings_of("data.batch_size=8", steps), tmp_path / "one")
    folders = [tmp_path / "runs" / "mlm_pretrain" / "ddp", tmp_path / "one"]
    tables = [list(csv.DictReader((f / "metrics.csv").read_text().splitlines())) for f in folders]
    for key in ("step", "train/loss", "train/grad_norm", "train/lr", "val/loss"):
        values = [[float(row[key] or 0) for row in table] for table in tables]
        assert len(values[0]) == 9 and values[0] == pytest.approx(values[1], rel=1e-4)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=0)


def test_a_sweep_of_which_no_job_can_run_ends_with_1_and_leaves_nothing(tmp_path):
    jobs = ("-m", "experiment=mlm_pretrain", "arch.hidden=8", "name=none")
    result = train_py(*jobs, "arch.heads=3,5", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.count("does not divide arch.hidden=8") == 2  # each when it happens
    assert result.stderr == "train.py: no job of the sweep ended well; the lines above say why\n"
    assert not list(tmp_path.iterdir())


def test_a_screen_without_the_signs_gets_others(tiny, tmp_path):
    """A terminal of Windows, or a log that is written as ASCII."""
    settings = (*tiny, "dry_run=true", "name=x")
    result = train_py(*settings, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "?1,2,16,32?" in result.stdout


@pytest.mark.parametrize("setting", ["name=${x}", "optim.lr=${x}"])
def test_an_interpolation_that_leads_nowhere_is_one_line(tmp_path, setting):
    result = train_py("experiment=mlm_pretrain", setting, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "Interpolation key 'x' not found" in result.stderr
    assert not list(tmp_path.iterdir())
