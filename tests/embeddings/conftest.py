"""Folders of sentence-transformers as small as can be, and texts to learn from."""

from pathlib import Path

import pytest
from embeddings_layout import write_layout
from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
WORDS = "cat dog cow hen fox owl bee ant elk yak".split()
NEIGHBOURS = zip(WORDS[:-1], WORDS[1:], strict=True)
TEXTS = [f"the {a} and the {b} in line {k}" for k, (a, b) in enumerate(NEIGHBOURS)]
TEXTS += [f"{a} sees {b}" for a in WORDS for b in WORDS if a != b]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def save_encoder(folder: Path, tokenizer, arch: Arch, seed: int) -> Path:
    sizes = ModelConfig(**vars(arch), vocab_size=300, positions=64)
    model = build_model(sizes, "paper", seed)
    for parameter in model.parameters():  # or all texts would look alike
        parameter.data.mul_(6)
    save_model(model.encoder, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, tokenizer) -> Path:
    """S: mean states of a random encoder, scaled to a length of 1."""
    folder = save_encoder(tmp_path_factory.mktemp("s") / "s", tokenizer, Arch(2, 2, 32, 64), 1)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    return write_layout(folder, mean_tokens=True)


@pytest.fixture(scope="session")
def student(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("student") / "model"
    return save_encoder(folder, tokenizer, Arch(1, 2, 16, 32), 0)


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


@pytest.fixture(scope="session")
def scored(tmp_path_factory) -> Path:
    """A data.root with dev rows of STS-B and QNLI."""
    root = tmp_path_factory.mktemp("root")
    (root / "STS-B").mkdir()
    pairs = [(TEXTS[k], TEXTS[k + 1], k % 6) for k in range(12)]
    lines = ["index\tsentence1\tsentence2\tscore"]
    lines += [f"{k}\tfirst {a}\tsecond {b}\t{score}" for k, (a, b, score) in enumerate(pairs)]
    (root / "STS-B" / "dev.tsv").write_text("\n".join(lines))
    (root / "QNLI").mkdir()
    lines = ["index\tquestion\tsentence\tlabel"]
    for k, word in enumerate(WORDS * 2):
        label = "entailment" if k < 9 else "not_entailment"
        lines.append(f"{k}\twho sees the {word} {k}?\tthe {word} is seen, number {k}\t{label}")
    (root / "QNLI" / "dev.tsv").write_text("\n".join(lines))
    return root


def compose_settings(*overrides: str) -> TrainConfig:
    words = ["name=test", "output_dir=unused", "trainer=cpu", "trainer.precision=32-true"]
    words += ["data.length=16", "data.batch_size=8", "optim.lr=1e-2", "dropout=0"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_settings(compose("train", [*words, *overrides]))


@pytest.fixture(scope="session")
def compose_run():
    """Settings as the command line gives them, made tiny."""
    return compose_settings


@pytest.fixture(scope="session")
def run_of(teacher, texts):
    """Settings of a distillation of a few epochs."""

    def make(*overrides: str) -> TrainConfig:
        words = ["experiment=kd_finetune", "task=embed", f"teacher.name={teacher}"]
        words += [f"data.unlabelled={texts}", "trainer.max_epochs=8"]
        words += ["arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}"]
        return compose_settings(*words, *overrides)

    return make
