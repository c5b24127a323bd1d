"""Measure where the pre-training defaults come from: start values, loss weights, KD against MLM.

    python benchmarks/recipe.py                    # all parts, about half an hour on 2 cores
    python benchmarks/recipe.py recipe weights kd  # some of the parts
    python benchmarks/recipe.py smoke              # all parts with tiny models; only prints

Every training is a run folder under runs/benchmarks, so that a second call resumes where the first
was stopped. Tables go to benchmarks/results/recipe_<part>.md.
"""

import csv
import statistics
from dataclasses import replace
from unittest import mock

import torch
from parts import Bench, run_parts

from bort.config.train import TrainConfig
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.initialization import build_model, compute_sinusoids
from bort.pretraining.corpus import Corpus
from bort.pretraining.kd_vs_mlm import ARMS, build_arm_run
from bort.pretraining.recipe import prepare, train
from bort.pretraining.teacher import locate_teacher
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

LRS = [2e-3, 4e-3, 8e-3]
SEEDS = [0, 1, 2]

# The rows are cumulative: each adds its change to the row above.
RECIPE = {
    "std 0.02, AdamW 2e-3": {},
    "std 0.06": {"std": 0.06},
    "+ attention output and second feed-forward matrix start at zero": {"zero": True},
    "+ position rows start as sinusoids": {"sinusoids": True},
    "+ key matrix starts equal to the query matrix": {"key": True},
    "+ Muon for the encoder's matrices (AdamW 4e-3, Muon 1e-2)": {"muon": True},
    "+ half the batch, twice the steps (AdamW 3e-3, Muon 4e-3)": {"half": True},
}
BATCHES = [(8, 3000), (16, 1500), (32, 750)]
VOCABULARIES = [8_192, 4_096, 16_384]
MASK_RATES = [0.15, 0.3, 0.5]
WEIGHTS = [(1.0, 0.0, 1.0), (1.0, 0.0, 2.0), (0.9, 0.1, 1.0), (0.9, 0.1, 2.0), (0.5, 0.5, 1.0)]


def start_with(parts: dict):
    """Return a builder of students with only these parts of the default initialisation."""

    def build(run: TrainConfig, corpus: Corpus, teacher: None) -> MaskedLM:
        sizes = ModelConfig(**vars(run.arch), vocab_size=corpus.info.vocab_size, positions=512)
        student = build_model(sizes, "paper", run.seed)
        with torch.no_grad():
            std = parts.get("std", 0.02)
            for name, weight in student.named_parameters():
                if weight.ndim == 2:
                    weight.mul_(std / 0.02)
                if parts.get("zero") and name.endswith(("attention.output.weight", "down.weight")):
                    weight.zero_()
                if parts.get("sinusoids") and name.endswith("positions.weight"):
                    weight.copy_(1.4 * std * compute_sinusoids(*weight.shape))
            for layer in student.encoder.layers if parts.get("key") else ():
                layer.attention.key.weight.copy_(layer.attention.query.weight)
        return student

    return build


def recipe(bench: Bench) -> list[str]:
    lines = ["| change, cumulative | val CE (nats) | MLM accuracy |", "|---|---|---|"]
    parts: dict = {}
    base = bench.compose_pretraining("experiment=mlm_pretrain", "arch=tiny_teacher")
    for number, (name, change) in enumerate(RECIPE.items()):
        parts |= change
        run = base
        if not parts.get("muon"):
            run = replace(run, optim=replace(run.optim, name="adamw", lr=2e-3))
        if parts.get("half") and not bench.smoke:
            trainer = {**run.trainer, "max_steps": 2400, "val_check_interval": 400}
            run = replace(run, data=replace(run.data, batch_size=4), trainer=trainer)
            run = replace(run, optim=replace(run.optim, lr=3e-3, muon_ratio=4 / 3))
        corpus, _ = prepare(run)
        folder = bench.runs / "recipe" / f"row_{number}"
        with mock.patch("bort.pretraining.recipe.build_student", start_with(parts)):
            row = train(run, folder, corpus, None, label=name)
        lines.append(f"| {name} | {row['val/loss']:.3f} | {row['val/mlm_accuracy']:.1%} |")
        print(lines[-1])
    unigram = f"{row['unigram_ce']:.3f} | {row['unigram_accuracy']:.1%}"
    return [*lines, f"| unigram frequencies | {unigram} |"]


def weights(bench: Bench) -> list[str]:
    lines = ["| w_kd | w_mlm | τ | val CE (nats) | MLM accuracy |", "|---|---|---|---|---|"]
    for w_kd, w_mlm, tau in bench.shorten(WEIGHTS):
        run = bench.compose_pretraining(
            f"distill.w_kd={w_kd}", f"distill.w_mlm={w_mlm}", f"distill.temperature={tau}"
        )
        corpus, teacher = prepare(run)
        label = f"kd {w_kd:g}, mlm {w_mlm:g}, τ {tau:g}"
        folder = bench.runs / "weights" / f"{w_kd:g}-{w_mlm:g}-{tau:g}"
        row = train(run, folder, corpus, teacher, label=label)
        lines.append(
            f"| {w_kd:g} | {w_mlm:g} | {tau:g} | {row['val/loss']:.3f} | "
            f"{row['val/mlm_accuracy']:.1%} |"
        )
        print(lines[-1])
    return lines


def kd(bench: Bench) -> list[str]:
    """Train three seeds of each arm at its best rate of one list (chosen on the first seed)."""
    rows: dict[str, list[RunSummary]] = {arm: [] for arm in ARMS}
    for seed in bench.shorten(SEEDS):
        run = bench.compose_pretraining("experiment=kd_vs_mlm", f"seed={seed}")
        corpus, teacher = prepare(run)
        results: dict[str, RunSummary] = {}
        for arm in ARMS:
            tries, ratio = [], 1.0
            if arm == "mlm_equal_time":  # after both
                of_step = {name: results[name].seconds / results[name].steps for name in results}
                ratio = of_step["kd"] / of_step["mlm"]
            for lr in [rows[arm][0]["lr"]] if rows[arm] else bench.shorten(LRS):
                folder = bench.runs / "kd" / f"seed_{seed}" / arm / f"lr_{lr:g}"
                job = build_arm_run(run, arm, lr, ratio)
                label = f"seed {seed}, {ARMS[arm]}, lr {lr:g}"
                summary = train(job, folder, corpus, teacher, label=label)
                tries.append(RunSummary({**summary, "lr": lr}))
            results[arm] = max(tries, key=lambda row: row["val/mlm_accuracy"])
            rows[arm].append(results[arm])
            print(f"seed {seed}, {ARMS[arm]}: {results[arm]['val/mlm_accuracy']:.1%}")
    lines = [
        "| arm | lr | steps | seconds | MLM accuracy by seed | mean | val CE (mean) |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, records in rows.items():
        accuracy = [row["val/mlm_accuracy"] for row in records]
        lines.append(
            f"| {ARMS[arm]} | {records[0]['lr']:g} | "
            f"{statistics.median(row['steps'] for row in records):,.0f} | "
            f"{statistics.median(row['seconds'] for row in records):.0f} | "
            f"{', '.join(f'{a:.1%}' for a in accuracy)} | {statistics.mean(accuracy):.1%} | "
            f"{statistics.mean(row['val/loss'] for row in records):.3f} |"
        )
    seconds = RunFolder(locate_teacher(run, corpus)).find_summary().seconds
    return [*lines, "", f"The teacher's own training: {seconds:.0f} s, once."]


def mask(bench: Bench) -> list[str]:
    lines = [
        "| mask rate in training | seconds | val CE (nats) | MLM accuracy |",
        "|---|---|---|---|",
    ]
    base = bench.compose_pretraining()
    corpus, teacher = prepare(base)
    for rate in bench.shorten(MASK_RATES):
        # The teacher of every row is the default one, which was trained at the default rate.
        same = f"teacher.name={locate_teacher(base, corpus)}"
        run = bench.compose_pretraining(f"data.mask_rate={rate}", same)
        folder = bench.runs / "mask" / f"{rate:g}"
        row = train(run, folder, corpus, teacher, label=f"mask rate {rate:g}")
        lines.append(
            f"| {rate:g} | {row['seconds']:.0f} | {row['val/loss']:.3f} | "
            f"{row['val/mlm_accuracy']:.1%} |"
        )
        print(lines[-1])
    return lines


def batch(bench: Bench) -> list[str]:
    """Train the teacher at equal tokens and rates: when does it leave the plateau?"""
    lines = [
        "| batch | steps | val CE at ¼, ½, ¾ of the steps | val CE | MLM accuracy | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for size, steps in bench.shorten(BATCHES):
        trainer = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps // 4}"]
        run = bench.compose_pretraining(
            "experiment=teacher_pretrain", f"data.batch_size={size}", *trainer
        )
        corpus, _ = prepare(run)
        folder = bench.runs / "batch" / str(size)
        row = train(run, folder, corpus, None, label=f"batch {size}")
        with (folder / "metrics.csv").open(newline="") as file:
            curve = [float(r["val/loss"]) for r in csv.DictReader(file) if r["val/loss"]]
        lines.append(
            f"| {size} | {steps:,} | {', '.join(f'{ce:.2f}' for ce in curve[:3])} | "
            f"{row['val/loss']:.3f} | {row['val/mlm_accuracy']:.1%} | {row['seconds']:.0f} |"
        )
        print(lines[-1])
    return lines


def vocabulary(bench: Bench) -> list[str]:
    """Compare vocabularies by the cross-entropy per text; per token it would not be comparable."""
    lines = [
        "| vocabulary | tokens of the text | val CE (nats per token) | relative to the same text | "
        "seconds |",
        "|---|---|---|---|---|",
    ]
    base = None
    for size in bench.shorten(VOCABULARIES):
        run = bench.compose_pretraining("experiment=mlm_pretrain", f"data.vocab_size={size}")
        corpus, _ = prepare(run)
        folder = bench.runs / "vocabulary" / str(size)
        row = train(run, folder, corpus, None, label=f"vocabulary {size:,}")
        tokens = corpus.info.val_tokens
        base = base or row["val/loss"] * tokens
        lines.append(
            f"| {size:,} | {tokens:,} | {row['val/loss']:.3f} | "
            f"{row['val/loss'] * tokens / base:.3f} | {row['seconds']:.0f} |"
        )
        print(lines[-1])
    return lines


PARTS = {
    **{"kd": kd, "weights": weights, "mask": mask, "batch": batch},
    **{"recipe": recipe, "vocabulary": vocabulary},
}

if __name__ == "__main__":
    run_parts("recipe", PARTS)
