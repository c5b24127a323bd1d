"""Running the stages of a pipeline that are not finished yet, one after another."""

import hashlib
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from bort import console
from bort.errors import BortError
from bort.files import run_files
from bort.files.untrusted import read_json
from bort.files.writing import write_json
from bort.pipeline.plan import Stage, choose_name, plan_stages
from bort.pipeline.process import follow
from bort.pipeline.settings import PipelineConfig
from bort.runs.folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRecord:
    """What is known of a stage that was begun."""

    command: list[str]  # after the interpreter
    reads: dict[str, str]  # the files that it reads, and the digest of each
    finished: bool = False
    seconds: float = 0.0  # of all its attempts

    def to_json(self) -> dict[str, Any]:
        """The record as stages.json holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Make a record of the values of `to_json`; what is missing was not begun."""
        return cls(
            command=record.get("command", []),
            reads=record.get("reads", {}),
            finished=record.get("finished", False),
            seconds=record.get("seconds", 0.0),
        )


def main(settings: PipelineConfig) -> None:
    """Run the stages that are not finished; exits with the code of the one that fails."""
    stages = plan_stages(settings)
    name = settings.name or choose_name(settings)
    if settings.dry_run:
        from bort.pipeline.dry_run import show  # torch, not for --help

        check_folder(Path("runs", "pipeline", name))
        show(stages, read_records(Path("runs", "pipeline", name)))
        return
    again = console.typed(f"-m bort.pipeline {shlex.join(sys.argv[1:])}")
    if code := run(stages, Path("runs", "pipeline", name), again):
        raise SystemExit(code)


def run(stages: list[Stage], folder: Path, again: str) -> int:
    """Do what is not done yet, then write the report; return the exit code.

    folder: `runs/pipeline/NAME`; again: the command, for the report. A stage is finished when its
    command ended well, its result is there, and all that it read is still the same.
    """
    check_folder(folder)
    with RunFolder(folder).lock(wait=True) as lock:
        records = read_records(folder)
        for number, stage in enumerate(stages, 1):
            title = f"pipeline {number} of {len(stages)}"
            if code := _run_stage(stage, title, records, folder, lock):
                return code
        if not (folder / run_files.REPORT).exists():
            write_report(stages, folder, records, again)
    shipped = next(stage.folder for stage in stages if stage.key == "export")
    logger.info(f"  report    {folder / run_files.REPORT}")
    logger.info(f"  model     {shipped}   ({console.python()} {shipped}/predict.py 'a text')")
    return 0


def check_folder(folder: Path) -> None:
    """Raise BortError for a folder that holds something else than a pipeline."""
    if not (folder / run_files.STAGES).is_file() and run_files.list_foreign_names(folder):
        raise BortError(f"{folder} holds files but no pipeline of bort; use another name=")


def _run_stage(
    stage: Stage, title: str, records: dict[str, StageRecord], folder: Path, lock: int
) -> int:
    """Run a stage unless it is finished, and keep its record; return its exit code."""
    reads = {str(path): digest_file(path) for path in stage.reads}
    record = records.get(stage.key)
    if record and is_finished(stage, record, reads):
        spent = console.clock(record.seconds)
        logger.info(f"{title}: {stage.key} is finished ({spent}) → {stage.folder}")
        return 0
    (folder / run_files.REPORT).unlink(missing_ok=True)
    if record and record.reads != reads:
        _clear_run(stage)  # what it began was from another model
        record = None
    record = StageRecord(stage.command, reads, seconds=record.seconds if record else 0.0)
    records[stage.key] = record
    _write_records(folder, records)
    logger.info(_describe_time(records))
    logger.info(f"{title}: {console.python()} {shlex.join(stage.command)}")
    start = time.monotonic()
    code = follow([sys.executable, *stage.command], lock)
    seconds = record.seconds + time.monotonic() - start
    records[stage.key] = replace(record, finished=code == 0, seconds=seconds)
    if 0 < code < 128 and not stage.folder.exists():  # a mistake, before anything began
        del records[stage.key]
    _write_records(folder, records)
    if code:
        _print_end(title, stage, code)
    return code


def is_finished(stage: Stage, record: StageRecord, reads: dict[str, str]) -> bool:
    """Say whether a stage ended well, with the same words and files, and its result is there."""
    same = record.command == stage.command and record.reads == reads
    return same and record.finished and stage.result.exists()


def digest_file(path: Path) -> str:
    """Return what tells the content of a file from any other: 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_records(folder: Path) -> dict[str, StageRecord]:
    """Read the records of a pipeline's stages by their keys."""
    path = folder / run_files.STAGES
    records = read_json(path, "remove it: finished runs stay") if path.exists() else {}
    return {key: StageRecord.from_json(record) for key, record in records.items()}


def _write_records(folder: Path, records: dict[str, StageRecord]) -> None:
    """Keep the records; of a first stage that never began nothing is kept."""
    path = folder / run_files.STAGES
    if records:
        write_json(path, {key: record.to_json() for key, record in records.items()})
    else:
        path.unlink()


def _clear_run(stage: Stage) -> None:
    """Remove what a training wrote into its folder, where it was made from another model."""
    if stage.key in ("pretrain", "finetune") and stage.folder.exists():
        logger.info(f"{stage.folder} was made from what has changed since; it is made anew")
        with RunFolder(stage.folder).lock(wait=True):
            run_files.clear_run(stage.folder)


def _describe_time(records: dict[str, StageRecord]) -> str:
    """Return the line that says how long the stages took so far."""
    spent = {key: record.seconds for key, record in records.items() if record.seconds}
    parts = ", ".join(f"{key} {console.clock(seconds)}" for key, seconds in spent.items())
    line = f"pipeline: {console.clock(sum(spent.values()))} so far"
    return f"{line} ({parts})" if parts else line


def _print_end(title: str, stage: Stage, code: int) -> None:
    """Say on standard error how a stage ended."""
    if code in (129, 130, 143):
        line = f"stopped in {stage.key}; the same command resumes from there"
    else:
        line = f"{stage.key} ended with {code}; once that is fixed, the same command resumes"
    print(f"{title}: {line}", file=sys.stderr, flush=True)


def write_report(
    stages: list[Stage], folder: Path, records: dict[str, StageRecord], again: str
) -> None:
    """Write report.html, and print what it says at a glance."""
    # Here, since they load torch: no other process runs now.
    from bort import html
    from bort.pipeline import report

    folders = {stage.key: stage.folder for stage in stages}
    seconds = {stage.key: records[stage.key].seconds for stage in stages}
    commands = [again, "", "# stage by stage"]
    commands += [f"{console.python()} {shlex.join(stage.command)}" for stage in stages]
    overview = report.summarize(folders, seconds)
    parts = report.parts(folder.name, overview, folders, commands)
    html.write_page(folder / run_files.REPORT, f"bort pipeline {folder.name}", parts)
    width = max(map(len, overview)) + 2
    for title, value in overview.items():
        logger.info(f"  {title:<{width}}{value}")
    for line in report.list_doubts(folders):
        logger.warning(line.removeprefix("doubt: "))
