"""Measure the paper's claim where a user stands: with a teacher or without, at equal time.

    python benchmarks/claim.py                      # both teachers; an hour on one core
    python benchmarks/claim.py states encoder=FOLDER name=mpnet   # only these, of another encoder
    python benchmarks/claim.py probabilities        # only the teacher that is trained here
    python benchmarks/claim.py seconds=20           # shorter trainings, for a quick look
    python benchmarks/claim.py smoke                # tiny models; only prints

The paper holds that a student which learns from a teacher is better after the same time than one
which learns from the text alone. Two teachers are tried on the text of arms.py. One is an encoder
without a masked-LM head (of benchmarks/glue.py), which teaches its final states. The other teaches
its probabilities of masked words, as in the paper; it is ⟨2,4,256,1024⟩ and is first trained on the
same text (experiment=teacher_pretrain), which the students' time does not contain. Each is set
against masked words of the text alone, with the same vocabulary, and against random weights. One
more student learns without a teacher for as long as the second teacher and its student together.

Every student is fine-tuned on two tasks of GLUE, at the rate that does best on rows held out of the
training rows; the dev rows are looked at once, after the last epoch. Models with a masked-LM head
are also scored on BLiMP.

The precision is what trainer.precision=auto chooses. Run it with OMP_NUM_THREADS=1, because seconds
are those of the process. Every finished training leaves a record under runs/benchmarks/claim, so
that a second call resumes where the first was stopped. The table is results/claim_<name>.md.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from arms import (
    FRESH,
    HIDDEN,
    MLM,
    SEEDS,
    TAKEN,
    compose_student,
    compose_training,
    count_steps,
    format_mean,
    name_tasks,
    score_models,
    train_arm,
)
from blimp import find_pairs, score_model
from glue import find_encoder
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
PARTS = STATES, PROBABILITIES = "states", "probabilities"


@dataclass(frozen=True)
class Arm:
    """A student: what it learns, its start and its losses.

    part: the part that it belongs to, whose teacher's vocabulary it has. losses: without any, the
    start itself is fine-tuned. is_longer: whether the teacher's training time is added to its own.
    """

    part: str
    learns: str
    start: str
    losses: list[str]
    is_longer: bool = False


RANDOM, WORDS = "nothing: random weights", "masked words"
ARMS = {
    "states_random": Arm(STATES, RANDOM, FRESH, []),
    "states_words": Arm(STATES, WORDS, FRESH, MLM),
    "states_kd": Arm(STATES, "the encoder's final states, from its embeddings", TAKEN, HIDDEN),
    "random": Arm(PROBABILITIES, RANDOM, FRESH, []),
    "words": Arm(PROBABILITIES, WORDS, FRESH, MLM),
    "kd": Arm(PROBABILITIES, "the teacher's probabilities", FRESH, KD),
    "kd_start": Arm(PROBABILITIES, "its probabilities, from its embeddings", TAKEN, KD),
    "longer": Arm(PROBABILITIES, f"{WORDS}, in the teacher's time, too", FRESH, MLM, True),
}
TASKS = ["glue/sst2", "glue/mrpc"]
SECONDS, TEACHER_SECONDS = 80.0, 240.0
SHARE = 0.05  # of the pairs of BLiMP
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
    """Say what the teacher that is trained here took, and how good it is."""
    summary = RunSummary.read(model.parent / "summary.json")
    return (
        f"The teacher of the probabilities, {read_model_config(model).arch}, took "
        f"{cost.seconds:.0f} seconds before, {cost.steps:,} steps in {summary['precision']}. It "
        f"predicts {summary['val/mlm_accuracy']:.3f} of the masked words and is right in "
        f"{score_pairs(bench, model):.3f} of BLiMP's pairs."
    )


def score_pairs(bench: Bench, model: Path) -> float:
    """Score a masked LM on a share of BLiMP's pairs, on the first call."""
    path = model.parent / "blimp.json"
    if not path.exists():
        share = bench.choose(SHARE, 0.001)
        accuracy = score_model(str(model), find_pairs(bench), share).overall
        write_json(path, {"accuracy": accuracy.value})
    return json.loads(path.read_text())["accuracy"]


def describe_arm(bench: Bench, arm: Arm, models: list[Path], steps: int) -> str:
    """Make the row of an arm from its models, one of each seed."""
    vocabulary = read_model_config(models[0]).vocab_size
    cells = [f"{vocabulary:,}", arm.learns, f"{steps:,}"]
    if steps:
        summaries = [RunSummary.read(model.parent / "summary.json") for model in models]
        cells.append(summaries[0]["precision"])
    else:
        cells.append("–")
    if steps and arm.losses != HIDDEN:
        words = format_mean([summary["val/mlm_accuracy"] for summary in summaries])
        by_frequency = summaries[0]["unigram_accuracy"]
        cells += [f"{words} ({by_frequency:.3f})"]
        cells += [format_mean([score_pairs(bench, model) for model in models])]
    else:
        cells += ["–", "–"]
    cells += [score_models(bench, models, task) for task in bench.shorten(TASKS, 1)]
    return f"| {' | '.join(cells)} |"


def choose_arms(bench: Bench, parts: Sequence[str]) -> dict[str, Arm]:
    """Return the arms of these parts, or the first ones of each where everything is tiny."""
    arms = {}
    for part in parts:
        names = [name for name, arm in ARMS.items() if arm.part == part]
        arms |= {name: ARMS[name] for name in bench.shorten(names, 3)}
    return arms


def measure_claim(bench: Bench, parts: Sequence[str], seconds: float) -> list[str]:
    lines = [
        f"The student is ⟨2,2,128,512⟩; trainings take {seconds:g} seconds of one core. Scores are "
        f"means over seeds {SEEDS} ± standard deviation, with the learning rate in brackets; "
        "beside masked words stands what word frequencies alone predict."
    ]
    folders, share = {}, 0.0
    if STATES in parts:
        folders[STATES] = find_encoder(bench)
    if PROBABILITIES in parts:
        teacher, cost = train_teacher(bench, seconds * TEACHER_SECONDS / SECONDS)
        folders[PROBABILITIES], share = teacher, cost.seconds / seconds
        lines += ["", describe_teacher(bench, teacher, cost)]
    arms = choose_arms(bench, parts)

    def compose(name: str, seed: int, steps: int) -> TrainConfig:
        arm = arms[name]
        words = (arm.start, *(arm.losses or HIDDEN))
        return compose_student(bench, folders[arm.part], *words, seed=seed, steps=steps)

    trained = [name for name, arm in arms.items() if arm.losses and not arm.is_longer]
    steps = count_steps(bench, compose, trained, seconds)
    tasks = name_tasks(bench.shorten(TASKS, 1))
    header = ["vocabulary", "learns", "steps", "precision", "masked words", "BLiMP", *tasks]
    lines += ["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, arm in arms.items():
        count = steps.get(name, 0)
        if arm.is_longer:
            count = round(steps["words"] * (1 + share))
        models = [train_arm(bench, compose, name, seed, count) for seed in bench.shorten(SEEDS)]
        lines.append(describe_arm(bench, arm, models, count))
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    show_log()
    try:
        options = ["encoder", "seconds", "name"]
        chosen, given, smoke = read_arguments(sys.argv[1:], PARTS, options)
        name = given.get("name", "minilm")
        with open_bench(RUNS / "claim" / name, smoke, given) as bench:
            lines = measure_claim(bench, chosen or PARTS, float(given.get("seconds", SECONDS)))
            write_table(f"claim_{name}", [describe_machine(), "", *lines], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/claim.py: {error}") from None


if __name__ == "__main__":
    main()
