"""Run wrong command lines, each of which must end with one line and leave nothing behind.

    python tests/torture/commands.py               # 400 of them
    python tests/torture/commands.py count=50 seed=7

Each command runs as a user would run it, in a folder of its own, in a process that is forked after
torch was loaded once. A command that happens to be right may do its work (the sizes are tiny). The
script exits with 1 if a command printed a trace, no line, more than one line or a line of more than
200 characters, left a file behind, or took longer than a minute.
"""

import atexit
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import forked

SECONDS = 60
LONGEST = 200

VALUES = (
    "x", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "99999999999999999999", "null", "[]",
    "[1,x]", "{}", "{a: 1}", "''", "' '", "true", "???", "${x}", "${oc.env:HOME}", "a,b", "~", "/",
    "no/such/folder", "é😀", "a=b", "-", "[[[", "'", "1e-400", "00:00:00:00", "\\n",
)  # fmt: skip
TINY = (
    "data=text", "data.path=text.txt", "data.length=16", "data.vocab_size=280", "trainer=cpu",
    "data.val_fraction=0.2", "trainer.max_steps=1", "teacher.max_steps=1",
    "arch={depth: 1, heads: 2, hidden: 16, intermediate: 16}",
    "teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 32}",
)  # fmt: skip
TASK = ("experiment=finetune", "model=no_model", "data.train=table.csv")
BY_HAND = [
    *(["train.py", word] for word in ("--cfg=x", "--lr=3", "--help=1", "-x", "--info=z", "-cn=y")),
    *(["train.py", *words] for words in (
        ("--cfg", "banana"), ("--config-dir", "nowhere"), ("--config-name", "nosuch"), ("--cfg",),
        ("--config-path", "nowhere"), ("--experimental-rerun", "x.pickle"), ("--exp", "x.pickle"),
        ("experiment=kd_pretain",), ("arch=boort",), ("optim.lrr=3",), ("+new=1",), ("~optim.lr",),
        ("-m", "experiment=mlm_pretrain", "arch.heads=3,5", "arch.hidden=8"),
        ("-m", "seed=a,b"), ("name=a b",), ("name=../x",), ("name=.",), ("name=a=b",),
        ("output_dir=a b",), ("experiment=finetune", "model=nowhere", "task=glue/rte"),
        ("experiment=finetune", "task=glue/rtee", "model=x"), ("model=x",),
        ("arch_file=nowhere.yaml",), ("data=text",), ("data.path=text.txt",), ("task=custom",),
        (*TINY, "trainer.devices=99"), (*TINY, "trainer.accelerator=tpu"),
        (*TINY, "trainer.strategy=nope"), (*TINY, "callbacks.x._target_=os.system"),
        ("data=text", "data.path=nowhere.txt"), ("data=text", "data.path=empty.txt"),
        (*TINY, "teacher.name=nowhere/folder/at/all"), (*TINY, "+callbacks.x=[]"),
    )),
    *(["search.py", *words] for words in (
        ("arch=tiny",), ("grid=none",), ("grid.depth=2",), ("grid.depth=[]",), ("search.n=1",),
        ("search.epsilon=0",), ("latency=table",),
        (*TINY[:-2], "latency=table", "latency.path=table.csv"),
        ("search.exponents=[1]",),
        (*TINY[:-2], "search.max_params=1"), ("-m", "seed=1,2"), ("optim.lr=1,2",),
        ("search.max_latency_ms=1",), ("distill.w_kd=0",), ("trainer.devices=2",),
    )),
    *(["-m", f"bort.{program}", *words] for program, words in (
        ("predict", ()), ("predict", ("model=x",)), ("predict", ("text=x",)), ("predict", ("x",)),
        ("predict", ("model=nowhere", "text=x")), ("predict", ("model=.", "input=nowhere")),
        ("predict", ("model=text.txt", "text=x")), ("predict", ("modell=x", "text=x")),
        ("predict", ("model=x", "text=a", "top=0")), ("predict", ("model=x", "text=a", "top=nan")),
        ("export", ()), ("export", ("model=x", "format=pdf", "out=o")),
        ("export", ("model=nowhere", "format=hf", "out=o")),
        ("export", ("model=x", "format=hf", "out=o", "agreement=x")),
        ("export", ("model=x", "format=hf", "out=o", "drop=nan")),
        ("export", ("model=x", "format=hf", "out=.")),
        ("export", ("model=x", "format=hf", "out=~nobody/x")),
        ("benchmark", ("archs=[nosuch]",)), ("benchmark", ("archs=[]",)), ("benchmark", ("out=.",)),
        ("benchmark", ("latency=table",)), ("benchmark", ("models=x",)), ("benchmark", ("x",)),
        ("benchmark", ("latency.rounds=0",)), ("benchmark", ("latency.device=cuda",)),
        ("report", ()), ("report", ("nowhere",)), ("report", (".", "out=x.txt")),
        ("report", (".",)),
        ("report", ("a=b",)), ("report", ("text.txt",)),
        ("pipeline", ("nme=x",)), ("pipeline", ("resume=false",)),
        ("pipeline", ("export=dropp=1",)),
        ("pipeline", ("finetune=trainer.max_epochs=x",)), ("pipeline", ("search='",)),
        ("pipeline", ("data.train=nowhere.csv",)), ("pipeline", ("task=glue/rte",)),
        ("pipeline", ("benchmark=archs=[nosuch]",)), ("pipeline", ("search=grid=none",)),
        ("fptas", ()), ("fptas", ("nowhere.csv",)), ("fptas", ("text.txt",)),
        ("fptas", ("table.csv",)), ("fptas", ("table.csv", "exponents=nan,1,1")),
        ("fptas", ("table.csv", "objective=x")), ("fptas", ("table.csv", "epsilon=0")),
        ("doctor", ("x",)), ("dashboard", ("x",)), ("dashboard", ()),
    )),
]  # fmt: skip


@dataclass
class Verdict:
    """What a command left: its exit code, what it printed, files, and what is wrong with that."""

    command: list[str]
    code: int
    lines: list[str]
    files: list[str]

    @property
    def fault(self) -> str | None:
        if any("Traceback" in line for line in self.lines):
            return "a trace"
        if self.code not in (0, 1):
            return f"exit code {self.code}"
        if self.code == 0:
            return None  # it was right after all
        if len(self.lines) != 1 and "-m" not in self.command[1:]:
            return f"{len(self.lines)} lines"
        if any(len(line) > LONGEST for line in self.lines):
            return f"a line of {max(map(len, self.lines))} characters"
        return f"left {', '.join(self.files[:3])}" if self.files else None


def keys(schema: type, prefix: str = "") -> Iterator[str]:
    """All settings of a dataclass, those of dataclasses inside of it too."""
    for field in fields(schema):
        inner = field.default_factory if callable(field.default_factory) else field.type
        if is_dataclass(inner):
            yield from keys(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def commands(count: int, seed: int) -> list[list[str]]:
    """Those by hand, then any setting with a value that it hardly can have."""
    from bort.config.search import SearchRunConfig
    from bort.config.train import TrainConfig
    from bort.models.arch import Arch

    trainer = [line.split(":")[0] for line in (forked.ROOT / "conf/trainer/default.yaml").open()]
    trainer = [f"trainer.{name}" for name in trainer if name[0] not in "#_"]
    shape = [f"arch.{name}" for name in Arch.KEYS]
    training = [*keys(TrainConfig), *trainer, *shape]
    searching = sorted(set(keys(SearchRunConfig)) - set(keys(TrainConfig)))
    pick = random.Random(seed)
    made = list(BY_HAND)
    while len(made) < count:
        value, kind = pick.choice(VALUES), pick.random()
        if kind < 0.25:
            made.append(["search.py", *TINY[:-2], f"{pick.choice(searching)}={value}"])
        elif kind < 0.5:
            made.append(
                ["train.py", *TASK, "trainer.max_epochs=1", f"{pick.choice(training)}={value}"]
            )
        else:
            job = pick.choice(("mlm_pretrain", "kd_pretrain", "kd_vs_mlm"))
            made.append(
                ["train.py", f"experiment={job}", *TINY, f"{pick.choice(training)}={value}"]
            )
    return pick.sample(made, count) if len(made) > count else made


def run(command: list[str]) -> Verdict:
    """The command in an empty folder but for three small files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "here")
        folder.mkdir()
        (folder / "text.txt").write_text("\n".join(f"The cube of {k} is {k**3}" for k in range(60)))
        (folder / "empty.txt").touch()
        (folder / "table.csv").write_text("text,label\nriver,a\nstone,b\n" * 3)
        before = {path.name for path in folder.iterdir()}
        errors, output = Path(name, "errors"), Path(name, "output")
        process = os.fork()
        if not process:
            _become(command, folder, errors, output)
        end = time.monotonic() + SECONDS
        while not (status := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.02)
        if not status[0]:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status[1]) if status[0] else 124
        lines = errors.read_text(errors="replace").splitlines()
        left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name not in before)
        return Verdict(command, code, lines, left)


def _become(command: list[str], folder: Path, errors: Path, output: Path) -> None:
    """Make this forked process the command; what its parent does at its own exit is not its."""
    weakref.finalize._registry.clear()
    atexit._clear()
    os.setpgid(0, 0)
    os.chdir(folder)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        if command[0] == "-m":
            sys.argv = [command[1], *command[2:]]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(forked.ROOT / command[0]), *command[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(count: int = 400, seed: int = 0) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    os.environ["BORT_CACHE"] = tempfile.mkdtemp()
    sys.path.insert(0, str(forked.ROOT))
    import transformers  # noqa: F401  so that the forked processes need not load them
    from lightning import pytorch  # noqa: F401

    faults, codes = [], Counter()
    for number, command in enumerate(commands(count, seed), 1):
        verdict = run(command)
        codes[verdict.code] += 1
        if verdict.fault:
            faults.append(verdict)
            print(
                f"{verdict.fault}: {' '.join(command)}",
                *verdict.lines[-3:],
                sep="\n    ",
                flush=True,
            )
        if number % 20 == 0:
            print(f"{number} of {count} commands, {len(faults)} faults", flush=True)
    shutil.rmtree(os.environ["BORT_CACHE"], ignore_errors=True)
    print(f"{count} command lines: exit codes {dict(codes)}, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    forked.run_script(main, __doc__)
