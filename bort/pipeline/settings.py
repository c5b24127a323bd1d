"""Typed settings of `python -m bort.pipeline`. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import ClassVar

from bort.errors import BortError

STAGES = ("search", "pretrain", "finetune", "export", "benchmark")
# Keys of data, and the keys that they describe: at least one of these has to be given too.
OWNERS = {key: ("data.train",) for key in ("val", "test", "label", "kind")}
OWNERS |= {"text": ("data.train", "data.path"), "sample_by": ("data.path",), "root": ("task",)}
OWNERS |= {"unlabelled": ("teacher",)}
OWNERS |= {key: ("data.unlabelled",) for key in ("unlabelled_rows", "split_sentences")}


@dataclass
class PipelineDataConfig:
    """The text to pre-train on, and the rows of the task."""

    path: str | None = None  # the text to search and pre-train on: a file, a folder or a hub name
    sample_by: str | None = None  # a document of a .txt or .md file: line, paragraph or file
    root: str | None = None  # the folder of a suite's official files, as of task=glue/rte
    train: str | None = None  # a table of your own to fine-tune on
    val: str | None = None  # its validation rows; a tenth of the training rows where there are none
    test: str | None = None  # its rows without labels
    text: str | None = None  # the column that holds the text, or two of them as [a,b]
    label: str | None = None  # the column that holds the label, or several of 0 and 1 as [a,b]
    kind: str | None = None  # of the labels: classes or number; found out where it is not given
    unlabelled: str | None = None  # texts without labels, which teacher= labels
    unlabelled_rows: int | None = None  # the most rows that are taken from there
    split_sentences: bool | None = None  # whether each sentence of these texts is a row


@dataclass
class PipelineConfig:
    """From text to a small model in production by one command, with one report.

    python -m bort.pipeline                                      # embedded text and task, offline
    python -m bort.pipeline data.path=texts.txt data.train=reviews.csv
    python -m bort.pipeline data.path=texts/ data.train=a.csv data.text=review data.label=stars
    python -m bort.pipeline task=glue/rte data.root=glue_data name=rte
    python -m bort.pipeline data.path=texts/ data.train=a.csv teacher=LARGE data.unlabelled=more.txt

    Five stages, each a command of its own: search.py, train.py experiment=kd_pretrain of the
    optimum, train.py experiment=finetune (kd_finetune with teacher=), bort.export to int8 ONNX,
    bort.benchmark. Then runs/pipeline/NAME has report.html. Stopped anywhere, the same command
    resumes it. More for one stage:

    … search='search.n=600 grid.depth=[1,2,4]' pretrain='trainer.max_steps=5000'
      finetune='trainer.max_epochs=5' export='drop=0.02' benchmark='archs=[bert_large,bert_base]'
    """

    ELSEWHERE: ClassVar[dict[str, str]] = {
        "resume": "goes with one stage, as in search='resume=false'"
    }
    name: str | None = None  # the last part of the folders' names; after the files, or `pipeline`
    task: str | None = None  # a task of a suite, as in glue/rte; the embedded one otherwise
    # what teaches the task: a model that is fine-tuned on it, or an encoder; then data.unlabelled
    # may have more texts
    teacher: str | None = None
    data: PipelineDataConfig = field(default_factory=PipelineDataConfig)
    search: str | None = None  # further settings of search.py
    pretrain: str | None = None  # further settings of the pre-training
    finetune: str | None = None  # further settings of the fine-tuning
    export: str | None = None  # further settings of bort.export
    benchmark: str | None = None  # further settings of bort.benchmark
    dry_run: bool = False  # check all stages, show their commands and what they cost, and stop

    def __post_init__(self) -> None:
        for key, owners in OWNERS.items():
            value = getattr(self.data, key)
            if value not in (None, "") and not any(self._value_of(owner) for owner in owners):
                raise BortError(f"data.{key}={value} goes with {owners[0]}=…, which is not given")
        if self.data.train and self.task not in (None, "custom"):
            raise BortError(
                f"task={self.task} reads data.root=FOLDER, data.train={self.data.train} is for "
                "task=custom; leave one of them out"
            )

    def _value_of(self, key: str) -> str | None:
        """The value of `task` or `teacher`, or of a key below `data.`."""
        holder = self.data if key.startswith("data.") else self
        return getattr(holder, key.removeprefix("data."))
