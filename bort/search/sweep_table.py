"""The runs of `python train.py -m …` side by side, and the W-optimum where it can be told."""

import logging
import math
from pathlib import Path

from omegaconf import OmegaConf

from bort import console
from bort.console import counted, decimal
from bort.errors import BortError
from bort.files.untrusted import read_json
from bort.files.writing import replacing, write_csv
from bort.models.arch import Arch
from bort.runs.commands import next_training
from bort.runs.folder import RunFolder
from bort.runs.summary import RESTORE, RunSummary
from bort.search.fptas import Scale, Selection

logger = logging.getLogger(__name__)


def gather(folder: Path) -> None:
    """Sort the runs of a sweep by W, or by validation loss where there was no teacher.

    Leaves summary.csv, and with a teacher candidates.csv and optimum.yaml, as a search does.
    """
    paths = sorted(folder.glob("*/summary.json"), key=_number)
    if any("task" in read_json(path, RESTORE) for path in paths):
        gather_scores(folder, paths)
        return
    rows = [_row(path.parent) for path in paths]
    rows = [row for row in rows if row.get("val/loss") is not None]
    if not rows:
        return
    chosen = _weigh(rows)
    if chosen is not None:
        for row in rows:
            row["w"] = chosen.w_coefficient(row["xi"]) if row["xi"] in chosen.errors else None
    rows.sort(key=lambda r: (-(r.get("w") or -1), r["val/loss"]))
    columns = ["job", *Arch.KEYS, "w", "val/loss", "val/mlm_accuracy", "val/kd_loss", "parameters"]
    columns += ["operations", "seconds", "overrides"]
    write_csv(folder / "summary.csv", columns, rows)
    logger.info(f"sweep: {counted(len(rows), 'run')}, the best first")
    for row, own in zip(rows[:10], _differing(rows), strict=False):
        w = f"W {row['w']:.4f}  " if row.get("w") is not None else ""
        logger.info(
            f"  {row['job']:>4}  {row['xi']:>18}  {w}val {row['val/loss']:.3f} nats  "
            f"{row['parameters']:,} parameters  {own}"
        )
    if warning := RunSummary(min(rows, key=lambda row: row["val/loss"])).find_doubt():
        logger.info(f"  warning: the best of them is {warning}")
    logger.info(f"  table     {folder}/summary.csv")
    if chosen is None or chosen.best is None:
        return
    best = chosen.best.to_table()
    with replacing(folder / "optimum.yaml") as file:
        file.write(OmegaConf.to_yaml(best).encode())
    logger.info(f"  optimum   {folder}/optimum.yaml   {chosen.best}, the largest W of these runs")
    won = next(row for row in rows if row["xi"] == chosen.best)
    place = folder / str(won["job"])
    following = next_training(place, folder / "optimum.yaml", won["hidden"], won["lr"])
    logger.info(f"  next      {console.typed(following)}")


def gather_scores(folder: Path, paths: list[Path]) -> None:
    """The runs of a sweep over tasks or settings: by task, the best score first; and the average.

    Leaves summary.csv. A run's score is its task's first metric on the validation set.
    """
    from bort.tasks.metrics import ERRORS
    from bort.tasks.submission import zip_submissions

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
    logger.info(f"sweep: {counted(len(rows), 'run')}, the best of each task first")
    for row, own in zip(rows, _differing(rows), strict=True):
        logger.info(f"  {row['job']:>4}  {row['task']:>18}  {decimal(row['score'])}  {own}")
    best: dict[str, dict] = {}
    for row in rows:
        best.setdefault(row["task"], row)
    if len(best) > 1:
        average = sum(row["mean"] for row in best.values()) / len(best)
        logger.info(
            f"  average of {len(best)} tasks, of each its best run's mean metric: {average:.4f}"
        )
    logger.info(f"  table     {folder}/summary.csv")
    answers = {task: folder / str(row["job"]) / "predictions" for task, row in best.items()}
    for line in zip_submissions(answers, folder):
        logger.info(line)


def _given(folder: Path) -> str:
    """The overrides of one run of the sweep."""
    return " ".join(RunFolder(folder).read_overrides() or [])


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
    from bort.objectives.parameters import count_encoder_operations

    summary = read_json(folder / "summary.json", RESTORE)
    settings = read_json(folder / "settings.json", RESTORE)
    arch = Arch.from_table(settings, "arch.").check()
    length = settings["data.length"]
    operations = count_encoder_operations(arch, 1, length)
    summary["lr"] = settings.get("optim.lr")
    row = summary | arch.to_table() | {"job": folder.name, "xi": arch, "length": length}
    return row | {"operations": operations, "overrides": _given(folder)}


def _weigh(rows: list[dict]) -> Selection | None:
    """The runs as a selection, when they learnt from one teacher; the best training of a ξ counts.

    Latency is the operations of the encoder; p and i are as in a search with latency=analytic.
    """
    from bort.objectives.parameters import count_encoder_operations

    if len({row.get("teacher_digest") for row in rows}) != 1:
        return None
    keys = ("teacher_parameters", *(f"teacher_{key}" for key in Arch.KEYS), "length")
    teachers = {tuple(row.get(key) for key in keys) for row in rows}
    if len(teachers) != 1 or None in (numbers := teachers.pop()):
        return None
    entropies = [row["val/teacher_entropy"] for row in rows if row.get("val/teacher_entropy")]
    if len(entropies) != len(rows) or max(entropies) - min(entropies) > 1e-4:
        return None
    parameters, *sizes, length = numbers
    scale = Scale(parameters, count_encoder_operations(Arch(*sizes), 1, length), max(entropies))
    try:
        found = Selection({r["xi"]: (r["parameters"], r["operations"]) for r in rows}, scale)
    except BortError:  # none is smaller than the teacher
        return None
    for row in rows:
        loss = row["val/kd_loss"]
        if row["xi"] not in found.excluded and loss is not None and math.isfinite(loss):
            found.tell(row["xi"], scale.e + loss)
    return found
