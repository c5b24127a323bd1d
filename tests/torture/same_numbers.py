"""Compare the numbers that two checkouts of bort train, bit by bit.

    python tests/torture/same_numbers.py other=../older     # this checkout against another one

Both checkouts run twenty steps of a pre-training, a distillation and a fine-tuning, a search of
four candidates and one round of Agora, on the same text, with empty caches of their own. The script
compares weights, curves, answers, generated rows and the records of the search. In JSON and CSV
files it compares every value but times, names of folders and digests of such files. It exits with 1
if a value differs. Use it before and after a change that should change no number.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = ["data=text", "data.path=text.txt", "data.length=16", "data.vocab_size=300"]
TEXT += ["data.val_fraction=0.2", "trainer=cpu", "trainer.log_every_n_steps=1", "name=run"]
TEXT += ["trainer.precision=32-true"]  # in bf16 a change may round elsewhere
SMALL = "arch={depth: 2, heads: 2, hidden: 32, intermediate: 32}"
TEACHER = [
    "teacher.arch={depth: 2, heads: 2, hidden: 64, intermediate: 64}",
    "teacher.max_steps=20",
]
TABLE = ["task=custom", "data.train=table.csv", "data.length=16", "data.batch_size=8"]
TABLE += ["model=runs/mlm_pretrain/run", "trainer=cpu", "trainer.log_every_n_steps=1", "name=run"]
TABLE += ["trainer.precision=32-true"]
COMMANDS = {
    "pre-training": ["train.py", "experiment=mlm_pretrain", *TEXT, SMALL, "trainer.max_steps=20"],
    "distillation": ["train.py", "experiment=kd_pretrain", *TEXT, SMALL, *TEACHER]
    + ["trainer.max_steps=20", "trainer.val_check_interval=10"],
    "fine-tuning": ["train.py", "experiment=finetune", *TABLE, "trainer.max_epochs=2"],
    "search": ["search.py", *TEXT, *TEACHER, "search.n=20", "search.seeds=2", "search.finalists=2"]
    + ["grid={depth: [1, 2], hidden: [32], head_size: 16, intermediate: [32, 64], ratio: null}"],
    "agora": ["train.py", "experiment=agora", *TABLE, "agora.rounds=1", "agora.guard=0"]
    + ["teacher.name=runs/kd_pretrain/run", "trainer.max_epochs=1"],
}
EXACT = {".safetensors", ".jsonl", ".tsv", ".npy", ".f16", ".bin", ".txt", ".yaml"}
TIMES = re.compile(
    r"(.*_)?(seconds|tokens_per_s|wall|time|times|date|digest|check|matmul|hours|speed)(_.*)?|version|"
    r"torch|threads|precision|files|models|fingerprint|corpus|folder|settings|started|host"
)


def prepare(folder: Path) -> None:
    """Write the text and the table that the commands read."""
    lines = [f"Line {k}: the cube of {k} is {k**3}, its square {k * k}." for k in range(200)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [f'"{line}",{"ab"[k % 7 > 3]}' for k, line in enumerate(lines)]
    (folder / "table.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    os.utime(folder / "text.txt", (1_700_000_000,) * 2)  # their time is part of a cache's name
    os.utime(folder / "table.csv", (1_700_000_000,) * 2)


def run(root: Path, folder: Path, command: list[str]) -> None:
    """Run a command of the checkout `root` in `folder`; ends this program where that fails."""
    paths = os.pathsep.join([str(root), str(root / "bort" / "plugins")])
    variables = {"PYTHONPATH": paths, "BORT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(root / command[0]), *command[1:]],
        cwd=folder,
        env={**os.environ, **variables, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SystemExit(f"{root}: {' '.join(command)}\n{process.stdout}{process.stderr}")


def read_results(folder: Path) -> dict[str, object]:
    """What has to be equal below `folder`, by the file's name without digests."""
    results = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\b[0-9a-f]{16}\b", "digest", str(path.relative_to(folder)))
        if not path.is_file() or ".hydra" in path.parts:
            continue
        if path.suffix in EXACT:
            results[name] = path.read_bytes()
        elif path.suffix == ".json":
            text = path.read_text(encoding="utf-8").replace(str(folder), "")
            results[name] = strip_times(json.loads(text))
        elif path.suffix == ".csv" and path.name != "perf.csv":
            with path.open(encoding="utf-8", newline="") as file:
                results[name] = [strip_times(row) for row in csv.DictReader(file)]
    return results


def strip_times(value: object) -> object:
    """A value of a JSON file without what depends on the moment or the machine."""
    if isinstance(value, dict):
        return {k: strip_times(v) for k, v in value.items() if not TIMES.fullmatch(str(k))}
    if isinstance(value, list):
        return [strip_times(part) for part in value]
    return value


def main(other: str) -> int:
    different = total = 0
    with tempfile.TemporaryDirectory() as name:
        folders = {Path(name, "this"): ROOT, Path(name, "other"): Path(other).resolve()}
        for folder in folders:
            folder.mkdir()
            prepare(folder)
        for title, command in COMMANDS.items():
            for folder, root in folders.items():
                run(root, folder, command)
            print(f"{title}: done in both", flush=True)
        this, that = map(read_results, folders)
        for file in sorted(this.keys() | that.keys()):
            total += 1
            if this.get(file) != that.get(file):
                different += 1
                print(f"{file}: {this.get(file)!r:.300} differs from {that.get(file)!r:.300}")
    weights = sum(file.endswith(".safetensors") for file in this)
    print(f"{total} files compared, {weights} of weights; {different} differ")
    return int(bool(different))


if __name__ == "__main__":
    arguments = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if set(arguments) != {"other"}:
        print(__doc__)
        sys.exit(not {"-h", "--help"} & set(sys.argv[1:]))
    sys.exit(main(**arguments))
