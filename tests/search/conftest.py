"""A search that tests of several modules look at."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import log_lines, sweep

from bort.models.bert import MaskedLM
from bort.pretraining.recipe import prepare
from bort.search import optimum

ROOT = Path(__file__).resolve().parents[2]


def by_hand(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        **dict(cwd=cwd, env=environment, stdin=subprocess.DEVNULL, timeout=200),
        **dict(capture_output=True, text=True),
    )


@pytest.fixture(scope="session")
def done(search_of, tmp_path_factory):
    """A search that trained every candidate: its settings, folder, summary, lines, T's passes."""
    folder, lines, passes = tmp_path_factory.mktemp("search") / "run", log_lines(), []
    run = search_of("search.exponents=[0,0,1]")  # by error alone: the bound proves nothing away
    with pytest.MonkeyPatch.context() as patch:
        states = MaskedLM.head_states

        def counted(self, *args, **options):
            if self.config.intermediate == 64 and not self.training:  # T
                passes.append(self.config)
            return states(self, *args, **options)

        prepare(run)  # trains T, which is not counted
        patch.setattr(MaskedLM, "head_states", counted)
        summary = sweep(run, folder)
    return run, folder, summary, lines, passes


@pytest.fixture
def copied(done, tmp_path):
    """The folder of `done`, without its models: what a choice is made from."""
    folder = tmp_path / "run"
    shutil.copytree(done[1], folder, ignore=shutil.ignore_patterns("model", "*.f16", "wandb"))
    assert optimum.choose_optimum(folder).result.w == done[2]["w"]
    return folder


@pytest.fixture(scope="session")
def printed(tiny_search, tmp_path_factory):
    """`python search.py`: where, and what it printed."""
    cwd = tmp_path_factory.mktemp("by_hand")
    result = by_hand("search.py", *tiny_search, "name=first", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result
