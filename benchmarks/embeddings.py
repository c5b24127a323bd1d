"""Measure small encoders that learn the embeddings of a large one, without labels and with them.

    python benchmarks/embeddings.py encoder=FOLDER        # about an hour and a half on one core
    python benchmarks/embeddings.py encoder=FOLDER seeds=1
    python benchmarks/embeddings.py smoke                 # tiny models; only prints

The teacher is a folder of sentence-transformers. Students ⟨2,2,128,512⟩ and ⟨3,12,384,1536⟩ start
from its word embeddings, the second one also from three of its layers, and learn its embeddings of
sentences of film reviews, news, encyclopaedia and school texts, and of the training texts of QNLI,
QQP, MRPC and SST-2 (their labels are not read, and no text of STS-B is among them). Then each is
fine-tuned on the training pairs of STS-B. All are scored once, at the end, on the dev pairs of
STS-B (Spearman's correlation of cosines) and on questions and passages of QNLI's dev rows (the
share of questions whose passage is among the ten nearest), beside the teacher, the start before the
training, and the cosine of TF-IDF. At last they are exported in int8 and timed beside the teacher.

Run it with OMP_NUM_THREADS=1: the seconds are those of the process, in which other work on the
machine does not count. They include the teacher's passes, of which the runs after the first read
what it has kept. Every finished training leaves a record under runs/benchmarks/embeddings, so that
a second call resumes where the first was stopped. The table is results/embeddings.md.
"""

import csv
import io
import itertools
import json
import lzma
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from arms import format_mean
from glue import find_encoder, sample_task
from parts import ROOT, RUNS, Bench, open_bench, read_arguments, write_table

from bort.console import decimal, show_log
from bort.embeddings.pairs import finetune_embeddings
from bort.embeddings.recipe import distil_embeddings
from bort.errors import BortError
from bort.export.run import export
from bort.files.untrusted import parse_json
from bort.files.writing import replace_file, write_json
from bort.machine import describe_machine
from bort.objectives.timing import time_interleaved
from bort.predictor import load
from bort.runs.summary import RunSummary
from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import Row
from bort.tasks.unlabelled import split_sentences

SIZES = {
    "⟨2,2,128,512⟩": ("arch={depth: 2, heads: 2, hidden: 128, intermediate: 512}", 5),
    "⟨3,12,384,1536⟩": ("arch={depth: 3, heads: 12, hidden: 384, intermediate: 1536}", 1),
}  # the architecture, and the epochs that take less than ten minutes of one core
TINY = {"⟨1,2,16,32⟩": ("arch={depth: 1, heads: 2, hidden: 16, intermediate: 32}", 1)}
SOURCES, SENTENCES, PER_DOCUMENT = ("imdb", "news", "wiki", "school"), 6000, 6
TASKS, TASK_ROWS = ("qnli", "qqp", "mrpc", "sst2"), 6000
SEEDS, BATCH, TUNING_EPOCHS = [0, 1, 2], 64, 4
SIMILARITY, RETRIEVAL = "val_stsb/spearman", "val_qnli/recall_at_10"
ROUNDS, TIMED = 5, 256  # rounds of a timing, and the sentences in one


def find_data() -> Path:
    """Return the folder with text/ and glue/."""
    return Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data"))


def list_sentences(bench: Bench) -> Iterator[str]:
    """Yield sentences of the text sources, a few of each document."""
    count = bench.choose(SENTENCES, 30)
    for name in SOURCES:
        with lzma.open(find_data() / "text" / f"{name}.jsonl.xz", "rt", encoding="utf-8") as file:
            documents = (split_sentences(parse_json(line)["text"]) for line in file)
            chosen = (document[:PER_DOCUMENT] for document in documents)
            yield from itertools.islice(itertools.chain.from_iterable(chosen), count)


def read_train(bench: Bench, name: str, count: int | None) -> list[Row]:
    """Read some training rows of a task of GLUE, or all of them."""
    return read_rows(find_task(f"glue/{name}"), sample_task(bench, f"glue/{name}", count))["train"]


def write_texts(bench: Bench) -> Path:
    """Write all texts to one file, a text a line, on the first call."""
    path = bench.runs / "texts.txt"
    if not path.exists():
        rows = (row for name in TASKS for row in read_train(bench, name, TASK_ROWS))
        texts = itertools.chain(list_sentences(bench), (text for row in rows for text in row.texts))
        lines = list(dict.fromkeys(" ".join(text.split()) for text in texts))
        random.Random(0).shuffle(lines)
        with replace_file(path) as file:
            file.write(("\n".join(filter(None, lines)) + "\n").encode())
    return path


def write_pairs(bench: Bench) -> tuple[Path, Path]:
    """Write the training pairs of STS-B to two tables, of which the second has a tenth of them."""
    paths = bench.runs / "pairs.csv", bench.runs / "held_pairs.csv"
    rows = [(*row.texts, row.label) for row in read_train(bench, "stsb", None)]
    tenth = len(rows) // 10
    for path, part in zip(paths, (rows[tenth:], rows[:tenth]), strict=True):
        text = io.StringIO()
        csv.writer(text).writerows([("first", "second", "score"), *part])
        with replace_file(path) as file:
            file.write(text.getvalue().encode())
    return paths


def find_root(bench: Bench) -> Path:
    """Return the folder with the dev rows of STS-B and QNLI."""
    sample_task(bench, "glue/qnli", TASK_ROWS)
    return sample_task(bench, "glue/stsb", TASK_ROWS)


def record_run(folder: Path, train: Callable[[], RunSummary]) -> dict:
    """Return the summary of a training and the seconds that it took this process, on every call.

    The first call trains.
    """
    path = folder / "record.json"
    if not path.exists():
        begin = time.process_time()
        summary = train()
        write_json(path, {**summary, "cpu_seconds": time.process_time() - begin})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return json.loads(path.read_text())


def distil(bench: Bench, size: str, seed: int) -> tuple[Path, dict]:
    """Teach a student of a size, and return its folder and its record."""
    arch, epochs = (TINY if bench.smoke else SIZES)[size]
    folder = bench.runs / size.strip("⟨⟩").replace(",", "-") / str(seed)
    run = bench.compose_task(
        *("experiment=kd_embed", arch, f"teacher.name={find_encoder(bench)}"),
        *(f"data.unlabelled={write_texts(bench)}", f"data.root={find_root(bench)}"),
        *(f"data.batch_size={BATCH}", f"trainer.max_epochs={epochs}", f"seed={seed}"),
        "trainer.precision=auto",
    )
    return folder, record_run(folder, partial(distil_embeddings, run, folder))


def tune(bench: Bench, model: Path, seed: int) -> tuple[Path, dict]:
    """Fine-tune a student on the pairs of STS-B, and return its folder and its record."""
    train, held = write_pairs(bench)
    folder = model.with_name(f"{model.name}_tuned")
    run = bench.compose_task(
        *("experiment=finetune", "task=embed", f"model={model}", f"data.train={train}"),
        *(f"data.val={held}", "data.text=[first,second]", "data.label=score", "data.length=64"),
        *(f"data.root={find_root(bench)}", "data.batch_size=32", f"seed={seed}"),
        f"trainer.max_epochs={bench.choose(TUNING_EPOCHS, 1)}",
    )
    return folder, record_run(folder, partial(finetune_embeddings, run, folder))


def time_forms(bench: Bench, models: dict[str, Path]) -> dict[str, float]:
    """Return the sentences a second of each model in int8, and of the teacher in both forms."""
    forms, texts = {"teacher": load(find_encoder(bench))}, read_sentences(bench)
    for name, source in {"teacher, int8": find_encoder(bench), **models}.items():
        folder = bench.runs / "int8" / name.strip("⟨⟩").replace(", ", "_").replace(",", "-")
        if not (folder / "export.json").exists():
            export(str(source), "onnx-int8", folder)
        forms[name] = load(folder)
    calls = {name: partial(partial, form.encode, texts) for name, form in forms.items()}
    times = time_interleaved(calls, bench.choose(ROUNDS, 1))
    return {name: 1e3 * len(texts) / timing.ms for name, timing in times.items()}


def read_sentences(bench: Bench) -> list[str]:
    """Read sentences of STS-B's training pairs."""
    rows = read_train(bench, "stsb", None)
    return [text for row in rows for text in row.texts][: bench.choose(TIMED, 8)]


def format_scores(records: list[dict], prefix: str = "") -> str:
    """Make the cells of both scores: means over seeds, with the deviation of several."""
    cells = []
    for name in (SIMILARITY, RETRIEVAL):
        values = [record[f"{prefix}{name}"] for record in records]
        cells.append(format_mean(values) if len(values) > 1 else decimal(values[0]))
    return " | ".join(cells)


def measure(bench: Bench, seeds: int) -> list[str]:
    sizes, lines, models = TINY if bench.smoke else SIZES, [], {}
    for size in sizes:
        distilled, tuned = [], []
        for seed in SEEDS[:seeds]:
            folder, record = distil(bench, size, seed)
            distilled.append(record)
            models.setdefault(size, folder)
            tuned.append(tune(bench, folder, seed)[1])
        first = distilled[0]
        if not lines:
            lines += [f"| teacher | {format_scores([first], 'teacher/')} | |"]
            lines += [f"| TF-IDF, cosine | {format_scores([first], 'words/')} | |"]
        spent = ", ".join(f"{record['cpu_seconds']:.0f}" for record in distilled)
        more = ", ".join(f"{record['cpu_seconds']:.0f}" for record in tuned)
        lines.append(f"| {size}, start | {format_scores([first], 'start/')} | |")
        lines.append(f"| {size}, no labels | {format_scores(distilled)} | {spent} |")
        lines.append(f"| {size}, then STS-B's pairs | {format_scores(tuned)} | {more} |")
        print("\n".join(lines), flush=True)
    speeds = time_forms(bench, models)
    head = [
        f"{first['unlabelled_rows']:,} texts without labels; seconds of the process for the seeds "
        f"{SEEDS[:seeds]}, of which the first include the teacher's passes.",
        "",
        "| embeddings of | STS-B dev, Spearman | QNLI dev, R@10 | seconds |",
        "|---|---|---|---|",
    ]
    table = ["", "| model | sentences/s | times the teacher |", "|---|---|---|"]
    for name, speed in speeds.items():
        title = name if name.startswith("teacher") else f"{name}, int8"
        table.append(f"| {title} | {speed:,.0f} | {speed / speeds['teacher']:.1f} |")
    return [*head, *lines, *table]


def main() -> None:
    show_log()
    try:
        _, given, smoke = read_arguments(sys.argv[1:], [], ["encoder", "seeds"])
        with open_bench(RUNS / "embeddings", smoke, given) as bench:
            lines = measure(bench, int(given.get("seeds", bench.choose(len(SEEDS), 1))))
            write_table("embeddings", [describe_machine(), "", *lines], bench)
    except BortError as error:
        raise SystemExit(f"benchmarks/embeddings.py: {error}") from None


if __name__ == "__main__":
    main()
