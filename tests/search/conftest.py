"""A search that tests of several modules look at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def by_hand(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        **dict(cwd=cwd, env=environment, stdin=subprocess.DEVNULL, timeout=200),
        **dict(capture_output=True, text=True),
    )


@pytest.fixture(scope="session")
def printed(tiny_search, tmp_path_factory):
    """`python search.py`: where, and what it printed."""
    cwd = tmp_path_factory.mktemp("by_hand")
    result = by_hand("search.py", *tiny_search, "name=first", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result
