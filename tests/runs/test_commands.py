"""Commands repeat a run as a user typed it, and carry over what decides a training."""

import shlex

import pytest
from omegaconf import OmegaConf

from bort import console
from bort.runs import commands
from bort.runs.folder import RunFolder


def test_the_next_command_trains_the_optimum_as_the_search_did(tmp_path):
    """Text, teacher and a rate that the rule would not give go with it; the grid does not."""
    optimum, by_rule = tmp_path / "optimum.yaml", 4e-3 * 4**0.67

    def words(*given: str, lr: float = by_rule) -> list[str]:
        (tmp_path / ".hydra").mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.create(list(given)), tmp_path / ".hydra" / "overrides.yaml")
        return shlex.split(commands.compose_training(tmp_path, optimum, 32, lr))

    plain = ["train.py", "experiment=kd_pretrain", f"arch_file={optimum}"]
    assert words() == plain
    assert words("grid=paper", "search.n=9", "latency=fitted", "name=x") == plain
    text = ["data=text", "data.path=my text.txt"]
    assert words(*text, "optim.lr=2e-3", lr=5e-3) == [*plain, *text, "optim.lr=0.005"]
    assert words("optim=adamw") == [*plain, "optim=adamw", f"optim.lr={by_rule:.6g}"]


def test_the_next_command_trains_the_teacher_of_the_search():
    """The sizes that search.py gives its teacher are not those of train.py."""
    sizes = {"depth": 3, "heads": 8, "hidden": 256, "intermediate": 1024}
    flat = {f"teacher.arch.{key}": size for key, size in sizes.items()} | {"teacher.name": None}
    written = ["teacher.arch={depth: 3, heads: 8, hidden: 256, intermediate: 1024}"]
    assert commands.spell_teacher(flat) == written
    assert commands.spell_teacher(flat | {"teacher.name": "large"}) == []
    assert commands.spell_teacher({}) == []
    usual = flat | dict(zip(flat, (2, 4, 128, 512), strict=False))
    assert commands.spell_teacher(usual) == []


ASKING = "${oc.env:HF_TOKEN}"


@pytest.fixture
def foreign_run(tmp_path):
    """A run folder from elsewhere whose recorded command line asks for an environment variable."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(f"- seed={ASKING}\n- name=x\n")
    return tmp_path


def test_a_recorded_command_line_is_shown_as_it_stands(foreign_run):
    shown = commands.compose_command(foreign_run, "train.py", "x")
    assert shown == f"{console.python()} train.py 'seed={ASKING}' name=x"
    assert RunFolder(foreign_run).read_overrides() == [f"seed={ASKING}", "name=x"]
