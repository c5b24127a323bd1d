"""Export two different models to the same out= at the same time, pair after pair.

    python tests/torture/exports_at_once.py                # 40 pairs
    python tests/torture/exports_at_once.py count=5 seed=1

After each pair, out= must be one whole export, with the weights, card and record of the same model.
Every process must have ended well, or with the one line which says that another process is writing
there. The user's own file must be there still, and no temporary. Otherwise the script exits with 1.
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import forked

BUSY = "another process is writing to"


def make_models(root: Path) -> list[str]:
    """Two tiny models of different shapes; returns their folders."""
    from bort.models.arch import Arch
    from bort.models.bert import ModelConfig
    from bort.models.huggingface import save_model
    from bort.models.initialization import build_model
    from bort.text.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([f"the cat of line {k}" for k in range(40)], 280)
    for name, depth in (("first", 1), ("second", 2)):
        sizes = ModelConfig(**vars(Arch(depth, 2, 16, 32)), vocab_size=280, positions=32)
        save_model(build_model(sizes, "default", depth), tokenizer, root / name)
    return ["first", "second"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def export(root: Path, model: str, wait: float = 0.0) -> int:
    """Start an export of a model onto out=, after `wait` seconds; returns its process number."""
    command = ["-m", "bort.export", f"model={model}", "format=hf", "out=out"]
    return forked.start(command, root, root / f"{model}.log", lambda: time.sleep(wait))


def faults(root: Path, waits: list[float], whole: dict[str, dict], ends: Counter) -> list[str]:
    """What is wrong after one pair of exports."""
    for model in whole:
        (root / f"{model}.log").unlink(missing_ok=True)
    processes = {m: export(root, m, wait) for m, wait in zip(whole, waits, strict=True)}
    codes = {model: forked.end(process) for model, process in processes.items()}
    found = []
    for model, code in codes.items():
        lines = (root / f"{model}.log").read_text().splitlines()
        if code and not (code == 1 and len(lines) == 1 and BUSY in lines[0]):
            found.append(f"{model} ended with {code}: {lines[-3:]}")
    ends["both ended well" if not any(codes.values()) else "one was refused"] += 1
    if all(codes.values()):
        found.append("neither was written")
    now = content(root / "out") if (root / "out").is_dir() else {}
    if now.pop("serve.py", None) != b"of the user":
        found.append("the user's file is gone")
    if now not in whole.values():
        found.append("out= is neither of both")
    return found + [f"{name} is a temporary" for name in forked.temporaries(root)]


def main(count: int = 40, seed: int = 0) -> int:
    forked.load()
    wrong, ends, pick = 0, Counter(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root, whole = Path(name), {}
        for model in make_models(root):
            if forked.end(export(root, model)):
                raise SystemExit((root / f"{model}.log").read_text())
            whole[model] = content(root / "out")
            shutil.rmtree(root / "out")
        for pair in range(1, count + 1):
            if not (root / "out").exists():
                (root / "out").mkdir()
            if pair % 2:  # onto an empty folder, and onto an export with a file of the user
                shutil.rmtree(root / "out")
                forked.end(export(root, pick.choice(list(whole))))
            (root / "out" / "serve.py").write_text("of the user")
            if found := faults(root, [pick.random() / 2, pick.random() / 2], whole, ends):
                wrong += 1
                print(f"pair {pair}: {'; '.join(found)}", flush=True)
    print(f"{count} pairs: {dict(ends)}, {wrong} with faults")
    return int(bool(wrong))


if __name__ == "__main__":
    forked.run_script(main, __doc__)
