"""Runs the parts of a benchmark and writes their tables; the other scripts of this folder use it.

Arguments of a script are names of its parts (none: all), `smoke`, and options such as model=FOLDER.
With `smoke` a script does the same with tiny models on a few lines of text, in a folder that is
removed afterwards, and only prints; this shows within seconds whether the script still runs.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig, register
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs" / "benchmarks"
TINY = [
    *("trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=1"),
    *("data.length=16", "data.batch_size=4"),
]
TINY_TEXT = [
    *("data.source=text", "data.vocab_size=280", "data.val_fraction=0.2"),
    "arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}",
    "teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 64}",
    "teacher.max_steps=2",
]
TINY_SEARCH = [
    *("search.n=4", "search.finalists=1", "search.seeds=1", "latency.rounds=1"),
    "grid={depth: [1, 2], hidden: [16, 32], head_size: 16, intermediate: [16, 32], ratio: null}",
]


@dataclass(frozen=True)
class Bench:
    """How much a part does, where it keeps its trainings, and the options it was called with.

    runs: the folder of trainings. smoke: whether everything is tiny.
    """

    runs: Path
    smoke: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def choose(self, full: Any, tiny: Any) -> Any:
        """Return the first, or the second where everything is tiny."""
        return tiny if self.smoke else full

    def shorten(self, values: Sequence, count: int = 2) -> list:
        """Return all of these values, or the first ones where everything is tiny."""
        return list(values)[:count] if self.smoke else list(values)

    @property
    def text(self) -> Path:
        """The text of tiny trainings, which is written on the first call."""
        path = self.runs / "text.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                f"Line {k} says that the cube of {k} is {k**3} and no other" for k in range(60)
            ]
            path.write_text("\n".join(lines))
        return path

    def compose_pretraining(self, *overrides: str) -> TrainConfig:
        """Compose the settings of `train.py …` for a training on text."""
        tiny = [*TINY, *TINY_TEXT, f"data.path={self.text}"] if self.smoke else []
        return parse_settings(_compose("train", *overrides, *tiny))

    def compose_task(self, *overrides: str) -> TrainConfig:
        """Compose the settings of `train.py …` for a training on a task."""
        return parse_settings(_compose("train", *overrides, *self.choose([], TINY[:1])))

    def compose_search(self, *overrides: str) -> SearchRunConfig:
        """Compose the settings of `search.py …`."""
        tiny = [*TINY, *TINY_TEXT, *TINY_SEARCH, f"data.path={self.text}"] if self.smoke else []
        register(SearchRunConfig)
        return parse_settings(_compose("search", *overrides, *tiny), SearchRunConfig)


def _compose(config: str, *overrides: str):
    """Compose settings in float32 unless an override names another precision."""
    fixed = ["name=benchmark", "output_dir=unused", "trainer.precision=32-true"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config, [*fixed, *overrides])


Part = Callable[[Bench], list[str]]


def run_parts(name: str, parts: dict[str, Part], runs: Path = RUNS, options: Sequence = ()) -> None:
    """Run the parts that the command line names, and write results/NAME_<part>.md of each.

    runs: the folder of trainings. options: names that may be given a value. A mistake on the
    command line ends the program with one line.
    """
    show_log()
    try:
        chosen, given, smoke = read_arguments(sys.argv[1:], parts, options)
        with open_bench(runs, smoke, given) as bench:
            for part in chosen or parts:
                write_table(f"{name}_{part}", [describe_machine(), "", *parts[part](bench)], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/{name}.py: {error}") from None


def write_table(name: str, lines: list[str], bench: Bench) -> None:
    """Print a table, and write it as results/NAME.md unless everything is tiny."""
    print("\n".join(lines), end="\n\n")
    if not bench.smoke:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


def read_arguments(
    arguments: Sequence[str], parts: Collection[str], options: Sequence[str] = ()
) -> tuple[list[str], dict[str, str], bool]:
    """Return the parts that are named, the options with their values, and whether to be tiny.

    Raises BortError for a word that is none of these.
    """
    known = [*parts, "smoke", *(f"{option}=…" for option in options)]
    chosen, given = [], {}
    for word in arguments:
        option, _, value = word.partition("=")
        if value and option in options:
            given[option] = value
        elif word in parts:
            chosen.append(word)
        elif word != "smoke":
            raise BortError(f"{word} is none of {', '.join(known)}")
    return chosen, given, "smoke" in arguments


@contextmanager
def open_bench(runs: Path, smoke: bool, options: dict[str, str] | None = None) -> Iterator[Bench]:
    """Yield what a part needs; a tiny one has its trainings and its cache in a temporary folder."""
    if not smoke:
        yield Bench(runs, options=options or {})
        return
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, BORT_CACHE=str(Path(folder) / "cache")):
            yield Bench(Path(folder), True, options or {})
