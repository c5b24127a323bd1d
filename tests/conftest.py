"""Fixtures shared by all tests."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from bort.config import search as search_config
from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.console import ScreenHandler, show_log
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_classifier, build_model
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
search_config.register(search_config.SearchRunConfig)

# Two threads that share a busy core with anything else are several times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # it was imported before that was set

# A shell that runs the tests in the background has them ignore Ctrl-C, nohup the end of a terminal,
# and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and case files that live beside the repository; not part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Corpora and teachers of all tests; nobody's own cache is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BORT_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def log():
    """What bort logs is on the screen, as in its commands; lists of `log_lines` end with a test."""
    show_log()
    yield
    log = logging.getLogger("bort")
    for handler in log.handlers:
        if not isinstance(handler, ScreenHandler):
            log.removeHandler(handler)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A text of 60 distinct lines that gives a few dozen sequences of 16 tokens."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"Line {k}: the cube of {k} is {k**3}" for k in range(60)))
    return path


def has_tokenizer(overrides: tuple[str, ...]) -> bool:
    """Whether a tokenizer or a teacher with one is named, which data.vocab_size would trim."""
    names = [word for word in overrides if word.startswith(("teacher.name=", "data.tokenizer="))]
    named = [word for word in names if not word.endswith(("=null", "=auto"))]
    return bool(named) and "data.tokenizer=bpe" not in named


@pytest.fixture
def output_types(monkeypatch) -> dict[str, set]:
    """The types of a classifier's outputs in the steps and in the validations of a test."""
    from bort.finetuning.module import FineTuningModule

    types: dict[str, set] = {"training": set(), "validation": set()}
    forward = FineTuningModule.forward

    def note(module, batch):
        outputs = forward(module, batch)
        types["training" if module.training else "validation"].add(outputs.dtype)
        return outputs

    monkeypatch.setattr(FineTuningModule, "forward", note)
    return types


@pytest.fixture(scope="session")
def settings_of(text) -> Callable[..., TrainConfig]:
    """Settings from `conf/` as the command line gives them, made tiny, with these overrides."""

    def make(*overrides: str, experiment: str = "mlm_pretrain") -> TrainConfig:
        tiny = [
            f"experiment={experiment}",
            "name=test",
            "output_dir=unused",  # the real one is known only inside a job of Hydra
            "arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}",
            "teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 64}",
            "teacher.max_steps=5",
            *([] if "data=docstrings" in overrides else ["data=text", f"data.path={text}"]),
            "data.length=16",
            *([] if has_tokenizer(overrides) else ["data.vocab_size=280"]),
            "data.val_fraction=0.2",
            "trainer=cpu",
            "trainer.precision=32-true",  # what it would be by `auto` depends on the machine
            "trainer.max_steps=5",
        ]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose("train", [*tiny, *overrides]))

    return make


@pytest.fixture(scope="session")
def tiny_search(text) -> list[str]:
    """Overrides of a search of 8 candidates with 6 steps each, by the paper's W."""
    return [
        *("data=text", f"data.path={text}", "data.length=16", "data.vocab_size=280"),
        *("data.val_fraction=0.2", "trainer=cpu", "teacher.max_steps=5", "search.n=6"),
        "trainer.precision=32-true",
        "teacher.lr=4e-3",
        "teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}",
        "grid={depth: [1, 2], hidden: [16, 32], head_size: 16, intermediate: [16, 32]}",
        *("grid.ratio=null", "latency=analytic"),
        *("search.objective=w", "search.finalists=2", "search.seeds=2"),
    ]


@pytest.fixture(scope="session")
def search_of(tiny_search):
    """Settings of `search.py` as the command line gives them, with these overrides."""

    def make(*overrides: str) -> search_config.SearchRunConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            trimming = "data.vocab_size=280" if has_tokenizer(overrides) else None
            given = [word for word in tiny_search if word != trimming]
            given += ["name=test", "output_dir=unused", *overrides]
            return parse_settings(compose("search", given), search_config.SearchRunConfig)

    return make


@pytest.fixture(scope="session")
def done(search_of, tmp_path_factory):
    """A search that trained every candidate: its settings, folder, summary, lines, T's passes."""
    # Not at the top: Lightning takes seconds to load.
    from tiny_runs import log_lines, sweep

    from bort.models.bert import MaskedLM
    from bort.pretraining.recipe import prepare

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


@pytest.fixture(scope="session")
def halved(search_of, tmp_path_factory):
    """A search by successive halving of 8 candidates to 4, 8 and 16 steps: settings, folder."""
    from tiny_runs import sweep

    folder = tmp_path_factory.mktemp("halving") / "run"
    run = search_of(
        *("search.halving=true", "search.n=16", "search.exponents=[0,0,1]", "search.seeds=1"),
        *("search.finalists=1", "checkpoint_every=2"),
    )
    return run, folder, sweep(run, folder)


@pytest.fixture
def copied(done, tmp_path):
    """The folder of `done`, without its models: what a choice is made from."""
    from bort.search import optimum

    folder = tmp_path / "run"
    shutil.copytree(done[1], folder, ignore=shutil.ignore_patterns("model", "*.f16", "wandb"))
    assert optimum.choose_optimum(folder).result.w == done[2]["w"]
    return folder


@pytest.fixture(scope="session")
def named_model(tmp_path_factory) -> Path:
    """A masked language model of 300 words and 32 positions."""
    # Not at the top: torch is loaded for the tests that need it.
    from bort.models.arch import Arch
    from bort.models.bert import ModelConfig
    from bort.models.huggingface import save_model
    from bort.models.initialization import build_model
    from bort.text.tokenizer import train_tokenizer

    words = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
    sizes = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=300, positions=32)
    folder = tmp_path_factory.mktemp("model") / "named"
    save_model(build_model(sizes), train_tokenizer(words, 300), folder)
    return folder


@pytest.fixture(scope="module")
def tiny(text) -> list[str]:
    """A run of two steps on a tiny text."""
    return [
        *("experiment=mlm_pretrain", "data=text", f"data.path={text}", "data.length=16"),
        *("data.vocab_size=280", "data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=2"),
        "trainer.precision=32-true",
        "arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}",
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([f"line {k} has words and a mask" for k in range(60)], 300)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=300, positions=32)
    body = build_model(sizes, "paper", 0)
    for parameter in body.parameters():  # or all texts would look alike
        parameter.data.mul_(6)
    save_model(body, tokenizer, root / "masked")
    for name, outputs, options in (
        ("classes", 3, {}),
        ("number", 1, {}),
        ("spans", 2, {"spans": 2}),
        ("choices", 1, {"choices": True}),
    ):
        model = build_classifier(body, outputs, **options)
        model.out.weight.data.mul_(10)
        labels = {str(k): f"class {k}" for k in range(outputs)}
        save_model(model, tokenizer, root / name, {"id2label": labels} if outputs == 3 else None)
    return {path.name: path for path in root.iterdir()}


# ------------------------------------------------------------------------------------ processes

# The folders whose files share models or searches that take long to make, by the group they are in.
GROUPS = {"export": "export", "search": "search", "trials": "search"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one of several processes run the tests of a file, or of such a group of folders."""
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return GROUPS.get(Path(path).parent.name, path)

    return GroupScheduling(config, log) if config.getvalue("dist") == "loadfile" else None
