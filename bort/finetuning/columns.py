"""Which columns of a table a model's task reads, as its run, its export or its name tells."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bort.config.train import EMBED, FITTING_JOBS
from bort.files import ownership
from bort.runs.origin import read_facts
from bort.tasks.registry import TASKS


@dataclass(frozen=True)
class TaskColumns:
    """A model's task, and the columns of a table that hold its texts and labels, where known."""

    task: str | None = None
    columns: tuple[str, ...] = ()  # of the texts, one or two
    labels: tuple[str, ...] = ()  # the column of the label, or one for each of several labels

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Take what the record of an export says; values of other types are as if absent."""
        lists = {}
        for key in ("columns", "labels"):
            names = record.get(key)
            is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
            lists[key] = tuple(names) if is_list else ()
        task = record.get("task")
        return cls(task if isinstance(task, str) else None, **lists)


def read_columns(source: str) -> TaskColumns:
    """Read what a run folder, the model in one or an exported folder says of its task's columns.

    Nothing is known of a folder that somebody else made, and of tasks with more than two texts a
    row the name alone. Raises BortError for damaged files of a run.
    """
    facts = read_facts(source)
    if facts.get("job") in FITTING_JOBS and facts.get("task") != EMBED:
        if facts.get("task") == "custom":
            texts, labels = (_list_names(facts.get(f"data.{key}")) for key in ("text", "label"))
            return TaskColumns("custom", texts, labels)
        return _find_in_suite(facts.get("task"))
    folder = Path(source).expanduser()
    if ownership.read_exported_names(folder) is not None:
        return TaskColumns.from_json(ownership.read_json_or_empty(folder / ownership.EXPORT))
    return _find_in_suite(ownership.read_json_or_empty(folder / "config.json").get("bort_task"))


def _list_names(value: Any) -> tuple[str, ...]:
    """List the names of columns that a setting of data gives."""
    return tuple(value) if isinstance(value, list) else (str(value),) if value else ()


def _find_in_suite(name: Any) -> TaskColumns:
    """Find the columns of the official files of a task."""
    if name not in TASKS or len(TASKS[name].columns) > 2:
        return TaskColumns(name if isinstance(name, str) else None)
    return TaskColumns(name, TASKS[name].columns, (TASKS[name].label,))
