"""The files of a run folder: their names, and how a run's own files are removed.

A run folder has a settings.json with the job and the version of bort. What a run makes there has
the names below; everything else in the folder is the user's and stays. `bort.runs.folder` opens
such folders, and this module is what the packages below it need to know of them.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import bort
from bort.files.ownership import (
    MODEL_FILES,
    is_real_folder,
    list_own_names,
    list_sentence_names,
    read_json_or_empty,
    remove_empty,
    settle,
)

SETTINGS = "settings.json"  # the settings, the version of bort and the threads, written first
THREADS = "threads"  # its key of the number of threads
INPUTS = "corpus.json"  # digests of the data and of the models that the run reads
SUMMARY = "summary.json"  # the results, written last
FAILURE = "failed.json"  # why a training of a comparison has no results
METRICS = "metrics.csv"  # what was logged, by step
PERFORMANCE = "perf.csv"  # what was logged and depends on the machine's speed, by step
SAMPLES = "samples.txt"
REPORT = "report.html"
OPTIMUM = "optimum.yaml"  # of a search or a sweep
OPTIMUM_W = "optimum_w.yaml"  # beside it: the one by W
MODEL = "model"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions"
TEACHER = "teacher"
TRIALS = "trials"  # the runs by which a fine-tuning has chosen its rate
CONTROL = "control"  # the run of the control arm of a task's distillation
HYDRA = ".hydra"
HYDRA_CONFIG = "config.yaml"  # in the folder .hydra: the composed settings
HYDRA_OVERRIDES = "overrides.yaml"  # there, too: the words of the command line
HYDRA_SETTINGS = "hydra.yaml"  # there, too: what Hydra itself was told
# The files of a comparison.
CURVES = "curves.html"
TIMING = "timing.json"  # the seconds of a step with and without the teacher
# The files of a search and of its candidates.
PLAN = "search.json"
LATENCIES = "latency.json"
CANDIDATES = "candidates.csv"
ENTROPY = "entropy.npy"  # in the folder teacher: T's entropy at each masked position
DOCUMENTS = "documents.npy"  # there, too: the document of each masked position
TRIAL = "point.json"  # in a candidate's folder: its record
LOSSES = "losses.npy"  # there, too: its loss at each position that decides its error
PROJECTION = "projection.npy"  # there, too: what brings its states to the width of T's
# The files of Agora.
ROUNDS = "rounds.json"
GENERATED = "generated.jsonl"  # the rows that were made, of all rounds
ROWS = "rows.jsonl"  # the rows of a round, or of the arm with random rows
LAUNCHED = "launched.json"  # what the launcher's jobs are to do
LAUNCHED_ROWS = "launched.jsonl"  # the rows that they train on
# The file of a pipeline.
STAGES = "stages.json"
CHECKPOINT = f"step_{'[0-9]' * 8}-{'[0-9a-f]' * 16}.ckpt"  # a copy of the user's has another name
SUBMISSIONS = (
    "AX AX-b AX-g BoolQ CB COPA CoLA MNLI-m MNLI-mm MRPC MultiRC QNLI QQP RACE-H RACE-M RTE ReCoRD "
    "SST-2 STS-B WNLI WSC WiC"
).split()
RUN_FILES = (
    *(SUMMARY, FAILURE, METRICS, PERFORMANCE, SAMPLES, INPUTS, REPORT),
    *(OPTIMUM, OPTIMUM_W),
    *(TRIAL, LOSSES, PROJECTION, CURVES, PLAN, LATENCIES, CANDIDATES),
    *(TIMING, LAUNCHED, ROUNDS, GENERATED),
    *(f"random/{ROWS}", f"random/{LAUNCHED_ROWS}", f"plain/{LAUNCHED_ROWS}"),
    *(f"rounds/*/{ROWS}", f"rounds/*/{LAUNCHED_ROWS}"),
    f"{CHECKPOINTS}/{CHECKPOINT}",
    *(f"{TEACHER}/{name}" for name in "train-s*.f16 train-s*.npy val.f16 val.npy".split()),
    *(f"{TEACHER}/{name}" for name in (ENTROPY, DOCUMENTS)),
    *(f"{MODEL}/{name}" for name in sorted(MODEL_FILES)),
    *(f"{PREDICTIONS}/{name}.{kind}" for name in SUBMISSIONS for kind in ("tsv", "jsonl")),
    *(f"{PREDICTIONS}/{name}" for name in ("val*.jsonl", "val*_classes.csv", "test.jsonl")),
    *(f"{HYDRA}/{name}" for name in (HYDRA_CONFIG, HYDRA_OVERRIDES, HYDRA_SETTINGS)),
    SETTINGS,  # the last to be removed: the others are known by it
)
RUN_TREES = (  # of other packages' loggers
    *"wandb/run-* wandb/offline-run-* wandb/latest-run wandb/debug*.log".split(),
    *"tensorboard/version_* lightning_logs/version_*".split(),
)
SWEEP_RECORD = "multirun.yaml"  # Hydra's, in the folder of a sweep
RUNS_BELOW = (  # of a comparison, a search, Agora
    *"kd/lr_* mlm/lr_* mlm_equal_time/lr_* mlm_fresh/lr_* trials/lr_*".split(),
    *"teacher control default".split(),
    *"D*-A*-H*-I*-s*-lr* plain/theta_* random/theta_* rounds/*/theta_*".split(),
)


def make_run_record(job_settings: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """Return the content of a run's settings.json: its settings, beside the version of bort.

    threads: the number that the run computes with, which stands there, too.
    """
    count = {} if threads is None else {THREADS: threads}
    return {"bort": bort.__version__, **count, **job_settings}


def read_run_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a run of bort recorded in `folder`; None where there is no run."""
    record = read_json_or_empty(folder / SETTINGS)
    if not isinstance(record.pop("bort", None), str) or not isinstance(record.get("job"), str):
        return None
    record.pop(THREADS, None)
    return record


def read_run_threads(folder: Path) -> int | None:
    """Return the number of threads that a run recorded in `folder`.

    It is 0 of a run that recorded none, as older versions did; None where there is no run.
    """
    if read_run_settings(folder) is None:
        return None
    count = read_json_or_empty(folder / SETTINGS).get(THREADS)
    return count if type(count) is int and count > 0 else 0


def list_foreign_names(folder: Path) -> list[str]:
    """List what stands in a folder without a run of bort, but for hidden files outside .hydra."""
    if not folder.is_dir():
        return []
    names = sorted(os.listdir(folder))
    return [name for name in names if not name.startswith(".") or name == HYDRA]


def clear_run(folder: Path) -> None:
    """Remove what the run of bort in `folder` made, and the folders that are empty then.

    The folder itself stays. Nothing is removed where bort wrote no settings.json.
    """
    if read_run_settings(folder) is None:
        return
    settle(folder)
    for pattern in RUNS_BELOW:
        for path in folder.glob(pattern):
            if _is_inside(path, folder):
                clear_run(path)
                remove_empty([path, *_list_between(path, folder)])
    for pattern in RUN_TREES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if is_real_folder(path) else path.unlink()
            remove_empty(_list_between(path, folder))
    _remove_sentence_files(folder)
    for pattern in RUN_FILES:
        remove_matching(folder, pattern)


def _remove_sentence_files(folder: Path) -> None:
    """Remove what made the model of a run one of sentence-transformers, before its config.json."""
    for name in list_sentence_names(folder / MODEL):
        remove_matching(folder, f"{MODEL}/{name}")


def remove_matching(folder: Path, pattern: str) -> None:
    """Remove the files below a run folder with these names, and the folders that are empty then.

    What lies behind a linked folder may belong to another run and stays, but for checkpoints: those
    of a run may lie on another disk.
    """
    for path in folder.glob(pattern):
        linked = not _is_inside(path.parent, folder) and path.parent.name != CHECKPOINTS
        if not is_real_folder(path) and not linked:
            path.unlink()
    if inner := pattern.rpartition("/")[0]:
        for path in folder.glob(inner):
            settle(path)
            remove_empty([path, *_list_between(path, folder)])


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training, which no longer needs them.

    They take three times the space of the model.
    """
    remove_matching(folder, f"{CHECKPOINTS}/{CHECKPOINT}")


def remove_model(folder: Path) -> None:
    """Remove the model of the run in `folder`."""
    _remove_sentence_files(folder)
    for name in MODEL_FILES:
        remove_matching(folder, f"{MODEL}/{name}")


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _list_between(path: Path, folder: Path) -> list[Path]:
    """List the folders that hold `path`, below `folder`; the innermost comes first."""
    return [parent for parent in path.parents if folder in parent.parents]


def is_made_by_run(path: Path, folder: Path) -> bool:
    """Whether an existing file is one of those that a run, a model or an export in `folder` has."""
    path, folder = path.resolve(), folder.resolve()
    if not path.exists() or folder not in path.parents:
        return False
    inside = path.relative_to(folder).as_posix()
    if inside in list_own_names(folder):
        return True
    if inside.startswith(f"{MODEL}/"):
        if inside.removeprefix(f"{MODEL}/") in list_sentence_names(folder / MODEL):
            return True
    patterns = [*RUN_FILES, *(f"{run}/{name}" for run in RUNS_BELOW for name in RUN_FILES)]
    return any(path in folder.glob(pattern) for pattern in patterns)
