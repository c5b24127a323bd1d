"""Measure what a teacher's answers to texts without labels bring to a small model.

    python benchmarks/taught.py                 # all parts; three hours on one core
    python benchmarks/taught.py sst2 encoder=FOLDER
    python benchmarks/taught.py smoke           # tiny models; only prints

A thousand labelled rows are all that there is of a task. The teacher S, an encoder, is fine-tuned
on them. A student ⟨2,2,128,512⟩ starts from the encoder's embeddings and 80 seconds of its final
states (as in levers.py), and is fine-tuned on the rows alone, or learns S's answers: to these rows,
and to thousands of texts more. Of SST-2 these are its other training sentences, or sentences of
film reviews; of QNLI its other training pairs.

`agora` asks whether texts that are near to the student's mistakes teach more than random ones, and
than changed words: Agora with each of its generators, with soft labels, beside its control arms
with equal rows and steps. They share one S, which is fine-tuned on D.

The rate is the best one on rows held out of the training rows; the dev rows are looked at once,
after the last epoch. Run it with OMP_NUM_THREADS=1, because the seconds of the student's start are
those of the process. Every finished training leaves a record under runs/benchmarks/taught, so that
a second call resumes where the first was stopped. Tables go to results/taught_<part>.md.
"""

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agora import format_row, format_table
from arms import (
    FRESH,
    HIDDEN,
    RATES,
    SEEDS,
    TAKEN,
    compose_student,
    count_steps,
    format_mean,
    train_arm,
)
from glue import find_encoder, hold_out_rows, sample_task
from parts import ROOT, RUNS, Bench, run_parts

from bort.agora.recipe import agora as teach
from bort.config.train import TrainConfig
from bort.files.writing import replace_file, write_json
from bort.finetuning.recipe import finetune
from bort.runs.baselines import read_baselines
from bort.runs.summary import RunSummary
from bort.task_distillation.recipe import distill_task
from bort.tasks.reading import load_task

ROWS, BATCH, STEPS = 1000, 32, 640
START, SECONDS = "embeddings, hidden states", 80.0
PLAIN = ("experiment=finetune", "model=none")
FILM_SETTINGS = ("data.text=text", "data.split_sentences=true")
WRITER = "embeddings, hidden states, masked words"  # draws words for Agora's generator mlm
STARTS = {
    START: (TAKEN, HIDDEN),
    "random weights": (FRESH, []),
    WRITER: (TAKEN, [*HIDDEN, "distill.w_mlm=0.1"]),
}
GENERATORS = ["pool", "nearest", "edit", "mlm"]


@dataclass(frozen=True)
class Arm:
    """What a student learns.

    pool: the kind of texts without labels; None: none. is_taught: whether it learns S's answers.
    """

    learns: str
    is_taught: bool = True
    pool: str | None = None
    pool_rows: int = 0
    start: str = START


OWN, FILMS = "the task's other rows", "sentences of film reviews"
ARMS = [
    Arm("true labels", is_taught=False),
    Arm("S's answers to these rows"),
    *(Arm(f"and to {count:,} of {OWN}", pool=OWN, pool_rows=count) for count in (4000, 16000)),
    Arm(f"and to 64,000 of {OWN}", pool=OWN, pool_rows=64000),
    Arm("as before with 16,000, from random weights", True, OWN, 16000, "random weights"),
    *(Arm(f"and to {count:,} {FILMS}", pool=FILMS, pool_rows=count) for count in (4000, 16000)),
]


def find_data() -> Path:
    """Return the folder of the data."""
    return Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data"))


def compose(bench: Bench, task: str, root: Path, *words: str) -> TrainConfig:
    """Compose the settings of a training on the rows in `root`, in batches of BATCH."""
    usual = (f"task={task}", f"data.root={root}", "resume=false", f"data.batch_size={BATCH}")
    return bench.compose_task(*words, *usual)


def find_pool(bench: Bench, task: str, kind: str) -> list[str]:
    """Return the settings of the texts without labels of this kind.

    The task's other training rows are written as a table without labels, on the first call.
    """
    if kind == FILMS:
        return [f"data.unlabelled={find_data() / 'text' / 'imdb.jsonl.xz'}", *FILM_SETTINGS]
    path = bench.runs / f"{task.split('/')[1]}_pool.csv"
    if not path.exists():
        roots = sample_task(bench, task, ROWS), find_data() / "glue"
        labelled, source = (
            load_task(task, compose(bench, task, root, *PLAIN).data) for root in roots
        )
        taken = {row.texts for row in labelled[1]["train"]}
        texts = [row.texts for row in source[1]["train"] if row.texts not in taken]
        table = io.StringIO()
        csv.writer(table).writerows([source[0].columns, *bench.shorten(texts, 100)])
        with replace_file(path) as file:
            file.write(table.getvalue().encode())
    return [f"data.unlabelled={path}"]


def train_teacher(bench: Bench, task: str) -> Path:
    """Fine-tune S on the labelled rows, on the first call; return its folder."""
    folder = bench.runs / "s" / task.split("/")[1]
    words = ("experiment=finetune", f"model={find_encoder(bench)}", "trainer.precision=auto")
    epochs = f"trainer.max_epochs={bench.choose(3, 1)}"
    if not (folder / "summary.json").exists():
        finetune(compose(bench, task, sample_task(bench, task, ROWS), *words, epochs), folder)
    return folder


def score_student(
    bench: Bench, task: str, arm: Arm, model: Path, root: Path, rate: float, seed: int
) -> dict[str, float]:
    """Train a student; return its `accuracy` on the validation rows at the end, and its `steps`."""
    kind = "" if arm.pool is None else f"{arm.pool.split()[-1]}{arm.pool_rows}"
    name = f"{task.split('/')[1]}_{root.name}_{arm.is_taught}{kind}_{rate:g}_{seed}.json"
    path = model.parent / name
    if not path.exists():
        rows = len(load_task(task, compose(bench, task, root, *PLAIN).data)[1]["train"])
        batches = math.ceil((rows + arm.pool_rows) / BATCH)
        epochs = bench.choose(max(1, round(STEPS / batches)), 1)
        words = [f"model={model}", f"optim.lr={rate}", f"seed={seed}"]
        words += [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]
        if arm.is_taught:
            words += ["experiment=kd_finetune", f"teacher.name={train_teacher(bench, task)}"]
            words += ["distill.guard=-1"] if bench.smoke else []
        else:
            words.append("experiment=finetune")
        if arm.pool is not None:
            count = bench.choose(arm.pool_rows, 20)
            words += [*find_pool(bench, task, arm.pool), f"data.unlabelled_rows={count}"]
        train = distill_task if arm.is_taught else finetune
        summary = train(compose(bench, task, root, *words), bench.runs / "student")
        facts = {"accuracy": summary["val/accuracy"], "steps": summary["steps"]}
        write_json(path, facts)
    return json.loads(path.read_text())


def describe_arm(bench: Bench, task: str, arm: Arm, models: Sequence[Path]) -> str:
    """Make the row of an arm from the students' starts, one of each seed."""
    held_out, root = hold_out_rows(bench, task, ROWS), sample_task(bench, task, ROWS)
    rates = bench.shorten(RATES, 1)
    on_held_out = {
        rate: score_student(bench, task, arm, models[0], held_out, rate, 0)["accuracy"]
        for rate in rates
    }
    rate = max(rates, key=on_held_out.get)
    scores = [
        score_student(bench, task, arm, model, root, rate, seed)
        for seed, model in zip(SEEDS, models, strict=False)
    ]
    mean = format_mean([score["accuracy"] for score in scores])
    return f"| {arm.learns} | {scores[0]['steps']:,} | {mean} | {rate:g} |"


def train_starts(bench: Bench, starts: Sequence[str]) -> dict[str, list[Path]]:
    """Train the students' starts, on the first call; return their folders, one of each seed."""

    def compose_start(start: str, seed: int, steps: int) -> TrainConfig:
        init, losses = STARTS[start]
        words = (init, *(losses or HIDDEN), "trainer.limit_val_batches=8")
        return compose_student(bench, find_encoder(bench), *words, seed=seed, steps=steps)

    steps = count_steps(bench, compose_start, [START, WRITER], SECONDS)
    return {
        start: [
            train_arm(bench, compose_start, start, seed, steps.get(start, 0))
            for seed in bench.shorten(SEEDS)
        ]
        for start in starts
    }


def measure_task(bench: Bench, task: str, arms: Sequence[Arm]) -> list[str]:
    """Measure all arms on a task, beside S and what a user would try first."""
    models = train_starts(bench, [START, "random weights"])
    lines = ["| the student learns | steps | accuracy | rate |", "|---|---|---|---|"]
    for arm in bench.shorten(arms, 3):
        lines.append(describe_arm(bench, task, arm, models[arm.start]))
        print(lines[-1], flush=True)
    summary = RunSummary.read(train_teacher(bench, task) / "summary.json")
    for baseline in read_baselines(summary):
        if (accuracy := baseline.scores.get("val/accuracy")) is not None:
            lines.append(f"| nothing: {baseline.title} | – | {accuracy:.3f} | – |")
    return [*lines, f"| S | {summary['steps']:,} | {summary['val/accuracy']:.3f} | default |"]


def sst2(bench: Bench) -> list[str]:
    return measure_task(bench, "glue/sst2", ARMS)


def qnli(bench: Bench) -> list[str]:
    return measure_task(bench, "glue/qnli", [arm for arm in ARMS if arm.pool != FILMS])


def agora(bench: Bench) -> list[str]:
    """Compare Agora's generators on SST-2."""
    models = train_starts(bench, [START, WRITER])
    lines = []
    for generator in bench.shorten(GENERATORS):
        summaries = [
            teach_once(bench, generator, model, models[WRITER][0], seed)
            for seed, model in zip(SEEDS, models[START], strict=False)
        ]
        lines.append([generator, *format_row(summaries)])
        print(" | ".join(lines[-1]), flush=True)
    note = (
        f"There are {ROWS:,} training rows of SST-2, and {16000:,} others without labels for "
        "`pool`, whose control arm takes random ones of them; labels are soft. Scores are mean ± "
        f"standard deviation of the seeds {SEEDS}."
    )
    return [note, "", *format_table(["generator"], lines)]


def teach_once(bench: Bench, generator: str, model: Path, writer: Path, seed: int) -> RunSummary:
    """Run Agora, on the first call; the very first run fine-tunes S, which the others take."""
    first = bench.runs / "agora" / f"{GENERATORS[0]}_{SEEDS[0]}"
    folder = bench.runs / "agora" / f"{generator}_{seed}"
    words = [f"agora.generator={generator}", "agora.labels=soft", "agora.samples=800"]
    words += [f"agora.grid.seed=[{2 * seed},{2 * seed + 1}]", "agora.grid.lr_factor=[1,2]"]
    words += [f"model={model}", f"seed={seed}", f"trainer.max_epochs={bench.choose(5, 1)}"]
    if generator == "mlm":
        words.append(f"agora.mlm={writer}")
    if generator == "pool":
        words += [*find_pool(bench, "glue/sst2", OWN), "data.unlabelled_rows=16000"]
    encoder = find_encoder(bench)
    source = f"teacher.name={encoder}" if folder == first else f"agora.teacher={first / 'teacher'}"
    words += ["agora.guard=0", "agora.grid.lr_factor=[1]"] if bench.smoke else []
    root = sample_task(bench, "glue/sst2", ROWS)
    run = compose(bench, "glue/sst2", root, "experiment=agora", "logger=none", *words, source)
    return teach(replace(run, resume=True), folder)


if __name__ == "__main__":
    run_parts("taught", {"sst2": sst2, "qnli": qnli, "agora": agora}, RUNS / "taught", ["encoder"])
