"""The tasks of GLUE, SuperGLUE and RACE: one table, and their files or hub rows to typed rows.

Everything that distinguishes a task is in TASKS, and nowhere else. Labels are in the official
order, which is that of the hub's data sets: a label's number is its place there, whatever order the
rows of a file have.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bort.errors import BortError, nearest, quote
from bort.files.text_files import HEAD, check_encoding, undecodable
from bort.files.untrusted import json_object
from bort.network import is_hub_reachable
from bort.tasks import task as shapes
from bort.tasks.task import Row, Split, Task


def find(name: str) -> Task:
    """The task of this name; raises BortError with the nearest one."""
    if name not in TASKS:
        hint = nearest(name, TASKS) or f"; known are {', '.join(TASKS)}"
        raise BortError(f"task={name} is no known task{hint}")
    return TASKS[name]


def check_name(name: str | None) -> None:
    """Raises BortError for a task that is neither one of these nor the user's nor the embedded."""
    if name not in (None, "custom", "docstrings"):
        find(name)


def read(task: Task, root: Path | None) -> dict[str, list[Row]]:
    """All splits of a task in file order, from the folder of its suite or (None) from the hub.

    Keys: train, val, test (MNLI also val_mm and test_mm; the diagnostic sets only test). A test set
    that is not there is not a key; any other split that is not there is a mistake.
    Raises BortError for what is missing, damaged or not in the official layout.
    """
    try:
        splits = _from_hub(task) if root is None else _from_folder(task, Path(root).expanduser())
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or task.hub}"
        raise BortError(f"{task.name}: {reason}; mend that or set data.root") from error
    return {name: _checked(task, name, rows, place) for name, (rows, place) in splits.items()}


def _checked(task: Task, split: str, rows: list[Row], place: str) -> list[Row]:
    """The rows of a whole split, with what only their number or order tells."""
    if not rows:
        raise BortError(f"{place}: no rows in it; get the file again")
    if split.startswith("test"):
        twice = [index for index, count in Counter(r.index for r in rows).items() if count > 1]
        if twice:
            raise BortError(
                f"{place}: {task.index} {quote(twice[0])} occurs twice; "
                "a submission needs each once"
            )
    if "parity" not in task.metrics:
        return rows
    if len(rows) % 2:  # a pair is two neighbours: nothing in the rows says so
        raise BortError(f"{place}: {len(rows)} rows, not pairs of rows; get the file again")
    return [replace(row, group=number // 2) for number, row in enumerate(rows)]


# ------------------------------------------------------------------------------------ folders


def _from_folder(task: Task, root: Path) -> dict[str, tuple[list[Row], str]]:
    """Rows of each split and the file or folder that they come from."""
    paths = {name: _locate(task, root, split) for name, split in task.splits.items()}
    for name, path in paths.items():
        if path is None and task.required(name):
            raise BortError(_missing(task, root, task.splits[name]))
    read = {"tsv": _tsv, "race": _race_folder}.get(task.form, _jsonl)
    found = {}
    for name, path in paths.items():
        if path is not None:
            flat = (
                (part, where)
                for record, where in read(path, task, name)
                for part in (task.flatten(record, where) if task.flatten else (record,))
            )
            found[name] = _rows(task, name, flat), str(path)
    return found


def _rows(task: Task, split: str, records: Iterable[tuple[dict, str]]) -> list[Row]:
    """The rows of flat records; those of training and validation must have labels."""
    rows = []
    for record, where in records:
        for row in task.shape(task, record, where):
            if row.label is None and not split.startswith("test"):
                raise BortError(f"{where}: no '{task.label}'; mend it or get the file again")
            rows.append(row)
    return rows


def present(task: Task, root: Path) -> bool:
    """Whether a folder has all the files that the task cannot do without."""
    return all(_locate(task, root, s) for name, s in task.splits.items() if task.required(name))


def _locate(task: Task, root: Path, split: Split) -> Path | None:
    for folder in task.folders:
        for file in split.files:
            path = root / folder / file
            if path.is_dir() if task.form == "race" else path.is_file():
                return path
    return None


def _missing(task: Task, root: Path, split: Split) -> str:
    """The line for a split that is nowhere: what was expected where, and a likely reason."""
    wanted = (Path(task.folders[0]) / split.files[0]).as_posix()
    others = [Path(f, n).as_posix() for f in task.folders for n in split.files][1:]
    also = f" (nor {', '.join(others)})" if others else ""
    if not root.is_dir():
        hint = f"; {root} is {'a file' if root.exists() else 'not there'}"
    elif any((root / file).exists() for file in split.files):
        hint = f"; give the folder above, {root.resolve().parent}"
    elif there := [
        t.name
        for t in TASKS.values()
        if t.folders[0] == task.folders[0] and t.name != task.name and present(t, root)
    ]:
        hint = f"; its files are those of task={there[0]}"
    elif deeper := [path for path in sorted(root.glob("*/")) if present(task, path)]:
        hint = f"; give data.root={deeper[0]}"
    elif (root / task.folders[0]).is_dir():
        hint = "; get the file"
    else:
        hint = nearest(task.folders[0], [path.name for path in root.iterdir() if path.is_dir()])
    hint = hint or f"; give the folder that holds {task.folders[0]}"
    return f"data.root={root}: no {wanted}{also} for {task.name}{hint}"


def decoded(path: Path) -> str:
    """The whole text of a file, without a byte-order mark."""
    content = path.read_bytes()
    check_encoding(content[:HEAD], path)
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise undecodable(path, error.start, line) from error
    if not text:
        raise BortError(f"{path} is empty; give a file with rows")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BortError(f"{path}, line {line}: a NUL byte, the file is damaged; get it again")
    return text


def _lines(path: Path) -> list[str]:
    """Lines of a file. Only \\n and \\r\\n end one; str.splitlines cuts at eight more."""
    lines = decoded(path).split("\n")
    if not lines[-1]:  # the last line may or may not be ended
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _tsv(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a GLUE file: cells by column, no quoting; the index is the row's number."""
    lines = _lines(path)
    columns = task.splits[split].header
    first = 1
    if not columns:
        columns, first = lines[0].split("\t"), 2
    test = split.startswith("test")
    for column in (*task.columns, task.index if test else task.label):
        if column not in columns:
            has = ", ".join(columns)
            raise BortError(f"{path}, line 1: no column '{column}' (it has {quote(has)})")
    for number, line in enumerate(lines[first - 1 :]):
        where = f"{path}, line {number + first}"
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise BortError(
                f"{where}: {len(cells)} columns, not {len(columns)}; mend the line or get the file "
                "again (cells are separated by tabs)"
            )
        record = dict(zip(columns, cells, strict=True))
        if not test:  # of training and validation files nobody asks for it, and some have none
            record[task.index] = number
        yield record, where


def _jsonl(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a SuperGLUE file, one JSON object a line."""
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        yield json_object(line, where), where


def _race_folder(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a folder of RACE, one JSON file a passage, by the number in the file's name."""
    files = [file for file in path.glob("*.txt") if not file.name.startswith(".")]
    files.sort(key=lambda file: (int(file.stem) if file.stem.isdecimal() else -1, file.name))
    for file in files:
        yield json_object(decoded(file), str(file)), str(file)


# ------------------------------------------------------------------------------------ hub


def _from_hub(task: Task) -> dict[str, tuple[list[Row], str]]:
    """Rows of each split of the hub's data set, by the code that shapes the rows of files."""
    import datasets

    place, reached = f"{task.hub}, {task.config}", is_hub_reachable()
    if not reached:
        datasets.config.HF_HUB_OFFLINE = True  # it reads its cache at once, not after 23 s
    try:
        tables = datasets.load_dataset(task.hub, task.config)
    except Exception as error:  # the hub's client has no common class for its refusals
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not reached and isinstance(error, ConnectionError):
            reason = "it cannot be reached, and there is no copy in the local cache"
        raise BortError(
            f"{task.name}: the hub does not give {place}: {reason}; set data.root to a folder"
        ) from error
    found = {}
    for name, split in task.splits.items():
        if split.hub in tables:
            table, where = tables[split.hub], f"{place}, {split.hub}"
            records = (
                (record, f"{where}, row {number}")
                for number, record in enumerate(_hub_records(task, table), start=1)
            )
            found[name] = _rows(task, name, records), where
        elif task.required(name):
            raise BortError(f"{place}: no split '{split.hub}'; set data.root to a folder")
    return found


def _hub_records(task: Task, table: Any) -> Iterator[dict]:
    """The hub's records with the columns, the labels and the index that official files have."""
    features = getattr(table, "features", {})
    column = "label" if "label" in features else task.label  # the hub has one name for all of GLUE
    feature = features.get(column)
    names = [name.lower() for name in getattr(feature, "names", task.labels)]
    questions: Counter = Counter()  # of each passage of RACE, which the hub does not number
    for given in table:
        record = dict(given)
        for name, hub_name in zip(task.columns, task.hub_columns, strict=False):
            record[name] = record.pop(hub_name, None)
        if task.form == "race":
            passage = record.get("example_id")
            record["idx"] = (passage, questions[passage])
            questions[passage] += 1
        elif isinstance(record.get("idx"), dict):
            order = ("paragraph", "passage", "question", "query", "answer")
            record["idx"] = tuple(record["idx"][key] for key in order if key in record["idx"])
        record[task.index] = record.pop("idx", None)
        label = record.pop(column, None)
        record[task.label] = None if isinstance(label, float) and label < 0 else label
        if isinstance(label, int):  # -1 in the unlabelled sets
            name = names[label] if 0 <= label < len(names) else label
            known = name in task.labels
            spelled = task.spelled[task.labels.index(name)] if known else name
            record[task.label] = None if label == -1 else spelled
        yield record


# ------------------------------------------------------------------------------------ the table

ENTAILED = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
TRUTH = ("false", "true")
SENTENCES = ("sentence1", "sentence2")
PREMISE = ("premise", "hypothesis")


def _three(suffix: str, submission: str, val: str = "val", header: tuple = ()) -> dict[str, Split]:
    return {
        "train": Split((f"train.{suffix}",), "train", header=header),
        "val": Split((f"{val}.{suffix}",), "validation", header=header),
        "test": Split((f"test.{suffix}",), "test", submission),
    }


def _glue(name: str, folder: str, **facts: Any) -> Task:
    header = facts.pop("header", ())
    given = {
        "splits": _three("tsv", f"{folder}.tsv", "dev", header),
        "folders": (folder,),
        "kind": "classes",
        "metrics": ("accuracy",),
        "index": "index",
        "shape": shapes.plain,
    }
    hub = {"hub": "nyu-mll/glue", "config": name, "form": "tsv"}
    return Task(f"glue/{name}", **given | hub | facts)


def _superglue(name: str, folder: str, **facts: Any) -> Task:
    given = {
        "splits": _three("jsonl", f"{folder}.jsonl"),
        "kind": "classes",
        "metrics": ("accuracy",),
        "config": name,
        "shape": shapes.plain,
    }
    return Task(f"superglue/{name}", (folder,), hub="aps/super_glue", **given | facts)


def _race_part(name: str, submission: str) -> Task:
    return Task(
        f"race/{name}",
        (".", "RACE"),
        {
            "train": Split((f"train/{name}",), "train"),
            "val": Split((f"dev/{name}",), "validation"),
            "test": Split((f"test/{name}",), "test", submission),
        },
        kind="choices",
        columns=("article", "question", "A", "B", "C", "D"),
        labels=("A", "B", "C", "D"),
        label="answer",
        metrics=("accuracy",),
        hub="ehovy/race",
        config=name,
        cut=0,
        form="race",
        flatten=shapes.race_questions,
        shape=shapes.race,
    )


def _diagnostic(file: str, submission: str) -> dict[str, Split]:
    return {"test": Split((file,), "test", submission)}


TASKS = {
    task.name: task
    for task in (
        _glue(
            "cola",
            "CoLA",
            columns=("sentence",),
            labels=("unacceptable", "acceptable"),
            written=("0", "1"),
            header=("source", "label", "mark", "sentence"),
            metrics=("matthews",),
            cut=0,
        ),
        _glue(
            "sst2",
            "SST-2",
            columns=("sentence",),
            labels=("negative", "positive"),
            written=("0", "1"),
            cut=0,
        ),
        _glue(
            "mrpc",
            "MRPC",
            columns=("#1 String", "#2 String"),
            hub_columns=SENTENCES,
            label="Quality",
            labels=("not_equivalent", "equivalent"),
            written=("0", "1"),
            metrics=("f1", "accuracy"),
        ),
        _glue(
            "stsb",
            "STS-B",
            kind="regression",
            columns=SENTENCES,
            label="score",
            labels=("0", "5"),
            metrics=("pearson", "spearman"),
        ),
        _glue(
            "qqp",
            "QQP",
            columns=("question1", "question2"),
            label="is_duplicate",
            index="id",
            labels=("not_duplicate", "duplicate"),
            written=("0", "1"),
            metrics=("f1", "accuracy"),
        ),
        _glue(
            "mnli",
            "MNLI",
            columns=SENTENCES,
            hub_columns=PREMISE,
            label="gold_label",
            labels=NLI,
            splits={
                "train": Split(("train.tsv",), "train"),
                "val": Split(("dev_matched.tsv",), "validation_matched"),
                "val_mm": Split(("dev_mismatched.tsv",), "validation_mismatched"),
                "test": Split(("test_matched.tsv",), "test_matched", "MNLI-m.tsv"),
                "test_mm": Split(("test_mismatched.tsv",), "test_mismatched", "MNLI-mm.tsv"),
            },
        ),
        _glue("qnli", "QNLI", columns=("question", "sentence"), labels=ENTAILED, cut=1),
        _glue("rte", "RTE", columns=SENTENCES, labels=ENTAILED),
        _glue(
            "wnli",
            "WNLI",
            columns=SENTENCES,
            labels=("not_entailment", "entailment"),
            written=("0", "1"),
        ),
        _glue(
            "ax",
            "AX",
            folders=("AX", "diagnostic", "."),  # the second is of GLUE's download script
            splits={"test": Split(("diagnostic.tsv", "AX.tsv"), "test", "AX.tsv")},
            columns=SENTENCES,
            hub_columns=PREMISE,
            labels=NLI,
            metrics=("matthews",),
            parent="glue/mnli",
        ),
        _superglue(
            "boolq",
            "BoolQ",
            columns=("passage", "question"),
            labels=TRUTH,
            written=(False, True),
            answers=TRUTH,
            cut=0,
        ),
        _superglue(
            "cb",
            "CB",
            columns=PREMISE,
            labels=("entailment", "contradiction", "neutral"),
            metrics=("macro_f1", "accuracy"),
        ),
        _superglue(
            "copa",
            "COPA",
            kind="choices",
            columns=("premise", "question", "choice1", "choice2"),
            labels=("choice1", "choice2"),
            written=(0, 1),
            cut=0,
            shape=shapes.copa,
        ),
        _superglue(
            "multirc",
            "MultiRC",
            columns=("paragraph", "question", "answer"),
            labels=TRUTH,
            written=(0, 1),
            metrics=("f1a", "em"),
            cut=0,
            form="multirc",
            flatten=shapes.multirc_answers,
            shape=shapes.multirc,
        ),
        _superglue(
            "record",
            "ReCoRD",
            columns=("passage", "query", "entity"),
            labels=TRUTH,
            label="answers",
            metrics=("f1", "em"),
            cut=0,
            placeholder="@placeholder",
            form="record",
            flatten=shapes.record_queries,
            shape=shapes.record,
        ),
        _superglue("rte", "RTE", columns=PREMISE, labels=ENTAILED),
        _superglue(
            "wic",
            "WiC",
            kind="spans",
            columns=SENTENCES,
            labels=TRUTH,
            written=(False, True),
            answers=TRUTH,
            shape=shapes.wic,
        ),
        _superglue(
            "wsc",
            "WSC",
            kind="spans",
            columns=("text",),
            labels=TRUTH,
            written=(False, True),
            answers=("False", "True"),  # capitals, unlike the other two
            cut=0,
            flatten=shapes.wsc_target,
            shape=shapes.wsc,
        ),
        _superglue(
            "axb",
            "AX-b",
            splits=_diagnostic("AX-b.jsonl", "AX-b.jsonl"),
            columns=SENTENCES,
            labels=ENTAILED,
            metrics=("matthews",),
            parent="superglue/rte",
        ),
        _superglue(
            "axg",
            "AX-g",
            splits=_diagnostic("AX-g.jsonl", "AX-g.jsonl"),
            columns=PREMISE,
            labels=ENTAILED,
            metrics=("parity", "accuracy"),
            parent="superglue/rte",
        ),
        _race_part("middle", "RACE-M.tsv"),
        _race_part("high", "RACE-H.tsv"),
    )
}
