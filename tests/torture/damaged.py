"""Damage the files of runs: each reader must answer with one line, or as if nothing had happened.

    python tests/torture/damaged.py               # 300 of them
    python tests/torture/damaged.py count=50 seed=7

A tiny pre-training, fine-tuning and search run once. Then one file of a copy is cut, loses a bit,
gets values of another type, is nested deeply, or becomes something else, and everything that reads
such a folder reads the copy: its page, its model, the same command again. The script exits with 1
if a reader raised anything but one line of at most 200 characters.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked

LONGEST = 200
TINY = [
    "data=text", "data.path=text.txt", "data.length=16", "data.vocab_size=280", "trainer=cpu",
    "data.val_fraction=0.2", "trainer.val_check_interval=2", "name=run",
    "arch={depth: 1, heads: 2, hidden: 16, intermediate: 16}",
]  # fmt: skip
JUNK: list[Any] = [None, True, -1, 10**400, 1.5, "x", "", [], {}, [[]], {"a": 1}, "${oc.env:HOME}"]
Read = Callable[[], object]


@dataclass
class RunKind:
    """A finished run, and all that reads its folder, each by its name."""

    name: str
    folder: Path
    readers: Callable[[Path], dict[str, Read]]


def make_runs() -> Iterator[RunKind]:
    """Run the three jobs in the current folder."""
    from hydra import compose, initialize_config_dir

    from bort import predictor, report
    from bort.config.compose import parse_settings
    from bort.config.search import SearchRunConfig, register
    from bort.config.train import TrainConfig
    from bort.finetuning import recipe as finetune
    from bort.models.huggingface import load_model, load_tokenizer
    from bort.pretraining.recipe import pretrain
    from bort.runs.loaded import load_run, load_runs
    from bort.search import optimum
    from bort.search import sweep as search

    register(SearchRunConfig)

    def settings(base: str, schema: type, *words: str):
        with initialize_config_dir(str(forked.ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose(base, [*words, "output_dir=unused"]), schema)

    def page(folder: Path) -> None:
        list(report.build_parts(load_run(folder)))

    training = settings(
        "train", TrainConfig, "experiment=mlm_pretrain", *TINY, "trainer.max_steps=4"
    )
    folder = Path("runs/mlm_pretrain/run")
    pretrain(training, folder)
    yield RunKind(
        "pre-training",
        folder,
        lambda copy: {
            "page": lambda: page(copy),
            "side by side": lambda: list(report.compare_runs(load_runs(copy) * 2)),
            "model": lambda: (load_model(copy), load_tokenizer(copy)),
            "again": lambda: pretrain(training, copy),
        },
    )
    words = ["experiment=finetune", f"model={folder}", "data.train=table.csv", "data.val=table.csv"]
    words += ["trainer=cpu", "trainer.max_epochs=1", "data.length=16", "name=run"]
    tuning = settings("train", TrainConfig, *words)
    tuned = Path("runs/finetune/run")
    finetune.finetune(tuning, tuned)
    yield RunKind(
        "fine-tuning",
        tuned,
        lambda copy: {
            "page": lambda: page(copy),
            "answers": lambda: predictor.load(copy).predict(["river"]),
            "again": lambda: finetune.finetune(tuning, copy),
        },
    )
    sizes = "grid={depth: [1], hidden: [16], head_size: 16, intermediate: [16, 32], ratio: null}"
    more = ["search.n=4", "search.finalists=1", "search.seeds=1", "teacher.max_steps=2", sizes]
    more += ["teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 64}"]
    usual = [word for word in TINY if not word.startswith(("arch=", "trainer.val"))]
    sweep = settings("search", SearchRunConfig, *usual, *more)
    found = Path("runs/search/run")
    search.run_in_process(sweep, found)
    optimum.conclude(found)
    yield RunKind(
        "search",
        found,
        lambda copy: {
            "conclusion": lambda: optimum.conclude(copy),
            "again": lambda: search.run_in_process(sweep, copy),
        },
    )


def damage(path: Path, pick: random.Random) -> str:
    """Damage a file; returns how."""
    content = path.read_bytes()
    ways = ["cut", "emptied", "a flipped bit", "random bytes"]
    ways += ["another type", "nested", "a list"] * 2 if path.suffix in (".json", ".jsonl") else []
    how = pick.choice(ways)
    if how == "cut":
        content = content[: pick.randrange(len(content) or 1)]
    elif how == "emptied":
        content = b""
    elif how == "a flipped bit" and content:
        place = pick.randrange(len(content))
        content = (
            content[:place]
            + bytes([content[place] ^ 1 << pick.randrange(8)])
            + content[place + 1 :]
        )
    elif how == "random bytes":
        content = pick.randbytes(200)
    elif how == "nested":
        content = b"[" * 100_000
    elif how == "a list":
        content = b"[1, 2]"
    elif how == "another type":
        content = _retyped(content, pick)
    path.write_bytes(content)
    return how


def _retyped(content: bytes, pick: random.Random) -> bytes:
    """The JSON object, or the first line of JSON, with another value somewhere."""
    first, *rest = content.split(b"\n") if content.count(b"\n{") else [content]
    try:
        value = json.loads(first)
    except ValueError:
        return b"null"
    part, steps = value, pick.randint(1, 3)
    while isinstance(part, dict | list) and part:
        key = pick.choice(list(part) if isinstance(part, dict) else range(len(part)))
        steps -= 1
        if steps <= 0 or not isinstance(part[key], dict | list) or not part[key]:
            part[key] = pick.choice(JUNK)
            break
        part = part[key]
    return b"\n".join([json.dumps(value).encode(), *rest])


def fault_of(read: Read) -> str | None:
    """What is wrong with how a reader answered; None for one line, or an answer."""
    from bort.shell import mistake

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read()
    except BaseException as error:
        line = mistake(error) if isinstance(error, Exception) else None
        if line is None:
            return "".join(traceback.format_exception(error)[-3:])
        if "\n" in line or len(line) > LONGEST:
            return f"a line of {len(line)} characters: {line}"
        answers["one line"] += 1
        return None
    answers["read"] += 1
    return None


answers: Counter[str] = Counter()


def main(count: int = 300, seed: int = 0) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.path.insert(0, str(forked.ROOT))
    pick, faults = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["BORT_CACHE"] = folder + "/cache"
        Path("text.txt").write_text("\n".join(f"The cube of {k} is {k**3}" for k in range(90)))
        Path("table.csv").write_text("text,label\nriver,a\nstone,b\n" * 8)
        kinds = list(make_runs())
        for number in range(count):
            kind = kinds[number % len(kinds)]
            copy = kind.folder.with_name("copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(kind.folder, copy)
            if pick.random() < 0.3:  # then the same command has something to do
                (copy / "summary.json").unlink(missing_ok=True)
            files = sorted(
                path for path in copy.rglob("*") if path.is_file() and path.name != ".lock"
            )
            path = pick.choice(files)
            how = damage(path, pick)
            for name, read in kind.readers(copy).items():
                if fault := fault_of(read):
                    faults += 1
                    print(
                        f"{kind.name}, {path.relative_to(copy)} {how}, {name}: {fault}", flush=True
                    )
            if (number + 1) % 20 == 0:
                print(f"{number + 1} of {count} damaged files, {faults} faults", flush=True)
        os.chdir(forked.ROOT)
    print(f"{count} damaged files: {dict(answers)}, {faults} faults")
    return int(bool(faults))


if __name__ == "__main__":
    forked.run_script(main, __doc__)
