"""Score masked LMs on BLiMP by pseudo-log-likelihood: 67 sets of 1,000 minimal pairs each.

    python benchmarks/blimp.py model=FOLDER              # all pairs: four minutes for ⟨2,2,128,512⟩
    python benchmarks/blimp.py model=FOLDER share=0.05   # a quick look, at 50 pairs a set
    python benchmarks/blimp.py model=FIRST,SECOND data=FILE fields   # without the table of sets
    python benchmarks/blimp.py smoke                     # a tiny model; only prints

`fields` has a row for each model, and `sets` one for each set. The pairs are those of data=FILE, a
folder of BLiMP's official files, or BORT_DATA/blimp. How a sentence is scored is said in
bort/tasks/blimp.py. Scores need no training, so there is nothing to tune on the pairs; chance is
50%, and models with the same score on CoLA still differ here. Tables go to
benchmarks/results/blimp_<part>.md.
"""

import logging
import os
from functools import cache
from pathlib import Path

from glue import find_student
from parts import ROOT, Bench, run_parts

from bort.console import Progress
from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.tasks.blimp import Accuracy, BlimpResult, read_pairs, score_pairs
from bort.teachers.opening import open_teacher
from bort.teachers.teacher import require
from bort.text.tokenizer import train_tokenizer

logger = logging.getLogger("bort.blimp")


def find_pairs(bench: Bench) -> Path:
    """Return the file or folder of the pairs."""
    default = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data")) / "blimp"
    path = Path(bench.options.get("data", default)).expanduser()
    if not path.exists():
        raise BortError(f"{path} is not there; give data=FILE or a folder with BLiMP's jsonl files")
    return path


def find_models(bench: Bench) -> list[str]:
    """Return the folders or names of the models; a tiny one is made where all is tiny."""
    if "model" in bench.options or not bench.smoke:
        return find_student(bench).split(",")
    tokenizer = train_tokenizer(bench.text.read_text().splitlines(), 280)
    config = ModelConfig(1, 2, 16, 32, vocab_size=280, positions=128)
    save_model(build_model(config), tokenizer, bench.runs / "model")
    return [str(bench.runs / "model")]


@cache
def score_model(name: str, path: Path, share: float) -> BlimpResult:
    """Score all pairs, or a share of each set, by a model."""
    teacher, tokenizer = open_teacher(name), load_tokenizer(name)
    require(teacher, "logits")
    progress = Progress(logger, f"blimp: {name}: masked tokens,")
    pairs = read_pairs(path, share)
    return score_pairs(teacher.compute_logits, tokenizer, pairs, teacher.limit, progress.update)


def score_models(bench: Bench) -> dict[str, BlimpResult]:
    """Score each model once, whichever tables are made of it."""
    share = float(bench.options.get("share", bench.choose(1, 0.002)))
    path = find_pairs(bench)
    return {name: score_model(name, path, share) for name in find_models(bench)}


def format_accuracy(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.1%} ± {accuracy.error:.1%}"


def fields(bench: Bench) -> list[str]:
    """Make the table with a row for each model and a column for each field."""
    results = score_models(bench)
    names = sorted(next(iter(results.values())).by_field)
    lines = [
        "Accuracy is the mean over sets, with its standard error for other pairs of the same sets.",
        "",
        f"| model | pairs | equal scores | all | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for model, result in results.items():
        cells = [format_accuracy(result.by_field[name]) for name in names]
        head = f"| {model} | {result.overall.count:,} | {result.ties:,} |"
        lines.append(f"{head} {format_accuracy(result.overall)} | {' | '.join(cells)} |")
    return lines


def sets(bench: Bench) -> list[str]:
    """Make the table with a row for each set and a column for each model."""
    results = score_models(bench)
    lines = [f"| set | field | {' | '.join(results)} |", "|---" * (2 + len(results)) + "|"]
    first = next(iter(results.values()))
    for name, field in first.fields.items():
        cells = [format_accuracy(result.by_set[name]) for result in results.values()]
        lines.append(f"| {name} | {field} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    run_parts("blimp", {"fields": fields, "sets": sets}, options=("model", "data", "share"))
