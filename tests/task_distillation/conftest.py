"""A student and a teacher as small as can be, and a table of two kinds of texts."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.finetuning.recipe import finetune
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"cat": "purr meow claw paw whisker".split(), "dog": "bark woof wag howl fetch".split()}


def list_texts(kind: str, count: int) -> list[str]:
    """Distinct texts whose words tell their kind."""
    words = WORDS[kind]
    return [f"{words[k % 5]} and {words[k // 5 % 5]} in line {k}" for k in range(count)]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(list_texts("cat", 60) + list_texts("dog", 60), 320)


def save_encoder(folder: Path, tokenizer, arch: Arch, seed: int) -> Path:
    sizes = ModelConfig(**vars(arch), vocab_size=320, positions=512)
    save_model(build_model(sizes, "default", seed), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("student") / "model"
    return save_encoder(folder, tokenizer, Arch(1, 2, 16, 32), 0)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, tokenizer) -> Path:
    """What a teacher is fine-tuned from."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    return save_encoder(folder, tokenizer, Arch(2, 2, 32, 64), 1)


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A folder with train.csv and val.csv, whose labels are the kinds, and pool.txt without."""
    folder = tmp_path_factory.mktemp("table")
    texts = {kind: list_texts(kind, 60) for kind in WORDS}
    for name, part in (("train", slice(0, 20)), ("val", slice(20, 30))):
        lines = [f"{text},{kind}" for kind in WORDS for text in texts[kind][part]]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    pool = [text for kind in WORDS for text in texts[kind][30:]]
    (folder / "pool.txt").write_text("\n".join(pool))
    return folder


def compose_settings(*overrides: str) -> TrainConfig:
    words = ["name=test", "output_dir=unused", "trainer=cpu", "trainer.precision=32-true"]
    words += ["data.length=32", "data.batch_size=8", "optim.lr=1e-2", "dropout=0"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_settings(compose("train", [*words, *overrides]))


@pytest.fixture(scope="session")
def compose_run():
    """Settings as the command line gives them, made tiny."""
    return compose_settings


@pytest.fixture(scope="session")
def of_table(table) -> list[str]:
    return ["task=custom", f"data.train={table / 'train.csv'}", f"data.val={table / 'val.csv'}"]


@pytest.fixture(scope="session")
def teacher(encoder, of_table, tmp_path_factory) -> Path:
    """S: fine-tuned on the table."""
    folder = tmp_path_factory.mktemp("s") / "run"
    words = ["experiment=finetune", f"model={encoder}", *of_table, "trainer.max_epochs=8"]
    assert finetune(compose_settings(*words), folder)["val/accuracy"] > 0.9
    return folder / "model"


@pytest.fixture(scope="session")
def run_of(student, teacher, of_table, table):
    """Settings of a distillation of six epochs, by S, also on the pool."""

    def make(*overrides: str) -> TrainConfig:
        words = ["experiment=kd_finetune", f"model={student}", f"teacher.name={teacher}", *of_table]
        words += [f"data.unlabelled={table / 'pool.txt'}", "trainer.max_epochs=6"]
        return compose_settings(*words, *overrides)

    return make
