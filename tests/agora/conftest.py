"""A tiny encoder, a table, and a whole run of Agora on them."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import log_lines

from bort.agora import recipe as agora_run
from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A masked LM as small as can be, whose vocabulary has whole words."""
    words = [f"the {a} and the {b} were good, bad or new in line" for a in WORDS for b in WORDS]
    tokenizer = train_tokenizer(words, 340)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=340, positions=160)
    folder = tmp_path_factory.mktemp("encoder") / "model"
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


WORDS = ("cat", "dog", "bird", "tree", "house", "river")


@pytest.fixture(scope="session")
def csv(tmp_path_factory) -> Path:
    """A word decides most labels."""
    folder = tmp_path_factory.mktemp("csv")
    for name, count in (("train", 160), ("val", 40)):
        random = np.random.default_rng(count)
        lines = []
        for k in range(count):
            a, b = random.choice(WORDS, 2)
            word, label = ("good", "yes") if k % 2 else ("bad", "no")
            if k % 9 == 0:  # so that there are mistakes
                label = "no" if label == "yes" else "yes"
            lines.append(f"{name} the {a} and the {b} were {word},{label}")
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def given(encoder, csv) -> list[str]:
    given = ["experiment=agora", "task=custom", f"model={encoder}", f"teacher.name={encoder}"]
    given += [f"data.train={csv / 'train.csv'}", f"data.val={csv / 'val.csv'}"]
    given += ["trainer=cpu", "trainer.max_epochs=3", "optim.lr=1e-2"]
    given += ["data.length=64", "agora.guard=0.6", "agora.samples=20", "dropout=0"]
    given += ["data.batch_size=4"]
    given += ["agora.grid={lr_factor: [0.1, 1], seed: [0]}", "agora.confidence=0.5"]
    return given


@pytest.fixture(scope="session")
def run_of(given):
    def make(*overrides: str) -> TrainConfig:
        words = [*given, "name=test", "output_dir=unused", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose("train", words))

    return make


@pytest.fixture(scope="session")
def whole(run_of, tmp_path_factory) -> tuple[Path, dict, list[str]]:
    folder, lines = tmp_path_factory.mktemp("whole") / "run", log_lines()
    return folder, agora_run.agora(run_of(), folder), lines
