"""bort from Python: what the commands do, in a process that is left as it was."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import bort
from bort import console
from bort.config.compose import CONF
from bort.errors import BortError
from bort.runs.summary import RunSummary

TINY = ["data=text", "data.length=16", "data.vocab_size=280", "data.val_fraction=0.2"]
TINY += ["trainer=cpu", "trainer.max_steps=5"]
ARCH = {"depth": 1, "heads": 2, "hidden": 16, "intermediate": 32}
ROWS = [
    {"text": f"{'good' if k % 3 else 'bad'} is number {k}", "label": "pos" if k % 3 else "neg"}
    for k in range(40)
]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory, text):
    """An empty folder to be in, with a text."""
    place = tmp_path_factory.mktemp("api")
    (place / "text.txt").write_text(text.read_text("utf-8"), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def pretrain(name: str, *overrides: str, **settings) -> bort.RunResult:
    words = [*TINY, "data.path=text.txt", f"name={name}", *overrides]
    return bort.run("mlm_pretrain", *words, **{"arch": ARCH, **settings})


def finetune(name: str, train=ROWS, **settings) -> bort.RunResult:
    trainer = {"accelerator": "cpu", "max_epochs": 2}
    own = {"name": name, "trainer": trainer, "data": {"length": 16}, "seed": 1}
    return bort.finetune(train=train, **{"model": "runs/mlm_pretrain/first", **own, **settings})


@pytest.fixture(scope="module")
def first(folder):
    return pretrain("first")


def weights(result: bort.RunResult) -> bytes:
    return (result.folder / "model" / "model.safetensors").read_bytes()


def numbers(result: bort.RunResult) -> dict:
    """The summary but for what the clock decides."""
    return {k: v for k, v in result.summary.items() if k not in ("seconds", "tokens_per_s")}


# --------------------------------------------------------------------------------- the names


def test_the_import_loads_nothing_and_every_name_is_there():
    code = "import sys, bort; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "bort" in loaded and not loaded & {"torch", "hydra", "omegaconf", "numpy"}
    for name in bort.__all__:
        assert getattr(bort, name) is not None and name in dir(bort)
    with pytest.raises(AttributeError, match="module 'bort' has no attribute 'trian'"):
        _ = bort.trian


# ----------------------------------------------------------------------------------- one run


def test_the_numbers_of_a_run_are_those_of_the_command(first):
    """Twice in one process, and in a process of its own, bit by bit."""
    second = pretrain("second")
    arch = [f"arch.{key}={value}" for key, value in ARCH.items()]
    words = [*TINY, "data.path=text.txt", "name=command", *arch, "experiment=mlm_pretrain"]
    command = [sys.executable, "-m", "bort", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place = Path("runs/mlm_pretrain/command")
    third = bort.RunResult(place, RunSummary.read(place / "summary.json"))
    assert weights(first) == weights(second) == weights(third)
    assert numbers(first) == numbers(second) == numbers(third)
    for name in ("settings.json", "metrics.csv"):
        texts = {(run.folder / name).read_text("utf-8") for run in (first, second, third)}
        assert len(texts) == 1


def test_what_a_run_gives_back(first, capsys):
    assert (
        first.folder == Path("runs/mlm_pretrain/first") and (first.folder / "report.html").exists()
    )
    assert first.summary["steps"] == first.summary.steps == 5
    assert dict(first.summary) == json.loads((first.folder / "summary.json").read_text("utf-8"))
    (row,) = pd.DataFrame([first.summary]).to_dict("records")
    assert row["val/loss"] == first.summary.loss > 0
    (answer,) = first.model().predict(["the <mask> of 3"])
    assert len(answer["words"][0]) == 5
    assert pretrain("first") == first  # finished: nothing is trained
    out = capsys.readouterr().out
    assert "runs/mlm_pretrain/first is finished" in out
    assert f"  next      {console.python()} -m bort train experiment=kd_pretrain" in out


def test_a_plan_is_shown_and_nothing_is_left(capsys):
    result = pretrain("plan", dry_run=True)
    assert result.summary == {} and not result.folder.exists()
    assert "parameters" in capsys.readouterr().out
    assert not Path("runs", "mlm_pretrain", "plan").exists()


@pytest.mark.parametrize(
    ("experiment", "words", "line"),
    [
        ("kd_pretain", [], "experiment=kd_pretain is unknown; did you mean 'kd_pretrain'?"),
        ("kd_pretrain", ["optim.lrr=1"], "optim.lrr is not a setting; did you mean 'optim.lr'?"),
        ("kd_pretrain", ["optim.lr=-1"], "optim.lr=-1 must be above 0"),
        ("kd_pretrain", ["arch.heads=3"], "arch.heads=3 does not divide arch.hidden=64; use"),
        ("kd_pretrain", ["arch.depth=1,2"], "Ambiguous value for argument 'arch.depth=1,2'"),
        ("kd_pretrain", ["task=glue/rte"], "task=glue/rte is for experiment=finetune and agora"),
        ("finetune", ["task=glue/rte"], "task=glue/rte needs model=FOLDER"),
        ("kd_pretrain", ["data=text", "data.path=none.txt"], "data.path=none.txt"),
        ("kd_pretrain", ["trainer.max_stepz=5"], "trainer.max_stepz is not a setting"),
    ],
)
def test_a_mistake_is_the_line_of_the_command(experiment, words, line):
    with pytest.raises(BortError) as caught:
        bort.run(experiment, *words)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert not Path("runs", "kd_pretrain").exists() and not Path("runs", "finetune").exists()


def test_a_folder_of_configurations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("conf", 7), ("own's", 8)):
        Path(folder, "local").mkdir(parents=True)
        text = f"# @package _global_\nseed: {seed}\ndry_run: true\n"
        Path(folder, "local", "default.yaml").write_text(text, "utf-8")
    with pytest.raises(BortError, match="seed=-1"):
        bort.run("mlm_pretrain", seed=-1)
    assert bort.run("mlm_pretrain", name="a").summary == {}  # by conf/local: only the plan
    assert bort.run("mlm_pretrain", name="a", config_dir="own's").summary == {}
    with pytest.raises(BortError, match="config_dir=elsewhere is not a folder"):
        bort.run("mlm_pretrain", config_dir="elsewhere")


# ------------------------------------------------------------------------------- the process


def state_of_process() -> list:
    log = logging.getLogger("bort")
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    return [
        dict(os.environ),
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        list(warnings.filters),
        [logging.getLogger(name).level for name in names],
        (log.level, log.propagate, list(log.handlers)),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        GlobalHydra.instance().hydra,
        HydraConfig.instance().cfg,
    ]


@pytest.mark.parametrize("words", [[], ["optim.lr=-1"], ["trainer.max_stepz=3"]])
def test_a_run_leaves_the_process_as_it_was(words):
    with initialize_config_dir(str(CONF), version_base="1.3"):  # in use by the program itself
        cfg = compose("train", ["name=x"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        before = state_of_process()
        try:
            pretrain(f"state{len(words)}", *words, "trainer.deterministic=true")
            assert not words
        except BortError:
            assert words
        assert state_of_process() == before
        assert compose("train", ["name=y"]).name == "y"


def test_lines_go_to_the_handlers_of_the_program(first, capsys):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("bort")
    before = (log.level, list(log.handlers))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    try:
        pretrain("first")
    finally:
        log.setLevel(before[0])
        log.handlers[:] = before[1]
    assert any("is finished" in line for line in lines)
    assert capsys.readouterr().out == ""


def signal_in_training(name: str, number: int) -> threading.Thread:
    """Send a signal to this process as soon as a run has further rows."""
    metrics = Path("runs", "mlm_pretrain", name, "metrics.csv").absolute()

    def count_rows() -> int:
        return metrics.read_text("utf-8").count("\n") if metrics.exists() else 0

    before = count_rows()

    def send() -> None:
        for _ in range(600):
            if count_rows() > before + 2:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


LONG = ["trainer.max_steps=100000", "trainer.val_check_interval=1000"]


def test_ctrl_c_is_a_keyboard_interrupt_and_the_same_call_resumes(capsys):
    before = signal.getsignal(signal.SIGINT)
    thread = signal_in_training("stopped", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain("stopped", *LONG)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert list(Path("runs/mlm_pretrain/stopped/checkpoints").glob("*.ckpt"))
    thread = signal_in_training("stopped", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain("stopped", *LONG)
    thread.join()
    assert "resume: train" in capsys.readouterr().out


def test_a_second_ctrl_c_does_not_wait_and_the_program_goes_on(monkeypatch, capsys):
    """It comes while the checkpoint is saved: that one is not kept, and nothing else is left."""
    save = torch.save

    def save_interrupted(*args, **options) -> None:
        save(*args, **options)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("torch.save", save_interrupted)
    thread = signal_in_training("twice", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call with name='twice' resumes it"):
        pretrain("twice", *LONG)
    thread.join()
    assert "stopped at once; the last whole checkpoint stays" in capsys.readouterr().err
    folder = Path("runs/mlm_pretrain/twice")
    assert not [path for path in folder.rglob("*") if path.name.endswith(("ckpt", "tmp"))]
    monkeypatch.undo()
    assert pretrain("twice", *LONG, "resume=false", "trainer.max_steps=5").summary.steps == 5


def test_sigterm_is_answered_by_the_program_itself():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        thread = signal_in_training("ended", signal.SIGTERM)
        with pytest.raises(BortError, match="^stopped; the same call with name='ended' resumes it"):
            pretrain("ended", *LONG)
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]
    assert list(Path("runs/mlm_pretrain/ended/checkpoints").glob("*.ckpt"))


# ------------------------------------------------------------------------------- fine-tuning


def test_rows_in_memory_go_the_way_of_a_file(first):
    frame = pd.DataFrame(ROWS)
    frame.to_csv("rows.csv", index=False)
    by_file, by_rows = finetune("file", "rows.csv"), finetune("rows")
    by_frame = finetune("frame", frame, val=ROWS[:10], test=[{"text": "good"}])
    assert weights(by_file) == weights(by_rows) and numbers(by_file) == numbers(by_rows)
    assert numbers(by_frame)["rows/val"] == 10
    assert (by_frame.folder / "predictions" / "test.jsonl").is_file()
    (answer,) = by_rows.model().predict(["good is number 3"])
    assert answer["label"] in ("pos", "neg")
    named = finetune(
        "named", [{"a": r["text"], "b": r["label"]} for r in ROWS], text="a", label="b"
    )
    assert weights(named) == weights(by_rows)


def test_rows_in_memory_with_several_labels(first):
    """As lists or sets, or as a column of 0 and 1 for each."""
    lists = [row | {"label": {row["label"], "any"}} for row in ROWS]
    columns = [{"text": r["text"], "any": 1, "pos": r["label"] == "pos"} for r in ROWS]
    answers = {
        name: finetune(name, rows, label=label).model().predict(["good is number 3"])[0]
        for name, rows, label in (("sets", lists, "label"), ("bits", columns, ["any", "pos"]))
    }
    assert set(answers["sets"]["scores"]) == {"any", "neg", "pos"}
    assert set(answers["bits"]["scores"]) == {"any", "pos"}
    assert set(answers["bits"]["labels"]) <= {"any", "pos"}
    with pytest.raises(BortError, match="^train, row 3: 'pos' is 2, not 0 or 1"):
        finetune("wrong", [*columns[:2], columns[2] | {"pos": 2}], label=["any", "pos"])


def test_a_run_resumes_with_the_same_rows_only(first, capsys):
    done = finetune("again")
    assert finetune("again", list(ROWS)) == done
    assert "runs/finetune/again is finished" in capsys.readouterr().out
    with pytest.raises(BortError, match="runs/finetune/again holds a run with other settings"):
        finetune("again", ROWS[1:])
    assert finetune("other", ROWS[1:], model=done.folder) != done


def test_a_mistake_in_a_row_names_the_row(first):
    rows = [*ROWS[:3], {"text": None, "label": "pos"}, *ROWS[4:]]
    with pytest.raises(BortError, match="^train, row 4: 'text' is absent"):
        finetune("wrong", rows)
    with pytest.raises(BortError, match="^val, row 1: label 'new' is none of those in the"):
        finetune("wrong", val=[{"text": "a", "label": "new"}])
    with pytest.raises(BortError, match="^train has no column 'label'; it has text"):
        finetune("wrong", [{"text": "a"}])
    with pytest.raises(BortError, match="^'nowhere' is neither a folder nor"):
        finetune("wrong", model="nowhere")
    assert not Path("runs", "finetune", "wrong").exists()
