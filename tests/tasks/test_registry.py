"""The table of tasks: whole, and with the nearest name for an unknown one."""

import pytest
from task_rows import COUNTS

from bort.errors import BortError
from bort.tasks import registry
from bort.tasks.registry import find_task


def test_table_is_whole():
    assert list(registry.TASKS) == list(COUNTS)
    for name, task in registry.TASKS.items():
        assert task.name == name and task.metrics and task.shape
        assert task.kind in ("classes", "regression", "choices", "spans")
        assert len(task.labels) == len(task.spelled) == len(task.submitted) > 1
        assert not task.parent or registry.TASKS[task.parent].labels == task.labels
        assert [s.submission for n, s in task.splits.items() if n.startswith("test")] != [""]
        assert not any(s.submission for n, s in task.splits.items() if not n.startswith("test"))
    files = [
        f"{task.name.split('/')[0]}/{split.submission}"
        for task in registry.TASKS.values()
        for split in task.splits.values()
        if split.submission
    ]
    assert len(set(files)) == len(files) == 23  # none overwrites another


def test_unknown_task_names_the_nearest():
    with pytest.raises(BortError, match="task=glue/sst-2 .*did you mean 'glue/sst2'"):
        find_task("glue/sst-2")
    with pytest.raises(BortError, match="known are glue/cola, "):
        find_task("xxxxxxxxxxx")
