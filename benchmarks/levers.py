"""Measure what each lever of pre-training with a teacher brings, at equal processor time.

    python benchmarks/levers.py                             # two hours on one core
    python benchmarks/levers.py encoder=FOLDER name=mpnet   # the same with another teacher
    python benchmarks/levers.py seconds=20                  # shorter trainings, for a quick look
    python benchmarks/levers.py smoke                       # tiny models; only prints

A student ⟨2,2,128,512⟩ starts from random weights or from its teacher's embeddings. It is then
trained for 80 seconds of one core, the teacher's passes included, on masked words, the teacher's
final states, its relations, or sums of them. Every arm is then fine-tuned on tasks of GLUE, at the
rate that does best on rows held out of the training rows; the dev rows are looked at once, after
the last epoch.

The text is the beginning of imdb, wiki and news in the folder text/ of BORT_DATA. Run it with
OMP_NUM_THREADS=1, because seconds are those of the process. Every finished training leaves a record
under runs/benchmarks/levers, so that a second call resumes where the first was stopped. The table
is results/levers_<name>.md.
"""

import itertools
import json
import lzma
import os
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from glue import find_encoder, hold_out_rows, sample_task
from parts import ROOT, RUNS, Bench, open_bench, read_arguments, write_table

from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.files.writing import replace_file, write_json
from bort.finetuning.recipe import finetune
from bort.machine import describe_machine
from bort.models.huggingface import save_model
from bort.pretraining.recipe import build_student, prepare, pretrain

ARCH = "arch={depth: 2, heads: 2, hidden: 128, intermediate: 512}"
FRESH, TAKEN = "init=default", "init=teacher"
MLM = ["distill.w_kd=0", "distill.w_mlm=1"]
HIDDEN = ["distill.w_kd=0", "distill.w_hidden=1"]
RELATION = ["distill.w_kd=0", "distill.w_relation=1"]
# Arm → start and what is learnt; an empty list: nothing, the start itself is fine-tuned.
ARMS: dict[str, tuple[str, list[str]]] = {
    "random weights": (FRESH, []),
    "embeddings": (TAKEN, []),
    "masked words": (FRESH, MLM),
    "hidden states": (FRESH, HIDDEN),
    "embeddings, masked words": (TAKEN, MLM),
    "embeddings, hidden states": (TAKEN, HIDDEN),
    "embeddings, relations": (TAKEN, RELATION),
    "embeddings, hidden states, relations": (TAKEN, [*HIDDEN, "distill.w_relation=1"]),
    "embeddings, hidden states, masked words": (TAKEN, [*HIDDEN, "distill.w_mlm=0.1"]),
}
TASKS = {  # rows that are trained on (None: all), and the score
    "glue/sst2": (2000, "accuracy"),
    "glue/mrpc": (None, "f1"),
    "glue/stsb": (None, "spearman"),
    "glue/rte": (None, "accuracy"),
    "glue/cola": (None, "matthews"),
}
SEEDS, RATES, EPOCHS = [0, 1, 2], [5e-4, 1e-3, 2e-3], 3
SECONDS, TRIAL_STEPS = 80.0, 12
DOCUMENTS = 4000  # of each text


def write_text(bench: Bench) -> Path:
    """Write the first documents of each text to one file, on the first call."""
    if bench.smoke:
        return bench.text
    path = bench.runs / "text.jsonl"
    if not path.exists():
        data = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data")) / "text"
        with replace_file(path) as file:
            for name in ("imdb", "wiki", "news"):
                with lzma.open(data / f"{name}.jsonl.xz") as lines:
                    file.writelines(itertools.islice(lines, DOCUMENTS))
    return path


def compose_arm(bench: Bench, arm: str, seed: int, steps: int) -> TrainConfig:
    start, losses = ARMS[arm]
    text = ["data=text", f"data.path={write_text(bench)}", "data.length=64", "data.batch_size=64"]
    steps_and_look = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    steps_and_look.append("trainer.limit_val_batches=8")
    run = bench.compose_pretraining(
        *("experiment=kd_pretrain", ARCH, f"teacher.name={find_encoder(bench)}", start),
        "trainer.precision=auto",  # which is bf16 where a wide teacher is asked
        *(*text, *(losses or HIDDEN), *steps_and_look, f"seed={seed}", "resume=false"),
    )
    # `smoke` names a vocabulary for texts without a teacher.
    return replace(run, data=replace(run.data, tokenizer="auto")) if bench.smoke else run


def count_steps(bench: Bench, arm: str, seconds: float) -> int:
    """Return how many steps of an arm take so many seconds of this process.

    The first call times all arms, in turns, because the speed of a machine varies over minutes.
    The shorter of two timings counts.
    """
    path = bench.runs / "steps.json"
    if not path.exists():
        trained = [name for name, (_, losses) in ARMS.items() if losses]
        timings: dict[str, list[float]] = {name: [] for name in trained}
        for _ in range(2):
            for name in trained:
                timings[name].append(time_step(bench, name))
        write_json(path, {name: min(steps) for name, steps in timings.items()})
    return max(1, round(seconds / json.loads(path.read_text())[arm]))


def time_step(bench: Bench, arm: str) -> float:
    """Return the processor's seconds of one step: the difference of a long and a short training."""
    spent = []
    for steps in (TRIAL_STEPS, 3 * TRIAL_STEPS):
        begin = time.process_time()
        pretrain(compose_arm(bench, arm, 0, steps), bench.runs / "trial")
        spent.append(time.process_time() - begin)
    return max((spent[1] - spent[0]) / (2 * TRIAL_STEPS), 1e-4)


def build_arm(bench: Bench, arm: str, seed: int, seconds: float) -> tuple[Path, int]:
    """Train an arm, and return the folder of its model and the number of its steps."""
    folder = bench.runs / "arms" / arm.replace(", ", "_").replace(" ", "-") / str(seed)
    if not ARMS[arm][1]:
        run = compose_arm(bench, arm, seed, 1)
        corpus, teacher = prepare(run)
        save_model(build_student(run, corpus, teacher), corpus.tokenizer, folder / "model")
        return folder / "model", 0
    steps = bench.choose(count_steps(bench, arm, seconds), 2)
    if not (folder / "summary.json").exists():
        pretrain(compose_arm(bench, arm, seed, steps), folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder / "model", steps


def score_task(bench: Bench, model: Path, task: str, root: Path, rate: float, seed: int) -> float:
    """Fine-tune a model on a task, and return its score on the validation rows at the end."""
    path = model.parent / f"{task.split('/')[1]}_{root.name}_{rate:g}_{seed}.json"
    if not path.exists():
        epochs = bench.choose(EPOCHS, 1)
        run = bench.compose_task(
            *("experiment=finetune", f"task={task}", f"model={model}", f"data.root={root}"),
            *(f"optim.lr={rate}", f"seed={seed}", f"trainer.max_epochs={epochs}"),
            *(f"trainer.check_val_every_n_epoch={epochs}", "resume=false"),
        )
        score = finetune(run, bench.runs / "finetuning")[f"val/{TASKS[task][1]}"]
        write_json(path, {"score": score})
    return json.loads(path.read_text())["score"]


def choose_rate(bench: Bench, model: Path, task: str) -> float:
    """Return the rate with the best score on rows held out of the training rows."""
    root = hold_out_rows(bench, task, TASKS[task][0])
    rates = bench.shorten(RATES, 1)
    return max(rates, key=lambda rate: score_task(bench, model, task, root, rate, 0))


def measure_arms(bench: Bench, seconds: float) -> list[str]:
    tasks = bench.shorten(TASKS, 1)
    names = [f"{task.split('/')[1]}, {TASKS[task][1]}" for task in tasks]
    lines = [
        f"The student is ⟨2,2,128,512⟩; trainings take {seconds:g} seconds of one core. Scores are "
        f"means over seeds {SEEDS} ± standard deviation, with the learning rate in brackets.",
        "",
        f"| arm | steps | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    for arm in bench.shorten(ARMS, 4):
        scores: dict[str, list[float]] = {task: [] for task in tasks}
        rates: dict[str, float] = {}
        for seed in bench.shorten(SEEDS):
            model, steps = build_arm(bench, arm, seed, seconds)
            for task in tasks:
                if task not in rates:
                    rates[task] = choose_rate(bench, model, task)
                root = sample_task(bench, task, TASKS[task][0])
                scores[task].append(score_task(bench, model, task, root, rates[task], seed))
        cells = [
            f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} ({rates[task]:g})"
            for task, values in scores.items()
        ]
        lines.append(f"| {arm} | {steps:,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    show_log()
    try:
        _, given, smoke = read_arguments(sys.argv[1:], [], ["encoder", "seconds", "name"])
        name = given.get("name", "minilm")
        with open_bench(RUNS / "levers" / name, smoke, given) as bench:
            lines = measure_arms(bench, float(given.get("seconds", SECONDS)))
            write_table(f"levers_{name}", [describe_machine(), "", *lines], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/levers.py: {error}") from None


if __name__ == "__main__":
    main()
