"""Compare models trained in float32 with models trained under bf16 autocast, over three seeds.

    python benchmarks/precision.py            # all parts; 1.5 hours on one core
    python benchmarks/precision.py kd         # distillation as in `make demo`
    python benchmarks/precision.py finetuning # SST-2 (2,000 rows) and MRPC; also random weights
    python benchmarks/precision.py smoke      # both with tiny models; only prints

Both precisions have the same seeds, batches, masks and rates. Validations are in float32 on both
sides. The encoder is that of glue.py. Every training is a record under runs/benchmarks/precision,
so that a second call resumes where the first was stopped. Tables go to
benchmarks/results/precision_<part>.md.
"""

import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path

from glue import find_encoder, make_random, sample_task
from parts import RUNS, Bench, run_parts

from bort.finetuning.recipe import finetune
from bort.pretraining.recipe import prepare, pretrain
from bort.pretraining.teacher import locate_teacher
from bort.runs.summary import RunSummary
from bort.training.trainer import hide_lightning_notes

FLOAT32 = "float32"
PRECISIONS = {FLOAT32: "32-true", "bf16": "bf16-mixed"}
SEEDS = [0, 1, 2]
# Task → rows (None: all), epochs and scores.
TASKS = {"glue/sst2": (2000, 2, ["accuracy"]), "glue/mrpc": (None, 1, ["accuracy", "f1"])}
LR = 1e-4


def format_rows(name: str, scores: dict[str, list[float]], digits: int) -> Iterable[str]:
    """Yield a row for each precision: the score of each seed, their mean and their spread."""
    for precision, values in scores.items():
        shown = ", ".join(f"{value:.{digits}f}" for value in values)
        mean, spread = statistics.mean(values), statistics.stdev(values)
        yield f"| {name} | {precision} | {shown} | {mean:.{digits}f} ± {spread:.{digits}f} |"


HEADER = ["| score | precision | by seed | mean ± standard deviation |", "|---|---|---|---|"]


def kd(bench: Bench) -> list[str]:
    """Distil the student of `make demo` from the same teacher, which is trained in float32."""
    run = bench.compose_pretraining("experiment=kd_pretrain")
    corpus, _ = prepare(run)
    teacher = [f"teacher.name={locate_teacher(run, corpus)}", "init=default"]
    rows: dict[str, list[RunSummary]] = {precision: [] for precision in PRECISIONS}
    for seed in bench.shorten(SEEDS):
        for precision, value in PRECISIONS.items():
            run = bench.compose_pretraining(
                "experiment=kd_pretrain", f"seed={seed}", f"trainer.precision={value}", *teacher
            )
            rows[precision].append(pretrain(run, bench.runs / "kd" / f"{precision}_{seed}"))
    lines = list(HEADER)
    for key, name in (("val/loss", "loss, nats"), ("val/mlm_accuracy", "masked words, share")):
        scores = {precision: [row[key] for row in rows[precision]] for precision in PRECISIONS}
        lines += format_rows(name, scores, 4)
    return lines


def finetuning(bench: Bench) -> list[str]:
    epochs = " and ".join(f"{count} of {task}" for task, (_, count, _) in TASKS.items())
    lines = [
        f"Learning rate {LR:g}; epochs: {epochs}; the last one counts. Random weights are in the "
        "encoder's shape.",
        "",
        *HEADER,
    ]
    sides = {name: (value, False) for name, value in PRECISIONS.items()}
    encoder, random = find_encoder(bench), bench.runs / "random"
    sides[f"{FLOAT32}, random weights"] = PRECISIONS[FLOAT32], True
    for task, (rows, count, metrics) in bench.shorten(TASKS.items(), 1):
        root = sample_task(bench, task, rows)
        scores: dict[str, dict[str, list[float]]] = {
            metric: {side: [] for side in sides} for metric in metrics
        }
        for seed in bench.shorten(SEEDS):
            for side, (precision, is_random) in sides.items():
                model = make_random(encoder, seed, random) if is_random else encoder
                run = bench.compose_task(
                    *("experiment=finetune", f"task={task}", f"model={model}"),
                    *(f"data.root={root}", f"optim.lr={LR}", f"trainer.max_epochs={count}"),
                    *(f"seed={seed}", f"trainer.precision={precision}"),
                )
                folder = bench.runs / task.split("/")[1] / f"{side.replace(', ', '_')}_{seed}"
                summary = finetune(run, folder)
                remove_checkpoints(folder)
                for metric in metrics:
                    scores[metric][side].append(summary[f"val/{metric}"])
        for metric in metrics:
            lines += format_rows(f"{task}, {metric}", scores[metric], 3)
            print(*lines[-3:], sep="\n", flush=True)
    return lines


def remove_checkpoints(folder: Path) -> None:
    """Remove the optimizer's states of a finished training, some hundred MB."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


if __name__ == "__main__":
    hide_lightning_notes()
    run_parts("precision", {"kd": kd, "finetuning": finetuning}, RUNS / "precision", ["encoder"])
