"""Students ⟨2,2,128,512⟩ on one text at equal processor time: their steps, and their scores.

levers.py and claim.py compare such students. Seconds are those of the process, so that other work
on the machine does not count; with OMP_NUM_THREADS=1 they are the seconds of one core.
"""

import itertools
import json
import lzma
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
from blimp import find_pairs, score_model
from glue import hold_out_rows, sample_task
from parts import ROOT, Bench

from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.files.writing import replace_file, write_json
from bort.finetuning.recipe import finetune
from bort.models.huggingface import save_model
from bort.pretraining.recipe import build_student, prepare, pretrain

ARCH = "arch={depth: 2, heads: 2, hidden: 128, intermediate: 512}"
FRESH, TAKEN = "init=default", "init=teacher"
MLM = ["distill.w_kd=0", "distill.w_mlm=1"]
HIDDEN = ["distill.w_kd=0", "distill.w_hidden=1"]
TEXTS, DOCUMENTS = ("imdb", "wiki", "news"), 4000  # of each text


@dataclass(frozen=True)
class Tuning:
    """How models are fine-tuned on a task: rows (None: all), rows of a batch, score and head."""

    rows: int | None
    batch: int
    metric: str
    head: str = "linear"


TASKS = {
    "glue/sst2": Tuning(2000, 32, "accuracy"),
    "glue/mrpc": Tuning(None, 64, "f1"),
    "glue/stsb": Tuning(None, 64, "spearman", "towers"),  # as one sequence, all arms are near .19
    "glue/rte": Tuning(None, 64, "accuracy"),
    "glue/cola": Tuning(None, 64, "matthews"),
}
SEEDS, RATES, EPOCHS = [0, 1, 2], [1e-3, 2e-3], 3
SHARE = 0.05  # of the pairs of BLiMP
TRIAL_STEPS, ROUNDS = 20, 3
Compose = Callable[[str, int, int], TrainConfig]  # of an arm, a seed and a number of steps


def write_text(bench: Bench) -> Path:
    """Write the first documents of each text to one file, on the first call.

    Raises BortError if BORT_DATA lacks a text.
    """
    if bench.smoke:
        return bench.text
    path = bench.runs / "text.jsonl"
    if not path.exists():
        data = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data")) / "text"
        sources = [data / f"{name}.jsonl.xz" for name in TEXTS]
        if missing := [source for source in sources if not source.is_file()]:
            raise BortError(f"{missing[0]} is missing; set BORT_DATA to a folder that holds text/")
        with replace_file(path) as file:
            for source in sources:
                with lzma.open(source) as lines:
                    file.writelines(itertools.islice(lines, DOCUMENTS))
    return path


def compose_student(bench: Bench, teacher: Path, *words: str, seed: int, steps: int) -> TrainConfig:
    """Compose the settings of a student with the vocabulary of a teacher.

    words: its start, and what it learns.
    """
    start = ("experiment=kd_pretrain", ARCH, f"teacher.name={teacher}")
    return compose_training(bench, *start, *words, seed=seed, steps=steps)


def compose_training(bench: Bench, *words: str, seed: int, steps: int) -> TrainConfig:
    """Compose the settings of a training on the text, which is validated once, at its end."""
    run = bench.compose_pretraining(
        *("data=text", f"data.path={write_text(bench)}", "data.length=64", "data.batch_size=64"),
        *(f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"),
        "trainer.precision=auto",  # which is bf16 where a wide teacher is asked
        *(f"seed={seed}", "resume=false", *words),
    )
    if not bench.smoke:
        return run
    # `smoke` names a vocabulary for texts without a teacher, and reads shorter sequences than a
    # sentence of BLiMP.
    return replace(run, data=replace(run.data, tokenizer="auto", length=128))


def count_steps(
    bench: Bench, compose: Compose, arms: Sequence[str], seconds: float, name: str = "steps"
) -> dict[str, int]:
    """Return how many steps of each arm take so many seconds of this process.

    The arms are timed in turns, because the speed of a machine varies over minutes, and the
    shortest of the timings of a step counts. `name` keeps every timing, so that a call that was
    stopped is continued by the next one.
    """
    if bench.smoke:
        return dict.fromkeys(arms, 2)
    path = bench.runs / f"{name}.json"
    timings = json.loads(path.read_text()) if path.exists() else {}
    for arm in (arm for arm in arms if len(timings.get(arm, [])) < ROUNDS):
        # builds what is kept, such as the corpus, and loads what is loaded once
        pretrain(compose(arm, 0, 1), bench.runs / "trial")
    for count in range(ROUNDS):
        for arm in (arm for arm in arms if len(timings.get(arm, [])) <= count):
            timings.setdefault(arm, []).append(time_step(bench, compose, arm))
            write_json(path, timings)
    return {arm: max(1, round(seconds / min(timings[arm]))) for arm in arms}


class StepClock(pl.Callback):
    """Notes the processor's seconds of every step of a training in a file, at its end."""

    def __init__(self, path: str):
        self.path = Path(path)
        self._ends: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Note when the step ended."""
        self._ends.append(time.process_time())

    def on_train_end(self, trainer, module) -> None:
        """Write the seconds between the ends of the steps."""
        write_json(self.path, [late - early for early, late in itertools.pairwise(self._ends)])


def time_step(bench: Bench, compose: Compose, arm: str) -> float:
    """Return the processor's seconds of one step: of a short training, those of a quick one.

    Nine of ten steps take longer. Other work on the machine can only make a step slower, and does
    so, for minutes, to up to twice its time.
    """
    path = bench.runs / "trial" / "seconds.json"
    clock = {"clock": {"_target_": "arms.StepClock", "path": str(path)}}
    pretrain(replace(compose(arm, 0, TRIAL_STEPS), callbacks=clock), bench.runs / "trial")
    seconds = sorted(json.loads(path.read_text()))
    return seconds[len(seconds) // 10]


def train_arm(bench: Bench, compose: Compose, arm: str, seed: int, steps: int) -> Path:
    """Train an arm, on the first call, and return the folder of its model; 0 steps: its start."""
    folder = bench.runs / "arms" / arm.replace(", ", "_").replace(" ", "-") / str(seed)
    if not steps:
        run = compose(arm, seed, 1)
        corpus, teacher = prepare(run)
        save_model(build_student(run, corpus, teacher), corpus.tokenizer, folder / "model")
    elif not (folder / "summary.json").exists():
        pretrain(compose(arm, seed, steps), folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder / "model"


def score_task(bench: Bench, model: Path, task: str, root: Path, rate: float, seed: int) -> float:
    """Fine-tune a model on a task, and return its score on the validation rows at the end."""
    tuning = TASKS[task]
    name = task.split("/")[1] + ("" if tuning.head == "linear" else f"-{tuning.head}")
    path = model.parent / f"{name}_{root.name}_{rate:g}_{seed}.json"
    if not path.exists():
        epochs = bench.choose(EPOCHS, 1)
        run = bench.compose_task(
            *("experiment=finetune", f"task={task}", f"model={model}", f"data.root={root}"),
            *(f"optim.lr={rate}", f"seed={seed}", f"trainer.max_epochs={epochs}"),
            *(f"trainer.check_val_every_n_epoch={epochs}", f"data.batch_size={tuning.batch}"),
            *(f"head={tuning.head}", "resume=false"),
        )
        score = finetune(run, bench.runs / "finetuning")[f"val/{tuning.metric}"]
        write_json(path, {"score": score})
    return json.loads(path.read_text())["score"]


def choose_rate(bench: Bench, model: Path, task: str) -> float:
    """Return the rate with the best score on rows held out of the training rows."""
    root = hold_out_rows(bench, task, TASKS[task].rows)
    rates = bench.shorten(RATES, 1)
    return max(rates, key=lambda rate: score_task(bench, model, task, root, rate, 0))


def score_models(bench: Bench, models: Sequence[Path], task: str) -> str:
    """Make the cell of a task: the mean score of an arm's models, one of each seed.

    All have the rate that is best for the first of them.
    """
    rate, root = choose_rate(bench, models[0], task), sample_task(bench, task, TASKS[task].rows)
    scores = [
        score_task(bench, model, task, root, rate, seed)
        for seed, model in zip(SEEDS, models, strict=False)
    ]
    return f"{format_mean(scores)} ({rate:g})"


def score_pairs(bench: Bench, model: Path) -> float:
    """Score a masked LM on a share of BLiMP's pairs, on the first call."""
    path = model.parent / "blimp.json"
    if not path.exists():
        share = bench.choose(SHARE, 0.001)
        accuracy = score_model(str(model), find_pairs(bench), share).overall
        write_json(path, {"accuracy": accuracy.value})
    return json.loads(path.read_text())["accuracy"]


def format_mean(values: Sequence[float]) -> str:
    """Show the mean of values, and their standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def name_tasks(tasks: Sequence[str]) -> list[str]:
    """Return the headings of tasks with their scores."""
    return [f"{task.split('/')[1]}, {TASKS[task].metric}" for task in tasks]
