"""Bort from Python: what `bort train experiment=…` does, in this process, as `bort.run`.

A mistake raises BortError with the line that the command would print. What a training changes in
its process (seeds, environment, warnings, log levels, signals) is as before when it returns.
"""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bort import shell
from bort.cli import jobs
from bort.cli.composing import compose_command
from bort.config.overrides import to_overrides
from bort.console import calling_from_python, show_log
from bort.errors import BortError
from bort.files import locks
from bort.files.cache import locate_cache
from bort.files.rows import name_rows, store_rows
from bort.runs.summary import RunSummary

if TYPE_CHECKING:
    from bort.predictor import Predictor


@dataclass(frozen=True)
class RunResult:
    """A run that is finished: where it is, and the content of its summary.json.

    What most runs have is an attribute of the summary too: `summary.loss` is `summary["val/loss"]`.
    """

    folder: Path
    summary: RunSummary

    def model(self) -> "Predictor":
        """Load the model of the run, for `.predict([...])`; its `.model` is the PyTorch module.

        Raises BortError where the run has none, or one that takes more than texts.
        """
        from bort.predictor import load

        return load(self.folder)


def run(
    experiment: str,
    *overrides: str,
    config_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> RunResult:
    """Do what `bort train experiment=EXPERIMENT …` does, and return its result.

    overrides: settings as on the command line, `"optim.lr=1e-3"`. settings: others as Python has
    them, `seed=1`, `trainer={"max_steps": 100}`, `arch=Arch(2, 4, 128, 512)`. config_dir: a folder
    of further configurations; by default `conf`, where it has a `local` in it. The same settings
    with the same `name` resume a run, or return at once when it is finished. After a dry run the
    summary is empty.

    Raises BortError for a mistake, and KeyboardInterrupt when the training was interrupted: after a
    checkpoint, or at once by the second Ctrl-C.
    """
    words = [f"experiment={experiment}", *overrides, *to_overrides(settings)]
    folder = None
    try:
        with (
            calling_from_python(),
            _restored_process(),
            compose_command("train", words, config_dir) as (cfg, hydra),
        ):
            folder = jobs.locate_folder(cfg, hydra)
            summary = jobs.run_job(cfg, hydra, folder)
    except SystemExit as stopped:  # after a checkpoint
        raise _to_exception(stopped, folder) from None
    except BortError:
        raise
    except Exception as error:
        if (line := shell.mistake(error)) is None:
            raise
        raise BortError(line) from error
    finally:
        locks.release()
    return RunResult(folder, summary or RunSummary({}))


def finetune(
    *overrides: str,
    model: str | os.PathLike | RunResult,
    train: Any,
    val: Any = None,
    test: Any = None,
    text: str | list[str] = "text",
    label: str | list[str] = "label",
    **settings: Any,
) -> RunResult:
    """Fine-tune a model on rows of your own, as `bort train experiment=finetune` does on files.

    model: a run, its folder, a Hugging Face folder or a hub name. train, val, test: each a path, a
    list of dicts, a pandas DataFrame or a datasets.Dataset; without `val` a tenth of the training
    rows is held out. text, label: the columns; two columns of text are a pair, and several of 0 and
    1 are labels of which a row may have any number, as is a column of lists. overrides, settings:
    as of `run`. Rows in memory are kept as a file beside the corpora, by which the run resumes.

    Raises BortError for a mistake, with the row where it is one of the rows.
    """
    columns = [text] if isinstance(text, str) else list(text)
    data: dict[str, Any] = {"text": text, "label": label}
    stored: dict[Path, str] = {}
    for split, rows in {"train": train, "val": val, "test": test}.items():
        if rows is not None:
            path = store_rows(rows, split, columns, label, locate_cache() / "rows")
            data[split] = str(path)
            if not isinstance(rows, str | os.PathLike):
                stored[path] = split
    source = model.folder if isinstance(model, RunResult) else model
    rows_and_model = {"model": str(source), "data": data}
    try:
        return run("finetune", *to_overrides(rows_and_model), *overrides, **settings)
    except BortError as error:
        line = str(error)
        for path, split in stored.items():
            line = name_rows(line, path, split)
        raise type(error)(line) from error.__cause__


def _to_exception(stopped: SystemExit, folder: Path | None) -> BaseException:
    """What a notebook or a program gets to see of a training that a signal has stopped."""
    name = "" if folder is None else f"; the same call with name='{folder.name}' resumes it"
    if stopped.code == 128 + signal.SIGINT:
        return KeyboardInterrupt(f"stopped{name}")
    if stopped.code == 128 + signal.SIGTERM:
        signal.raise_signal(signal.SIGTERM)  # the program's own answer to it; usually its end
    return BortError(f"stopped{name}")


# ------------------------------------------------------------------------------------- process

LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


@contextmanager
def _restored_process() -> Iterator[None]:
    """Leave this process as it was: its generators, environment, warnings, loggers and signals."""
    environment = dict(os.environ)
    state = random.getstate()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    log = logging.getLogger("bort")
    log_state = (log.level, log.propagate, list(log.handlers))
    levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    if not log.handlers:  # otherwise the program says itself where the lines go
        show_log()
    try:
        with warnings.catch_warnings(), _restored_libraries():
            yield
    finally:
        log.setLevel(log_state[0])
        log.propagate, log.handlers[:] = log_state[1:]
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        random.setstate(state)
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def _restored_libraries() -> Iterator[None]:
    """Leave NumPy and PyTorch as they were; a typing mistake does not cost their import."""
    with ExitStack() as stack:
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        if (torch := sys.modules.get("torch")) is not None:
            devices = range(torch.cuda.device_count())
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            precision = torch.get_float32_matmul_precision()
            stack.callback(torch.set_float32_matmul_precision, precision)
            is_deterministic = torch.are_deterministic_algorithms_enabled()
            stack.callback(torch.use_deterministic_algorithms, is_deterministic)
        yield
