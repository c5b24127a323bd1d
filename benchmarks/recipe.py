"""Measure where the pre-training defaults come from: start values, loss weights, KD against MLM.

    python benchmarks/recipe.py                    # all parts, about half an hour on 2 cores
    python benchmarks/recipe.py recipe weights kd  # some of the parts

Every training is a run folder under runs/benchmarks, so that a second call resumes where the first
was stopped. Tables go to benchmarks/results/recipe_<part>.md.
"""

import csv
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.machine import describe_machine
from bort.models import bert as model
from bort.pretraining import recipe as pretrain
from bort.pretraining.kd_vs_mlm import ARMS, build_arm_run
from bort.pretraining.teacher import locate_teacher
from bort.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
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


def settings(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        fixed = ["name=x", "output_dir=x"]
        return parse_settings(compose("train", [*fixed, *overrides]))


def start(run: TrainConfig, parts: dict):
    """Return a builder of students with only these parts of the default initialisation."""

    def build(run, corpus, teacher):
        sizes = model.ModelConfig(
            **vars(run.arch), vocab_size=corpus.info.vocab_size, positions=512
        )
        student = model.build_model(sizes, "paper", run.seed)
        with torch.no_grad():
            std = parts.get("std", 0.02)
            for name, weight in student.named_parameters():
                if weight.ndim == 2:
                    weight.mul_(std / 0.02)
                if parts.get("zero") and name.endswith(("attention.output.weight", "down.weight")):
                    weight.zero_()
                if parts.get("sinusoids") and name.endswith("positions.weight"):
                    weight.copy_(1.4 * std * model._sinusoids(*weight.shape))
            for layer in student.encoder.layers if parts.get("key") else ():
                layer.attention.key.weight.copy_(layer.attention.query.weight)
        return student

    return build


def recipe() -> list[str]:
    lines = ["| change, cumulative | val CE (nats) | MLM accuracy |", "|---|---|---|"]
    default, parts = pretrain.build_student, {}
    base = settings("experiment=mlm_pretrain", "arch=tiny_teacher")
    for number, (name, change) in enumerate(RECIPE.items()):
        parts |= change
        run = base
        if not parts.get("muon"):
            run = replace(run, optim=replace(run.optim, name="adamw", lr=2e-3))
        if parts.get("half"):
            trainer = {**run.trainer, "max_steps": 2400, "val_check_interval": 400}
            run = replace(run, data=replace(run.data, batch_size=4), trainer=trainer)
            run = replace(run, optim=replace(run.optim, lr=3e-3, muon_ratio=4 / 3))
        corpus, _ = pretrain.prepare(run)
        pretrain.build_student = start(run, dict(parts))
        row = pretrain.train(run, RUNS / "recipe" / f"row_{number}", corpus, None, label=name)
        pretrain.build_student = default
        lines.append(f"| {name} | {row['val/loss']:.3f} | {row['val/mlm_accuracy']:.1%} |")
        print(lines[-1])
    unigram = f"{row['unigram_ce']:.3f} | {row['unigram_accuracy']:.1%}"
    return [*lines, f"| unigram frequencies | {unigram} |"]


def weights() -> list[str]:
    lines = ["| w_kd | w_mlm | τ | val CE (nats) | MLM accuracy |", "|---|---|---|---|---|"]
    for w_kd, w_mlm, tau in WEIGHTS:
        run = settings(
            f"distill.w_kd={w_kd}", f"distill.w_mlm={w_mlm}", f"distill.temperature={tau}"
        )
        corpus, teacher = pretrain.prepare(run)
        label = f"kd {w_kd:g}, mlm {w_mlm:g}, τ {tau:g}"
        folder = RUNS / "weights" / f"{w_kd:g}-{w_mlm:g}-{tau:g}"
        row = pretrain.train(run, folder, corpus, teacher, label=label)
        lines.append(
            f"| {w_kd:g} | {w_mlm:g} | {tau:g} | {row['val/loss']:.3f} | "
            f"{row['val/mlm_accuracy']:.1%} |"
        )
        print(lines[-1])
    return lines


def kd() -> list[str]:
    """Train three seeds of each arm at its best rate of one list (chosen on the first seed)."""
    rows: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        run = settings("experiment=kd_vs_mlm", f"seed={seed}")
        corpus, teacher = pretrain.prepare(run)
        results: dict[str, dict] = {}
        for arm in ARMS:
            tries = []
            for lr in [rows[arm][0]["lr"]] if rows[arm] else LRS:
                folder = RUNS / "kd" / f"seed_{seed}" / arm / f"lr_{lr:g}"
                job = build_arm_run(run, arm, lr, results)
                label = f"seed {seed}, {ARMS[arm]}, lr {lr:g}"
                summary = pretrain.train(job, folder, corpus, teacher, label=label)
                tries.append({**summary, "lr": lr})
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
    seconds = RunFolder(locate_teacher(run, corpus)).find_summary()["seconds"]
    return [*lines, "", f"The teacher's own training: {seconds:.0f} s, once."]


def mask() -> list[str]:
    lines = [
        "| mask rate in training | seconds | val CE (nats) | MLM accuracy |",
        "|---|---|---|---|",
    ]
    for rate in MASK_RATES:
        run = settings(f"data.mask_rate={rate}")
        # the teacher of every row is the default one
        corpus, teacher = pretrain.prepare(settings())
        folder = RUNS / "mask" / f"{rate:g}"
        row = pretrain.train(run, folder, corpus, teacher, label=f"mask rate {rate:g}")
        lines.append(
            f"| {rate:g} | {row['seconds']:.0f} | {row['val/loss']:.3f} | "
            f"{row['val/mlm_accuracy']:.1%} |"
        )
        print(lines[-1])
    return lines


def batch() -> list[str]:
    """Train the teacher at equal tokens and rates: when does it leave the plateau?"""
    lines = [
        "| batch | steps | val CE at ¼, ½, ¾ of the steps | val CE | MLM accuracy | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for size, steps in BATCHES:
        trainer = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps // 4}"]
        run = settings("experiment=teacher_pretrain", f"data.batch_size={size}", *trainer)
        corpus, _ = pretrain.prepare(run)
        folder = RUNS / "batch" / str(size)
        row = pretrain.train(run, folder, corpus, None, label=f"batch {size}")
        with (folder / "metrics.csv").open(newline="") as file:
            curve = [float(r["val/loss"]) for r in csv.DictReader(file) if r["val/loss"]]
        lines.append(
            f"| {size} | {steps:,} | {', '.join(f'{ce:.2f}' for ce in curve[:3])} | "
            f"{row['val/loss']:.3f} | {row['val/mlm_accuracy']:.1%} | {row['seconds']:.0f} |"
        )
        print(lines[-1])
    return lines


def vocabulary() -> list[str]:
    """Compare vocabularies by the cross-entropy per text; per token it would not be comparable."""
    lines = [
        "| vocabulary | tokens of the text | val CE (nats per token) | relative to the same text | "
        "seconds |",
        "|---|---|---|---|---|",
    ]
    base = None
    for size in VOCABULARIES:
        run = settings("experiment=mlm_pretrain", f"data.vocab_size={size}")
        corpus, _ = pretrain.prepare(run)
        folder = RUNS / "vocabulary" / str(size)
        row = pretrain.train(run, folder, corpus, None, label=f"vocabulary {size:,}")
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
    show_log()
    for part in sys.argv[1:] or PARTS:
        lines = [describe_machine(), "", *PARTS[part]()]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"recipe_{part}.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))
