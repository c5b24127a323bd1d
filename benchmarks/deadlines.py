"""Runs the stages of a long benchmark one after another, each with a deadline; gpu.py uses it.

A stage is a process of its own. It writes what it has found as soon as it has it, to its own file;
what is here only sees to it that the next stage starts in time, whatever this one does. Nothing
heavy is imported, so that the time is the stages'.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bort.console import clock
from bort.errors import BortError
from bort.files.writing import write_json

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
RESERVE = 0.03  # the share of a budget that is left to the report
LEAST = 3.0  # seconds; a stage with less is not started
SECOND_TRY = 0.4  # the share of a stage's time from which on a second try is worth it
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Stage:
    """A stage, and its share of the time.

    seconds: what it takes where there is time for all. least: what it is given in any case, because
    the others need it. beside: a stage that works at the same time and ends with this one.
    fallback: words that are added to its command where its first try has failed early enough for a
    second one.
    """

    name: str
    seconds: float
    least: float = 0.0
    beside: str | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class Record:
    """How a stage ended: `done`, `failed`, `late` (its time was up), `stopped` (from outside)."""

    state: str
    seconds: float
    message: str = ""

    def to_json(self) -> dict:
        """Return what the record's file holds."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path, name: str) -> "Record | None":
        """Read the record of a stage; None where it has none."""
        path = locate_record(folder, name)
        return cls(**json.loads(path.read_text())) if path.exists() else None


def locate_record(folder: Path, name: str) -> Path:
    """Return where the record of a stage is kept."""
    return folder / "records" / f"{name}.json"


def locate_log(folder: Path, name: str) -> Path:
    """Return where everything that a stage prints is kept."""
    return folder / "logs" / f"{name}.txt"


def read_duration(text: str) -> float:
    """Read a duration such as 15m, 9m30s or 90s; returns seconds.

    Raises BortError where it is none.
    """
    seconds, number = 0.0, ""
    for letter in text:
        if letter in UNITS and number:
            seconds, number = seconds + float(number) * UNITS[letter], ""
        elif letter.isdecimal():
            number += letter
        else:
            number = "?"
            break
    if number or not seconds:
        raise BortError(f"budget={text} must be a duration, as in 15m, 9m30s or 90s")
    return seconds


class Stages:
    """Stages that share a budget of time.

    folder: where records and logs are kept; a stage that is done there is not run again. command:
    returns the command of a stage (its name, and its seconds). environment: of their processes.
    report: called after every stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        folder: Path,
        command: Callable[[str, float], list[str]],
        environment: dict[str, str],
        report: Callable[[], None],
    ):
        self.stages, self.folder = stages, folder
        self.command, self.environment, self.report = command, environment, report
        self.every_s = 10.0  # seconds between two lines of progress
        self.end = 0.0  # by the monotonic clock

    def run(self, seconds: float) -> None:
        """Run all stages that are not done within these seconds.

        Time that a stage leaves goes to those behind it. SIGTERM and Ctrl-C end the stage in
        progress, report what there is, and raise SystemExit (143 or 130).
        """
        self.end = time.monotonic() + seconds - min(GRACE, RESERVE * seconds)
        remaining = [stage for stage in self.stages if not self._is_done(stage.name)]
        try:
            with _answering_signals():
                while remaining:
                    left = self.end - time.monotonic()
                    stage, *later = remaining
                    share = left * stage.seconds / sum(other.seconds for other in remaining)
                    self._run_stage(stage, min(left, max(share, stage.least)))
                    self.report()
                    remaining = later
        finally:
            self.report()

    def _is_done(self, name: str) -> bool:
        record = Record.read(self.folder, name)
        return record is not None and record.state == "done"

    def _run_stage(self, stage: Stage, seconds: float) -> None:
        """Run a stage, and once more by its other command where the first try fails early."""
        start = time.monotonic()
        if seconds < LEAST:
            self._note(stage.name, Record("late", 0.0, f"{seconds:.0f} s were left for it"))
            return
        record = self._try_stage(stage, [], start, seconds)
        if record.state == "failed" and stage.fallback:
            left = start + seconds - time.monotonic()
            if left > SECOND_TRY * seconds:
                again = self._try_stage(stage, [stage.fallback], start, seconds)
                message = f"second try, {stage.fallback}, after: {record.message}"
                record = Record(again.state, again.seconds, f"{again.message} ({message})".strip())
        self._note(stage.name, record)

    def _try_stage(self, stage: Stage, words: list[str], start: float, seconds: float) -> Record:
        left = start + seconds - time.monotonic()
        processes = {stage.name: self._start(stage.name, [*self.command(stage.name, left), *words])}
        if stage.beside:
            processes[stage.beside] = self._start(stage.beside, self.command(stage.beside, left))
        running = []
        try:
            self._watch(stage.name, processes[stage.name], start, start + seconds)
            running = [name for name, process in processes.items() if process.poll() is None]
        except SystemExit as signaled:
            record = Record("stopped", time.monotonic() - start, f"by a signal ({signaled})")
            self._note(stage.name, record)
            raise
        finally:
            for process in processes.values():
                _end(process)
        records = {
            name: self._judge(name, process.returncode, start, name in running)
            for name, process in processes.items()
        }
        if stage.beside:
            self._note(stage.beside, records[stage.beside])
        return records[stage.name]

    def _start(self, name: str, command: list[str]) -> subprocess.Popen:
        log = locate_log(self.folder, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # its own processes end with it
            )

    def _watch(self, name: str, process: subprocess.Popen, start: float, end: float) -> None:
        """Wait for the end of a process or of its time, and report how far it is."""
        shown = start
        while process.poll() is None and (now := time.monotonic()) < end:
            if now - shown >= self.every_s:
                shown = now
                left = f"{clock(end - now)} left, {clock(self.end - now)} of all"
                print(f"{name}: {left} · {read_last_line(self.folder, name)}", flush=True)
                self.report()
            time.sleep(min(0.2, max(0.0, end - now)))

    def _judge(self, name: str, code: int, start: float, is_late: bool) -> Record:
        """Judge by its exit code how the process of a stage ended."""
        seconds = time.monotonic() - start
        if is_late:
            return Record("late", seconds, f"stopped at its deadline: {self._quote(name)}")
        if code:
            return Record("failed", seconds, f"exit code {code}: {self._quote(name)}")
        return Record("done", seconds)

    def _quote(self, name: str) -> str:
        return read_last_line(self.folder, name) or "it printed nothing"

    def _note(self, name: str, record: Record) -> None:
        write_json(locate_record(self.folder, name), record.to_json())
        print(f"{name}: {record.state}, {clock(record.seconds)} {record.message}", flush=True)


def read_last_line(folder: Path, name: str, longest: int = 150) -> str:
    """Read the last line that a stage has printed."""
    log = locate_log(folder, name)
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    return next((line.strip()[:longest] for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it has started, by SIGTERM and then by SIGKILL."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
    try:  # what it left behind
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def _answering_signals() -> Iterator[None]:
    """Raise SystemExit for SIGTERM and Ctrl-C, so that what is running is ended first."""

    def answer(number: int, frame) -> None:
        for later in EXIT_CODES:  # nothing may interrupt the ending
            signal.signal(later, signal.SIG_IGN)
        raise SystemExit(EXIT_CODES[number])

    before = {number: signal.signal(number, answer) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
