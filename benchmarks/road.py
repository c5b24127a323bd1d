"""Walk the road of a user who has a table, an encoder, and texts without labels.

    python benchmarks/road.py reviews encoder=FOLDER   # 2,000 long film reviews
    python benchmarks/road.py sentences                # 2,000 rows of SST-2 as a table
    python benchmarks/road.py smoke                    # tiny models and few rows; only prints

Each part is two commands: `train.py experiment=kd_pretrain` makes a small model from the encoder on
the texts, and `train.py experiment=kd_finetune … distill.control=true` teaches it the task. The
table says what they took, and what the most frequent label, TF-IDF with a linear model, the
fine-tuned encoder, the student alone and the student that was taught answer rightly of a labelled
test file that nothing has seen: checkpoints are chosen on a tenth of the training rows. The student
has three seeds, which share the encoder S, its answers, and the small model.

The reviews are custom/ and text/imdb of BORT_DATA, which holds the test file's reviews, too: they
are left out by the rule of the second command. Every finished training is kept under
runs/benchmarks/road, so that a second call resumes where the first was stopped. Tables go to
results/road_<part>.md.
"""

import csv
import io
import itertools
import lzma
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from glue import find_encoder, sample_task
from parts import ROOT, RUNS, Bench, run_parts

from bort.files.run_files import CONTROL, TEACHER
from bort.files.untrusted import read_json
from bort.files.writing import replace_file, write_json
from bort.pretraining.recipe import pretrain
from bort.runs.summary import RunSummary
from bort.task_distillation.recipe import distill_task
from bort.tasks.baselines import compute_baselines
from bort.tasks.reading import load_task

SEEDS = [0, 1, 2]
ALONE, TAUGHT = "the student alone", "the student, taught by S"
ARCH = "arch={depth: 2, heads: 2, hidden: 128, intermediate: 512}"
PRETRAINING = ["data.length=128", "data.batch_size=32", "trainer.max_steps=800"]
REVIEWS = ["data.length=256", "data.unlabelled_rows=12000", "trainer.max_epochs=3"]
SENTENCES = ["data.length=64", "data.unlabelled_rows=32000", "trainer.max_epochs=3"]


def find_data() -> Path:
    return Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data"))


def find_texts(bench: Bench) -> Path:
    """Return the file of film reviews, or its first lines where everything is tiny."""
    texts = find_data() / "text" / "imdb.jsonl.xz"
    if not bench.smoke:
        return texts
    short = bench.runs / "imdb.jsonl"
    with lzma.open(texts) as lines:
        short.write_bytes(b"".join(itertools.islice(lines, 40)))
    return short


def reviews(bench: Bench) -> list[str]:
    """Long reviews, whose labels are `sentiment`; the texts are reviews of other films."""
    custom, texts = find_data() / "custom", find_texts(bench)
    table = shorten_table(bench, custom / "reviews_train.csv")
    test = shorten_table(bench, custom / "reviews_dev.csv")
    words = [f"data.train={table}", f"data.test={test}", "data.text=review"]
    words += ["data.label=sentiment", f"data.unlabelled={texts}", *REVIEWS]
    return walk(bench, "reviews", texts, words)


def sentences(bench: Bench) -> list[str]:
    """Rows of SST-2 as a user's table; the texts are sentences of film reviews."""
    root, texts = sample_task(bench, "glue/sst2", 2000), find_texts(bench)
    table, test = (write_table_of(root, name) for name in ("train", "dev"))
    words = [f"data.train={table}", f"data.test={test}", "data.text=sentence", "data.label=label"]
    words += [f"data.unlabelled={texts}", "data.split_sentences=true", *SENTENCES]
    return walk(bench, "sentences", texts, words)


def shorten_table(bench: Bench, path: Path) -> Path:
    """Return a table, or one of its first rows where everything is tiny."""
    if not bench.smoke:
        return path
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[:41]
    short = bench.runs / path.name
    with short.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return short


def write_table_of(root: Path, split: str) -> Path:
    """Write a split of SST-2, whose fields are divided by tabs, as a csv of sentences and words."""
    path = root / f"{split}.csv"
    lines = (root / "SST-2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    names = {"0": "negative", "1": "positive"}
    rows = [line.rsplit("\t", 1) for line in lines]
    table = io.StringIO()
    csv.writer(table).writerow(["sentence", "label"])
    csv.writer(table).writerows([text.strip(), names[label]] for text, label in rows)
    with replace_file(path) as file:
        file.write(table.getvalue().encode())
    return path


def walk(bench: Bench, name: str, texts: Path, words: list[str]) -> list[str]:
    """Do both commands, and score everything on the test file."""
    home, encoder = bench.runs / name, find_encoder(bench)
    first_command = ["experiment=kd_pretrain", ARCH, f"teacher.name={encoder}", "data=text"]
    first_command += [f"data.path={texts}", *PRETRAINING]
    model = home / "pretrained"
    first_run = bench.compose_pretraining(*first_command, "trainer.precision=auto")
    minutes = [timed(model, lambda: pretrain(first_run, model))]
    summaries, teacher = [], str(encoder)
    for seed in bench.shorten(SEEDS):
        folder = home / f"seed_{seed}"
        command = ["experiment=kd_finetune", "task=custom", f"model={model}", *words]
        command += [f"teacher.name={teacher}", "distill.control=true", f"seed={seed}"]
        if bench.smoke:
            command += ["distill.guard=-1", "trainer.max_epochs=1", "data.unlabelled_rows=20"]
        run = bench.compose_task(*command, "trainer.precision=auto")
        minutes.append(timed(folder, lambda run=run, folder=folder: distill_task(run, folder)))
        summaries.append(RunSummary.read(folder / "summary.json"))
        teacher = str(home / f"seed_{SEEDS[0]}" / TEACHER / "model")
    task, rows = load_task("custom", run.data)
    judge = RunSummary.read(home / f"seed_{SEEDS[0]}" / TEACHER / "summary.json")
    scores = {
        baseline.title: [baseline.scores["val/accuracy"]]
        for baseline in compute_baselines(task, {"train": rows["train"], "val": rows["test"]})
    }
    scores["S, the fine-tuned encoder"] = [judge["test/accuracy"]]
    scores[ALONE] = [summary[f"{CONTROL}/test/accuracy"] for summary in summaries]
    scores[TAUGHT] = [summary["test/accuracy"] for summary in summaries]
    counts = f"{len(rows['train']):,} training rows, {len(rows['test']):,} test rows"
    pool = f"{summaries[0]['unlabelled_rows']:,} texts without labels"
    lines = [
        f"There are {counts} and {pool}. The first command took {minutes[0]:.1f} minutes, the "
        f"second one {minutes[1]:.1f}, with S and the control arm. Students are means over seeds "
        f"{SEEDS} ± standard deviation.",
        "",
        "    train.py " + " ".join(word for word in first_command if str(encoder) not in word),
        "    train.py experiment=kd_finetune distill.control=true "
        + " ".join(word for word in words if "/" not in word),
        "",
        "| what answers | accuracy on the test file |",
        "|---|---|",
        *(f"| {title} | {format_scores(values)} |" for title, values in scores.items()),
    ]
    share, closed = compare_to_teacher(judge["test/accuracy"], scores[ALONE], scores[TAUGHT])
    lines += ["", f"Taught, the student has {share:.1%} of S's accuracy; {closed}."]
    return lines


def format_scores(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def compare_to_teacher(
    teacher: float, alone: list[float], taught: list[float]
) -> tuple[float, str]:
    """Return the taught student's share of S's score, and a line on the gap that it closes."""
    before, after = statistics.mean(alone), statistics.mean(taught)
    if teacher <= before:
        return after / teacher, "S is no better than the student alone"
    share = (after - before) / (teacher - before)
    return after / teacher, f"{share:.0%} of the gap between the student alone and S is closed"


def timed(folder: Path, train: Callable[[], object]) -> float:
    """Train unless the folder has a record of it; return the minutes that it took."""
    path = folder / "minutes.json"
    if not path.exists():
        begin = time.perf_counter()
        train()
        write_json(path, {"minutes": (time.perf_counter() - begin) / 60})
    return read_json(path)["minutes"]


if __name__ == "__main__":
    run_parts("road", {"reviews": reviews, "sentences": sentences}, RUNS / "road", ["encoder"])
