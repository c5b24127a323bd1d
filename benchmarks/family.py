"""Measure a family of students of one teacher: what each scores, how large and how fast it is.

    python benchmarks/family.py                # four hours on one core
    python benchmarks/family.py rates          # which rate of fine-tuning each width wants
    python benchmarks/family.py heads          # which head small encoders want, task by task
    python benchmarks/family.py scores speed
    python benchmarks/family.py smoke          # tiny models; only prints

Students of three sizes start from their teacher's embeddings and learn its final states, for 15
minutes of one core each, the teacher's passes included. They are then fine-tuned on tasks of GLUE
with the default rate, beside their teacher, which is fine-tuned in the same way, and beside TF-IDF.
Three seeds of a fine-tuning share an encoder; dev is looked at once, after the last epoch.

`rates` compares rates, and `heads` the heads of the smallest student, on rows held out of the
training rows. `scores` is the table of dev scores. `speed` has the size and the latency of those
models in PyTorch and in int8, with the score of int8, and draws the pictures
results/family_light.svg and family_dark.svg.

The text is the beginning of imdb, wiki and news in the folder text/ of BORT_DATA. Run all but
`speed` with OMP_NUM_THREADS=1, because seconds are those of the process, and `speed` on a quiet
machine. Every finished training leaves a record under runs/benchmarks/family, so that a second call
resumes where the first was stopped. The tables are results/family_<part>.md.
"""

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arms import HIDDEN, SEEDS, TAKEN, compose_training, count_steps, format_mean, train_arm
from glue import find_encoder, hold_out_rows, sample_task
from parts import RESULTS, RUNS, Bench, run_parts
from scatter import Point, draw_scatter

from bort.benchmark.contenders import open_contender
from bort.benchmark.measuring import measure
from bort.benchmark.rows import BenchmarkRow
from bort.config.train import TrainConfig
from bort.export.result import ExportResult
from bort.export.run import export
from bort.files.ownership import EXPORT
from bort.files.untrusted import read_json
from bort.finetuning.recipe import finetune
from bort.models.arch import Arch
from bort.runs.baselines import read_baselines
from bort.runs.summary import RunSummary
from bort.tasks.baselines import choose_rows, fit_tfidf
from bort.tasks.reading import load_task

STUDENTS = [Arch(2, 2, 128, 512), Arch(4, 4, 256, 1024), Arch(3, 12, 384, 1536)]
SMOKE_STUDENTS = [Arch(1, 2, 16, 32)]
SECONDS = 900.0
TEACHER = "teacher"
HEADS = {"linear": "first token", "mean": "mean state", "towers": "two towers"}
RATES = [0.032, 0.064, 0.128, 0.256]  # times the width
LENGTH, THREADS, ROUNDS = 128, 1, 7
PUBLISHED = {  # test sets, trained on all rows (github.com/google-research/bert, README)
    "BERT-tiny ⟨2,2,128,512⟩": ["–", "83.2", "81.1", "73.6", "0.0", "57.2", "81.5"],
    "BERT-mini ⟨4,4,256,1024⟩": ["–", "85.9", "81.1", "75.4", "0.0", "57.9", "84.1"],
}


@dataclass(frozen=True)
class Tuning:
    """How models are fine-tuned on a task. rows: of the training set; None: all."""

    task: str
    metric: str
    rows: int | None = None
    epochs: int = 3
    batch: int = 32
    head: str = "linear"

    @property
    def title(self) -> str:
        rows = "" if self.rows is None else f", {self.rows:,} rows"
        return f"{self.task.split('/')[1]}{rows}, {self.metric}"

    @property
    def heads(self) -> list[str]:
        """The heads that the task can have: one text has no towers."""
        is_pair = self.task not in ("glue/sst2", "glue/cola")
        return [head for head in HEADS if head != "towers" or is_pair]


TASKS = [
    Tuning("glue/sst2", "accuracy", rows=2000),
    Tuning("glue/sst2", "accuracy", epochs=1, batch=64),
    Tuning("glue/mrpc", "f1"),
    Tuning("glue/stsb", "spearman", head="towers"),
    Tuning("glue/cola", "matthews"),
    Tuning("glue/rte", "accuracy"),
    Tuning("glue/qnli", "accuracy", rows=20_000, epochs=2),
]


def list_students(bench: Bench) -> list[Arch]:
    return bench.choose(STUDENTS, SMOKE_STUDENTS)


def name_folder(arch: Arch) -> str:
    return "-".join(map(str, vars(arch).values()))


def show_name(name: str) -> str:
    """Return what tables call an encoder, whose folder has this name."""
    return "the teacher" if name == TEACHER else f"⟨{name.replace('-', ',')}⟩"


def train_encoders(bench: Bench) -> dict[str, Path]:
    """Train the students, on the first call; return the folders of all encoders."""
    teacher, students = (
        find_encoder(bench),
        {name_folder(arch): arch for arch in list_students(bench)},
    )

    def compose(name: str, seed: int, steps: int) -> TrainConfig:
        sizes = ", ".join(f"{key}: {value}" for key, value in vars(students[name]).items())
        words = ("experiment=kd_pretrain", f"arch={{{sizes}}}", f"teacher.name={teacher}")
        length = ("data.length=128", "data.batch_size=32", "trainer.limit_val_batches=8")
        return compose_training(bench, *words, TAKEN, *HIDDEN, *length, seed=seed, steps=steps)

    steps = count_steps(bench, compose, list(students), SECONDS)
    folders = {name: train_arm(bench, compose, name, 0, steps[name]) for name in students}
    return folders | {TEACHER: teacher}


def fine_tune(
    bench: Bench,
    name: str,
    encoder: Path,
    tuning: Tuning,
    root: Path,
    seed: int,
    head: str,
    rate: float | None = None,
) -> Path:
    """Fine-tune an encoder on a task, on the first call; return the folder of the run.

    rate: None, the default of the encoder's width.
    """
    rows = tuning.rows or "all"
    task = tuning.task.split("/")[1]
    folder = bench.runs / "tuned" / name / f"{task}_{rows}" / f"{root.name}_{head}_{seed}"
    if rate is not None:
        folder = folder.with_name(f"{folder.name}_{rate:g}")
    epochs = bench.choose(tuning.epochs, 1)
    run = bench.compose_task(
        *("experiment=finetune", f"task={tuning.task}", f"model={encoder}", f"data.root={root}"),
        *(f"seed={seed}", f"head={head}", f"data.batch_size={tuning.batch}"),
        *(f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"),
        *("trainer.precision=auto", f"optim.lr={'null' if rate is None else rate}"),
    )
    finetune(run, folder)  # which returns at once when the run is finished
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def read_score(folder: Path, tuning: Tuning) -> float:
    score = RunSummary.read(folder / "summary.json")[f"val/{tuning.metric}"]
    return 0.0 if score is None else score  # Matthews' coefficient of one answer


def score_seeds(
    bench: Bench,
    name: str,
    encoder: Path,
    tuning: Tuning,
    root: Path,
    head: str,
    rate: float | None = None,
) -> list[float]:
    """Fine-tune an encoder with every seed, and return the scores; see `fine_tune`."""
    return [
        read_score(fine_tune(bench, name, encoder, tuning, root, seed, head, rate), tuning)
        for seed in bench.shorten(SEEDS)
    ]


# ------------------------------------------------------------------------------------ the parts


def rates(bench: Bench) -> list[str]:
    """Compare rates of fine-tuning by the width of the student, on rows held out of training."""
    lines = [
        f"Scores are means over seeds {SEEDS} ± standard deviation, on a tenth of the training "
        "rows, which was held out. The rate is the number above divided by the width H.",
        "",
        f"| student | task | {' | '.join(f'{rate:g} / H' for rate in RATES)} |",
        "|---" * (2 + len(RATES)) + "|",
    ]
    encoders = train_encoders(bench)
    for arch in list_students(bench):
        name = name_folder(arch)
        for tuning in bench.choose([TASKS[0], *TASKS[2:4]], [TASKS[3]]):
            root = hold_out_rows(bench, tuning.task, tuning.rows)
            cells = []
            for rate in RATES:
                tuned = (bench, name, encoders[name], tuning, root, tuning.head)
                cells.append(format_mean(score_seeds(*tuned, rate / arch.hidden)))
            lines.append(f"| {show_name(name)} | {tuning.title} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def heads(bench: Bench) -> list[str]:
    """Compare the heads of the smallest student on rows held out of the training rows."""
    name = name_folder(list_students(bench)[0])
    encoder = train_encoders(bench)[name]
    lines = [
        f"The student is {show_name(name)}. Scores are means over seeds {SEEDS} ± standard "
        "deviation, on a tenth of the training rows, which was held out.",
        "",
        f"| task | {' | '.join(HEADS.values())} |",
        "|---" * (1 + len(HEADS)) + "|",
    ]
    for tuning in bench.choose([TASKS[0], *TASKS[2:]], [TASKS[3]]):  # SST-2 once
        root, cells = hold_out_rows(bench, tuning.task, tuning.rows), []
        for head in HEADS:
            is_possible = head in tuning.heads
            tuned = (bench, name, encoder, tuning, root, head)
            cells.append(format_mean(score_seeds(*tuned)) if is_possible else "–")
        lines.append(f"| {tuning.title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def scores(bench: Bench) -> list[str]:
    """Score all students, their teacher and TF-IDF on all tasks."""
    tasks = bench.shorten(TASKS, 1)
    tuned = tune_all(bench, tasks)
    lines = [
        f"Students learnt for {SECONDS / 60:g} minutes of one core. Scores are means over seeds "
        f"{SEEDS} of the fine-tuning ± standard deviation, × 100. Published scores are of test "
        "sets, after training on all rows of each task.",
        "",
        f"| model | {' | '.join(tuning.title for tuning in tasks)} | mean |",
        "|---" * (2 + len(tasks)) + "|",
    ]
    for name, folders in tuned.items():
        values = [
            [100 * read_score(folder, tuning) for folder in seeds]
            for tuning, seeds in zip(tasks, folders, strict=True)
        ]
        cells = [f"{statistics.mean(cell):.1f} ± {statistics.stdev(cell):.1f}" for cell in values]
        mean = statistics.mean(map(statistics.mean, values))
        lines.append(f"| {show_name(name)} | {' | '.join(cells)} | {mean:.1f} |")
    simple = [
        find_simple_score(seeds[0], tuning)
        for tuning, seeds in zip(tasks, tuned[TEACHER], strict=True)
    ]
    cells = [f"{value:.1f}" for value in simple]
    lines.append(f"| TF-IDF | {' | '.join(cells)} | {statistics.mean(simple):.1f} |")
    for name, cells in PUBLISHED.items():
        lines.append(f"| {name}, published | {' | '.join(cells[: len(tasks)])} | – |")
    return lines


def tune_all(bench: Bench, tasks: Sequence[Tuning]) -> dict[str, list[list[Path]]]:
    """Fine-tune all encoders on tasks; return the folders by encoder, task and seed."""
    tuned: dict[str, list[list[Path]]] = {}
    for name, encoder in train_encoders(bench).items():
        tuned[name] = []
        for tuning in tasks:
            root = sample_task(bench, tuning.task, tuning.rows)
            tuned[name].append(
                [
                    fine_tune(bench, name, encoder, tuning, root, seed, tuning.head)
                    for seed in bench.shorten(SEEDS)
                ]
            )
            shown = [read_score(folder, tuning) for folder in tuned[name][-1]]
            print(f"{show_name(name)}, {tuning.title}: {format_mean(shown)}", flush=True)
    return tuned


def find_simple_score(folder: Path, tuning: Tuning) -> float:
    """Return the score of TF-IDF that stands in a fine-tuning's summary, × 100."""
    baselines = read_baselines(RunSummary.read(folder / "summary.json"))
    (simple,) = (baseline for baseline in baselines if baseline.name == "tfidf")
    return 100 * (simple.scores.get(f"val/{tuning.metric}") or 0.0)


def speed(bench: Bench) -> list[str]:
    """Measure size and latency of all models of SST-2, and draw them."""
    tuning = bench.choose(TASKS[1], TASKS[0])
    tuned = {name: folders[0] for name, folders in tune_all(bench, [tuning]).items()}
    forms = {name: export_int8(bench, name, seeds[0], tuning) for name, seeds in tuned.items()}
    rows = time_models(bench, {name: seeds[0] for name, seeds in tuned.items()}, forms)
    simple_ms, simple = time_tfidf(bench, tuning), find_simple_score(tuned[TEACHER][0], tuning)
    lines = [
        f"Batch 1 × {LENGTH} tokens, {THREADS} thread, medians [quartiles]. Scores are those of "
        f"seed {SEEDS[0]} on {tuning.title}. TF-IDF is timed on the rows of dev, one by one.",
        "",
        "| model | parameters | int8, MB | PyTorch, ms | int8, ms | times the teacher's int8 "
        "| score | int8's score |",
        "|---" * 8 + "|",
    ]
    points, teacher = [], rows[TEACHER, "onnx_int8"]
    for name in tuned:
        plain, small = rows[name, "measured"], rows[name, "onnx_int8"]
        before, after = read_form_scores(forms[name], tuning)
        lines.append(
            f"| {show_name(name)} | {plain.parameters / 1e6:.1f} M | {small.disk_bytes / 1e6:.1f} "
            f"| {format_ms(plain)} | {format_ms(small)} "
            f"| {teacher.median_ms / small.median_ms:.1f} | {before:.1f} | {after:.1f} |"
        )
        points.append(Point(show_name(name), "float32, PyTorch", plain.median_ms, before))
        points.append(Point(show_name(name), "int8, ONNX Runtime", small.median_ms, after))
    lines.append(f"| TF-IDF | – | – | {simple_ms:.2f} | – | – | {simple:.1f} | – |")
    points.append(Point("TF-IDF", "TF-IDF", simple_ms, simple))
    title = f"{tuning.title}, against latency (1 × {LENGTH} tokens, {THREADS} thread)"
    for theme in ("light", "dark"):
        picture = draw_scatter(points, title, "milliseconds", "accuracy, %", theme)
        if not bench.smoke:
            (RESULTS / f"family_{theme}.svg").write_text(picture, encoding="utf-8")
    return lines


def format_ms(row: BenchmarkRow) -> str:
    return f"{row.median_ms:.2f} [{row.low_ms:.2f}, {row.high_ms:.2f}]"


def export_int8(bench: Bench, name: str, folder: Path, tuning: Tuning) -> Path:
    """Export a fine-tuned model in int8, on the first call, with its score before and after.

    No fall of the score is too large, because the table is there to show it.
    """
    out = bench.runs / "int8" / name
    if not (out / EXPORT).exists():
        root = sample_task(bench, tuning.task, tuning.rows)
        words = (f"task={tuning.task}", f"data.root={root}", f"model={folder}")
        run = bench.compose_task("experiment=finetune", *words)
        export(str(folder), "onnx-int8", out, 0.0, 1.0, tuning.task, run.data)
    return out


def read_form_scores(form: Path, tuning: Tuning) -> tuple[float, float]:
    """Return the scores of a model before and after int8, × 100."""
    result = ExportResult.from_json(read_json(form / EXPORT, "export it again"))
    pairs = {metric: (before, after) for metric, before, after in result.paired_scores()}
    before, after = pairs[tuning.metric]
    return 100 * before, 100 * after


def time_models(
    bench: Bench, models: dict[str, Path], forms: dict[str, Path]
) -> dict[tuple[str, str], BenchmarkRow]:
    """Time models in PyTorch and in int8, in turns; return the rows by name and engine."""
    names, contenders = {}, []
    for name in models:
        for source in (models[name], forms[name]):
            contender = open_contender(str(source))
            names[contender.name] = name
            contenders.append(contender)
    size = (1, bench.choose(LENGTH, 16))
    measured = measure(contenders, [size], THREADS, bench.choose(ROUNDS, 1), with_memory=False)
    return {(names[row.name], row.engine): row for row in measured}


def time_tfidf(bench: Bench, tuning: Tuning) -> float:
    """Return the median milliseconds in which TF-IDF and a linear model answer a row of dev."""
    root = sample_task(bench, tuning.task, tuning.rows)
    words = ("experiment=finetune", f"task={tuning.task}", f"data.root={root}", "model=none")
    data = bench.compose_task(*words).data
    task, rows = load_task(tuning.task, data)
    answer, spent = fit_tfidf(task, choose_rows(task, rows["train"])), []
    for row in rows["val"][:200]:
        begin = time.perf_counter()
        answer([row])
        spent.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(spent)


if __name__ == "__main__":
    parts = {"rates": rates, "heads": heads, "scores": scores, "speed": speed}
    run_parts("family", parts, RUNS / "family", ["encoder"])
