"""Between Hydra and bort: what the sweeper of search.py starts, and the callback that gathers.

`Gather` ends every sweep, also `python train.py -m …`: it reads what the jobs left on the disk, so
it works with any launcher. Nothing heavy is imported before it is needed.
"""

import atexit
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bort import cli
from bort.config import SIZES, Arch, parse
from bort.errors import BortError
from bort.files import replacing, write_csv
from bort.foreign import read_json
from bort.fptas import Scale, Selection, name
from bort.ownership import SWEEP_RECORD, foreign_names, run_settings
from bort.runs import RESTORE, doubt, read_overrides, reserve_stamp, take_failures
from bort.search_config import SearchRun
from bort.unused import LATENCY_RULES, RULES, refuse_unused
from bort.wording import counted, decimal

# Raised by launchers when a worker is gone: killed by the system for its memory, by a batch queue.
DEAD = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "FailedJobError")


@contextmanager
def started(config: DictConfig, arguments: list[str], several: list[str]) -> Iterator[Any]:
    """The prepared search of a composed configuration; None when there is nothing to train.

    arguments: the user's overrides; several: those of them that would be sweeps of their own.
    """
    if several:
        raise BortError(
            f"search.py chooses the points itself: instead of {several[0]} set grid=, as in "
            "grid.depth=[2,4]"
        )
    for argument in arguments:
        if argument.split("=")[0].lstrip("+~").split(".")[0] in ("arch", "arch_file"):
            raise BortError(f"{argument}: search.py chooses the architecture; set grid= instead")
    cfg = config.copy()
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
    run = parse(cfg, SearchRun)
    refuse_unused(run, arguments, (*RULES, *LATENCY_RULES))
    folder = Path(run.output_dir)
    count = len(run.grid.points()[0])
    cli.say(
        f"search: {counted(count, 'candidate')}, n = {counted(run.search.n, 'step')} → {folder}"
    )
    with cli.loading("search.py"):  # torch, only now
        from bort import optimum, plan, search

    if run.dry_run:
        plan.show_search(run, folder, cli.say)
        yield None
        return
    if optimum.is_over(run, folder, cli.say):  # then `Gather` says again what it found
        yield None
        return
    record = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
    }
    with search.opened(run, folder, cli.say, record) as sweep:
        # the name may hold the time of day, which is another one in another process
        sweep.arguments = [*arguments, f"name={run.name}"]
        yield sweep


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
        for job, own in zip(batch, overrides, strict=True):  # which one it was shows alone
            if not (search.folder / job.folder / "point.json").exists():
                launch(launcher, [[*own, "search.parallel=1"]], first, search, [job])
        return
    for job in returned:
        if job.status is JobStatus.FAILED:
            raise job._return_value  # what a candidate can be blamed for is a record, not this
    search.collect(batch)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds files, but neither Hydra's record of a sweep nor a run."""
    names = foreign_names(folder)
    own = SWEEP_RECORD in names or any(run_settings(folder / name) for name in names)
    return bool(names) and not own


class Gather(Callback):
    """At the end of a sweep: a table of its runs, and the W-optimum where it can be told."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _name_sweep(config)
        except OmegaConfBaseException:  # a mistake in a setting, which the sweeper tells next
            return

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra makes a warning and exit code 0 of whatever is raised here, but for SystemExit.
        try:
            if config.get("dry_run"):
                return
            if config.job == "search":
                from bort import optimum

                optimum.conclude(Path(config.output_dir), cli.say)
            else:
                folder = Path(config.hydra.sweep.dir)
                failed = take_failures(folder)
                gather(folder, cli.say)
                ended = {path.parent.name for path in folder.glob("*/summary.json")}
                if failed and not ended - failed:
                    raise BortError("no job of the sweep ended well; the lines above say why")
        except Exception as error:
            if (line := cli.mistake(error)) is not None:
                cli.stop(1, f"{Path(sys.argv[0]).name}: {line}")
            traceback.print_exc()
            sys.exit(1)


def _name_sweep(config: DictConfig) -> None:
    """Give a sweep a name of its own when another one started in the same second."""
    words = config.hydra.overrides.task
    typed = OmegaConf.to_container(words, resolve=False)
    if config.job != "search" and (word := next(filter(_names_jobs, typed), None)):
        cli.stop(
            1, f"train.py: {word}: name= names the whole sweep, its jobs are numbered; give one"
        )
    folder = Path(config.hydra.sweep.dir)
    if config.job != "search" and is_foreign(folder):  # a search looks itself
        cli.stop(1, f"train.py: {folder} holds files but no sweep of bort; use another name=")
    with read_write(config), open_dict(config):
        if not any(word.startswith("name=") for word in words) and reserve_stamp(
            config, lambda: Path(config.hydra.sweep.dir)
        ):
            words.append(f"name={config.name}")  # for the jobs, which are composed anew
    atexit.register(_remove_empty, Path(config.hydra.sweep.dir))


def _names_jobs(word: str) -> bool:
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


def gather(folder: Path, say: Callable[[str], None]) -> None:
    """Sort the runs of a sweep by W, or by validation loss where there was no teacher.

    Leaves summary.csv, and with a teacher candidates.csv and optimum.yaml, as a search does.
    """
    paths = sorted(folder.glob("*/summary.json"), key=_number)
    if any("task" in read_json(path, RESTORE) for path in paths):
        gather_scores(folder, paths, say)
        return
    rows = [_row(path.parent) for path in paths]
    rows = [row for row in rows if row.get("val/loss") is not None]
    if not rows:
        return
    chosen = _weigh(rows)
    if chosen is not None:
        for row in rows:
            row["w"] = chosen.w(row["xi"]) if row["xi"] in chosen.errors else None
    rows.sort(key=lambda r: (-(r.get("w") or -1), r["val/loss"]))
    columns = ["job", *SIZES, "w", "val/loss", "val/mlm_accuracy", "val/kd_loss", "parameters"]
    columns += ["operations", "seconds", "overrides"]
    write_csv(folder / "summary.csv", columns, rows)
    say(f"sweep: {counted(len(rows), 'run')}, the best first")
    for row, own in zip(rows[:10], _differing(rows), strict=False):
        w = f"W {row['w']:.4f}  " if row.get("w") is not None else ""
        say(
            f"  {row['job']:>4}  {name(row['xi']):>18}  {w}val {row['val/loss']:.3f} nats  "
            f"{row['parameters']:,} parameters  {own}"
        )
    if warning := doubt(min(rows, key=lambda row: row["val/loss"])):
        say(f"  warning: the best of them is {warning}")
    say(f"  table     {folder}/summary.csv")
    if chosen is None or chosen.best is None:
        return
    best = dict(zip(SIZES, chosen.best, strict=True))
    with replacing(folder / "optimum.yaml") as file:
        file.write(OmegaConf.to_yaml(best).encode())
    say(f"  optimum   {folder}/optimum.yaml   {name(chosen.best)}, the largest W of these runs")
    won = next(row for row in rows if row["xi"] == chosen.best)
    place = folder / str(won["job"])
    from bort.page import next_training

    following = next_training(place, folder / "optimum.yaml", won["hidden"], won["lr"])
    say(f"  next      {cli.python()} {following}")


def gather_scores(folder: Path, paths: list[Path], say: Callable[[str], None]) -> None:
    """The runs of a sweep over tasks or settings: by task, the best score first; and the average.

    Leaves summary.csv. A run's score is its task's first metric on the validation set.
    """
    from bort.scoring import ERRORS, zip_submissions

    rows = []
    for path in paths:
        summary = read_json(path, RESTORE)
        scores = {k: v for k, v in summary.items() if k.startswith("val") and "/loss" not in k}
        if scores:  # a diagnostic set has none
            row = {"job": path.parent.name, "task": summary["task"], **scores}
            official = [x or 0.0 for k, x in scores.items() if k.split("/")[1] not in ERRORS]
            mean = sum(official) / len(official)  # of what is not defined, nothing was gained
            row |= {"score": scores[summary["metric"]], "mean": mean}
            rows.append(row | {"seconds": summary["seconds"], "overrides": _given(path.parent)})
    if not rows:
        return
    rows.sort(key=lambda row: (row["task"], math.inf if row["score"] is None else -row["score"]))
    metrics = list(dict.fromkeys(key for row in rows for key in row if key.startswith("val")))
    columns = ["job", "task", "score", "mean", *metrics, "seconds", "overrides"]
    write_csv(folder / "summary.csv", columns, rows)
    say(f"sweep: {counted(len(rows), 'run')}, the best of each task first")
    for row, own in zip(rows, _differing(rows), strict=True):
        say(f"  {row['job']:>4}  {row['task']:>18}  {decimal(row['score'])}  {own}")
    best: dict[str, dict] = {}
    for row in rows:
        best.setdefault(row["task"], row)
    if len(best) > 1:
        average = sum(row["mean"] for row in best.values()) / len(best)
        say(f"  average of {len(best)} tasks, of each its best run's mean metric: {average:.4f}")
    say(f"  table     {folder}/summary.csv")
    answers = {task: folder / str(row["job"]) / "predictions" for task, row in best.items()}
    for line in zip_submissions(answers, folder):
        say(line)


def _given(folder: Path) -> str:
    """The overrides of one run of the sweep."""
    return " ".join(read_overrides(folder) or [])


def _differing(rows: list[dict]) -> list[str]:
    """Of the overrides of each run those that not all have."""
    given = [row["overrides"].split(" ") for row in rows]
    common = set.intersection(*map(set, given)) if len(rows) > 1 else set()
    return [" ".join(part for part in parts if part not in common) for parts in given]


def _number(path: Path) -> tuple:
    job = path.parent.name
    return (0, int(job), job) if job.isdigit() else (1, 0, job)


def _row(folder: Path) -> dict:
    """What one run of the sweep left, flat."""
    from bort.cost import encoder_operations

    summary = read_json(folder / "summary.json", RESTORE)
    settings = read_json(folder / "settings.json", RESTORE)
    sizes = {key: settings[f"arch.{key}"] for key in SIZES}
    length = settings["data.length"]
    operations = encoder_operations(Arch(**sizes), 1, length)
    summary["lr"] = settings.get("optim.lr")
    row = summary | sizes | {"job": folder.name, "xi": tuple(sizes.values()), "length": length}
    return row | {"operations": operations, "overrides": _given(folder)}


def _weigh(rows: list[dict]) -> Selection | None:
    """The runs as a selection, when they learnt from one teacher; the best training of a ξ counts.

    Latency is the operations of the encoder; p and i are as in a search with latency=analytic.
    """
    from bort.cost import encoder_operations

    if len({row.get("teacher_digest") for row in rows}) != 1:
        return None
    keys = ("teacher_parameters", *(f"teacher_{key}" for key in SIZES), "length")
    teachers = {tuple(row.get(key) for key in keys) for row in rows}
    if len(teachers) != 1 or None in (numbers := teachers.pop()):
        return None
    entropies = [row["val/teacher_entropy"] for row in rows if row.get("val/teacher_entropy")]
    if len(entropies) != len(rows) or max(entropies) - min(entropies) > 1e-4:
        return None
    parameters, *sizes, length = numbers
    scale = Scale(parameters, encoder_operations(Arch(*sizes), 1, length), max(entropies))
    try:
        found = Selection({r["xi"]: (r["parameters"], r["operations"]) for r in rows}, scale)
    except BortError:  # none is smaller than the teacher
        return None
    for row in rows:
        loss = row["val/kd_loss"]
        if row["xi"] not in found.excluded and loss is not None and math.isfinite(loss):
            found.tell(row["xi"], scale.e + loss)
    return found
