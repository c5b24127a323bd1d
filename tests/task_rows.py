"""Facts and rows of tasks that several test files look at."""

import json

from bort.tasks import reading
from bort.tasks.task import Row

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
    "superglue/record": (397, 369),  # distinct entities of 32 queries each: `count_rows` below
    "superglue/rte": (2490, 277, 3000),
    "superglue/wic": (5428, 638, 1400),
    "superglue/wsc": (554, 104, 146),
    "superglue/axb": (1104,),
    "superglue/axg": (356,),
    "race/middle": (843, 233, 236),
    "race/high": (1353, 429, 407),
}


def queries() -> list[Row]:
    """Two queries: one with two right answers, one whose answer is written differently."""
    one = [("Ann Lee", 0), ("The Ann", 0), ("Bob", 1)]
    rows = [Row((0, 5, k), ("p", "q", e), y, (0, 5), answers=("Bob", "Ann Lee Roy"))
            for k, (e, y) in enumerate(one)]  # fmt: skip
    two = [("U.S.", 0), ("France", 0)]
    return rows + [Row((1, 6, k), ("p", "q", e), y, (1, 6), answers=("the US",))
                   for k, (e, y) in enumerate(two)]  # fmt: skip


def few(monkeypatch, count: int, tests: int | None = None) -> None:
    """Of every split the first `count` rows; of the test sets all, or `tests`."""
    read = reading.read_rows

    def some(task, root):
        found = read(task, root)
        return {k: v[:tests] if k.startswith("test") else v[:count] for k, v in found.items()}

    monkeypatch.setattr(reading, "read_rows", some)


def count_rows(content: bytes, name: str, header: int) -> int:
    """Rows of a whole file with so many lines of header, by another way than the reader's."""
    if name == "race/middle":
        return len(json.loads(content)["questions"])
    lines = [line for line in content.split(b"\n") if line.strip(b"\r")]
    if name.startswith("glue"):
        return len(lines) - header
    records = [json.loads(line) for line in lines]
    if name == "superglue/multirc":
        return sum(len(q["answers"]) for r in records for q in r["passage"]["questions"])
    if name == "superglue/record":
        texts = [(r["passage"]["text"], r["passage"]["entities"], len(r["qas"])) for r in records]
        return sum(n * len({t[e["start"] : e["end"] + 1] for e in es}) for t, es, n in texts)
    return len(records)
