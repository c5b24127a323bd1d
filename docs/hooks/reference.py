"""The pages of the reference: every setting of every command, read from the source.

A setting is a field of a dataclass in bort, and its explanation is the comment beside the field,
the same that `--help` prints. Nothing of these pages is written by hand, and none is committed: the
build of the site makes them (`site_pages.py`).
"""

import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from bort.__main__ import COMMANDS
from bort.cli.composing import compose_command
from bort.cli.help import list_choices, read_purpose, read_yaml_comments, show_value
from bort.config.command_line import Setting, list_settings
from bort.config.compose import CONF, parse_settings
from bort.config.search import SearchRunConfig, register
from bort.config.train import TrainConfig
from bort.config.unused import LATENCY_RULES, RULES

register(SearchRunConfig)

# The experiments of each job; the values of the first one are shown first.
EXPERIMENTS = {
    "pretrain": ("kd_pretrain", "mlm_pretrain", "teacher_pretrain", "paper"),
    "compare": ("kd_vs_mlm",),
    "finetune": ("finetune",),
    "kd_finetune": ("kd_finetune", "kd_embed"),
    "agora": ("agora",),
}
# What an experiment does not start without.
NEEDED = {
    "paper": "data.path=FILE",
    "kd_finetune": "teacher.name=FOLDER",
    "kd_embed": "teacher.name=FOLDER data.unlabelled=FILE",
}
# Ways to use a job, beside its experiments as they stand: many a setting is for one of them alone.
TABLE = f"latency.path={CONF / 'search.yaml'}"  # any file that exists
USES = {
    "pretrain": (
        "data=text data.path=FILE",
        "teacher.name=FOLDER",
        "distill.w_hidden=1 distill.w_relation=1",
        "optim.schedule=wsd",
    ),
    "compare": ("data=text data.path=FILE", "teacher.name=FOLDER", "optim.schedule=wsd"),
    "finetune": (
        "task=custom model=FOLDER data.train=FILE data.windows=mean",
        "task=glue/rte model=FOLDER optim.schedule=wsd",
    ),
    "kd_finetune": (
        "task=custom data.train=FILE data.unlabelled=FILE data.windows=mean model=FOLDER",
        "task=custom data.train=FILE distill.kd_loss=kl model=FOLDER optim.schedule=wsd",
        "task=glue/rte model=FOLDER",
    ),
    "agora": (
        "task=custom data.train=FILE agora.generator=pool data.unlabelled=FILE model=FOLDER",
        "task=glue/rte model=FOLDER data.windows=mean optim.schedule=wsd",
    ),
    "search": (
        "data=text data.path=FILE",
        "teacher.name=FOLDER",
        "latency=fitted",
        "optim.schedule=wsd",
        "latency=measured",
        f"latency=table {TABLE}",
    ),
}
MODULES = {  # the commands that Hydra does not read, and where their settings are
    "predict": ("bort.predict.settings", "PredictConfig"),
    "export": ("bort.export.settings", "ExportConfig"),
    "benchmark": ("bort.benchmark.settings", "BenchmarkConfig"),
    "report": ("bort.report", "ReportConfig"),
    "pipeline": ("bort.pipeline.settings", "PipelineConfig"),
    "doctor": ("bort.doctor", "DoctorConfig"),
    "dashboard": ("bort.dashboard", "DashboardConfig"),
    "table": ("bort.search.table_optimum", "TableConfig"),
}
PURPOSES = COMMANDS | {"table": "the optimum of a table: python -m bort.search candidates.csv"}
# What a setting takes whose field has no type of its own, since its values are of several kinds.
ANY = {
    "data.text": "text, or list of names",
    "data.label": "text, or list of names",
    "optim.lr": "number, or auto, or null",
    "callbacks": "classes, by _target_",
}
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


@dataclass(frozen=True)
class Entry:
    """A row of a reference page: a setting, what it takes, its value, and what it means.

    values: what it is where it is not given, by experiment; a command without experiments has one
    of the name "". A setting that has to be given has the value "".
    """

    key: str
    kind: str
    values: dict[str, str]
    meaning: str

    def to_row(self) -> str:
        """The row of a table in Markdown; links lead to it by the key."""
        (_, first), *others = self.values.items()
        lines = [_format_code(first)]
        lines += [f"{name}: {_format_code(value)}" for name, value in others if value != first]
        name = f'<span id="{self.key.split()[0]}">`{self.key}`</span>'
        return f"| {name} | {escape(self.kind)} | {'<br>'.join(lines)} | {escape(self.meaning)} |"


def _format_code(value: str) -> str:
    """A value between backticks, or a dash where it has to be given."""
    return f"`{value.replace('|', '&#124;')}`" if value else "–"


def escape(text: str) -> str:
    """Return prose of which neither HTML nor Markdown reads a sign as one of its own."""
    for sign, code in (("&", "&amp;"), ("<", "&lt;"), ("*", "&#42;"), ("_", "&#95;")):
        text = text.replace(sign, code)
    return text.replace("|", "&#124;")


def name_kind(hint: Any) -> str:
    """Return what a type is called here: `list of names, or null`; nothing for a class."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = list(dict.fromkeys(filter(None, map(name_kind, get_args(hint)))))
        if "number" in kinds and "whole number" in kinds:
            kinds.remove("whole number")
        return ", or ".join(kinds)
    if get_origin(hint) is Literal:
        return name_kind(type(get_args(hint)[0]))
    if get_origin(hint) is list:
        inner = name_kind(get_args(hint)[0])
        return f"list of {'names' if inner == 'text' else f'{inner}s'}"
    return "null" if hint is type(None) else WORDS.get(hint, "")


def describe_kind(setting: Setting) -> str:
    """Return what a setting takes."""
    hint = get_type_hints(setting.owner)[setting.field.name]
    return ANY[setting.key] if hint is Any else name_kind(hint)


# ------------------------------------------------------------------- the programs that Hydra reads


def list_keys(program: str) -> Iterator[tuple[str, str, str]]:
    """Yield each setting of `train` or `search`: its key, what it takes, and what it means."""
    schema = SearchRunConfig if program == "search" else TrainConfig
    for setting in list_settings(schema):
        if setting.key != "trainer":
            yield setting.key, describe_kind(setting), setting.doc
    hints = get_type_hints(Trainer.__init__)
    for key, meaning in read_yaml_comments(CONF / "trainer" / "default.yaml").items():
        yield f"trainer.{key}", name_kind(hints[key]), meaning


def compose_run(program: str, words: str) -> tuple[Any, dict[str, Any]]:
    """Return the typed settings of a command line, and the values as conf/ has them."""
    schema = SearchRunConfig if program == "search" else TrainConfig
    with compose_command(program, words.split(), CONF) as (cfg, _):
        return parse_settings(cfg, schema), OmegaConf.to_container(cfg)


@cache
def list_entries(job: str) -> tuple[Entry, ...]:
    """Return the settings that a job can use, `search` or a job of `bort train`.

    A job can use what no rule refuses in all its uses.
    """
    program = "search" if job == "search" else "train"
    names, runs, tables = EXPERIMENTS.get(job, ("",)), [], {}
    for name in names:
        run, tables[name] = compose_run(program, choose_experiment(name))
        runs.append(run)
    for use in USES[job]:
        runs.append(compose_run(program, f"{choose_experiment(names[0])} {use}")[0])
    entries = []
    for key, kind, meaning in list_keys(program):
        if not any(is_read(key, run) for run in runs):
            continue
        values = {
            name: "" if key in needed_keys(name) else read_value(table, key)
            for name, table in tables.items()
        }
        entries.append(Entry(key, kind, values, meaning))
    return tuple(entries)


def choose_experiment(name: str) -> str:
    """The words that choose an experiment, with what it does not start without."""
    return f"experiment={name} {NEEDED.get(name, '')}" if name else ""


def needed_keys(name: str) -> list[str]:
    """The settings that an experiment does not start without."""
    return [word.partition("=")[0] for word in NEEDED.get(name, "").split()]


def is_read(key: str, run: Any) -> bool:
    """Whether a job reads a setting, by the rules that refuse it on the command line."""
    rules = (*RULES, *LATENCY_RULES) if run.job == "search" else RULES
    return not any(rule.concerns(key) and rule.when(run) for rule in rules)


def read_value(table: dict[str, Any], key: str) -> str:
    """Return the value of a key as it would be typed; nothing where it has to be given."""
    value: Any = table
    for part in key.split("."):
        value = value[part]
    return "" if value == "???" else show_value(value)


# ------------------------------------------------------------------------------------ the pages

HEAD = "| setting | takes | where it is not given | meaning |\n|---|---|---|---|"


def build_pages() -> dict[str, str]:
    """Return the pages of the reference in Markdown, by their paths in the site."""
    pages = {"reference/index.md": build_index()}
    for job in EXPERIMENTS:
        pages[f"reference/train-{job}.md"] = build_program("train", job)
    pages["reference/search.md"] = build_program("search", "search")
    for command in MODULES:
        pages[f"reference/{command}.md"] = build_command(command)
    return pages


def build_index() -> str:
    """The page that lists the commands."""
    lines = [
        "# Reference",
        "Every setting of every command, with what it takes, its value where it is not given, and "
        "what it means. These pages are made from the source, and `--help` of a command shows the "
        "same. Each command may be called in three ways: `bort train …` in an environment where "
        "bort is installed, `python -m bort train …`, and in a clone `python train.py …`, `python "
        "search.py …` and `python -m bort.predict …`. Settings are `key=value`, without dashes.",
    ]
    for command, purpose in PURPOSES.items():
        if command != "train":
            lines.append(f"- [{command}]({command}.md): {escape(purpose)}")
            continue
        jobs = [f"[{', '.join(names)}](train-{job}.md)" for job, names in EXPERIMENTS.items()]
        lines.append(f"- train: {escape(purpose)}. Its experiments: {'; '.join(jobs)}")
    return "\n\n".join(lines) + "\n"


def build_program(program: str, job: str) -> str:
    """The page of a job of `bort train`, or of `bort search`."""
    names = EXPERIMENTS.get(job, ())
    title = f"bort {program}" + (f" experiment={names[0]}" if names else "")
    parts = [f"# {title}"]
    for name in names:
        purpose = escape(read_purpose(CONF / "experiment" / f"{name}.yaml"))
        parts.append(f"- `experiment={name}`: {purpose}")
    if not names:
        parts.append(f"{escape(COMMANDS[program].capitalize())}.")
    schema = SearchRunConfig if program == "search" else TrainConfig
    parts += ["## Groups, each chosen as a whole", *list_groups(program)]
    parts += ["## Settings", *format_sections(schema, list_entries(job))]
    return "\n\n".join(parts) + "\n"


def list_groups(program: str) -> Iterator[str]:
    """A line for each group of conf/ that a program composes, with its choices."""
    with compose_command(program, [], CONF) as (_, hydra):
        for group, chosen in reversed(hydra.runtime.choices.items()):
            if "/" not in group and group not in ("experiment", "local"):
                choices = ", ".join(f"`{name}`" for name in list_choices(group))
                yield f"- `{group}={chosen or 'null'}`: {choices}"


def format_sections(schema: type, entries: Iterable[Entry]) -> Iterator[str]:
    """The tables of a page: one of the settings without a dot, and one for each section."""
    docs = {name: kind for name, kind in get_type_hints(schema).items() if is_dataclass(kind)}
    sections: dict[str, list[Entry]] = {"": []}
    for entry in entries:
        sections.setdefault(entry.key.rpartition(".")[0].split(".")[0], []).append(entry)
    for name, rows in sections.items():
        if name == "trainer":
            yield "### trainer"
            yield "The keys are those of Lightning's Trainer."
        elif name:
            yield f"### {name}"
            yield escape(inspect.getdoc(docs[name]).splitlines()[0])
        if rows:
            yield "\n".join([HEAD, *(row.to_row() for row in rows)])


def find_schema(command: str) -> type:
    """Return the dataclass of the settings of a command that Hydra does not read."""
    module, name = MODULES[command]
    return getattr(import_module(module), name)


def list_command_entries(command: str) -> list[Entry]:
    """Return the settings of a command that Hydra does not read."""
    entries = []
    for setting in list_settings(find_schema(command)):
        _, sign, value = setting.usage.partition("=")
        key = setting.key if sign else setting.usage
        shown = {"…": "null", "???": ""}.get(value, value)
        entries.append(Entry(key, describe_kind(setting), {"": shown}, setting.doc))
    return entries


def build_command(command: str) -> str:
    """The page of a command that Hydra does not read."""
    title = "python -m bort.search FILE" if command == "table" else f"bort {command}"
    first, *paragraphs = inspect.getdoc(find_schema(command)).split("\n\n")
    parts = [f"# {title}", escape(first)]
    for text in paragraphs:
        is_example = text.startswith(("python ", "… ", "    "))
        parts.append(f"```\n{inspect.cleandoc(text)}\n```" if is_example else escape(text))
    entries = list_command_entries(command)
    parts += ["## Settings", *format_sections(find_schema(command), entries)]
    if not entries:
        parts.append("It takes none.")
    return "\n\n".join(parts) + "\n"
