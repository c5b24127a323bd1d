"""The commands that README and the tutorials show, as words, and a process that runs them.

A block of code without a language holds commands, or what a command prints. The process loads the
large libraries once and forks for each command, so that a command costs its own work and no import.

    python tests/shown_commands.py    # reads [words, folder] as JSON, a line each; answers likewise
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torture.forked import start_process

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("bort", "python", "make", "uvicorn")  # with what a line that is a command begins
PRETRAINING = ("kd_pretrain", "mlm_pretrain", "teacher_pretrain", "kd_vs_mlm")
# In place of the embedded task, whose rows are picked from the source of thirteen packages.
OWN_ROWS = ["data.train=reviews.csv", "data.text=review", "data.label=sentiment"]
SIZES = ("depth=1", "heads=2", "hidden=16", "intermediate=16")
LARGER = ("depth=4", "heads=2", "hidden=32", "intermediate=32")  # of a teacher
GRID = ["grid.depth=[1,4]", "grid.hidden=[32]", "grid.head_size=16"]
GRID += ["grid.intermediate=[32]", "grid.ratio=null"]


def list_blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page in a language; those without one are those of ""."""
    text = page.read_text("utf-8")
    return [block for name, block in BLOCK.findall(text) if name == language]


def is_command(line: str) -> bool:
    """Whether a line of a block begins with a program."""
    return line.partition(" ")[0].removeprefix(".venv/bin/") in PROGRAMS


def list_commands(page: Path) -> Iterator[list[str]]:
    """Yield the commands that a page shows, each as its words, without comments.

    Of a block that begins with a command each line is one. Raises ValueError for one that is none.
    """
    for block in list_blocks(page, ""):
        lines = block.replace("\\\n", " ").splitlines()
        if not is_command(lines[0]):
            continue
        for line in filter(None, lines):
            if not is_command(line):
                raise ValueError(f"{page.name}: is this a command? {line}")
            yield shlex.split(line, comments=True)


def print_made(*words: str) -> subprocess.CompletedProcess:
    """Let make print what it would run, as it does for a reader.

    A make that runs the tests would tell this one that it is below it, and hand its settings on.
    """
    above = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    env = {name: value for name, value in os.environ.items() if name not in above}
    command = ["make", "-n", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, timeout=60)


def unify(words: list[str]) -> list[str]:
    """Return the words of `bort NAME …` for any way to call a command of bort.

    Those of other programs stay, without the folder of the environment.
    """
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "python" and rest[0] in ("train.py", "search.py"):
        return ["bort", rest[0].removesuffix(".py"), *rest[1:]]
    if program == "python" and rest[0] == "-m":
        return ["bort", rest[1].removeprefix("bort."), *rest[2:]]
    return [program, *rest]


def shrink(words: list[str]) -> list[str]:
    """Return a command of bort with tiny settings appended; what it trains ends after two steps."""
    command, settings = words[1], words[2:]
    if command == "benchmark":
        is_long = any(word.startswith(("lengths=", "models=")) for word in settings)
        shorter = ["lengths=[8]"] if is_long else []
        has_grid = any(word.startswith("grid=") for word in settings)
        shorter += [] if has_grid else ["memory=false"]  # each in a new process
        return words + ["latency.rounds=3"] + (GRID if has_grid else shorter)
    if command not in ("train", "search"):
        return words
    keys = {word.partition("=")[0]: word.partition("=")[2] for word in settings}
    keys.setdefault("experiment", "search" if command == "search" else "kd_pretrain")
    # The trainer of a group of GPUs, and a launcher that starts processes, are left out.
    settings = [word for word in settings if not word.startswith(("trainer=", "hydra"))]
    settings += ["trainer=cpu", "trainer.accelerator=cpu", "trainer.devices=1"]
    settings += ["trainer.precision=32-true"]
    if command == "search":
        settings += [*GRID, "search.n=4", "search.seeds=1", "search.finalists=1"]
        settings += [] if keys.get("latency") in ("analytic", "table") else ["latency.rounds=3"]
        if not any(key.startswith("search.max_") for key in keys):
            settings += ["search.max_latency_share=1"]  # or the grid has nothing small enough
    else:
        settings += ["trainer.max_steps=2"]
    of_text = keys["experiment"] in (*PRETRAINING, "search")
    settings += shrink_text(keys) if of_text else shrink_task(keys)
    has_shape = any(word.startswith(("arch_file=", "model=")) for word in settings)
    if command == "train" and not has_shape:
        settings = [word for word in settings if not word.startswith("arch=")]
        settings += [f"arch.{size}" for size in SIZES if f"arch.{size.split('=')[0]}" not in keys]
    return [*words[:2], *settings]


def shrink_text(keys: dict[str, str]) -> list[str]:
    """The settings that make a text and its teacher tiny; the embedded text takes too long."""
    words = ["data.length=16", "data.val_fraction=0.2"]
    if keys.get("data") != "text":
        words += ["data=text", "data.path=texts"]
    if "teacher.name" in keys or "model" in keys:
        return [*words, *(["data.vocab_size=null"] if "data.vocab_size" in keys else [])]
    if keys["experiment"] in ("kd_pretrain", "kd_vs_mlm", "search"):
        words += ["teacher.max_steps=2", *(f"teacher.arch.{size}" for size in LARGER)]
    return [*words, "data.vocab_size=280"]


def shrink_task(keys: dict[str, str]) -> list[str]:
    """The settings that make a task tiny; the embedded one takes too long."""
    words = ["data.length=16"]
    if not {"data.train", "task", "teacher.name"} & keys.keys():
        words += OWN_ROWS + (["model=FOLDER"] if "model" not in keys else [])
    if keys["experiment"] == "kd_finetune":
        words += ["distill.guard=-1"]
    if keys["experiment"] == "agora":
        # S has to be better than chance, which it is not after two steps: tests/agora plays rounds.
        words += ["dry_run=true"]
        words += ["teacher.name=teacher"] if "teacher.name" not in keys else []
    return words


# ----------------------------------------------------------------------------------- the process


@dataclass
class Runner:
    """The process that runs commands, seen from the tests."""

    process: subprocess.Popen

    @classmethod
    def start(cls, cache: Path) -> "Runner":
        """Start the process; cache: its folder of corpora and teachers."""
        environment = {**os.environ, "BORT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return cls(process)

    def run(self, words: list[str], folder: Path) -> tuple[int, str]:
        """Run `bort …` in a folder; return its exit code and what it printed."""
        self.process.stdin.write(json.dumps([words, str(folder)]) + "\n")
        self.process.stdin.flush()
        code, printed = json.loads(self.process.stdout.readline())
        return code, printed

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


def load_libraries() -> None:
    """Import what the commands need, but neither of Hydra's two programs: their schemas differ."""
    sys.path[:0] = [str(ROOT), str(ROOT / "bort" / "plugins")]
    import onnxruntime  # noqa: F401
    import transformers  # noqa: F401
    from lightning import pytorch  # noqa: F401

    from bort import predictor, report  # noqa: F401
    from bort.benchmark import run as benchmark  # noqa: F401
    from bort.export import run as export  # noqa: F401
    from bort.finetuning import recipe as finetune  # noqa: F401
    from bort.pretraining import kd_vs_mlm, recipe  # noqa: F401
    from bort.search import optimum, sweep  # noqa: F401
    from bort.task_distillation import recipe as distil  # noqa: F401

    warm_onnx()


def warm_onnx() -> None:
    """Trace a model: the first time takes seconds, in which torch reads its table of operations."""
    from bort.models.arch import Arch
    from bort.models.bert import ModelConfig
    from bort.models.initialization import build_model
    from bort.models.onnx import export_encoder

    model = build_model(ModelConfig(**vars(Arch(1, 1, 8, 8)), vocab_size=10, positions=16))
    with tempfile.TemporaryDirectory() as folder:
        export_encoder(model.encoder, Path(folder, "model.onnx"))


def run_forked(words: list[str], folder: str) -> tuple[int, str]:
    """Run a command in a forked process; return its exit code and what it printed."""
    from bort.__main__ import main

    def work() -> None:
        sys.argv = words
        main()

    log = Path(folder, "printed.log")
    process = start_process(work, folder, log)
    _, status, used = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if "SHOWN_TIMES" in os.environ:
        print(f"{used.ru_utime + used.ru_stime:6.2f} s  {' '.join(words)}", file=sys.stderr)
    printed = log.read_text("utf-8", errors="replace")
    log.unlink()
    return code, printed


def answer_requests() -> None:
    """Run the commands that are asked for, one after the other."""
    load_libraries()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        words, folder = json.loads(line)
        print(json.dumps(run_forked(words, folder)), file=answers, flush=True)


if __name__ == "__main__":
    answer_requests()
