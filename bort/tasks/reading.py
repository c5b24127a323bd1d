"""Reading the rows of a task from a suite's official files or from the hub."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bort.config.data import DataConfig
from bort.config.train import EMBED
from bort.console import counted
from bort.errors import BortError, quote, suggest_name
from bort.files.cache import locate_cache
from bort.files.json_lines import read_json_lines
from bort.files.text_files import read_whole_text
from bort.files.untrusted import parse_object
from bort.network import is_hub_reachable
from bort.tasks.custom import read_custom_task
from bort.tasks.docstrings import read_docstring_task
from bort.tasks.metrics import choose_metric
from bort.tasks.registry import TASKS, find_task
from bort.tasks.task import Row, Split, Task


def load_task(name: str, data: DataConfig) -> tuple[Task, dict[str, list[Row]]]:
    """Read a task and all its rows; raises BortError for an unknown task or wrong files.

    The first of the task's metrics is `data.metric`, where that is given.
    """
    if name not in ("custom", "docstrings", EMBED):
        task = choose_metric(find_task(name), data.metric)
        return task, read_rows(task, Path(data.root) if data.root else None)
    is_docstrings = name == "docstrings"
    task, rows = read_docstring_task(locate_cache()) if is_docstrings else read_custom_task(data)
    return choose_metric(task, data.metric), rows


def read_rows(task: Task, root: Path | None) -> dict[str, list[Row]]:
    """All splits of a task in file order, from the folder of its suite or (None) from the hub.

    Keys: train, val, test (MNLI also val_mm and test_mm; the diagnostic sets only test). A test set
    that is not there is not a key; any other split that is not there is a mistake.
    Raises BortError for what is missing, damaged or not in the official layout.
    """
    try:
        splits = _read_hub(task) if root is None else _read_folder(task, Path(root).expanduser())
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or task.hub}"
        raise BortError(f"{task.name}: {reason}; fix that or set data.root") from error
    return {name: _check_split(task, name, rows, source) for name, (rows, source) in splits.items()}


def _check_split(task: Task, split: str, rows: list[Row], source: str) -> list[Row]:
    """The rows of a whole split, with what only their number or order tells."""
    if not rows:
        raise BortError(f"{source}: no rows in it; get the file again")
    if split.startswith("test"):
        counts = Counter(row.index for row in rows)
        twice = [index for index, count in counts.items() if count > 1]
        if twice:
            raise BortError(
                f"{source}: {task.index} {quote(twice[0])} occurs twice; "
                "a submission needs each once"
            )
    if "parity" not in task.metrics:
        return rows
    if len(rows) % 2:  # a pair is two neighbours: nothing in the rows says so
        raise BortError(
            f"{source}: {counted(len(rows), 'row')}, not pairs of rows; get the file again"
        )
    return [replace(row, group=number // 2) for number, row in enumerate(rows)]


def _read_folder(task: Task, root: Path) -> dict[str, tuple[list[Row], str]]:
    """Rows of each split and the file or folder that they come from."""
    paths = {name: _locate(task, root, split) for name, split in task.splits.items()}
    for name, path in paths.items():
        if path is None and task.required(name):
            raise BortError(_explain_missing(task, root, task.splits[name]))
    read = {"tsv": _read_tsv, "race": _read_race}.get(task.form, _read_jsonl)
    splits = {}
    for name, path in paths.items():
        if path is not None:
            flat = (
                (part, where)
                for record, where in read(path, task, name)
                for part in (task.flatten(record, where) if task.flatten else (record,))
            )
            splits[name] = _shape_rows(task, name, flat), str(path)
    return splits


def _shape_rows(task: Task, split: str, records: Iterable[tuple[dict, str]]) -> list[Row]:
    """The rows of flat records; those of training and validation must have labels."""
    rows = []
    for record, where in records:
        for row in task.shape(task, record, where):
            if row.label is None and not split.startswith("test"):
                raise BortError(f"{where}: no '{task.label}'; fix it or get the file again")
            rows.append(row)
    return rows


def has_files(task: Task, root: Path) -> bool:
    """Whether a folder has all the files that the task cannot do without."""
    return all(_locate(task, root, s) for name, s in task.splits.items() if task.required(name))


def _locate(task: Task, root: Path, split: Split) -> Path | None:
    for folder in task.folders:
        for file in split.files:
            path = root / folder / file
            if path.is_dir() if task.form == "race" else path.is_file():
                return path
    return None


def _explain_missing(task: Task, root: Path, split: Split) -> str:
    """The line for a split that is nowhere: what was expected where, and a likely reason."""
    expected = (Path(task.folders[0]) / split.files[0]).as_posix()
    alternatives = [Path(f, n).as_posix() for f in task.folders for n in split.files][1:]
    also = f" (nor {', '.join(alternatives)})" if alternatives else ""
    if not root.is_dir():
        hint = f"; {root} is {'a file' if root.exists() else 'not there'}"
    elif any((root / file).exists() for file in split.files):
        hint = f"; give the folder above, {root.resolve().parent}"
    elif there := [
        t.name
        for t in TASKS.values()
        if t.folders[0] == task.folders[0] and t.name != task.name and has_files(t, root)
    ]:
        hint = f"; its files are those of task={there[0]}"
    elif deeper := [path for path in sorted(root.glob("*/")) if has_files(task, path)]:
        hint = f"; give data.root={deeper[0]}"
    elif (root / task.folders[0]).is_dir():
        hint = "; get the file"
    else:
        hint = suggest_name(
            task.folders[0], [path.name for path in root.iterdir() if path.is_dir()]
        )
    hint = hint or f"; give the folder that holds {task.folders[0]}"
    return f"data.root={root}: no {expected}{also} for {task.name}{hint}"


def _read_lines(path: Path) -> list[str]:
    """Lines of a file. Only \\n and \\r\\n end one; str.splitlines cuts at eight more."""
    lines = read_whole_text(path).split("\n")
    if not lines[-1]:  # the last line may or may not be ended
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_tsv(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a GLUE file: cells by column, no quoting; the index is the row's number."""
    lines = _read_lines(path)
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
                f"{where}: {counted(len(cells), 'column')}, not {len(columns)}; fix the line or "
                "get the file again (cells are separated by tabs)"
            )
        record = dict(zip(columns, cells, strict=True))
        if not test:  # of training and validation files nobody asks for it, and some have none
            record[task.index] = number
        yield record, where


def _read_jsonl(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a SuperGLUE file, one JSON object a line."""
    for line in read_json_lines(path):
        yield line.record, line.where


def _read_race(path: Path, task: Task, split: str) -> Iterator[tuple[dict, str]]:
    """Records of a folder of RACE, one JSON file a passage, by the number in the file's name."""
    files = [file for file in path.glob("*.txt") if not file.name.startswith(".")]
    files.sort(key=lambda file: (int(file.stem) if file.stem.isdecimal() else -1, file.name))
    for file in files:
        yield parse_object(read_whole_text(file), str(file)), str(file)


def _read_hub(task: Task) -> dict[str, tuple[list[Row], str]]:
    """Rows of each split of the hub's data set, by the code that shapes the rows of files."""
    import datasets

    source, reached = f"{task.hub}, {task.config}", is_hub_reachable()
    if not reached:
        datasets.config.HF_HUB_OFFLINE = True  # it reads its cache at once, not after 23 s
    try:
        tables = datasets.load_dataset(task.hub, task.config)
    except Exception as error:  # the hub's client has no common class for its refusals
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not reached and isinstance(error, ConnectionError):
            reason = "it cannot be reached, and there is no copy in the local cache"
        raise BortError(
            f"{task.name}: the hub does not give {source}: {reason}; set data.root to a folder"
        ) from error
    splits = {}
    for name, split in task.splits.items():
        if split.hub in tables:
            table, where = tables[split.hub], f"{source}, {split.hub}"
            records = (
                (record, f"{where}, row {number}")
                for number, record in enumerate(_spell_hub_records(task, table), start=1)
            )
            splits[name] = _shape_rows(task, name, records), where
        elif task.required(name):
            raise BortError(f"{source}: no split '{split.hub}'; set data.root to a folder")
    return splits


def _spell_hub_records(task: Task, table: Any) -> Iterator[dict]:
    """The hub's records with the columns, the labels and the index that official files have."""
    features = getattr(table, "features", {})
    column = "label" if "label" in features else task.label  # the hub has one name for all of GLUE
    feature = features.get(column)
    names = [name.lower() for name in getattr(feature, "names", task.labels)]
    questions: Counter = Counter()  # of each passage of RACE, which the hub does not number
    for hub_record in table:
        record = dict(hub_record)
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
            is_label = name in task.labels
            spelled = task.spelled[task.labels.index(name)] if is_label else name
            record[task.label] = None if label == -1 else spelled
        yield record
