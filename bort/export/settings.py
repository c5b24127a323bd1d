"""Typed settings of `python -m bort.export`, which a pipeline also checks before its first stage.

Nothing heavy is imported here.
"""

import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bort.config.data import DataConfig
from bort.config.train import EMBED, FITTING_JOBS
from bort.errors import BortError, check_at_least, check_choice
from bort.files.writing import expand_user_path
from bort.runs.origin import read_facts

logger = logging.getLogger(__name__)

NO_TASK = "none"  # as in task=none
FORMATS = ("hf", "onnx", "onnx-int8")
AGREEMENT, DROP = 0.95, 0.01  # what the checks ask where the user says nothing


@dataclass
class TaskDataConfig:
    """Where the rows of a task are: those of the keys below `data.` that an export reads."""

    root: str | None = None  # the folder of a suite's official files, as of task=glue/rte
    train: str | None = None  # a table of your own; it means task=custom
    val: str | None = None  # its validation rows
    text: str | None = None  # the column that holds the text, or two of them as [a,b]
    label: str | None = None  # the column that holds the label, or several of 0 and 1 as [a,b]
    kind: str | None = None  # classes or number; found out where it is not given
    length: int | None = None  # the tokens that a row is cut to; those of the model's run

    def to_json(self) -> dict[str, str | int]:
        """The keys that have a value, and their values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def recall_task(model: str) -> tuple[str | None, TaskDataConfig]:
    """Return the task that the run of a model was fine-tuned on, and where its rows are.

    There is none where the model was not fine-tuned here, or its data are no longer there; a line
    says so. Raises BortError for damaged files of the run.
    """
    run, nothing = read_facts(model), TaskDataConfig()
    task = run.get("task")
    if run.get("job") not in FITTING_JOBS or task == EMBED or not isinstance(task, str):
        return None, nothing
    keys = ("train", "val", "text", "label", "kind") if task == "custom" else ("root",)
    keys = () if task == "docstrings" else keys
    values = {key: run.get(f"data.{key}") for key in keys}
    for key in ("train", "val", "root"):
        path = values.get(key)
        if path is not None and not Path(path).expanduser().exists():
            logger.info(f"task: no check on {task}, since data.{key}={path} is not there")
            return None, nothing
    if "root" in values and values["root"] is None:
        logger.info(f"task: no check on {task}, whose rows were the hub's; give data.root=FOLDER")
        return None, nothing
    logger.info(f"task: {task}, as in the run of the model; task=none leaves the check out")
    spelled = {key: _to_word(value) for key, value in values.items() if value is not None}
    return task, TaskDataConfig(**spelled)


def _to_word(value: str | list[str]) -> str:
    """Spell a column, or several, as the command line takes them."""
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


@dataclass
class ExportConfig:
    """A model as a folder for production, checked before it gets its name.

    python -m bort.export model=FOLDER format=hf out=FOLDER         # Hugging Face, a model card
    python -m bort.export model=FOLDER format=onnx out=FOLDER       # float32, for onnxruntime
    python -m bort.export model=FOLDER format=onnx-int8 out=FOLDER  # quantized
    … task=glue/rte data.root=glue_data                             # the score before and after

    When a check fails, it exits with 1 and leaves nothing.
    """

    model: str | None = None  # a run folder, a Hugging Face folder or a hub name
    format: str | None = None  # hf, onnx or onnx-int8
    out: str | None = None  # the folder to write
    # the task whose validation rows are answered before and after: that of the model's run, as long
    # as its data are still there; none leaves the check out
    task: str | None = None
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    # the least share of equal top answers of int8 (0.95); numbers may be off by the rest, as a
    # share of their spread
    agreement: float | None = None
    drop: float | None = None  # the most that the task's first metric may lose (0.01)
    push: str | None = None  # owner/name on the hub, which the folder is uploaded to afterwards

    def __post_init__(self) -> None:
        values = vars(self) | {f"data.{key}": value for key, value in self.data.to_json().items()}
        if empty := [key for key, value in values.items() if value == ""]:
            raise BortError(f"{empty[0]}= has no value; give one, or leave it out")
        if not (self.model and self.format and self.out):
            raise BortError(
                "give model=FOLDER format=hf|onnx|onnx-int8 out=FOLDER; --help shows more"
            )
        if self.task is None and self.data.train:
            self.task = "custom"  # as in a fine-tuning
        if self.task is None and not self.data.to_json():
            self.task, self.data = recall_task(self.model)
        self.task = None if self.task == NO_TASK else self.task
        self._check_data()
        self._check_limits()
        check_choice("format", self.format, FORMATS)
        if Path.cwd().is_relative_to(self.folder.resolve()):
            raise BortError(f"out={self.out} is the folder you are in; give the name of a new one")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise BortError(f"push={self.push} is no name on the hub; write push=owner/name")
        if self.drop is not None and self.task is None:
            raise BortError("drop= is for a check on a task; give task=…, or data.train=FILE")
        if self.agreement is not None and self.format != "onnx-int8":
            raise BortError(f"agreement= is for format=onnx-int8, not for format={self.format}")
        self.rows = self._locate_rows()  # of the task

    def _check_limits(self) -> None:
        """Raise BortError for a limit that no check can have."""
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise BortError(f"agreement={self.agreement:g} must be from 0 to 1")
        if self.drop is not None:
            check_at_least("drop", self.drop, 0)
            if self.drop > 1:
                raise BortError(
                    f"drop={self.drop:g} must be at most 1, the best that a score can be"
                )

    def _check_data(self) -> None:
        """Raise BortError for a setting of data that this task does not read."""
        keys, of_table = self.data.to_json(), ("train", "val", "text", "label", "kind")
        if self.task is None:
            unread, reason = keys, "is for a check on a task; give task=…, or data.train=FILE"
        elif self.task == "custom":
            unread, reason = ("root",), "is for the tasks of a suite, as in task=glue/rte"
            if self.data.train is None:
                raise BortError("task=custom needs data.train=FILE, data.text=… and data.label=…")
        elif self.task == "docstrings":
            unread, reason = ("root", *of_table), "is not read by task=docstrings"
        else:
            unread, reason = of_table, "is for task=custom"
        for key, value in keys.items():
            if key in unread:
                raise BortError(f"data.{key}={value} {reason}")

    @property
    def folder(self) -> Path:
        """The folder to write, with the user's home for ~."""
        return expand_user_path("out", self.out)

    @property
    def least_agreement(self) -> float:
        """The least share of equal top answers of int8."""
        return AGREEMENT if self.agreement is None else self.agreement

    @property
    def largest_drop(self) -> float:
        """The most that the task's first metric may lose."""
        return DROP if self.drop is None else self.drop

    def _locate_rows(self) -> DataConfig:
        """Return where the task's rows are; they are as long as in the run of the model."""
        values = self.data.to_json()
        if self.task is not None and self.data.length is None:
            run = read_facts(self.model)
            if run.get("task") and isinstance(run.get("data.length"), int):
                values["length"] = run["data.length"]
        for key in ("text", "label"):
            value = values.get(key)
            if value is not None and value.startswith("["):
                values[key] = [name.strip() for name in value.strip("[]").split(",")]
        return DataConfig(**values)
