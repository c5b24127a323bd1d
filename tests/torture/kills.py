"""Send SIGKILL at every write of trainings, searches and an export.

    python tests/torture/kills.py               # at every write
    python tests/torture/kills.py every=10      # at every tenth write
    python tests/torture/kills.py every=10 job=3   # of job 3 (counted from 0) alone

A write is a call that changes the disk: a file opened for writing, a rename, a removal, a new
folder, an fsync. Each command runs once undisturbed. Then, for each of its writes, it is killed
before that write, and the same command runs again. Afterwards all files must be there: weights,
curves and answers byte for byte those of the undisturbed run, the user's own files as they were,
and no temporary. Right after the kill of an export, either the old or the new folder must be whole,
wherever there is one. Otherwise the script exits with 1.
"""

import builtins
import io
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import forked

TINY = [
    "data=text", "data.path=text.txt", "data.length=16", "data.vocab_size=280", "trainer=cpu",
    "data.val_fraction=0.2",
]  # fmt: skip
SMALL = "arch={depth: 1, heads: 2, hidden: 16, intermediate: 16}"
PRETRAIN = ["train.py", "experiment=mlm_pretrain", *TINY, SMALL, "trainer.max_steps=6", "name=run"]
PRETRAIN += ["trainer.val_check_interval=3", "trainer.log_every_n_steps=1", "checkpoint_every=2"]
FINETUNE = ["train.py", "experiment=finetune", "task=custom", "model=runs/mlm_pretrain/run"]
FINETUNE += ["data.train=table.csv", "data.length=16", "data.batch_size=8", "trainer=cpu"]
FINETUNE += ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "checkpoint_every=2"]
FINETUNE += ["name=run"]
SEARCH = ["search.py", *TINY, "teacher.max_steps=4", "search.n=4", "name=run"]
SEARCH += ["teacher.arch={depth: 1, heads: 2, hidden: 32, intermediate: 32}", "search.seeds=1"]
SEARCH += ["grid={depth: [1], hidden: [16], head_size: 16, intermediate: [16, 32], ratio: null}"]
SEARCH += ["trainer.log_every_n_steps=1", "search.finalists=1", "search.max_latency_share=1"]
SEARCH += ["latency=analytic"]
HALVING = [word for word in SEARCH if not word.startswith("search.n=")]
HALVING += ["search.n=16", "search.halving=true"]
TEACHER = [word for word in FINETUNE if not word.startswith(("data.train=", "name="))]
TEACHER += ["data.train=rows.csv", "name=teacher"]
TASK = ["task=custom", "data.train=rows.csv", "data.length=16", "data.batch_size=8", "trainer=cpu"]
TASK += ["teacher.name=runs/finetune/teacher", "distill.guard=-1", "data.unlabelled=text.txt"]
TASK += ["trainer.log_every_n_steps=1", "name=run"]
SMALLER = ["grid={depth: [1], hidden: [8], head_size: 8, intermediate: [8, 16], ratio: null}"]
SMALLER += ["search.n=4", "search.seeds=1", "search.finalists=1", "search.max_latency_share=1"]
SMALLER += ["latency=analytic"]
ON_TASK = ["search.py", "search.proxy=task", *TASK, *SMALLER]
TAUGHT = ["train.py", "experiment=kd_finetune", "model=runs/mlm_pretrain/run", *TASK]
TAUGHT += ["trainer.max_epochs=1", "checkpoint_every=10"]
WORDS = [word for word in TINY if not word.startswith("data.vocab_size=")]
WORDS += ["teacher.name=runs/mlm_pretrain/run", "grid.vocab_size=[275,280]", "name=run"]
EXPORT = ["-m", "bort.export", "model=runs/mlm_pretrain/run", "format=hf", "out=out"]
JOBS = {
    "pre-training": ([], PRETRAIN),
    "fine-tuning": ([PRETRAIN], FINETUNE),
    "search": ([], SEARCH),
    "export": (
        [PRETRAIN, ["-m", "bort.export", "model=other", "format=hf", "out=out"]],
        EXPORT,
    ),
    "search by halving": ([], HALVING),
    "search on a task": ([PRETRAIN, TEACHER], ON_TASK),
    "distillation of a task": ([PRETRAIN, TEACHER], TAUGHT),
    "search over vocabularies": ([PRETRAIN], ["search.py", *WORDS, *SMALLER]),
}
EQUAL = re.compile(r".*\.(safetensors|bin|jsonl|tsv)|.*metrics\.csv|.*optimum\.yaml|out/.*")


@dataclass
class Writes:
    """Counts the calls of this process that change the disk, and kills it before call `last`."""

    last: int | None
    count: int = 0

    def install(self) -> None:
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync"):
            setattr(os, name, self._counted(getattr(os, name), lambda *_, **__: True))
        os.open = self._counted(os.open, lambda path, flags, *_, **__: flags & os.O_CREAT)
        opened = self._counted(io.open, lambda file, mode="r", *_, **__: set(mode) & set("wax+"))
        io.open = builtins.open = opened

    def _counted(self, function: Callable, changes: Callable) -> Callable:
        def call(*arguments, **options):
            if changes(*arguments, **options):
                self.count += 1
                if self.count == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


def run(command: list[str], folder: Path, last: int | None = None) -> tuple[int, int]:
    """Exit code of a command in `folder`, and its number of writes, before the last of which it is
    killed."""
    log, counted = folder.parent / "log.txt", folder.parent / "count.txt"
    os.environ["BORT_CACHE"] = str(folder / "cache")
    counted.write_text("0")
    handle = os.open(counted, os.O_WRONLY)

    def prepare() -> None:
        writes = Writes(last)
        writes.install()
        leave = os._exit

        def exit_(code: int) -> None:
            os.pwrite(handle, str(writes.count).encode(), 0)
            leave(code)

        os._exit = exit_

    code = forked.end(forked.start(command, folder, log, prepare))
    os.close(handle)
    return code, int(counted.read_text())


def files(folder: Path) -> dict[str, list[bytes]]:
    """Every file that a run leaves, by its name, with its content, or nothing where that has times.

    Digests in names are left out: a checkpoint holds times, too, and those of a cache depend on
    when the text was written. So files of several corpora may have one name, in any order.
    """
    content: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            part = path.read_bytes() if EQUAL.fullmatch(name) else b""
            content.setdefault(re.sub(r"\b[0-9a-f]{16}\b", "digest", name), []).append(part)
    return {name: sorted(parts) for name, parts in content.items()}


def prepared(root: Path, before: list[list[str]]) -> Path:
    """A folder with the input of a job, and what the commands before it leave."""
    folder = root / "prepared"
    folder.mkdir(parents=True)
    lines = [f"Line {k}: the cube of {k} is {k**3}" for k in range(60)]
    (folder / "text.txt").write_text("\n".join(lines))
    rows = [f"{line},{'ab'[k % 2]}" for k, line in enumerate(lines)]
    (folder / "table.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    more = [f"{k} is {'odd' if k % 2 else 'even'},{'ab'[k % 2]}" for k in range(240)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(more) + "\n")
    for command in before:
        if "model=other" in command:
            shutil.copytree(folder / "runs/mlm_pretrain/run/model", folder / "other")
            weights = folder / "other" / "model.safetensors"
            content = weights.read_bytes()
            weights.write_bytes(content[:-4] + bytes(4))
        if run(command, folder)[0]:
            raise SystemExit((root / "log.txt").read_text())
    if before and "out=out" in before[-1]:
        (folder / "out" / "notes").mkdir()
        (folder / "out" / "notes" / "plan.txt").write_text("of the user")
        (folder / "out" / "serve.py").write_text("of the user")
    return folder


def faults(root: Path, command: list[str], last: int, expected: dict, old: dict) -> list[str]:
    """What is wrong after a kill before write `last`, and the same command again."""
    folder = root / "tried"
    shutil.copytree(root / "prepared", folder)
    try:
        code, _ = run(command, folder, last)
        if code != -signal.SIGKILL:
            return [f"it was not killed, and ended with {code}"]
        found = []
        if (folder / "out").is_dir():
            now = {k: v for k, v in files(folder).items() if k.startswith("out/")}
            sets = [{k: v for k, v in s.items() if k.startswith("out/")} for s in (old, expected)]
            own = [{k: v for k, v in s.items() if v != [b"of the user"]} for s in (now, *sets)]
            if own[0] not in own[1:]:
                found.append("the export is neither the old nor the new one after the kill")
        code, _ = run(command, folder)
        if code:
            lines = (root / "log.txt").read_text().splitlines()
            found.append(f"the second start ended with {code}: {lines[-1] if lines else ''}")
        after = files(folder)
        found += [f"{name} is missing" for name in sorted(expected.keys() - after.keys())]
        found += [f"{name} is left" for name in sorted(after.keys() - expected.keys())]
        same = sorted(expected.keys() & after.keys())
        found += [f"{name} differs" for name in same if expected[name] != after[name]]
        return found + [f"{name} is a temporary" for name in forked.temporaries(folder)]
    finally:
        shutil.rmtree(folder)
        (root / "log.txt").unlink()


def main(every: int = 1, job: int | None = None, first: int = 1) -> int:
    """every: the distance of the writes that are tried, from the `first` on; job: one of JOBS."""
    forked.load()
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name:
        for number, (title, (before, command)) in enumerate(JOBS.items()):
            if job not in (None, number):
                continue
            root = Path(name, str(number))
            folder = prepared(root, before)
            old = files(folder)
            shutil.copytree(folder, root / "whole")
            code, count = run(command, root / "whole")
            if code:
                raise SystemExit((root / "log.txt").read_text())
            expected = files(root / "whole")
            points = range(first, count + 1, every)
            bad = 0
            for last in points:
                if found := faults(root, command, last, expected, old):
                    bad += 1
                    print(f"{title}, write {last}: {'; '.join(found)}"[:400], flush=True)
            print(f"{title}: {len(points)} kills at {count} writes, {bad} with faults", flush=True)
            wrong, total = wrong + bad, total + len(points)
    print(f"{total} kills, {wrong} with faults")
    return int(bool(wrong))


if __name__ == "__main__":
    forked.run_script(main, __doc__)
