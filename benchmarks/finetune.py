"""Compare fine-tuning with Hugging Face's in losses, scores and speed, and with random weights.

    python benchmarks/finetune.py parity       # 50 losses of MRPC and STS-B; two minutes
    python benchmarks/finetune.py speed        # examples/s of both sides, step by step in turns
    python benchmarks/finetune.py scores       # four tasks, three seeds; 1.5 hours on a core
    python benchmarks/finetune.py pretraining model=FOLDER   # against random weights
    python benchmarks/finetune.py parity smoke   # a part with few rows and steps; only prints

The encoder and the data are those of benchmarks/glue.py. The Hugging Face side is in
benchmarks/huggingface.py: in `scores`, `transformers.Trainer` trains it (this needs accelerate); in
`speed`, the same steps are written out, so that both sides are timed step by step.

Seconds of `scores` are the process's own (`time.process_time`), so that other work on the machine
does not count. Run it with OMP_NUM_THREADS=1, because these seconds add up over threads; `speed`
takes wall time, on all cores. Every finished
training is a record under runs/benchmarks/finetune, so that a second call resumes where the first
was stopped. Tables go to benchmarks/results/finetune_<part>.md.
"""

import csv
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from glue import find_encoder, find_student, make_random, sample_task
from huggingface import HuggingFaceSide, compute_reference_losses, train_with_trainer
from parts import RUNS, Bench, run_parts
from torch import nn

from bort.config.fingerprint import fingerprint, flatten_settings
from bort.config.train import TrainConfig
from bort.files.writing import write_json
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import encode_examples
from bort.finetuning.heads import arrange_texts, build_task_classifier
from bort.finetuning.module import compute_batch_outputs, compute_loss
from bort.finetuning.recipe import finetune
from bort.machine import keep_freed_memory
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.tasks.reading import load_task
from bort.training.optim import build_optimizer

SEEDS = [0, 1, 2]
PARITY_STEPS, SPEED_STEPS, SPEED_ROUNDS, WARM_UP = 50, 30, 3, 3
LR = 1e-4
# The rows (None: all) and epochs make all of `scores` take 1.5 hours on one core.
SCORES = {
    "glue/mrpc": (None, 1),
    "glue/rte": (None, 1),
    "glue/cola": (None, 1),
    "glue/stsb": (4000, 1),
}
SPEED = ["glue/mrpc"]
SMALL_LRS = [5e-4, 1e-3, 2e-3]  # of `pretraining`, around the default at H = 64
SST2_ROWS = 2000


def compose_run(bench: Bench, *overrides: str) -> TrainConfig:
    """Compose the settings of `train.py experiment=finetune …`, without resume: we keep records."""
    return bench.compose_task("experiment=finetune", "resume=false", *overrides)


def compose_glue_run(bench: Bench, name: str, rows: int | None, *overrides: str) -> TrainConfig:
    """Compose the settings that fine-tune the encoder on a GLUE task."""
    where = [f"task={name}", f"model={find_encoder(bench)}"]
    where.append(f"data.root={sample_task(bench, name, rows)}")
    return compose_run(bench, *where, f"optim.lr={LR}", *overrides)


def parity(bench: Bench) -> list[str]:
    """Compare our training through Lightning with a plain loop around Hugging Face's encoder."""
    count = bench.choose(PARITY_STEPS, 3)
    lines = [
        f"Both sides take {count} steps of 16 rows without dropout, with equal batches, "
        "start weights, AdamW and schedule.",
        "",
        "| task | first loss | last loss | largest difference of a step | to reach |",
        "|---|---|---|---|---|",
    ]
    for name in bench.shorten(("glue/mrpc", "glue/stsb")):
        steps = ["trainer.max_epochs=-1", f"trainer.max_steps={count}"]
        run = compose_glue_run(bench, name, None, "dropout=0", *steps)
        folder = bench.runs / "parity" / name.split("/")[1]
        finetune(run, folder / "run")
        with (folder / "run" / "metrics.csv").open(newline="") as file:
            rows = csv.DictReader(file)
            ours = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        theirs = compute_reference_losses(run, folder / "start", count)
        largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        lines.append(f"| {name} | {theirs[0]:.5f} | {theirs[-1]:.5f} | {largest:.1e} | 1e-4 |")
        print(lines[-1])
    return lines


# ------------------------------------------------------------------------------------ scores


def train_ours(run: TrainConfig, folder: Path) -> dict:
    summary = finetune(run, folder)
    shutil.rmtree(folder / "checkpoints")  # of AdamW's state, some hundred MB each
    return summary


def train_once(train: Callable[[TrainConfig, Path], dict], run: TrainConfig, folder: Path) -> dict:
    """Return the scores and `cpu_seconds` of these settings; train without a record."""
    path = folder.with_suffix(".json")
    key = fingerprint(flatten_settings(run))
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("key") != key:
        start = time.process_time()
        scores = train(run, folder)
        seconds = time.process_time() - start
        record = {name: v for name, v in scores.items() if name.startswith("val/")}
        record |= {"cpu_seconds": seconds, "key": key}
        write_json(path, record)
        print(f"{folder}: {record}")
    return record


SCORED = {"hf": train_with_trainer, "ours": train_ours, "random": train_ours}


def train_sides(bench: Bench, runs: dict[int, TrainConfig], folder: Path) -> dict[str, list[dict]]:
    """Train all sides with the settings of each seed, in alternating order; return their records.

    The side `random` is ours from random weights.
    """
    records: dict[str, list[dict]] = {side: [] for side in SCORED}
    for seed, run in runs.items():
        for side in list(SCORED) if seed % 2 == 0 else reversed(SCORED):
            if side == "random":
                model = make_random(run.model, seed, bench.runs / "scores" / "random")
                settings = replace(run, model=str(model))
            else:
                settings = run
            record = train_once(SCORED[side], settings, folder / f"{side}_{seed}")
            records[side].append(record)
    return records


def scores(bench: Bench) -> list[str]:
    lines = [
        f"All sides have learning rate {LR:g}, batch 16, length 128, dropout 0.1, weight decay "
        f"0.01 and seeds {SEEDS}, and the epoch with the best first metric counts. Examples/s are "
        "over the processor time of a whole run, with tokenizing and validation. The last side is "
        "ours from random weights in the encoder's shape.",
        "",
        "| task | rows × epochs | metric | HF by seed | mean ± spread | ours by seed | "
        "mean ± spread | random weights by seed | mean ± spread | HF s | ours s | "
        "HF examples/s | ours | ratio |",
        "|---" * 14 + "|",
    ]
    for name, (rows, epochs) in bench.shorten(SCORES.items(), 1):
        epochs_of_run = f"trainer.max_epochs={epochs}"
        runs = {
            seed: compose_glue_run(bench, name, rows, epochs_of_run, f"seed={seed}")
            for seed in bench.shorten(SEEDS)
        }
        records = train_sides(bench, runs, bench.runs / "scores" / name.split("/")[1])
        task, split = load_task(runs[0].task, runs[0].data)
        count = len(split["train"])
        seconds = {s: statistics.median(r["cpu_seconds"] for r in records[s]) for s in SCORED}
        speed = {side: count * epochs / seconds[side] for side in SCORED}
        for metric in task.metrics:
            cells = [format_by_seed([r[f"val/{metric}"] for r in records[side]]) for side in SCORED]
            lines.append(
                f"| {name} | {count:,} × {epochs} | {metric} | {' | '.join(cells)} | "
                f"{seconds['hf']:.0f} | {seconds['ours']:.0f} | {speed['hf']:.1f} | "
                f"{speed['ours']:.1f} | {speed['ours'] / speed['hf']:.2f} |"
            )
            print(lines[-1])
    return lines


def format_by_seed(values: list[float]) -> str:
    """Make two cells of a table: each value; their mean and standard deviation."""
    shown = ", ".join(f"{value:.3f}" for value in values)
    return f"{shown} | {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


# ------------------------------------------------------------------------------------ speed


def take_our_steps(run: TrainConfig, bf16: bool) -> Iterator[int]:
    """Train, and yield the number of rows after each step."""
    task, rows = load_task(run.task, run.data)
    task = arrange_texts(task, run.head)
    tokenizer = load_tokenizer(run.model)
    body = load_masked_lm(run.model, head_required=False)
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    student = build_task_classifier(body, examples, run.head, run.dropout, run.seed).train()
    batches = TaskDataModule.from_examples(examples, run.data, run.seed).train
    optimizer = build_optimizer(student, run.optim)
    step = 0
    while True:
        batch = batches[step]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = compute_batch_outputs(student, batch)
        loss = compute_loss(task.kind, outputs, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        yield len(batch["labels"])
        step += 1


SIDES = [  # precision, side
    ("float32", "Hugging Face"),
    ("bf16", "Hugging Face"),
    ("float32", "ours"),
    ("bf16", "ours"),
]


def speed(bench: Bench) -> list[str]:
    """Time single steps in turns, so that all sides meet the same disturbances."""
    keep_freed_memory()  # as a training does; it helps all sides
    steps_of_round, rounds = bench.choose((SPEED_STEPS, SPEED_ROUNDS), (2, 1))
    lines = [
        f"All sides are plain loops of {steps_of_round} training steps of 16 rows over the same "
        f"{steps_of_round * 16} rows, with dropout 0.1, in float32 or under bf16 autocast; figures "
        f"are medians of {rounds} rounds.",
        "",
        f"| task; examples/s | {' | '.join(f'{side}, {name}' for name, side in SIDES)} | "
        "our float32 ÷ theirs (to reach: 1.3) | our bf16 ÷ their float32 (to reach: 2.5) | "
        "÷ their bf16 |",
        "|---" * 8 + "|",
    ]
    for name in bench.shorten(SPEED):
        run = compose_glue_run(bench, name, steps_of_round * 16)
        total = steps_of_round * (rounds + 1)
        sides = {
            (precision, side): take_our_steps(run, precision == "bf16")
            if side == "ours"
            else HuggingFaceSide(run).take_steps(total, precision == "bf16")
            for precision, side in SIDES
        }
        rates = time_rounds(sides, steps_of_round, rounds)
        theirs, theirs_bf16, ours, ours_bf16 = (rates[side] for side in SIDES)
        ratios = (ours / theirs, ours_bf16 / theirs, ours_bf16 / theirs_bf16)
        cells = [*(f"{rates[side]:.1f}" for side in SIDES), *(f"{r:.2f}" for r in ratios)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def time_rounds(
    sides: dict[tuple[str, str], Iterator[int]], steps_of_round: int, rounds: int
) -> dict[tuple[str, str], float]:
    """Return the examples/s of each side: the median over rounds of steps in alternating order."""
    rates: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    for steps in sides.values():
        for _ in range(WARM_UP):
            next(steps)
    for number in range(rounds):
        seconds, examples = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
        for step in range(steps_of_round):
            for side in list(sides) if (step + number) % 2 == 0 else reversed(sides):
                start = time.perf_counter()
                examples[side] += next(sides[side])
                seconds[side] += time.perf_counter() - start
        for side in sides:
            rates[side].append(examples[side] / seconds[side])
    return {side: statistics.median(values) for side, values in rates.items()}


# ------------------------------------------------------------------------------------ pretraining


def pretraining(bench: Bench) -> list[str]:
    """Compare a pre-trained encoder with random weights of its shape, each at its best rate."""
    start, rates = find_student(bench), bench.shorten(SMALL_LRS)
    folder = bench.runs / "random"
    untrained = {seed: make_random(start, seed, folder) for seed in bench.shorten(SEEDS)}
    arch = load_masked_lm(start).config.arch
    lines = [
        f"The encoder is {arch}, trained for three epochs with batches of 16 rows. Each side has "
        f"the rate of {rates} with its best mean accuracy on the validation set, which is "
        "also the accuracy shown.",
        "",
        "| task | training rows | random weights, by seed | mean ± spread | lr | pre-trained | "
        "mean ± spread | lr | margin |",
        "|---" * 9 + "|",
    ]
    for name in bench.shorten(("glue/sst2", "docstrings"), 1):
        where = [f"task={name}"]
        if name != "docstrings":
            where.append(f"data.root={sample_task(bench, name, SST2_ROWS)}")
        cells, means = [], []
        for side in ("random", "pretrained"):
            accuracies: dict[float, list[float]] = {lr: [] for lr in rates}
            for lr in rates:
                for seed in bench.shorten(SEEDS):
                    weights = start if side == "pretrained" else untrained[seed]
                    overrides = [f"model={weights}", f"optim.lr={lr}", f"seed={seed}"]
                    run = compose_run(bench, *where, *overrides)
                    folder = (
                        bench.runs / "pretraining" / name.split("/")[-1] / f"{side}_{lr:g}_{seed}"
                    )
                    accuracies[lr].append(train_once(train_ours, run, folder)["val/accuracy"])
            best = max(rates, key=lambda lr: statistics.mean(accuracies[lr]))
            cells.append(f"{format_by_seed(accuracies[best])} | {best:g}")
            means.append(statistics.mean(accuracies[best]))
        count = len(load_task(run.task, run.data)[1]["train"])
        margin = f"{100 * (means[1] - means[0]):+.1f} points"
        lines.append(f"| {name} | {count:,} | {cells[0]} | {cells[1]} | {margin} |")
        print(lines[-1])
    return lines


PARTS = {"parity": parity, "speed": speed, "scores": scores, "pretraining": pretraining}

if __name__ == "__main__":
    transformers.logging.set_verbosity_error()  # which weights of a folder are new is known
    transformers.logging.disable_progress_bar()
    run_parts("finetune", PARTS, RUNS / "finetune", ("model", "encoder"))
