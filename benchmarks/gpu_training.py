"""The stages of benchmarks/gpu.py that train: a masked LM on text, then classifiers from it.

A stage gets a `Desk`, and writes its results there as soon as it has them. Everything is trained by
what `train.py` calls. Without a GPU the same is done in small, to rehearse it.
"""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from parts import ROOT, Bench

from bort.config.train import TrainConfig
from bort.console import clock
from bort.errors import BortError, shorten
from bort.files.writing import write_json
from bort.finetuning.recipe import finetune
from bort.machine import describe_machine
from bort.models.arch import Arch
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.pretraining.corpus import Corpus, open_corpus
from bort.pretraining.recipe import build_student, train
from bort.tasks.blimp import read_pairs, score_pairs
from bort.training.loader import check_shared_memory
from bort.training.trainer import check_trainer, hide_lightning_notes

PRETRAINED, RANDOM = "pre-trained", "random weights"
# Fine-tuning, longest first: epochs, and rows of a batch.
TASKS = {
    "glue/sst2": (3, 64),
    "glue/cola": (6, 32),
    "glue/stsb": (8, 32),
    "glue/mrpc": (8, 32),
    "glue/rte": (10, 32),
}
SCRIPT = ROOT / "benchmarks" / "gpu.py"
NEVER = "checkpoint_every=1000000000"  # the one at the end is removed


@dataclass(frozen=True)
class Sizes:
    """How much a stage does; None is no limit.

    batch, workers: of pre-training. steps: its limit beside the clock. log_every: steps between two
    rows of metrics.csv. processes: that fine-tune at the same time. seeds, tasks: of fine-tuning.
    limit: its batches of an epoch. shares: of BLiMP's pairs, one after another.
    """

    arch: Arch = Arch(6, 6, 384, 1536)
    batch: int = 512
    workers: int = 4
    steps: int | None = None
    val_sequences: int = 4096
    log_every: int = 50
    processes: int = 8
    seeds: Sequence[int] = (0, 1, 2)
    limit: int | None = None
    tasks: Sequence[str] = tuple(TASKS)
    shares: Sequence[float] = (0.1, 1.0)


FULL = Sizes()
REHEARSAL = Sizes(  # without a GPU
    **dict(arch=Arch(2, 2, 64, 256), batch=16, workers=1, val_sequences=32, log_every=1),
    **dict(processes=2, seeds=(0,), limit=4, shares=(0.01,)),
)
TINY = Sizes(
    **dict(arch=Arch(1, 2, 16, 32), batch=4, workers=0, steps=2, val_sequences=4, log_every=1),
    **dict(processes=1, seeds=(0,), limit=1, tasks=("glue/sst2", "glue/stsb"), shares=(0.01,)),
)


@dataclass(frozen=True)
class Desk:
    """Where a stage finds its inputs and leaves its results.

    pack: the folder of benchmarks/packing.py. folder: of everything that the stages make. end: of
    the stage, by the monotonic clock.
    """

    pack: Path
    folder: Path
    end: float
    sizes: Sizes
    device: str

    @property
    def data(self) -> Path:
        """The opened pack: corpus/, glue/ and blimp/."""
        return self.folder / "data"

    @property
    def model(self) -> Path:
        """The folder of the pre-trained model."""
        return self.folder / "mlm" / "model"

    @property
    def has_model(self) -> bool:
        """Whether pre-training has come to its end."""
        return (self.folder / "mlm" / "summary.json").exists()

    @property
    def seconds_left(self) -> float:
        """The seconds until the deadline of the stage."""
        return self.end - time.monotonic()

    @property
    def overrides(self) -> list[str]:
        """The settings that all trainings here have."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        precision = "bf16-mixed" if self.device == "cuda" else "32-true"
        return [f"trainer.accelerator={accelerator}", f"trainer.precision={precision}", NEVER]

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write what a stage has found so far."""
        write_json(self.folder / "results" / f"{name}.json", values)


def open_desk(pack: Path, folder: Path, seconds: float, sizes: Sizes | None = None) -> Desk:
    """Open the desk of a stage; the sizes follow from the device unless they are given."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    full = FULL if device == "cuda" else REHEARSAL
    return Desk(pack, folder, time.monotonic() + seconds, sizes or full, device)


# ------------------------------------------------------------------------------------ the pack


def describe_pack(desk: Desk) -> None:
    """Check the text of the opened pack, and write what is worked on and with what."""
    name = torch.cuda.get_device_name() if desk.device == "cuda" else "no GPU: a rehearsal"
    info = open_text(desk).info
    desk.write(
        "unpack",
        {
            "machine": f"{describe_machine()}, CUDA {torch.version.cuda}, {name}",
            "train_tokens": info.train_tokens,
            "val_tokens": info.val_tokens,
            "vocab_size": info.vocab_size,
            "unigram_ce": info.unigram_ce,
            "unigram_accuracy": info.unigram_accuracy,
        },
    )


def open_text(desk: Desk) -> Corpus:
    """Open the text of the pack. Raises BortError if it is not whole."""
    corpus = open_corpus(desk.data / "corpus", None)
    if corpus is None:
        raise BortError(f"{desk.data / 'corpus'} is not as it was packed; pack and bring it again")
    return corpus


# ------------------------------------------------------------------------------------ pre-training


def compose_pretraining(
    desk: Desk, seconds: float, compiles: bool = False, workers: int = 0
) -> TrainConfig:
    """Compose the settings of `train.py experiment=mlm_pretrain …` for these seconds."""
    sizes = desk.sizes
    shape = ", ".join(f"{name}: {size}" for name, size in vars(sizes.arch).items())
    return Bench(desk.folder).compose_pretraining(
        *("experiment=mlm_pretrain", f"arch={{{shape}}}", "data=text", "resume=false"),
        *(f"data.path={desk.data / 'corpus'}", f"data.batch_size={sizes.batch}"),
        *(f"data.val_sequences={sizes.val_sequences}", "data.length=128"),
        f"data.workers={workers}",
        *(f"trainer.max_steps={sizes.steps or -1}", f"compile={str(compiles).lower()}"),
        *(f"trainer.max_time={format_time(seconds)}", "trainer.val_check_interval=4000"),
        *(f"trainer.log_every_n_steps={desk.sizes.log_every}", "logger=none", *desk.overrides),
    )


def format_time(seconds: float) -> str:
    """Format seconds as trainer.max_time has them: DD:HH:MM:SS."""
    minutes, rest = divmod(int(max(seconds, 2)), 60)
    return f"'00:{minutes // 60:02}:{minutes % 60:02}:{rest:02}'"


def mlm(desk: Desk, eager: bool = False) -> None:
    """Pre-train until a little before the deadline; eager: without the compiler."""
    hide_lightning_notes()
    corpus = open_text(desk)
    compiles = desk.device == "cuda" and not eager
    seconds = desk.seconds_left - max(3.0, 0.06 * desk.seconds_left)  # validation, and the files
    run = compose_pretraining(desk, seconds, compiles, choose_workers(desk))
    check_trainer(run)
    folder = desk.folder / "mlm"
    summary = train(run, folder, corpus, None, label="mlm")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    desk.write(
        "mlm",
        {
            "arch": str(desk.sizes.arch),
            "batch": f"{run.data.batch_size} × {run.data.length}",
            "compiled": compiles,
            "workers": run.data.workers,
            "lr": run.optim.lr,
            "epochs": summary.tokens / max(1, corpus.info.train_tokens),
            **summary.to_json(),
            "curve": read_curve(folder / "metrics.csv"),
        },
    )


def choose_workers(desk: Desk) -> int:
    """Choose how many processes prepare batches: none where they have no shared memory."""
    batch = {"ids": torch.zeros(desk.sizes.batch, 4 * 128, dtype=torch.int64)}
    try:
        check_shared_memory([batch], desk.sizes.workers)
    except BortError as error:
        print(f"mlm: {error}", flush=True)
        return 0
    return desk.sizes.workers


def read_curve(path: Path, most: int = 60) -> list[list[float | None]]:
    """Read some rows of a metrics.csv: step, training loss, validation loss and accuracy."""
    keys = ("step", "train/loss", "val/loss", "val/mlm_accuracy")
    with path.open(newline="") as file:
        rows = [
            [float(row[k]) if row.get(k) else None for k in keys] for row in csv.DictReader(file)
        ]
    apart = max(1, len(rows) // most)
    return [row for number, row in enumerate(rows) if row[2] is not None or number % apart == 0]


# ------------------------------------------------------------------------------------ fine-tuning


@dataclass(frozen=True)
class Job:
    """One fine-tuning."""

    start: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder and files."""
        return f"{self.start.split()[0]}_{self.task.split('/')[1]}_{self.seed}"


def list_jobs(desk: Desk) -> list[Job]:
    """List the fine-tunings: the pre-trained model's first, and long ones first."""
    starts = [PRETRAINED, RANDOM] if desk.has_model else [RANDOM]
    return [Job(*parts) for parts in product(starts, desk.sizes.tasks, desk.sizes.seeds)]


def fine_tune(desk: Desk) -> None:
    """Fine-tune both starts on all tasks, in several processes at the same time."""
    corpus = open_text(desk)
    for seed in desk.sizes.seeds:
        save_random_weights(desk, corpus, seed)
    shutil.rmtree(desk.folder / "claims", ignore_errors=True)  # of an earlier call
    if desk.sizes.processes == 1:
        work_off(desk)
        desk.write("finetune", gather_scores(desk))
        return
    words = [f"in={desk.pack}", f"work={desk.folder}"]
    command = [sys.executable, str(SCRIPT), "worker", *words, f"seconds={desk.seconds_left:.0f}"]
    threads = max(1, (os.cpu_count() or 1) // desk.sizes.processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    workers = [subprocess.Popen(command, env=environment) for _ in range(desk.sizes.processes)]
    while any(worker.poll() is None for worker in workers):
        time.sleep(1.0)
        scores = gather_scores(desk)
        desk.write("finetune", scores)
        if int(time.monotonic()) % 10 == 0:
            done = sum(map(len, scores["scores"].values()))
            print(f"{done} of {len(list_jobs(desk))} trainings are done", flush=True)
    desk.write("finetune", gather_scores(desk))
    if failed := [worker.returncode for worker in workers if worker.returncode]:
        raise BortError(f"{len(failed)} of {len(workers)} processes failed, with code {failed[0]}")


def save_random_weights(desk: Desk, corpus: Corpus, seed: int) -> None:
    """Save a model of the same shape that was not trained."""
    run = replace(compose_pretraining(desk, 60), seed=seed)
    save_model(build_student(run, corpus, None), corpus.tokenizer, locate_start(desk, RANDOM, seed))


def locate_start(desk: Desk, start: str, seed: int) -> Path:
    """Return the folder of the model that a fine-tuning begins with."""
    return desk.model if start == PRETRAINED else desk.folder / "random" / f"seed_{seed}"


def work_off(desk: Desk) -> None:
    """Take fine-tunings that no other process has taken, until none is left."""
    hide_lightning_notes()
    for job in list_jobs(desk):
        path = desk.folder / "finetune" / f"{job.name}.json"
        if path.exists() or not claim(desk, job):
            continue
        start = time.monotonic()
        try:
            values = fine_tune_once(desk, job)
        except Exception as error:  # the next one may work
            values = {"error": shorten(f"{type(error).__name__}: {error}", 150)}
        write_json(path, {**vars(job), **values, "seconds": time.monotonic() - start})
        print(f"{job.name}: {values}, {clock(time.monotonic() - start)}", flush=True)


def claim(desk: Desk, job: Job) -> bool:
    """Take a fine-tuning; return whether no other process has it."""
    folder = desk.folder / "claims"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / job.name).touch(exist_ok=False)
        return True
    return False


def fine_tune_once(desk: Desk, job: Job) -> dict[str, float]:
    """Fine-tune one model by the product's own recipe; return its scores by their names.

    The rate is the product's for the width. There is one validation, at the end.
    """
    epochs, batch = TASKS[job.task]
    limits = [f"trainer.limit_train_batches={desk.sizes.limit}"] if desk.sizes.limit else []
    epochs = 1 if desk.sizes.limit else epochs
    run = Bench(desk.folder).compose_task(
        *("experiment=finetune", f"task={job.task}", "resume=false", "logger=none"),
        *(f"model={locate_start(desk, job.start, job.seed)}", f"data.root={desk.data / 'glue'}"),
        *(f"data.batch_size={batch}", "data.length=128", f"trainer.max_epochs={epochs}"),
        *(
            f"trainer.check_val_every_n_epoch={epochs}",
            f"trainer.log_every_n_steps={desk.sizes.log_every}",
        ),
        *(f"seed={job.seed}", *limits, *desk.overrides),
    )
    folder = desk.folder / "finetune" / job.name
    summary = finetune(run, folder)
    shutil.rmtree(folder, ignore_errors=True)
    scores = {key: value for key, value in summary.items() if key.startswith("val/")}
    return {**scores, "steps": summary.steps, "lr": summary["lr"]}


def gather_scores(desk: Desk) -> dict[str, Any]:
    """Gather the scores of the finished fine-tunings, by task and start, and what has failed."""
    scores: dict[str, list[dict]] = {}
    failures = []
    for path in sorted((desk.folder / "finetune").glob("*.json")):
        record = json.loads(path.read_text())
        if "error" in record:
            failures.append(f"{path.stem}: {record['error']}")
        else:
            scores.setdefault(f"{record['task']} {record['start']}", []).append(record)
    return {"scores": scores, "failures": failures}


# ------------------------------------------------------------------------------------ minimal pairs


def blimp(desk: Desk) -> None:
    """Score the pre-trained model and random weights: some pairs of each set, then all of them."""
    starts = [PRETRAINED, RANDOM] if desk.has_model else [RANDOM]
    results: dict[str, dict[str, Any]] = {}
    for share, start in product(desk.sizes.shares, starts):
        folder = locate_start(desk, start, desk.sizes.seeds[0])
        if not folder.exists():  # the stage that makes it is not among those that are run
            save_random_weights(desk, open_text(desk), desk.sizes.seeds[0])
        model, tokenizer = load_masked_lm(folder).eval().to(desk.device), load_tokenizer(folder)
        result = score_pairs(
            lambda ids, positions, model=model: model(ids, positions=positions),
            tokenizer,
            read_pairs(desk.data / "blimp", share),
            model.config.limit,
            device=desk.device,
        )
        results[start] = result.to_json()
        shown = ["blimp", *(f"blimp/{field}" for field in result.by_field)]
        desk.write("blimp", {"scores": results, "shown": shown})
        print(f"{start}: {result.overall}", flush=True)
