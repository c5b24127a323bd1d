"""The loggers of a training: metrics.csv, TensorBoard and wandb.

Lightning's CSVLogger deletes the file when a run is resumed.
"""

import csv
import functools
import io
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from bort.config.trainer import LoggerConfig as LoggerConfig
from bort.errors import BortError, shorten
from bort.files.run_files import METRICS, PERFORMANCE
from bort.files.writing import replace_file
from bort.network import check_reachable, find_wandb_key

logger = logging.getLogger(__name__)

COLUMNS = [
    "step",
    "train/epoch",
    "train/loss",
    "train/kd_loss",
    "train/mlm_loss",
    "train/grad_norm",
    "train/lr",
    "val/loss",
    "val/mlm_accuracy",
    "val/kd_loss",
    "val/teacher_entropy",
]


class MetricsCsv(Logger):
    """Appends rows to `metrics.csv`, and measurements of time (`perf/…`) to `perf.csv`.

    They are separate so that two runs of the same settings write the same metrics.csv, byte for
    byte. Values for the step of the last row are added to that row.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.tables = {
            "metrics": Table(folder / METRICS, COLUMNS),
            "perf": Table(folder / PERFORMANCE, ["step"]),
        }

    @property
    def name(self) -> str:
        """The name of this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """An empty version, since a run folder has only one table."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args, **kwargs) -> None:
        """Do nothing, since the run folder already holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row to the table of its kind, or complete the last one."""
        rows: dict[str, dict] = {"metrics": {}, "perf": {}}
        for name, value in metrics.items():
            rows["perf" if name.startswith("perf/") else "metrics"][name] = value
        for table, row in rows.items():
            if row:
                self.tables[table].write(step or 0, row)

    def resume(self, step: int) -> None:
        """Drop the rows after `step`, which a run that resumes there writes again."""
        for table in self.tables.values():
            table.cut(step)


class Table:
    """A CSV file whose last row can still be completed."""

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.columns = path, list(columns)
        self.last: dict[str, Any] = {}
        self.offset = 0  # where the last row starts
        if path.exists():
            self.cut(math.inf)

    def write(self, step: int, row: dict[str, float]) -> None:
        """Write the row of a step, or complete it if it is the last one."""
        if not self.path.exists():
            self._rewrite([])
        if unknown := [name for name in row if name not in self.columns]:
            self.columns += unknown
            self._rewrite(self.rows())
        if self.last.get("step") == str(step):
            row = {**self.last, **_to_text(row)}
        else:
            row = {"step": str(step), **_to_text(row)}
            self.offset = self.path.stat().st_size
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(self._line(row))  # over the row it completes, so that a kill loses neither
            file.truncate()
        self.last = row

    def rows(self) -> list[dict[str, str]]:
        """Return all whole rows, without one that a kill left half-written at the end."""
        text = self.path.read_bytes().decode("utf-8", "replace")
        try:
            rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
            if any(not row["step"].isdecimal() or None in row for row in rows):
                raise ValueError("a row without a step")
        except (ValueError, KeyError, AttributeError, csv.Error) as error:
            line = (
                f"{self.path} is no table by step ({shorten(error)}); restore it or remove the run"
            )
            raise BortError(line) from None
        return rows

    def cut(self, step: float) -> None:
        """Drop the rows after a step."""
        if self.path.exists():
            rows = self.rows()
            self.columns += [name for name in (rows[0] if rows else {}) if name not in self.columns]
            self._rewrite([row for row in rows if int(row["step"]) <= step])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        lines = [self._line(row) for row in rows]
        header = self._line({name: name for name in self.columns})
        with replace_file(self.path) as file:
            file.write(header + b"".join(lines))
        self.offset = len(header) + sum(map(len, lines[:-1]))
        self.last = rows[-1] if rows else {}

    def _line(self, row: dict[str, Any]) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow([row.get(name, "") for name in self.columns])
        return out.getvalue().encode()


def _to_text(row: dict[str, float]) -> dict[str, str]:
    return {
        name: repr(value) if isinstance(value, float) else str(value) for name, value in row.items()
    }


def build_loggers(config: LoggerConfig, folder: Path, settings: dict[str, Any]) -> list[Logger]:
    """Build the loggers of `logger=`, besides metrics.csv; wandb never prompts for anything."""
    if config.name == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return [TensorBoardLogger(folder, name="tensorboard")]
    if config.name != "wandb":
        return []
    options = choose_wandb_options(config, folder.parent.name, "-".join(folder.parts[-2:]))
    if options["mode"] == "disabled":
        return []
    move_wandb_folders(folder)
    return [_build_wandb_logger(folder, settings, options)]


def _build_wandb_logger(folder: Path, settings: dict[str, Any], options: dict[str, Any]) -> Logger:
    """Build wandb's logger, which stops logging after a failure instead of ending the run."""
    from lightning.pytorch.loggers import WandbLogger

    wandb_logger = WandbLogger(save_dir=folder, config=settings, **options)
    wandb_logger._wandb_init.pop("anonymous", None)  # wandb dropped it, and prints a line about it
    for name in ("log_metrics", "log_table"):
        setattr(wandb_logger, name, _stop_at_failure(getattr(wandb_logger, name), folder))
    return wandb_logger


def _stop_at_failure(log: Callable[..., None], folder: Path) -> Callable[..., None]:
    """Wrap `log` so that its first failure is reported in one line and it is not called again."""
    failed = False

    @functools.wraps(log)
    def call(*args, **kwargs) -> None:
        nonlocal failed
        if failed:
            return
        try:
            log(*args, **kwargs)
        except Exception as error:  # the errors of wandb have no common class
            failed = True
            reason = shorten(error, 80, keep_end=True)
            logger.info(f"wandb: logs no more ({reason}); {folder}/metrics.csv continues")

    return call


WANDB_FOLDERS = {  # the folders of wandb, by the variable that moves each of them
    "WANDB_DATA_DIR": ".local/share/wandb",
    "WANDB_CACHE_DIR": ".cache/wandb",
    "WANDB_CONFIG_DIR": ".config/wandb",
}
CHOSEN_FOLDERS = {name for name in WANDB_FOLDERS if name in os.environ}  # by the user


def move_wandb_folders(folder: Path) -> None:
    """Make wandb keep its files in the run folder if the user's home cannot be written."""
    for name, usual in WANDB_FOLDERS.items():
        if name not in CHOSEN_FOLDERS and not _is_creatable(Path(os.path.expanduser("~"), usual)):
            os.environ[name] = str((folder / "wandb").absolute())


def _is_creatable(folder: Path) -> bool:
    if not folder.is_absolute():  # "~" of a user without a home
        return False
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def choose_wandb_options(config: LoggerConfig, group: str, name: str) -> dict[str, Any]:
    """Choose the options of a wandb run; `mode` is `disabled`, `offline` or `online`.

    Raises BortError if logger.mode=online and there is no key.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    return {
        "project": config.project,
        "name": name,
        "group": group,
        "job_type": config.job_type,
        "mode": choose_wandb_mode(config.mode),
        "tags": config.tags,
    }


@functools.cache  # the network is tried once, and the result is reported once
def choose_wandb_mode(chosen: str) -> str:
    """Return wandb's mode: `chosen`; for auto WANDB_MODE, or offline without key or network."""
    if chosen == "offline":
        return chosen
    variable = os.environ.get("WANDB_MODE", "")
    if chosen == "auto" and variable in ("disabled", "offline", "dryrun"):
        if variable == "disabled":
            logger.info("wandb: nothing is logged: WANDB_MODE is disabled")
        return "disabled" if variable == "disabled" else "offline"
    if not has_wandb_key():
        if chosen == "online":
            raise BortError(
                "logger.mode=online needs a wandb key; run `wandb login`, set WANDB_API_KEY, or "
                "leave logger.mode=auto for a local log that `wandb sync` uploads later"
            )
        return "offline"
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    if chosen == "auto" and (state := check_reachable(server)) != "reachable":
        logger.info(f"wandb: offline, since {server} is {shorten(state, 80, keep_end=True)}")
        return "offline"
    return "online"


def has_wandb_key() -> bool:
    """Return whether there is a key for the wandb server in use."""
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return not find_wandb_key(urlsplit(server).hostname or "").startswith("none")


def log_samples(loggers: list[Logger], lines: list[list[str]]) -> None:
    """Log rows of text, true answer and predicted answer to the loggers that take tables."""
    for metrics_logger in loggers:
        if hasattr(metrics_logger, "log_table"):
            metrics_logger.log_table("samples/predictions", ["text", "true", "predicted"], lines)


def finish_loggers(loggers: list[Logger]) -> None:
    """End the wandb run, so that the next job of this process does not write into it."""
    for metrics_logger in loggers:
        if hasattr(metrics_logger, "log_table"):
            metrics_logger.experiment.finish()
