"""Fixtures of the tests of bort/files."""

import subprocess
from pathlib import Path

import pytest

from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    tokenizer = train_tokenizer([f"the cat of line {k}" for k in range(40)], 280)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=280, positions=32)
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder
