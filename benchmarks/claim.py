"""Measure the paper's claim where a user stands: with a teacher or without, at equal time.

    python benchmarks/claim.py              # an hour on one core
    python benchmarks/claim.py seconds=20   # shorter trainings, for a quick look
    python benchmarks/claim.py smoke        # tiny models; only prints

The paper holds that a student which learns a teacher's probabilities of masked words is better
after the same time than one which learns the words of the text alone. The teacher here is
⟨2,4,256,1024⟩. It is first trained on the same text, that of arms.py (experiment=teacher_pretrain),
which the time of its students does not contain; one more student learns without a teacher for as
long as the teacher and its student together. Beside them stand random weights. Encoders that teach
their final states are compared with masked words by levers.py.

Every student is fine-tuned on two tasks of GLUE, at the rate that does best on rows held out of the
training rows; the dev rows are looked at once, after the last epoch. Trained models are also scored
on BLiMP.

The precision is what trainer.precision=auto chooses. Run it with OMP_NUM_THREADS=1, because seconds
are those of the process. Every finished training leaves a record under runs/benchmarks/claim, so
that a second call resumes where the first was stopped. The table is results/claim.md.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from arms import (
    FRESH,
    MLM,
    SEEDS,
    TAKEN,
    compose_student,
    compose_training,
    count_steps,
    format_mean,
    name_tasks,
    score_models,
    score_pairs,
    train_arm,
)
from parts import RUNS, Bench, open_bench, read_arguments, write_table

from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.files.writing import write_json
from bort.machine import describe_machine
from bort.models.huggingface import read_model_config
from bort.pretraining.recipe import pretrain
from bort.runs.summary import RunSummary

KD = ["distill.w_kd=1", "distill.w_mlm=0"]


@dataclass(frozen=True)
class Arm:
    """A student: what it learns, its start and its losses.

    losses: without any, the start itself is fine-tuned. is_longer: whether the teacher's training
    time is added to its own.
    """

    learns: str
    start: str
    losses: list[str]
    is_longer: bool = False


WORDS = "masked words"
ARMS = {
    "random": Arm("nothing: random weights", FRESH, []),
    "words": Arm(WORDS, FRESH, MLM),
    "kd": Arm("the teacher's probabilities", FRESH, KD),
    "kd_start": Arm("its probabilities, from its embeddings", TAKEN, KD),
    "longer": Arm(f"{WORDS}, in the teacher's time, too", FRESH, MLM, True),
}
TASKS = ["glue/sst2", "glue/mrpc"]
SECONDS, TEACHER_SECONDS = 80.0, 240.0
# Its batches are smaller than a student's. With four layers and batches of 64, it predicted hardly
# more than word frequencies after as many seconds.
TEACHER = ["arch={depth: 2, heads: 4, hidden: 256, intermediate: 1024}", "data.batch_size=32"]


@dataclass(frozen=True)
class Cost:
    """What the training of the teacher took: seconds of this process, and steps."""

    seconds: float
    steps: int


def train_teacher(bench: Bench, seconds: float) -> tuple[Path, Cost]:
    """Train the teacher on the text for so many seconds, on the first call.

    Returns the folder of its model, and what it took.
    """

    def compose(_: str, seed: int, steps: int) -> TrainConfig:
        words = ("experiment=teacher_pretrain", *TEACHER)
        return compose_training(bench, *words, seed=seed, steps=steps)

    folder, path = bench.runs / "teacher", bench.runs / "teacher.json"
    if not path.exists():
        (steps,) = count_steps(bench, compose, ["teacher"], seconds, "teacher_steps").values()
        begin = time.process_time()
        pretrain(compose("teacher", 0, steps), folder)
        write_json(path, asdict(Cost(time.process_time() - begin, steps)))
    return folder / "model", Cost(**json.loads(path.read_text()))


def describe_teacher(bench: Bench, model: Path, cost: Cost) -> str:
    """Say what the teacher took, and how good it is."""
    summary = RunSummary.read(model.parent / "summary.json")
    return (
        f"The teacher, {read_model_config(model).arch}, took {cost.seconds:.0f} seconds before, "
        f"{cost.steps:,} steps in {summary['precision']}. It predicts "
        f"{summary['val/mlm_accuracy']:.3f} of the masked words (word frequencies: "
        f"{summary['unigram_accuracy']:.3f}) and is right in {score_pairs(bench, model):.3f} of "
        "BLiMP's pairs."
    )


def describe_arm(bench: Bench, arm: Arm, models: list[Path], steps: int) -> str:
    """Make the row of an arm from its models, one of each seed."""
    cells = [arm.learns, f"{steps:,}"]
    if steps:
        summaries = [RunSummary.read(model.parent / "summary.json") for model in models]
        cells += [
            summaries[0]["precision"],
            format_mean([summary["val/mlm_accuracy"] for summary in summaries]),
            format_mean([score_pairs(bench, model) for model in models]),
        ]
    else:
        cells += ["–"] * 3
    cells += [score_models(bench, models, task) for task in bench.shorten(TASKS, 1)]
    return f"| {' | '.join(cells)} |"


def measure_claim(bench: Bench, seconds: float) -> list[str]:
    teacher, cost = train_teacher(bench, seconds * TEACHER_SECONDS / SECONDS)
    arms = {name: ARMS[name] for name in bench.shorten(ARMS, 3)}
    trained = [name for name, arm in arms.items() if arm.losses and not arm.is_longer]

    def compose(name: str, seed: int, steps: int) -> TrainConfig:
        words = (arms[name].start, *(arms[name].losses or MLM))
        return compose_student(bench, teacher, *words, seed=seed, steps=steps)

    steps = count_steps(bench, compose, trained, seconds)
    tasks = name_tasks(bench.shorten(TASKS, 1))
    header = ["learns", "steps", "precision", "masked words", "BLiMP", *tasks]
    lines = [
        f"The student is ⟨2,2,128,512⟩; trainings take {seconds:g} seconds of one core. Scores are "
        f"means over seeds {SEEDS} ± standard deviation, with the learning rate in brackets.",
        "",
        describe_teacher(bench, teacher, cost),
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for name, arm in arms.items():
        count = steps.get(name, 0)
        if arm.is_longer:
            count = round(steps["words"] * (1 + cost.seconds / seconds))
        models = [train_arm(bench, compose, name, seed, count) for seed in bench.shorten(SEEDS)]
        lines.append(describe_arm(bench, arm, models, count))
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    show_log()
    try:
        _, options, smoke = read_arguments(sys.argv[1:], [], ["seconds"])
        with open_bench(RUNS / "claim", smoke, options) as bench:
            lines = measure_claim(bench, float(options.get("seconds", SECONDS)))
            write_table("claim", [describe_machine(), "", *lines], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/claim.py: {error}") from None


if __name__ == "__main__":
    main()
