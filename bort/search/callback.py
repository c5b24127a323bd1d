"""Between Hydra and bort: what the sweeper of search.py starts, and the callback that gathers.

`OptimumCallback` ends every sweep, also `python train.py -m …`: it reads what the jobs left on the
disk, so it works with any launcher. Every command loads this module: what a sweep alone needs is
imported where it is needed.
"""

import atexit
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bort import shell
from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.config.unused import LATENCY_RULES, RULES, refuse_unused
from bort.console import counted
from bort.errors import BortError
from bort.files.run_files import (
    HYDRA_CONFIG,
    HYDRA_OVERRIDES,
    SUMMARY,
    SWEEP_RECORD,
    TRIAL,
    list_foreign_names,
    read_run_settings,
)
from bort.runs.failures import take_failures
from bort.runs.folder import SHARE, add_missing_settings
from bort.runs.names import reserve_name

logger = logging.getLogger(__name__)

# Raised by launchers when a worker is gone: killed by the system for its memory, by a batch queue.
DEAD = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "FailedJobError")


def open_searches(
    config: DictConfig, arguments: list[str], sweeps: list[str]
) -> Iterator[AbstractContextManager[Any]]:
    """Prepare the searches of a composed configuration, one after the other: each a context.

    There is one, or one for each number in grid.vocab_size. arguments: the user's overrides;
    sweeps: those of them that would be sweeps of their own.
    """
    if sweeps:
        raise BortError(
            f"search.py chooses the points itself: instead of {sweeps[0]} set grid=, as in "
            "grid.depth=[2,4]"
        )
    for argument in arguments:
        if argument.split("=")[0].lstrip("+~").split(".")[0] in ("arch", "arch_file"):
            raise BortError(f"{argument}: search.py chooses the architecture; set grid= instead")
    if not config.grid.get("vocab_size"):
        yield open_search(config, arguments)
        return
    cfg = config.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    run = parse_settings(cfg, SearchRunConfig)
    refuse_unused(run, arguments, (*RULES, *LATENCY_RULES))
    folder = Path(run.output_dir)
    with shell.loading(shell.program()):  # torch, only now
        from bort.search import vocabularies

    vocabularies.check_vocabularies(run, folder)
    for size in run.grid.vocab_size:
        yield open_search(*vocabularies.compose_search(config, arguments, size))


@contextmanager
def open_search(config: DictConfig, arguments: list[str]) -> Iterator[Any]:
    """Prepare the search of a composed configuration; None when there is nothing to train.

    arguments: the user's overrides.
    """
    cfg = config.copy()
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
    arguments = [*arguments, *take_older_aim(cfg, arguments)]
    run = parse_settings(cfg, SearchRunConfig)
    refuse_unused(run, arguments, (*RULES, *LATENCY_RULES))
    folder = Path(run.output_dir)
    count = len(run.grid.points()[0])
    logger.info(
        f"search: {counted(count, 'candidate')}, n = {counted(run.search.n, 'step')} → {folder}"
    )
    with shell.loading(shell.program()):  # torch, only now
        from bort.search import dry_run, optimum
        from bort.search import sweep as search

    if run.dry_run:
        dry_run.show(run, folder)
        yield None
        return
    if optimum.is_over(run, folder):  # then `OptimumCallback` says again what it found
        yield None
        return
    record = {
        HYDRA_CONFIG: OmegaConf.to_yaml(cfg, resolve=True),
        HYDRA_OVERRIDES: OmegaConf.to_yaml(hydra.overrides.task),
    }
    with search.open_sweep(run, folder, record) as sweep:
        # the name may hold the time of day, which is another one in another process
        sweep.arguments = [*arguments, f"name={run.name}"]
        yield sweep


def take_older_aim(cfg: DictConfig, arguments: list[str]) -> list[str]:
    """Take the aim of an older version's search in the folder, so that the same command resumes it.

    Its default was the largest W, and by error alone it had no budget unless one was given. Returns
    the words by which its jobs take it, too. What the user's overrides name stays.
    """
    record = read_run_settings(Path(cfg.output_dir)) if cfg.resume else None
    if record is None or SHARE in record or record["job"] != "search":
        return []
    named = {word.split("=")[0].lstrip("+~") for word in arguments}
    older, words = add_missing_settings(record), []
    for key in ("search.objective", SHARE):
        if key not in named and older[key] is not None:
            OmegaConf.update(cfg, key, older[key])
            words.append(f"{key}={older[key]}")
    return words


def launch(launcher: Any, overrides: list[list[str]], first: int, search: Any, batch: list) -> None:
    """Run jobs and take their records; a worker that dies is its candidate's failure, not ours."""
    try:
        returned = launcher.launch(overrides, initial_job_idx=first)
    except Exception as error:
        if type(error).__name__ not in DEAD:
            raise
        if len(batch) == 1:
            search.collect(batch, died="its process died; out of memory?")
            return
        for job, words in zip(batch, overrides, strict=True):  # one that runs alone is the one
            if not (search.folder / job.folder / TRIAL).exists():
                launch(launcher, [[*words, "search.parallel=1"]], first, search, [job])
        return
    for job in returned:
        if job.status is JobStatus.FAILED:
            raise job._return_value  # what a candidate can be blamed for is a record, not this
    search.collect(batch)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds files, but neither Hydra's record of a sweep nor a run."""
    names = list_foreign_names(folder)
    is_sweep = SWEEP_RECORD in names or any(read_run_settings(folder / name) for name in names)
    return bool(names) and not is_sweep


class OptimumCallback(Callback):
    """At the end of a sweep: a table of its runs, and the W-optimum where it can be told."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Give the sweep a name of its own."""
        try:
            _name_sweep(config)
        except OmegaConfBaseException:  # a mistake in a setting, which the sweeper tells next
            return

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write what the jobs on the disk amount to; a mistake ends the program with one line."""
        # Hydra makes a warning and exit code 0 of whatever is raised here, but for SystemExit.
        try:
            if config.get("dry_run"):
                return
            if config.job == "search" and config.grid.get("vocab_size"):
                from bort.search import vocabularies

                vocabularies.conclude_all(Path(config.output_dir), config.grid.vocab_size)
            elif config.job == "search":
                from bort.search import optimum

                optimum.conclude(Path(config.output_dir))
            else:
                from bort.search.sweep_table import write_sweep_table

                folder = Path(config.hydra.sweep.dir)
                failed = take_failures(folder)
                write_sweep_table(folder)
                ended = {path.parent.name for path in folder.glob(f"*/{SUMMARY}")}
                if failed and not ended - failed:
                    raise BortError("no job of the sweep ended well; the lines above say why")
        except Exception as error:
            if (line := shell.mistake(error)) is not None:
                shell.stop(1, f"{shell.program()}: {line}")
            traceback.print_exc()
            sys.exit(1)


def _name_sweep(config: DictConfig) -> None:
    """Give a sweep a name of its own when another one started in the same second."""
    words = config.hydra.overrides.task
    typed = OmegaConf.to_container(words, resolve=False)
    if config.job != "search" and (word := next(filter(_is_name_of_jobs, typed), None)):
        shell.stop(
            1,
            f"{shell.program()}: {word}: name= names the whole sweep, its jobs are numbered; "
            "give one",
        )
    folder = Path(config.hydra.sweep.dir)
    if config.job != "search" and is_foreign(folder):  # a search looks itself
        shell.stop(
            1, f"{shell.program()}: {folder} holds files but no sweep of bort; use another name="
        )
    with read_write(config), open_dict(config):
        if not any(word.startswith("name=") for word in words) and reserve_name(
            config, lambda: Path(config.hydra.sweep.dir)
        ):
            words.append(f"name={config.name}")  # for the jobs, which are composed anew
    atexit.register(_remove_empty, Path(config.hydra.sweep.dir))


def _is_name_of_jobs(word: str) -> bool:
    """Whether an override would give each job of a sweep the folder of a sweep of its own.

    That is a list of names, or a name that is made of another setting.
    """
    if not word.startswith("name="):
        return False
    override = OverridesParser.create().parse_override(word)
    return override.is_sweep_override() or re.search(r"\$\{[^:}]+\}", word) is not None


def _remove_empty(folder: Path) -> None:
    """Leave nothing behind of a sweep without a run: Hydra's record of it and empty folders go."""
    record = folder / SWEEP_RECORD
    try:
        jobs = [path for path in folder.iterdir() if path != record]
        for path in jobs:
            path.rmdir()
        record.unlink(missing_ok=True)
        for path in (folder, *list(folder.parents)[:2]):
            path.rmdir()
    except OSError:  # there is something in it, or it is no folder
        return
