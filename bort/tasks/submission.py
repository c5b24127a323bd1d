"""The official files in which a suite accepts answers."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from bort.files.writing import replace_file
from bort.tasks.metrics import find_best_rows, name_labels, to_array
from bort.tasks.registry import TASKS
from bort.tasks.task import Row, Task


def write_submission(
    task: Task,
    rows: dict[str, list[Row]],
    predictions: dict[str, Sequence[float]],
    folder: Path,
) -> list[Path]:
    """Write the official file of each test split that has predictions; returns their paths.

    GLUE: TSV with index and prediction. SuperGLUE: JSONL with idx and label, nested for MultiRC.
    RACE, which has no official one: TSV with id (`high1.txt-0`: file and number of the question,
    from 0) and answer, A to D. Scores of STS-B are cut to its scale.
    """
    lines = {
        "tsv": _write_tsv,
        "race": _write_race,
        "multirc": _write_multirc,
        "record": _write_record,
    }
    written = []
    for name, split in task.splits.items():
        if split.submission and name in predictions:
            answers = to_array(task, rows[name], predictions[name])
            text = "".join(
                f"{x}\n" for x in lines.get(task.form, _write_jsonl)(task, rows[name], answers)
            )
            path = Path(folder) / split.submission
            with replace_file(path) as file:
                file.write(text.encode())
            written.append(path)
    return written


def zip_submissions(answers: dict[str, Path], folder: Path) -> Iterator[str]:
    """Write GLUE.zip and SuperGLUE.zip of the suites with answers; gives a line about each.

    answers: task → folder of its submission files; those of a diagnostic set lie with its parent's.
    """
    for suite, title in (("glue", "GLUE"), ("superglue", "SuperGLUE")):
        paths: dict[str, Path] = {}
        names: list[str] = []
        for task in (task for name, task in TASKS.items() if name.startswith(f"{suite}/")):
            source = answers.get(task.name) or answers.get(task.parent)
            files = [split.submission for split in task.splits.values() if split.submission]
            names += files
            paths |= {name: source / name for name in files if source and (source / name).is_file()}
        if not paths:
            continue
        with replace_file(folder / f"{title}.zip") as file, zipfile.ZipFile(file, "w") as archive:
            for name, path in paths.items():
                # a fixed time: the same answers give the same archive
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), path.read_bytes())
        missing = [name for name in names if name not in paths]
        line = f"  upload    {folder}/{title}.zip, {len(paths)} of {len(names)} files"
        yield line + (f"; the server also wants {', '.join(missing)}" if missing else "")


def _write_tsv(task: Task, rows: list[Row], answers: np.ndarray) -> Iterator[str]:
    yield "index\tprediction"
    for row, value in zip(rows, answers, strict=True):
        if task.kind == "regression":
            low, high = map(float, task.labels)
            answer = f"{min(max(float(value), low), high):.6f}"
        else:
            answer = task.submitted[int(value)]
        yield f"{row.index}\t{answer}"


def _write_race(task: Task, rows: list[Row], answers: np.ndarray) -> Iterator[str]:
    yield "id\tanswer"
    for row, value in zip(rows, answers, strict=True):
        passage, number = row.index
        yield f"{passage}-{number}\t{task.submitted[int(value)]}"


def _to_line(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_jsonl(task: Task, rows: list[Row], answers: np.ndarray) -> Iterator[str]:
    for row, value in zip(rows, answers, strict=True):
        if task.kind == "labels":
            answer = name_labels(task, value)
        else:
            answer = float(value) if task.kind == "regression" else task.submitted[int(value)]
        yield _to_line({"idx": row.index, "label": answer})


def _write_multirc(task: Task, rows: list[Row], predictions: np.ndarray) -> Iterator[str]:
    """One line per passage."""
    labels = [task.submitted[int(value)] for value in predictions]
    answers = [(*row.index, label) for row, label in zip(rows, labels, strict=True)]
    for passage, of_passage in groupby(answers, key=lambda answer: answer[0]):
        questions = []
        for question, group in groupby(of_passage, key=lambda answer: answer[1]):
            options = [{"idx": idx, "label": label} for *_, idx, label in group]
            questions.append({"idx": question, "answers": options})
        yield _to_line({"idx": passage, "passage": {"questions": questions}})


def _write_record(task: Task, rows: list[Row], answers: np.ndarray) -> Iterator[str]:
    """One line per query: the text of the entity with the largest score."""
    for row in find_best_rows(rows, answers):
        yield _to_line({"idx": row.index[1], "label": row.texts[2]})
