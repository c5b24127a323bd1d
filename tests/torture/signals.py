"""Send SIGTERM and Ctrl-C while a corpus is built, and while loader processes start and work.

    python tests/torture/signals.py               # at 12 moments of each of four commands
    python tests/torture/signals.py count=40 seed=7
    python tests/torture/signals.py job=3         # of job 3 (counted from 0) alone

Every command runs once undisturbed, to measure how long it takes. Then it gets a signal at random
moments, alone or with its whole group of processes, as from a terminal. It must end within ten
seconds with 143 or 130 and no trace, and leave no temporary and no process behind, and the same
command must resume and finish. Otherwise the script exits with 1.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import forked

SECONDS = 10  # between the signal and the end
SMALL = ["arch={depth: 1, heads: 2, hidden: 16, intermediate: 16}", "data.length=16"]
SMALL += ["experiment=mlm_pretrain", "trainer=cpu", "data.vocab_size=400", "name=run"]
TEXT = ["train.py", *SMALL, "data=text", "data.path=text.txt"]
STEPS = ["trainer.max_steps=30", "trainer.val_check_interval=10"]
TABLE = ["train.py", "experiment=finetune", "model=model", "data.train=table.csv", "name=run"]
JOBS = {
    "a corpus of text": [*TEXT, "trainer.max_steps=1"],
    "a corpus of docstrings": ["train.py", *SMALL, "trainer.max_steps=1"],
    "loader processes": [*TEXT[:-1], "data.path=few.txt", *STEPS, "data.workers=2"],
    "rows of a task": [*TABLE, "trainer=cpu", "trainer.max_steps=2", "data.length=64"],
}
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def write_inputs(root: Path, pick: random.Random) -> None:
    """Texts of 4 MB and of a few kB, a table of 20,000 rows, and a tiny model."""
    from bort.models.arch import Arch
    from bort.models.bert import ModelConfig
    from bort.models.huggingface import save_model
    from bort.models.initialization import build_model
    from bort.text.tokenizer import train_tokenizer

    words = [f"w{pick.randrange(10**6)}" for _ in range(30_000)]
    lines = [" ".join(pick.choices(words, k=12)) for _ in range(48_000)]
    (root / "text.txt").write_text("\n".join(lines))
    (root / "few.txt").write_text("\n".join(lines[:200]))
    rows = [f"{line},{'ab'[number % 2]}" for number, line in enumerate(lines[:20_000])]
    (root / "table.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=280, positions=64)
    save_model(build_model(sizes, "default", 0), train_tokenizer(lines[:50], 280), root / "model")


def clear(root: Path) -> None:
    """Remove what commands have left."""
    for name in ("runs", "cache"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "log.txt").unlink(missing_ok=True)


def start(command: list[str], root: Path) -> int:
    """Run a command as the first of a group of processes."""
    return forked.start(command, root, root / "log.txt", lambda: os.setpgid(0, 0))


def wait(process: int, seconds: float) -> int | None:
    """The exit code; None for a process that has not ended within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def group_is_alive(process: int) -> bool:
    try:
        os.killpg(process, 0)
    except ProcessLookupError:
        return False
    return True


def faults(
    command: list[str], root: Path, moment: float, number: signal.Signals, group: bool
) -> list[str]:
    """What is wrong after a signal `moment` seconds after the start, and the same command again."""
    clear(root)
    process = start(command, root)
    code = wait(process, moment)
    if code is not None:
        return [] if code == 0 else [f"ended with {code} before the signal"]
    os.killpg(process, number) if group else os.kill(process, number)
    began = time.monotonic()
    code = wait(process, SECONDS)
    found = []
    if code is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return [f"not ended after {SECONDS} s"]
    if code not in (0, CODES[number]):
        found.append(f"exit code {code}")
    if code == 0 and not list((root / "runs").rglob("summary.json")):
        found.append("exit code 0 without an end")
    lines = (root / "log.txt").read_text().splitlines()
    if any("Traceback" in line for line in lines):
        found.append("a trace")
    if code and sum(": stopped" in line for line in lines) != 1:
        found.append("not one line says that it was stopped")
    if code and not (lines and "stopped" in lines[-1]):
        found.append(f"last line {lines[-1] if lines else '(none)'}")
    time.sleep(0.2)
    if group_is_alive(process):
        found.append("a process is left")
        os.killpg(process, signal.SIGKILL)
    found += [f"{name} is a temporary" for name in forked.temporaries(root)]
    if found:
        found.append(f"after {time.monotonic() - began:.1f} s: {' | '.join(lines[-6:])}")
    if again := wait(start(command, root), 120):
        found.append(f"the second start ended with {again}")
    return found


def main(count: int = 12, seed: int = 0, job: int | None = None) -> int:
    forked.load()
    wrong, pick = 0, random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["BORT_CACHE"] = str(root / "cache")
        write_inputs(root, pick)
        for place, (title, command) in enumerate(JOBS.items()):
            if job not in (None, place):
                continue
            clear(root)
            began = time.monotonic()
            if wait(start(command, root), 300) != 0:
                raise SystemExit((root / "log.txt").read_text())
            seconds = time.monotonic() - began
            bad = 0
            for trial in range(count):
                moment = seconds * (trial + pick.random()) / count
                number, group = pick.choice(list(CODES)), pick.random() < 0.5
                if lines := faults(command, root, moment, number, group):
                    bad += 1
                    told = f"{number.name} {'to the group ' * group}after {moment:.2f} s"
                    print(f"{title}, {told}: {'; '.join(lines)}"[:1500], flush=True)
            print(f"{title} ({seconds:.1f} s): {count} signals, {bad} with faults", flush=True)
            wrong += bad
    print(f"{wrong} signals with faults")
    return int(bool(wrong))


if __name__ == "__main__":
    forked.run_script(main, __doc__)
