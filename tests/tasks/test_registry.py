"""The table of tasks: whole, and with the nearest name for an unknown one."""

import pytest

from bort.errors import BortError
from bort.tasks import registry
from bort.tasks.registry import find_task

# Rows of the real files, as their README counts them.
COUNTS = {
    "glue/cola": (8551, 1043, 1063),
    "glue/sst2": (67349, 872, 1821),
    "glue/mrpc": (3668, 408, 1725),
    "glue/stsb": (5749, 1500, 1379),
    "glue/qqp": (9319, 1008, 9),
    "glue/mnli": (10477, 1005, 1004, 5, 5),
    "glue/qnli": (10293, 5463, 5463),
    "glue/rte": (2490, 277, 3000),
    "glue/wnli": (635, 71, 146),
    "glue/ax": (1104,),
    "superglue/boolq": (1061, 3270, 3245),
    "superglue/cb": (250, 56, 250),
    "superglue/copa": (400, 100, 500),
    "superglue/multirc": (27243, 4848, 9693),
    "superglue/record": (397, 369),  # distinct entities of 32 queries each: `counted` below
    "superglue/rte": (2490, 277, 3000),
    "superglue/wic": (5428, 638, 1400),
    "superglue/wsc": (554, 104, 146),
    "superglue/axb": (1104,),
    "superglue/axg": (356,),
    "race/middle": (843, 233, 236),
    "race/high": (1353, 429, 407),
}


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
