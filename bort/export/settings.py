"""Typed settings of `python -m bort.export`, which a pipeline also checks before its first stage.

Nothing heavy is imported here.
"""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bort.config import key_values
from bort.config.data import DataConfig
from bort.errors import BortError, at_least, one_of
from bort.files.writing import user_path
from bort.runs.origin import run_facts

FORMATS = ("hf", "onnx", "onnx-int8")
SUITE_KEYS = ("root",)  # of data: where the rows of a task's validation set are
TABLE_KEYS = ("train", "val", "text", "label", "kind")
DATA_KEYS = (*SUITE_KEYS, *TABLE_KEYS, "length")


@dataclass
class ExportConfig:
    """What is exported, as what, where to, and what the checks ask of it."""

    model: str  # a run folder, a Hugging Face folder or a hub name
    format: str  # one of FORMATS
    out: Path
    task: str | None = None  # its validation rows are answered before and after
    data: DataConfig = field(default_factory=DataConfig)  # of the task
    agreement: float = 0.95  # the least share of equal top answers of int8
    drop: float = 0.01  # the most that the task's first metric may lose
    push: str | None = None  # owner/name on the hub, uploaded to afterwards

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        if not 0 <= self.agreement <= 1:
            raise BortError(f"agreement={self.agreement:g} must be from 0 to 1")
        at_least("drop", self.drop, 0)
        if self.drop > 1:
            raise BortError(f"drop={self.drop:g} must be at most 1, the best that a score can be")
        if Path.cwd().is_relative_to(self.out.resolve()):
            raise BortError(f"out={self.out} is the folder you are in; give the name of a new one")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise BortError(f"push={self.push} is no name on the hub; write push=owner/name")


def parse_export(arguments: list[str]) -> ExportConfig:
    """The settings that a command line's `key=value` words ask for; BortError for a mistake.

    data.train=FILE alone means task=custom, as in a fine-tuning.
    """
    names = [setting.name for setting in fields(ExportConfig) if setting.name != "data"]
    words = key_values.parse(
        arguments, dict.fromkeys([*names, *(f"data.{key}" for key in DATA_KEYS)])
    )
    if empty := [key for key, value in words.items() if value == ""]:
        raise BortError(f"{empty[0]}= has no value; give one, or leave it out")
    if not (words["model"] and words["format"] and words["out"]):
        raise BortError("give model=FOLDER format=hf|onnx|onnx-int8 out=FOLDER; --help shows more")
    data = {key: words[f"data.{key}"] for key in DATA_KEYS if words[f"data.{key}"]}
    task = words["task"] or ("custom" if "train" in data else None)
    _check_data(task, data)
    numbers = {key: _number(key, words[key]) for key in ("agreement", "drop") if words[key]}
    settings = ExportConfig(
        model=words["model"],
        format=words["format"],
        out=user_path("out", words["out"]),
        task=task,
        data=_task_data(data, run_facts(words["model"]) if task else {}),
        push=words["push"],
        **numbers,
    )
    if "drop" in numbers and task is None:
        raise BortError("drop= is for a check on a task; give task=…, or data.train=FILE")
    if "agreement" in numbers and settings.format != "onnx-int8":
        raise BortError(f"agreement= is for format=onnx-int8, not for format={settings.format}")
    return settings


def _check_data(task: str | None, data: dict[str, str]) -> None:
    """Raise BortError for a setting of data that this task does not read."""
    if task is None:
        unread, reason = set(data), "is for a check on a task; give task=…, or data.train=FILE"
    elif task == "custom":
        unread, reason = set(SUITE_KEYS), "is for the tasks of a suite, as in task=glue/rte"
        if "train" not in data:
            raise BortError("task=custom needs data.train=FILE, data.text=… and data.label=…")
    elif task == "docstrings":
        unread, reason = {*SUITE_KEYS, *TABLE_KEYS}, "is not read by task=docstrings"
    else:
        unread, reason = set(TABLE_KEYS), "is for task=custom"
    for key, value in data.items():
        if key in unread:
            raise BortError(f"data.{key}={value} {reason}")


def _task_data(values: dict[str, str], run: dict[str, Any]) -> DataConfig:
    """Where a task's rows are; run: of the model, whose rows were as long where it had any."""
    settings: dict = dict(values)
    if "length" in values:
        length = _number("data.length", values["length"])
        if length != int(length):
            raise BortError(f"data.length={values['length']} must be a whole number")
        settings["length"] = int(length)
    elif run.get("task") and isinstance(run.get("data.length"), int):
        settings["length"] = run["data.length"]
    if settings.get("text", "").startswith("["):
        settings["text"] = [name.strip() for name in settings["text"].strip("[]").split(",")]
    return DataConfig(**settings)


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BortError(f"{key}={text} is not a number") from None
    if not abs(value) < float("inf"):
        raise BortError(f"{key}={text} is no finite number; give one")
    return value
