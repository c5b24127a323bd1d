"""The stages of a pipeline: the command of each, what it reads and what it leaves."""

import importlib.util
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from bort.benchmark.run import name_archs
from bort.benchmark.settings import BenchmarkConfig
from bort.config.command_line import parse_command
from bort.config.compose import CONF, parse_settings
from bort.config.data import DataConfig
from bort.config.fingerprint import flatten_settings
from bort.config.search import SearchRunConfig, register
from bort.config.train import TrainConfig
from bort.config.unused import LATENCY_RULES, RULES, refuse_unused
from bort.errors import BortError
from bort.export.settings import ExportConfig, TaskDataConfig
from bort.files.run_files import MODEL, OPTIMUM
from bort.pipeline.settings import STAGES, PipelineConfig
from bort.runs.commands import spell_teacher
from bort.tasks import registry
from bort.tasks.reading import load_task
from bort.tasks.unlabelled import check_pool_file
from bort.text.sources import open_text

POOL = ("unlabelled", "unlabelled_rows", "split_sentences")  # of data: what a teacher labels
COLUMNS = ("val", "test", "text", "label", "kind")  # of data: what describes data.train
# What the pipeline gives to its stages itself.
OWN = ("name", "output_dir", "experiment", "task", "job", "arch", "arch_file", "model", "models")
OWN += ("format", "out", "push", "dry_run", "hydra")
# What Hydra reads without quotes, or has in quotes or brackets already.
UNQUOTED = re.compile(r"[A-Za-z0-9_./:+-]+|\[.*\]|'.*'|\".*\"")


@dataclass(frozen=True)
class Stage:
    """A command; it is done again when its words or the files that it reads have changed."""

    key: str
    command: list[str]  # after the interpreter
    folder: Path  # what it leaves
    result: Path  # a file in there that is written near the end
    reads: tuple[Path, ...] = ()
    run: TrainConfig | None = None  # the settings of a stage that trains, but for what it reads


def plan_stages(settings: PipelineConfig) -> list[Stage]:
    """Return the stages with their commands.

    Raises BortError for a mistake in any of them, and for text or a task that cannot be read.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise BortError(f"int8 export needs {package}; pip install onnx onnxscript onnxruntime")
    registry.check_task_name(settings.task)
    name = settings.name or choose_name(settings)
    extra = {stage: _split_words(stage, getattr(settings, stage)) for stage in STAGES}
    text, task = _text_words(settings), _task_words(settings)
    model = f"model=runs/kd_pretrain/{name}"
    tuning = "kd_finetune" if settings.teacher else "finetune"
    words = {
        "search": [*text, *extra["search"], f"name={name}"],
        "pretrain": ["experiment=kd_pretrain", *text, *extra["pretrain"], f"name={name}"],
        "finetune": [f"experiment={tuning}", model, *task, *extra["finetune"], f"name={name}"],
    }
    register(SearchRunConfig, BenchmarkConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        runs = {"search": _compose_run("search", words["search"])}
        if not any(word.startswith("teacher.") for word in extra["pretrain"]):
            words["pretrain"] += spell_teacher(flatten_settings(runs["search"]))
        for stage in ("pretrain", "finetune"):
            runs[stage] = _compose_run(stage, words[stage])
        tuned = f"runs/{tuning}/{name}"
        words["benchmark"] = _benchmark_words(
            name, tuned, runs["pretrain"], runs["finetune"].data.length, extra["benchmark"]
        )
        measured = parse_settings(compose("benchmark", words["benchmark"]), BenchmarkConfig)
        name_archs(measured.archs)  # a wrong name shows now
    _check_data(runs)
    words["pretrain"].insert(1, f"arch_file=runs/search/{name}/{OPTIMUM}")
    words["export"] = _export_words(name, tuned, runs["finetune"], extra["export"])
    parse_command(ExportConfig, words["export"])
    stages = _list_stages(name, words, Path(tuned))
    return [replace(stage, run=runs.get(stage.key)) for stage in stages]


def choose_name(settings: PipelineConfig) -> str:
    """Return `pipeline`, or a name after the user's files: another text is another run."""
    sources = [path for path in (settings.data.path, settings.data.train) if path]
    stems = [Path(source).stem for source in sources] or (settings.task or "").split("/")[1:]
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "-".join(stems)) or "pipeline"


def _compose_run(stage: str, words: list[str]) -> TrainConfig:
    """Compose the settings of a program of Hydra's; raises BortError for what it cannot use."""
    schema, base, rules = TrainConfig, "train", RULES
    if stage == "search":
        schema, base, rules = SearchRunConfig, "search", (*RULES, *LATENCY_RULES)
    cfg = compose(base, [*words, "output_dir=runs"])  # the real one is Hydra's to tell
    settings = parse_settings(cfg, schema)
    refuse_unused(settings, words, rules)
    return settings


def _list_stages(name: str, words: dict[str, list[str]], tuned: Path) -> list[Stage]:
    """Return the stages in their order.

    words: what each command is told. tuned: the folder of the fine-tuned model.
    """
    search, student, shipped = (
        Path("runs", folder, name) for folder in ("search", "kd_pretrain", "export")
    )
    table = Path("runs", "benchmark", f"{name}.csv")
    optimum, onnx = search / OPTIMUM, shipped / "model.onnx"
    weights = Path(MODEL, "model.safetensors")
    search_program, train_program = _find_program("search.py"), _find_program("train.py")
    commands = {
        "search": [*search_program, *words["search"]],
        "pretrain": [*train_program, *words["pretrain"]],
        "finetune": [*train_program, *words["finetune"]],
        "export": ["-m", "bort.export", *words["export"]],
        "benchmark": ["-m", "bort.benchmark", *words["benchmark"]],
    }
    return [
        Stage("search", commands["search"], search, optimum),
        Stage("pretrain", commands["pretrain"], student, student / weights, (optimum,)),
        Stage("finetune", commands["finetune"], tuned, tuned / weights, (student / weights,)),
        Stage("export", commands["export"], shipped, onnx, (tuned / weights,)),
        Stage("benchmark", commands["benchmark"], table, table, (tuned / weights, onnx)),
    ]


def _find_program(name: str) -> list[str]:
    """Return how search.py or train.py is started: a file of this folder or of the checkout.

    Where bort is installed as a package there is neither, and `-m bort search` does the same.
    """
    for path in (Path(name), Path(__file__).parents[2] / name):
        if path.is_file():
            return [str(path)]
    return ["-m", "bort", name.removesuffix(".py")]


# --------------------------------------------------------------------- the words of each stage


def _split_words(stage: str, value: str | None) -> list[str]:
    """Return the further settings of one stage; raises BortError for what it may not be told."""
    try:
        words = shlex.split(value or "")
    except ValueError as error:
        raise BortError(f"{stage}='{value}' cannot be read ({error}); fix its quotes") from None
    for word in words:
        key, sign, _ = word.partition("=")
        if not sign:
            raise BortError(f"{stage}='{value}': {word} is not key=value")
        if key.lstrip("+~").split(".")[0] in OWN:
            raise BortError(f"{stage}='{value}': the pipeline sets {key} itself; leave it out")
    return words


def _text_words(settings: PipelineConfig) -> list[str]:
    """Return what search and pre-training read; data.text is the task's where there is one."""
    if not settings.data.path:
        return []
    keys = ["path", "sample_by"] if settings.data.train else ["path", "sample_by", "text"]
    return ["data=text", *list_data_words(settings, keys)]


def _task_words(settings: PipelineConfig) -> list[str]:
    """Return the task of the fine-tuning, and where its rows are."""
    task = "custom" if settings.data.train else settings.task
    keys = ["train", *COLUMNS] if settings.data.train else ["root"]
    words = list_data_words(settings, [*keys, *POOL])
    if settings.teacher:
        words.append(f"teacher.name={_quote(settings.teacher)}")
    return [f"task={task}", *words] if task else words


def list_data_words(settings: PipelineConfig, keys: Iterable[str]) -> list[str]:
    """Return these keys of data, where they are given, as words that Hydra reads."""
    words = []
    for key in keys:
        value = getattr(settings.data, key)
        if value not in (None, ""):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words.append(f"data.{key}={_quote(text)}")
    return words


def _quote(value: str) -> str:
    """Return a value as Hydra reads it."""
    return value if UNQUOTED.fullmatch(value) else "'" + value.replace("'", "\\'") + "'"


def _export_words(name: str, folder: str, tuned: TrainConfig, extra: list[str]) -> list[str]:
    """Return bort.export's words: the task as the model was fine-tuned on it, for the score.

    folder: that of the fine-tuned model.
    """
    words = [f"model={folder}", "format=onnx-int8", f"out=runs/export/{name}"]
    words.append(f"task={tuned.task}")
    defaults = DataConfig()
    for key in (item.name for item in fields(TaskDataConfig)):
        value = getattr(tuned.data, key)
        if value != getattr(defaults, key):
            text = f"[{','.join(value)}]" if isinstance(value, list) else value
            words.append(f"data.{key}={text}")
    return [*words, *extra]


def _benchmark_words(
    name: str, tuned: str, student: TrainConfig, longest: int, extra: list[str]
) -> list[str]:
    """Return bort.benchmark's words: both forms of the model beside BERT-base and the teacher.

    tuned: the folder of the fine-tuned model. longest: the tokens that it takes.
    """
    archs = ["bert_base"]
    if student.teacher.name is None:
        names = name_archs(sorted(path.stem for path in (CONF / "arch").glob("*.yaml")))
        if student.teacher.arch in names:
            archs.append(names[student.teacher.arch])
    usual = {
        "models": f"[{tuned},runs/export/{name}]",
        "archs": f"[{','.join(archs)}]",
        "engines": "[measured]",
        "batches": "[1,8]",
        "lengths": f"[{min(128, longest)}]",
    }
    changed = {word.partition("=")[0] for word in extra}
    words = [f"{key}={value}" for key, value in usual.items() if key not in changed]
    return [*words, *extra, f"out=runs/benchmark/{name}.csv"]


def _check_data(runs: dict[str, TrainConfig]) -> None:
    """Read the task and look for text and models now, not after ten minutes of search.

    Whatever a stage would refuse and can be known before the first one is refused here.
    """
    from bort.models.hub import find_model  # torch, not for --help
    from bort.training.trainer import check_trainer

    for run in runs.values():
        check_trainer(run)
    for stage in ("search", "pretrain"):
        if runs[stage].data.source == "text":
            open_text(runs[stage].data)
    task = runs["finetune"].task
    if task in registry.TASKS and registry.TASKS[task].parent:
        raise BortError(f"task={task} is a diagnostic set, which nothing is fine-tuned on")
    if task != "docstrings":  # which takes minutes to make, and cannot be wrong
        from bort.finetuning.heads import arrange_texts
        from bort.finetuning.recipe import check_settings_of_task

        tuning = runs["finetune"]
        described, rows = load_task(task, tuning.data)
        described = arrange_texts(described, tuning.head, tuning.data.overlap)
        check_settings_of_task(tuning, described, rows)
    if runs["finetune"].data.unlabelled:
        check_pool_file(runs["finetune"].data)
    for run in runs.values():
        if run.teacher.name:
            find_model(run.teacher.name)
