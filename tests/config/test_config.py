"""Every file of conf/ composes; every wrong value is one line that names its key."""

import ast
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from composed_settings import CONF, composed
from omegaconf import OmegaConf

from bort.config.data import DataConfig
from bort.config.optim import OptimConfig
from bort.config.search import (
    SearchRunConfig,
)
from bort.config.train import TrainConfig
from bort.config.trainer import LoggerConfig
from bort.errors import BortError

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OF_TASKS = ["task=glue/rte", "model=folder"]  # what only fine-tuning needs


def test_how_many_there_are():
    assert len(FILES) == 57
    assert EXPERIMENTS == [
        *("agora", "finetune", "kd_embed", "kd_finetune", "kd_pretrain", "kd_vs_mlm"),
        *("mlm_pretrain", "paper", "teacher_pretrain"),
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_composes(path, tmp_path, monkeypatch):
    of = SearchRunConfig if path.parent.name in ("grid", "latency") else TrainConfig
    group = f"{path.parent.name}/{path.stem}"
    given = [f"{path.parent.name}={path.stem}"]
    if group == "experiment/kd_embed":
        given += ["teacher.name=large", "data.unlabelled=texts.txt"]
    if group in ("experiment/finetune", "experiment/kd_finetune", "experiment/agora"):
        given += OF_TASKS  # a pre-training would open the model
    if group == "experiment/kd_finetune":
        given.append("teacher.name=large")
    given += ["data.path=text.txt"] if group in ("experiment/paper", "data/text") else []
    if path.stem == "table":
        (tmp_path / "x.csv").write_text("")
        given.append(f"latency.path={tmp_path / 'x.csv'}")
    if path.stem == "tensorboard":
        monkeypatch.setattr("bort.config.trainer.find_spec", lambda name: name)
    if path.stem == "none" and of is SearchRunConfig:
        with pytest.raises(BortError, match="search.py needs candidates; use grid=tiny"):
            composed(*given, of=of)
        return
    run = composed(*given, of=of)
    assert isinstance(run, of)
    plain = OmegaConf.to_container(OmegaConf.load(path))
    if path.parent.name in ("arch", "data", "optim", "logger", "grid", "latency"):
        group = asdict(getattr(run, path.parent.name))
        assert plain and {**group, **plain} == group


@pytest.mark.parametrize("debug", ["default", "overfit", "profiler"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_debugged(experiment, debug):
    text = ["data.path=text.txt"] if experiment == "paper" else []
    taught = ("kd_finetune", "kd_embed")
    of_tasks = OF_TASKS if experiment in ("finetune", "kd_finetune", "agora") else []
    of_tasks = of_tasks + (["teacher.name=large"] if experiment in taught else [])
    of_tasks += ["data.unlabelled=texts.txt"] if experiment == "kd_embed" else []
    run = composed(f"experiment={experiment}", f"debug={debug}", *text, *of_tasks)
    assert run.trainer["max_steps"] == {"default": 1, "overfit": 300, "profiler": 50}[debug]
    assert (run.teacher.max_steps == 1) == (debug == "default")


def test_later_beats_earlier():
    assert composed().trainer["max_steps"] == 1200
    assert composed("experiment=teacher_pretrain").trainer["max_steps"] == 1500
    assert composed("experiment=teacher_pretrain", "debug=default").trainer["max_steps"] == 1
    own = composed("experiment=teacher_pretrain", "debug=default", "trainer.max_steps=9")
    assert own.trainer["max_steps"] == 9


def test_what_the_experiments_are():
    """The paper's numbers from arXiv 2010.10499, §4; plain MLM differs from KD in its loss only."""
    paper = composed("experiment=paper", "data.path=text.txt")
    assert str(paper.arch) == "⟨4,8,1024,768⟩" and paper.teacher.name == "roberta-large"
    weights = {"w_kd": 0.5, "w_mlm": 0.1, "temperature": 2.0, "w_hidden": 0.0, "w_relation": 0.0}
    assert asdict(paper.distill).items() >= weights.items()
    assert (paper.init, paper.dropout, paper.data.length) == ("paper", 0.1, 512)
    optim = paper.optim
    assert (optim.name, optim.lr, optim.eps, optim.weight_decay) == ("adamw", 1e-4, 1e-6, 0.01)
    assert (paper.data.mask_rate, paper.trainer["gradient_clip_val"]) == (0.15, 1.0)
    kd, mlm = composed("experiment=kd_pretrain"), composed("experiment=mlm_pretrain")
    assert asdict(replace(kd, distill=mlm.distill)) == asdict(mlm)
    assert (mlm.distill.w_kd, mlm.distill.w_mlm) == (0.0, 1.0)
    assert kd.needs_teacher and not mlm.needs_teacher
    assert composed("experiment=kd_vs_mlm").job == "compare"
    teacher = composed("experiment=teacher_pretrain")
    assert teacher.arch == kd.teacher.arch and not teacher.needs_teacher
    assert teacher.trainer["max_steps"] == kd.teacher.max_steps
    assert teacher.data.batch_size == kd.teacher.batch_size


def test_gpu_compiles_in_bfloat16():
    run = composed("trainer=gpu")
    assert run.compile and run.trainer["precision"] == "bf16-mixed"
    assert run.trainer["accelerator"] == "gpu" and run.trainer["max_steps"] == 1200


def test_each_default_is_written_once():
    """The YAML of a group repeats no default of its dataclass, apart from its own name."""
    for group, kind in (("data", DataConfig), ("optim", OptimConfig), ("logger", LoggerConfig)):
        for path in (CONF / group).glob("*.yaml"):
            plain = OmegaConf.to_container(OmegaConf.load(path))
            repeated = {k for k, v in plain.items() if getattr(kind(), k) == v}
            assert repeated <= {"name", "source"}, path


def test_no_check_is_without_a_test():
    """Each key that a `__post_init__` checks by itself is named by a message of these tests."""
    modules = (CONF.parent / "bort" / "config").glob("*.py")
    text = "".join(path.read_text("utf-8") for path in modules)
    checked = re.findall(r'(?:check_at_least|check_choice)\("([\w.]+)"', text)
    assert len(checked) == 52
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    messages = [
        node.value
        for node in ast.walk(ast.parse(tests))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [key for key in checked if not any(m.startswith(f"{key}=") for m in messages)]
