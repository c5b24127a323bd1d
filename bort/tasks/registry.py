"""The table of the tasks of GLUE, SuperGLUE and RACE.

Everything that distinguishes a task is in TASKS, and nowhere else. Labels are in the official
order, which is that of the hub's data sets: a label's number is its place there, whatever order the
rows of a file have.
"""

from typing import Any

from bort.config.train import EMBED
from bort.errors import BortError, suggest_name
from bort.tasks import task as shapes
from bort.tasks.task import Split, Task


def find_task(name: str) -> Task:
    """The task of this name; raises BortError with the nearest one."""
    if name not in TASKS:
        hint = suggest_name(name, TASKS) or f"; known are {', '.join(TASKS)}"
        raise BortError(f"task={name} is no known task{hint}")
    return TASKS[name]


def check_task_name(name: str | None) -> None:
    """Raises BortError for a task that is neither one of these nor the user's nor the embedded."""
    if name not in (None, "custom", "docstrings", EMBED):
        find_task(name)


# ------------------------------------------------------------------------------------ the table

ENTAILED = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
TRUTH = ("false", "true")
SENTENCES = ("sentence1", "sentence2")
PREMISE = ("premise", "hypothesis")


def _name_splits(
    suffix: str, submission: str, val: str = "val", header: tuple = ()
) -> dict[str, Split]:
    return {
        "train": Split((f"train.{suffix}",), "train", header=header),
        "val": Split((f"{val}.{suffix}",), "validation", header=header),
        "test": Split((f"test.{suffix}",), "test", submission),
    }


def _make_glue_task(name: str, folder: str, **facts: Any) -> Task:
    header = facts.pop("header", ())
    defaults = {
        "splits": _name_splits("tsv", f"{folder}.tsv", "dev", header),
        "folders": (folder,),
        "kind": "classes",
        "metrics": ("accuracy",),
        "index": "index",
        "shape": shapes.shape_plain,
    }
    hub = {"hub": "nyu-mll/glue", "config": name, "form": "tsv"}
    return Task(f"glue/{name}", **defaults | hub | facts)


def _make_superglue_task(name: str, folder: str, **facts: Any) -> Task:
    defaults = {
        "splits": _name_splits("jsonl", f"{folder}.jsonl"),
        "kind": "classes",
        "metrics": ("accuracy",),
        "config": name,
        "shape": shapes.shape_plain,
    }
    return Task(f"superglue/{name}", (folder,), hub="aps/super_glue", **defaults | facts)


def _make_race_task(name: str, submission: str) -> Task:
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
        flatten=shapes.flatten_race,
        shape=shapes.shape_race,
    )


def _name_test_split(file: str, submission: str) -> dict[str, Split]:
    return {"test": Split((file,), "test", submission)}


TASKS = {
    task.name: task
    for task in (
        _make_glue_task(
            "cola",
            "CoLA",
            columns=("sentence",),
            labels=("unacceptable", "acceptable"),
            written=("0", "1"),
            header=("source", "label", "mark", "sentence"),
            metrics=("matthews",),
            cut=0,
        ),
        _make_glue_task(
            "sst2",
            "SST-2",
            columns=("sentence",),
            labels=("negative", "positive"),
            written=("0", "1"),
            cut=0,
            phrases=True,
        ),
        _make_glue_task(
            "mrpc",
            "MRPC",
            columns=("#1 String", "#2 String"),
            hub_columns=SENTENCES,
            label="Quality",
            labels=("not_equivalent", "equivalent"),
            written=("0", "1"),
            metrics=("f1", "accuracy"),
        ),
        _make_glue_task(
            "stsb",
            "STS-B",
            kind="regression",
            columns=SENTENCES,
            label="score",
            labels=("0", "5"),
            metrics=("pearson", "spearman"),
        ),
        _make_glue_task(
            "qqp",
            "QQP",
            columns=("question1", "question2"),
            label="is_duplicate",
            index="id",
            labels=("not_duplicate", "duplicate"),
            written=("0", "1"),
            metrics=("f1", "accuracy"),
        ),
        _make_glue_task(
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
        _make_glue_task("qnli", "QNLI", columns=("question", "sentence"), labels=ENTAILED, cut=1),
        _make_glue_task("rte", "RTE", columns=SENTENCES, labels=ENTAILED),
        _make_glue_task(
            "wnli",
            "WNLI",
            columns=SENTENCES,
            labels=("not_entailment", "entailment"),
            written=("0", "1"),
        ),
        _make_glue_task(
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
        _make_superglue_task(
            "boolq",
            "BoolQ",
            columns=("passage", "question"),
            labels=TRUTH,
            written=(False, True),
            answers=TRUTH,
            cut=0,
        ),
        _make_superglue_task(
            "cb",
            "CB",
            columns=PREMISE,
            labels=("entailment", "contradiction", "neutral"),
            metrics=("macro_f1", "accuracy"),
        ),
        _make_superglue_task(
            "copa",
            "COPA",
            kind="choices",
            columns=("premise", "question", "choice1", "choice2"),
            labels=("choice1", "choice2"),
            written=(0, 1),
            cut=0,
            shape=shapes.shape_copa,
        ),
        _make_superglue_task(
            "multirc",
            "MultiRC",
            columns=("paragraph", "question", "answer"),
            labels=TRUTH,
            written=(0, 1),
            metrics=("f1a", "em"),
            cut=0,
            form="multirc",
            flatten=shapes.flatten_multirc,
            shape=shapes.shape_multirc,
        ),
        _make_superglue_task(
            "record",
            "ReCoRD",
            columns=("passage", "query", "entity"),
            labels=TRUTH,
            label="answers",
            metrics=("f1", "em"),
            cut=0,
            placeholder="@placeholder",
            form="record",
            flatten=shapes.flatten_record,
            shape=shapes.shape_record,
        ),
        _make_superglue_task("rte", "RTE", columns=PREMISE, labels=ENTAILED),
        _make_superglue_task(
            "wic",
            "WiC",
            kind="spans",
            columns=SENTENCES,
            labels=TRUTH,
            written=(False, True),
            answers=TRUTH,
            shape=shapes.shape_wic,
        ),
        _make_superglue_task(
            "wsc",
            "WSC",
            kind="spans",
            columns=("text",),
            labels=TRUTH,
            written=(False, True),
            answers=("False", "True"),  # capitals, unlike the other two
            cut=0,
            flatten=shapes.flatten_wsc,
            shape=shapes.shape_wsc,
        ),
        _make_superglue_task(
            "axb",
            "AX-b",
            splits=_name_test_split("AX-b.jsonl", "AX-b.jsonl"),
            columns=SENTENCES,
            labels=ENTAILED,
            metrics=("matthews",),
            parent="superglue/rte",
        ),
        _make_superglue_task(
            "axg",
            "AX-g",
            splits=_name_test_split("AX-g.jsonl", "AX-g.jsonl"),
            columns=PREMISE,
            labels=ENTAILED,
            metrics=("parity", "accuracy"),
            parent="superglue/rte",
        ),
        _make_race_task("middle", "RACE-M.tsv"),
        _make_race_task("high", "RACE-H.tsv"),
    )
}
