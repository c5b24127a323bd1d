"""What `bort train --help` and `bort search --help` print: each setting with what it means."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from bort import shell
from bort.cli.composing import compose_command
from bort.config.command_line import read_comments
from bort.config.compose import CONF
from bort.config.overrides import to_word

WIDTH = 100  # columns of the whole
COLUMN = 34  # of the settings, before their explanations
PURPOSES = {
    "train": "Pre-train, distil or fine-tune a BERT.",
    "search": "Choose the optimal BERT of a grid.",
}
EXAMPLES = {
    "train": (
        "experiment=kd_pretrain name=first",
        "experiment=kd_pretrain arch=bort data=text data.path=FILE teacher.name=MODEL",
        "experiment=finetune model=runs/kd_pretrain/first data.train=FILE data.label=COLUMN",
    ),
    "search": (
        "name=first",
        "grid=paper data=text data.path=FILE teacher.name=MODEL search.n=1000",
        "latency=onnx_int8 search.max_latency_ms=5 search.max_mb=10",
    ),
}


def show_help(command: str, schema: type) -> None:
    """Print the settings of a command, with the values that the words of the command line give.

    Raises BortError, and what Hydra raises, for a mistake in these words.
    """
    options = get_args_parser().parse_args(sys.argv[1:])
    with compose_command(command, options.overrides, options.config_dir) as (cfg, hydra):
        print("\n".join(format_help(command, schema, cfg, hydra)))


def format_help(command: str, schema: type, cfg: DictConfig, hydra: DictConfig) -> Iterator[str]:
    """Yield the lines of a command's help: examples, groups, and the settings with their values."""
    program = shell.program()
    yield f"{program}: {PURPOSES[command]}"
    yield from ("", *(f"  {program} {example}" for example in EXAMPLES[command]))
    yield from ("", "Groups, each chosen as a whole:")
    for group, chosen in reversed(hydra.runtime.choices.items()):
        if "/" not in group and group not in ("experiment", "local"):
            yield from _format_line(f"{group}={chosen or 'null'}", ", ".join(list_choices(group)))
    if "experiment" in hydra.runtime.choices:
        yield from ("", "Experiments:")
        for name in list_choices("experiment"):
            purpose = read_purpose(CONF / "experiment" / f"{name}.yaml")
            yield from _format_line(f"experiment={name}", purpose)
    yield from ("", "Settings, each with its value here:")
    values = OmegaConf.to_container(cfg)
    yield from _format_settings("", schema, values)
    for name, section in _list_sections(schema):
        yield from ("", f"{name}: {inspect.getdoc(section).splitlines()[0]}")
        yield from _format_settings(f"{name}.", section, values[name])
    yield from ("", "trainer: Lightning's Trainer, by its own keys.")
    comments = read_yaml_comments(CONF / "trainer" / "default.yaml")
    for key, value in values["trainer"].items():
        if key != "_target_":
            yield from _format_line(f"trainer.{key}={show_value(value)}", comments.get(key, ""))
    yield ""
    yield "--cfg job shows the settings as YAML, -m seed=0,1 runs one job for each value, and"
    yield "--config-dir FOLDER adds a folder of groups of your own."


def list_choices(group: str) -> list[str]:
    """The names of a group's files, those of the user included."""
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, results_filter=ObjectType.CONFIG)


def _list_sections(schema: type) -> Iterator[tuple[str, type]]:
    """The settings that have a class of their own, with it."""
    return ((item.name, item.type) for item in fields(schema) if is_dataclass(item.type))


def _format_settings(prefix: str, schema: type, values: dict[str, Any]) -> Iterator[str]:
    """A line for each setting of a class, but for its sections at the top."""
    comments = read_comments(schema)
    for item in fields(schema):
        key, value = f"{prefix}{item.name}", values[item.name]
        if is_dataclass(item.type):
            if prefix:
                yield from _format_settings(f"{key}.", item.type, value)
        elif key != "trainer":
            yield from _format_line(f"{key}={show_value(value)}", comments.get(item.name, ""))


def _format_line(setting: str, text: str) -> Iterator[str]:
    """A setting with its explanation beside it, or below it where the setting is long."""
    lines = textwrap.wrap(text, WIDTH - COLUMN - 4) or [""]
    head = f"  {setting:<{COLUMN}}  "
    if len(setting) > COLUMN:
        yield head.rstrip()
        head = " " * (COLUMN + 4)
    yield f"{head}{lines[0]}".rstrip()
    yield from (f"{'':{COLUMN + 4}}{line}" for line in lines[1:])


def show_value(value: Any) -> str:
    """A value as it would be typed; what is only known in a run stays as conf/ has it."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        return "…" if value == "???" else value
    return f"{value:g}" if isinstance(value, float) else to_word(value)


def read_purpose(path: Path) -> str:
    """The comment at the beginning of a file of conf/; nothing of a file that is elsewhere."""
    if not path.is_file():
        return ""
    lines = path.read_text("utf-8").splitlines()
    return " ".join(_leading_comments(lines))


def _leading_comments(lines: Iterable[str]) -> Iterator[str]:
    """The lines of comment before the first that is none, without Hydra's."""
    for line in lines:
        if not line.startswith("#"):
            return
        if not line.startswith("# @package"):
            yield line.lstrip("# ")


def read_yaml_comments(path: Path) -> dict[str, str]:
    """The comments behind the keys of a flat YAML file."""
    return dict(re.findall(r"^(\w+):[^#\n]*# (.*)$", path.read_text("utf-8"), re.MULTILINE))
