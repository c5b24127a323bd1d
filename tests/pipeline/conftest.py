"""The folder in which a user starts a pipeline."""

from pathlib import Path

import pytest
from pipeline_data import write_data


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a text and a task of the user."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path
