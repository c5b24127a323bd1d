"""Measure what windows bring to texts that are longer than the model.

    python benchmarks/windows.py model=FOLDER        # a quarter of an hour on one core
    python benchmarks/windows.py model=FOLDER smoke  # a few rows; only prints

The task is the sentiment of 2,000 film reviews, custom/reviews_train.csv in the folder BORT_DATA,
of which the last fifth is held out and looked at once, after the last epoch. The same model is
fine-tuned on reviews cut at 128 tokens, on windows of 128 tokens whose answers are averaged, and on
reviews cut at 512 tokens. Every finished training leaves a record under runs/benchmarks/windows.
The table is results/windows_reviews.md.
"""

import csv
import json
import statistics
import time

from arms import format_mean
from glue import find_student
from parts import RUNS, Bench, run_parts
from taught import find_data

from bort.errors import BortError
from bort.files.writing import write_csv, write_json
from bort.finetuning.recipe import finetune
from bort.models.huggingface import load_masked_lm

ARMS = {  # the tokens of an input, and what becomes of longer reviews
    "cut at 128 tokens": (128, "null"),
    "windows of 128 tokens": (128, "mean"),
    "cut at 512 tokens": (512, "null"),
}
SEEDS, RATE, EPOCHS, BATCH = [0, 1, 2], 5e-4, 3, 32
HELD_OUT, TINY_ROWS = 5, 40  # a fifth


def divide_reviews(bench: Bench) -> list[str]:
    """Return the settings of the task: its training rows and those held out, on the first call."""
    source = find_data() / "custom" / "reviews_train.csv"
    if not source.is_file():
        raise BortError(f"{source} is missing; set BORT_DATA to a folder that holds custom/")
    with source.open(newline="", encoding="utf-8") as file:
        rows = bench.shorten(list(csv.DictReader(file)), TINY_ROWS)
    paths = [bench.runs / f"{name}.csv" for name in ("train", "held_out")]
    border = len(rows) - len(rows) // HELD_OUT
    for path, part in zip(paths, (rows[:border], rows[border:]), strict=True):
        if not path.exists():
            write_csv(path, ["review", "sentiment"], part)
    files = zip(("train", "val"), paths, strict=True)
    columns = ["task=custom", "data.text=review", "data.label=sentiment"]
    return [*columns, *(f"data.{name}={path}" for name, path in files)]


def score_arm(bench: Bench, model: str, name: str, seed: int) -> dict[str, float]:
    """Fine-tune on the training rows; return accuracy on those held out, and processor seconds."""
    path = bench.runs / f"{name.replace(' ', '-')}_{seed}.json"
    if not path.exists():
        epochs, (length, windows) = bench.choose(EPOCHS, 1), ARMS[name]
        words = [*divide_reviews(bench), "experiment=finetune", f"model={model}"]
        words += [f"data.length={bench.choose(length, length // 8)}", f"data.windows={windows}"]
        words += [f"optim.lr={RATE}", f"seed={seed}", f"data.batch_size={BATCH}", "resume=false"]
        words += [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]
        start = time.process_time()
        summary = finetune(bench.compose_task(*words), bench.runs / "finetuning")
        seconds = time.process_time() - start
        write_json(path, {"accuracy": summary["val/accuracy"], "seconds": seconds})
    return json.loads(path.read_text())


def reviews(bench: Bench) -> list[str]:
    """Make the table: each arm over all seeds."""
    model = find_student(bench)
    shape = load_masked_lm(model, head_required=False).config.arch
    lines = [
        f"The model is {shape}; {EPOCHS} epochs of 1,600 reviews in batches of {BATCH} "
        f"at a rate of {RATE:g}. Accuracy is on 400 others, over seeds {SEEDS}; seconds are those "
        "of the process, with the baselines and the scoring.",
        "",
        "| reviews are | accuracy | seconds |",
        "|---|---|---|",
    ]
    for name in ARMS:
        scores = [score_arm(bench, model, name, seed) for seed in bench.shorten(SEEDS)]
        mean = format_mean([score["accuracy"] for score in scores])
        seconds = statistics.median(score["seconds"] for score in scores)
        lines.append(f"| {name} | {mean} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    run_parts("windows", {"reviews": reviews}, RUNS / "windows", ["model"])
