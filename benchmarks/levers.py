"""Measure what each lever of pre-training with a teacher brings, at equal processor time.

    python benchmarks/levers.py                             # two hours on one core
    python benchmarks/levers.py encoder=FOLDER name=mpnet   # the same with another teacher
    python benchmarks/levers.py seconds=20                  # shorter trainings, for a quick look
    python benchmarks/levers.py smoke                       # tiny models; only prints

A student ⟨2,2,128,512⟩ starts from random weights or from its teacher's embeddings. It is then
trained for 80 seconds of one core, the teacher's passes included, on masked words, the teacher's
final states, its relations, or sums of them. Every arm is then fine-tuned on tasks of GLUE, at the
rate that does best on rows held out of the training rows; the dev rows are looked at once, after
the last epoch. The pairs of STS-B are two towers (head=towers). Arms that learn masked words are
also scored on BLiMP.

The text is the beginning of imdb, wiki and news in the folder text/ of BORT_DATA. Run it with
OMP_NUM_THREADS=1, because seconds are those of the process. Every finished training leaves a record
under runs/benchmarks/levers, so that a second call resumes where the first was stopped. The table
is results/levers_<name>.md.
"""

import sys

from arms import (
    FRESH,
    HIDDEN,
    MLM,
    SEEDS,
    TAKEN,
    TASKS,
    compose_student,
    count_steps,
    format_mean,
    name_tasks,
    score_models,
    score_pairs,
    train_arm,
)
from glue import find_encoder
from parts import RUNS, Bench, open_bench, read_arguments, write_table

from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.machine import describe_machine

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
SECONDS = 80.0


def measure_arms(bench: Bench, seconds: float) -> list[str]:
    tasks, arms = bench.shorten(TASKS, 1), bench.shorten(ARMS, 4)
    trained = [arm for arm in arms if ARMS[arm][1]]

    def compose(arm: str, seed: int, steps: int) -> TrainConfig:
        start, losses = ARMS[arm]
        words = (start, *(losses or HIDDEN), "trainer.limit_val_batches=8")  # tasks are what counts
        return compose_student(bench, find_encoder(bench), *words, seed=seed, steps=steps)

    lines = [
        f"The student is ⟨2,2,128,512⟩; trainings take {seconds:g} seconds of one core. Scores are "
        f"means over seeds {SEEDS} ± standard deviation, with the learning rate in brackets.",
        "",
        f"| arm | steps | {' | '.join(name_tasks(tasks))} | BLiMP |",
        "|---" * (3 + len(tasks)) + "|",
    ]
    steps = count_steps(bench, compose, trained, seconds)
    for arm in arms:
        count = steps.get(arm, 0)
        models = [train_arm(bench, compose, arm, seed, count) for seed in bench.shorten(SEEDS)]
        cells = [score_models(bench, models, task) for task in tasks]
        if any(word.startswith("distill.w_mlm=") for word in ARMS[arm][1]):
            cells.append(format_mean([score_pairs(bench, model) for model in models]))
        else:
            cells.append("–")
        lines.append(f"| {arm} | {count:,} | {' | '.join(cells)} |")
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
