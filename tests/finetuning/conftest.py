"""A pre-trained folder as small as can be, and fine-tunings on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.finetuning import recipe as finetune
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A pre-trained folder as small as can be."""
    words = [f"the {word} of line {k}, and so on." for k, word in enumerate(["cat", "dog"] * 40)]
    tokenizer = train_tokenizer(words, 320)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=512)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def run_of(model):
    """Settings of a fine-tuning of two steps."""

    def make(task: str, root: Path | None, *overrides: str) -> TrainConfig:
        given = ["experiment=finetune", f"task={task}", f"model={model}"]
        given += [f"data.root={root}"] if root else []
        given += ["name=test", "output_dir=unused", "trainer=cpu", "trainer.max_steps=2"]
        given += ["data.length=512", "data.batch_size=4"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose("train", [*given, *overrides]))

    return make


@pytest.fixture(scope="session")
def priced(run_of, tmp_path_factory):
    """Fine-tunings on c · y + d with the same texts: (c, d) to (folder, summary, answers)."""
    folder = tmp_path_factory.mktemp("priced")
    texts = [f"{('cat', 'dog', 'line')[k % 3]} {'of ' * (k % 4)}" for k in range(60)]
    labels = [k % 3 + 0.1 * (k % 4) for k in range(60)]
    known = {}

    def train(c: float, d: float):
        if (c, d) not in known:
            place = folder / str(len(known))
            path = folder / f"{len(known)}.jsonl"
            rows = zip(texts, labels, strict=True)
            path.write_text(
                "".join(json.dumps({"text": t, "label": c * y + d}) + "\n" for t, y in rows)
            )
            given = [f"data.train={path}", f"data.val={path}", "data.kind=number"]
            given += ["data.root=null", "optim.lr=2e-2", "trainer.max_steps=90"]
            summary = finetune.finetune(run_of("custom", None, *given), place)
            lines = (place / "predictions" / "val.jsonl").read_text().splitlines()
            known[c, d] = place, summary, np.array([json.loads(line)["score"] for line in lines])
        return known[c, d]

    return train
