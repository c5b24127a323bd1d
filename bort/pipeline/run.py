"""The stages of a pipeline: what each is told, what is finished already, and how they are run."""

import ctypes
import hashlib
import importlib.util
import logging
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

from hydra import compose, initialize_config_dir

from bort import console
from bort.benchmark import run as benchmark
from bort.config.command_line import parse_command
from bort.config.compose import CONF, parse_settings
from bort.config.data import DataConfig
from bort.config.search import BenchmarkConfig, SearchRunConfig, register
from bort.config.train import TrainConfig
from bort.config.unused import LATENCY_RULES, RULES, refuse_unused
from bort.errors import BortError
from bort.export.settings import ExportConfig, TaskDataConfig
from bort.files import run_files
from bort.files.untrusted import read_json
from bort.files.writing import write_json
from bort.pipeline.settings import STAGES, PipelineConfig
from bort.runs.folder import RunFolder
from bort.tasks import registry
from bort.tasks.reading import load_task
from bort.text.sources import open_text

logger = logging.getLogger(__name__)

COLUMNS = ("val", "test", "text", "label", "kind")  # of data: what describes data.train
# What the pipeline gives to its stages itself.
OWN = ("name", "output_dir", "experiment", "task", "job", "arch", "arch_file", "model", "models")
OWN += ("format", "out", "push", "dry_run", "hydra")


@dataclass(frozen=True)
class Stage:
    """A command; it is done again when its words or the files that it reads have changed."""

    key: str
    command: list[str]  # after the interpreter
    folder: Path  # what it leaves
    result: Path  # a file in there that is written near the end
    reads: tuple[Path, ...] = ()


# ------------------------------------------------------------------------------------ the plan


def plan_stages(settings: PipelineConfig) -> list[Stage]:
    """The stages with their commands; raises BortError for a mistake in any of them, and for text
    or a task that cannot be read."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise BortError(f"int8 export needs {package}; pip install onnx onnxscript onnxruntime")
    registry.check_task_name(settings.task)
    name = settings.name or default_name(settings)
    extra = {stage: _words(stage, getattr(settings, stage)) for stage in STAGES}
    text, task = _text(settings), _task(settings)
    words = {
        "search": [*text, *extra["search"], f"name={name}"],
        "pretrain": ["experiment=kd_pretrain", *text, *extra["pretrain"], f"name={name}"],
        "finetune": ["experiment=finetune", f"model=runs/kd_pretrain/{name}", *task]
        + [*extra["finetune"], f"name={name}"],
    }
    parsed: dict[str, TrainConfig] = {}
    register(SearchRunConfig, BenchmarkConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for stage, own in words.items():
            schema, base = (
                (SearchRunConfig, "search") if stage == "search" else (TrainConfig, "train")
            )
            cfg = compose(base, [*own, "output_dir=runs"])  # the real one is Hydra's to tell
            parsed[stage] = parse_settings(cfg, schema)
            refuse_unused(
                parsed[stage], own, (*RULES, *(LATENCY_RULES if stage == "search" else ()))
            )
        measured = _benchmark(
            name, parsed["pretrain"], parsed["finetune"].data.length, extra["benchmark"]
        )
        benchmark.named(parse_settings(compose("benchmark", measured), BenchmarkConfig).archs)
    _check_data(parsed)
    words["pretrain"].insert(1, f"arch_file=runs/search/{name}/optimum.yaml")
    exported = _export(name, parsed["finetune"], extra["export"])
    parse_command(ExportConfig, exported)
    return _stages(name, words | {"export": exported, "benchmark": measured})


def _stages(name: str, words: dict[str, list[str]]) -> list[Stage]:
    places = ("search", "kd_pretrain", "finetune", "export", "benchmark")
    search, student, tuned, shipped, timed = (Path("runs", place, name) for place in places)
    optimum, table = search / "optimum.yaml", timed.with_suffix(".csv")
    weights = [folder / "model" / "model.safetensors" for folder in (student, tuned)]
    onnx = shipped / "model.onnx"
    programs = [_program("search.py"), _program("train.py"), _program("train.py")]
    programs += [["-m", "bort.export"], ["-m", "bort.benchmark"]]
    folders = (search, student, tuned, shipped, table)
    results = (optimum, *weights, onnx, table)
    reads = ((), (optimum,), (weights[0],), (weights[1],), (weights[1], onnx))
    commands = [[*program, *words[key]] for program, key in zip(programs, STAGES, strict=True)]
    return [Stage(*each) for each in zip(STAGES, commands, folders, results, reads, strict=True)]


def _program(name: str) -> list[str]:
    """search.py or train.py of this folder, of the checkout that bort is in, or of the package."""
    for path in (Path(name), Path(__file__).parents[2] / name):
        if path.is_file():
            return [str(path)]
    return ["-m", "bort", name.removesuffix(".py")]


def default_name(settings: PipelineConfig) -> str:
    """Return `pipeline`, or a name after the user's files: another text is another run."""
    sources = [path for path in (settings.data.path, settings.data.train) if path]
    stems = [Path(source).stem for source in sources] or (settings.task or "").split("/")[1:]
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "-".join(stems)) or "pipeline"


def _words(stage: str, value: str | None) -> list[str]:
    """The further overrides of one stage."""
    try:
        found = shlex.split(value or "")
    except ValueError as error:
        raise BortError(f"{stage}='{value}' cannot be read ({error}); mend its quotes") from None
    for word in found:
        key, sign, _ = word.partition("=")
        if not sign:
            raise BortError(f"{stage}='{value}': {word} is not key=value")
        if key.lstrip("+~").split(".")[0] in OWN:
            raise BortError(f"{stage}='{value}': the pipeline sets {key} itself; leave it out")
    return found


def _quoted(key: str, value: str) -> str:
    """key=value as Hydra reads it back, whatever signs a file name has."""
    plain = re.fullmatch(r"[A-Za-z0-9_./:+-]+|\[.*\]|'.*'|\".*\"", value)
    return f"{key}={value}" if plain else f"{key}='" + value.replace("'", "\\'") + "'"


def _text(settings: PipelineConfig) -> list[str]:
    """What search and pre-training read. data.text is the task's column when there is a task."""
    if not settings.data.path:
        return []
    keys = ["path", "sample_by"] if settings.data.train else ["path", "sample_by", "text"]
    return ["data=text", *_data_words(settings, keys)]


def _task(settings: PipelineConfig) -> list[str]:
    """The task of the fine-tuning, and where its rows are."""
    task = "custom" if settings.data.train else settings.task
    keys = ["train", *COLUMNS] if settings.data.train else ["root"]
    words = _data_words(settings, keys)
    return [f"task={task}", *words] if task else words


def _data_words(settings: PipelineConfig, keys: list[str]) -> list[str]:
    """These keys of data, where they are given, as words of a command line."""
    values = {key: getattr(settings.data, key) for key in keys}
    return [_quoted(f"data.{key}", value) for key, value in values.items() if value]


def _export(name: str, tuned: TrainConfig, extra: list[str]) -> list[str]:
    """bort.export's arguments: the task as the model was fine-tuned on it, for the score."""
    usual, words = DataConfig(), []
    for key in (item.name for item in fields(TaskDataConfig)):
        value = getattr(tuned.data, key)
        if value != getattr(usual, key):
            value = f"[{','.join(value)}]" if isinstance(value, list) else value
            words.append(f"data.{key}={value}")
    target = [f"model=runs/finetune/{name}", "format=onnx-int8", f"out=runs/export/{name}"]
    return [*target, f"task={tuned.task}", *words, *extra]


def _benchmark(name: str, student: TrainConfig, longest: int, extra: list[str]) -> list[str]:
    """bort.benchmark's arguments: both forms of the model beside BERT-base and the teacher.

    longest: tokens that the fine-tuned model takes.
    """
    archs = ["bert_base"]
    if student.teacher.name is None:
        named = benchmark.named(sorted(path.stem for path in (CONF / "arch").glob("*.yaml")))
        archs += [named[arch] for arch in [student.teacher.arch] if arch in named]
    words = [f"models=[runs/finetune/{name},runs/export/{name}]", f"archs=[{','.join(archs)}]"]
    words += ["engines=[measured]", "batches=[1,8]", f"lengths=[{min(128, longest)}]"]
    given = {word.partition("=")[0] for word in extra}
    kept = [word for word in words if word.partition("=")[0] not in given]
    return [*kept, *extra, f"out=runs/benchmark/{name}.csv"]


def _check_data(parsed: dict[str, TrainConfig]) -> None:
    """Read the task and look for the text now: not after ten minutes of search."""
    for stage in ("search", "pretrain"):
        if parsed[stage].data.source == "text":
            open_text(parsed[stage].data)
    task = parsed["finetune"].task
    if task in registry.TASKS and registry.TASKS[task].parent:
        raise BortError(f"task={task} is a diagnostic set, which nothing is fine-tuned on")
    if task != "docstrings":  # which takes minutes to make, and cannot be wrong
        load_task(task, parsed["finetune"].data)


# ------------------------------------------------------------------------------------ running it


def run(stages: list[Stage], folder: Path, again: str) -> int:
    """Do what is not done yet, then write the report; returns the exit code.

    folder: `runs/pipeline/NAME`; again: the command, for the report. A stage is finished when its
    command ended well, its result is there, and all that it read is still the same.
    """
    if not (folder / "stages.json").is_file() and run_files.foreign_names(folder):
        raise BortError(f"{folder} holds files but no pipeline of bort; use another name=")
    with RunFolder(folder).lock(wait=True) as lock:
        records = _records(folder)
        for number, stage in enumerate(stages, 1):
            title = f"pipeline {number} of {len(stages)}"
            if code := _do(stage, title, records, folder, lock):
                return code
        if not (folder / "report.html").exists():
            _report(stages, folder, records, again)
    shipped = stages[STAGES.index("export")].folder
    logger.info(f"  report    {folder}/report.html")
    logger.info(f"  model     {shipped}   ({console.python()} {shipped}/predict.py 'a text')")
    return 0


def _do(stage: Stage, title: str, records: dict[str, dict], folder: Path, lock: int) -> int:
    """Run a stage unless it is finished, and keep its record; returns its exit code."""
    reads = {str(path): digest(path) for path in stage.reads}
    record = records.setdefault(stage.key, {})
    if finished(stage, record, reads):
        spent = console.clock(record["seconds"])
        logger.info(f"{title}: {stage.key} is finished ({spent}) → {stage.folder}")
        return 0
    (folder / "report.html").unlink(missing_ok=True)
    if record.get("reads", reads) != reads:
        _clear(stage)  # what it began was from another model
        record.clear()
    record |= {"command": stage.command, "reads": reads, "finished": False}
    record.setdefault("seconds", 0.0)
    write_json(folder / "stages.json", records)
    logger.info(_so_far(records))
    logger.info(f"{title}: {console.python()} {shlex.join(stage.command)}")
    start = time.monotonic()
    code = follow([sys.executable, *stage.command], lock)
    record["seconds"] += time.monotonic() - start
    record["finished"] = code == 0
    if 0 < code < 128 and not stage.folder.exists():  # a mistake, before anything began
        del records[stage.key]
    _keep(folder, records)
    if code:
        _say_end(title, stage, code)
    return code


def finished(stage: Stage, record: dict, reads: dict[str, str]) -> bool:
    same = record.get("command") == stage.command and record.get("reads") == reads
    return same and record["finished"] and stage.result.exists()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _records(folder: Path) -> dict[str, dict]:
    path = folder / "stages.json"
    return read_json(path, "remove it: finished runs stay") if path.exists() else {}


def _keep(folder: Path, records: dict[str, dict]) -> None:
    """Of a first stage that never began nothing is kept."""
    if records:
        write_json(folder / "stages.json", records)
    else:
        (folder / "stages.json").unlink()


def _clear(stage: Stage) -> None:
    if stage.key in ("pretrain", "finetune") and stage.folder.exists():
        logger.info(f"{stage.folder} was made from what has changed since; it is made anew")
        with RunFolder(stage.folder).lock(wait=True):
            run_files.clear_run(stage.folder)


def _so_far(records: dict[str, dict]) -> str:
    spent = {key: record["seconds"] for key, record in records.items() if record.get("seconds")}
    parts = ", ".join(f"{key} {console.clock(seconds)}" for key, seconds in spent.items())
    return f"pipeline: {console.clock(sum(spent.values()))} so far" + (
        f" ({parts})" if parts else ""
    )


def follow(command: list[str], lock: int) -> int:
    """Run a command and hand signals on to it, each once; returns its exit code.

    It has a process group of its own: a terminal would send it a second Ctrl-C, which stops a
    training at once. lock: a file descriptor that stays open, and locked, as long as it runs.
    """
    process, sent = None, []

    def forward(number: int, _) -> None:
        sent.append(number)
        if process:
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, forward) for number in heard}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        if sent:  # before there was anyone to send it to
            process.send_signal(sent[0])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if sent:
        return 128 + sent[0]
    return 128 - code if code < 0 else code


def _end_with_parent() -> None:
    """SIGTERM to this process when its parent is killed, so that a training saves and ends."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _say_end(title: str, stage: Stage, code: int) -> None:
    if code in (129, 130, 143):
        line = f"stopped in {stage.key}; the same command goes on from there"
    else:
        line = f"{stage.key} ended with {code}; once that is mended, the same command goes on"
    print(f"{title}: {line}", file=sys.stderr, flush=True)


def _report(stages: list[Stage], folder: Path, records: dict[str, dict], again: str) -> None:
    # Here, since they load torch: no other process runs now.
    from bort import html
    from bort.pipeline import report as pipeline_page

    folders = {stage.key: stage.folder for stage in stages}
    seconds = {stage.key: records[stage.key]["seconds"] for stage in stages}
    commands = [again, "", "# stage by stage"]
    commands += [f"{console.python()} {shlex.join(stage.command)}" for stage in stages]
    found = pipeline_page.overview(folders, seconds)
    parts = pipeline_page.parts(folder.name, found, folders, commands)
    html.write(folder / "report.html", f"bort pipeline {folder.name}", parts)
    width = max(map(len, found)) + 2
    for what, value in found.items():
        logger.info(f"  {what:<{width}}{value}")
    for line in pipeline_page.doubts(folders):
        logger.warning(f"{line.removeprefix('doubt: ')}")


def main(settings: PipelineConfig) -> None:
    """Run the stages that are not finished; exits with the code of the one that fails."""
    stages = plan_stages(settings)
    name = settings.name or default_name(settings)
    again = console.typed(f"-m bort.pipeline {shlex.join(sys.argv[1:])}")
    if code := run(stages, Path("runs", "pipeline", name), again):
        raise SystemExit(code)
