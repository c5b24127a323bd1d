"""What bort may replace or remove: names that it gave itself, and can prove that it gave.

There are three kinds of proof. The name of a temporary holds the process, random digits and the
machine. An export lists its files in its export.json, beside the version of bort that wrote it. A
run folder has a settings.json with the job and the version, and what a run makes there has the
names below. Everything else in such folders is the user's and stays.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bort
from bort.errors import BortError
from bort.files.untrusted import read_json

# Of a file: part. Of a folder: new until it is complete, old as soon as that takes its name.
TEMPORARY = re.compile(
    r"\.(?P<target>.+)\.(?P<kind>part|new|old)-(?P<process>\d{1,9})-[0-9a-f]{16}@(?P<machine>.+)"
)
MODEL_FILES = frozenset(
    "config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json "
    "added_tokens.json chat_template.jinja".split()
)
CORPUS_FILES = frozenset(("info.json", "train.bin", "val.bin"))
SUBMISSIONS = (
    "AX AX-b AX-g BoolQ CB COPA CoLA MNLI-m MNLI-mm MRPC MultiRC QNLI QQP RACE-H RACE-M RTE ReCoRD "
    "SST-2 STS-B WNLI WSC WiC"
).split()
CHECKPOINT = f"step_{'[0-9]' * 8}-{'[0-9a-f]' * 16}.ckpt"  # a copy of the user's has another name
RUN_FILES = (
    *"summary.json failed.json point.json metrics.csv perf.csv samples.txt losses.npy".split(),
    *"corpus.json report.html curves.html search.json latency.json candidates.csv".split(),
    *"optimum.yaml timing.json launched.json rounds.json generated.jsonl".split(),
    *"random/rows.jsonl random/launched.jsonl plain/launched.jsonl".split(),
    *"rounds/*/rows.jsonl rounds/*/launched.jsonl".split(),
    f"checkpoints/{CHECKPOINT}",
    *"teacher/train-s*.f16 teacher/train-s*.npy teacher/val.f16 teacher/val.npy".split(),
    *"teacher/entropy.npy teacher/documents.npy".split(),
    *(f"model/{name}" for name in sorted(MODEL_FILES)),
    *(f"predictions/{name}.{kind}" for name in SUBMISSIONS for kind in ("tsv", "jsonl")),
    *"predictions/val*.jsonl predictions/test.jsonl".split(),
    *".hydra/config.yaml .hydra/overrides.yaml .hydra/hydra.yaml settings.json".split(),
)  # settings.json is the last to be removed: the others are known by it
RUN_TREES = (  # of other packages' loggers
    *"wandb/run-* wandb/offline-run-* wandb/latest-run wandb/debug*.log".split(),
    *"tensorboard/version_* lightning_logs/version_*".split(),
)
SWEEP_RECORD = "multirun.yaml"  # Hydra's, in the folder of a sweep
RUNS_BELOW = (  # of a comparison, a search, Agora
    *"kd/lr_* mlm/lr_* mlm_equal_time/lr_* D*-A*-H*-I*-s*-lr* teacher default".split(),
    *"plain/theta_* random/theta_* rounds/*/theta_*".split(),
)
GENERATOR = f"bort {bort.__version__}"  # stands in what bort writes beside files of others
PAGE_MARK = f'<meta name=generator content="{GENERATOR}">'


# ------------------------------------------------------------------------------------ temporaries


def temporary(target: Path, kind: str) -> Path:
    """A name beside `target` that nobody else gives; kind: part, new or old, as of TEMPORARY."""
    owner = f"{os.getpid()}-{os.urandom(8).hex()}@{platform.node()}"
    return target.with_name(f".{target.name}.{kind}-{owner}")


def abandoned(folder: Path) -> list[tuple[Path, str, str]]:
    """The temporaries in `folder` whose processes are gone: path, name of the target, kind."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []
    matches = [match for name in names if (match := TEMPORARY.fullmatch(name))]
    return [
        (folder / match[0], match["target"], match["kind"])
        for match in matches
        # On a shared disk, process numbers of another machine say nothing.
        if match["machine"] == platform.node() and not _is_alive(int(match["process"]))
    ]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def settle(folder: Path) -> None:
    """Bring to its end what killed processes have left directly in `folder`.

    A replaced folder that is the only copy gets its name back. One whose successor is complete
    gives it the user's files and goes, as do unfinished files and folders.
    """
    for path, target, kind in sorted(abandoned(folder), key=lambda entry: entry[2] != "old"):
        try:
            if path.is_symlink():
                continue
            if kind == "part" and path.is_file():
                path.unlink()
            elif kind == "new" and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif kind == "old" and not os.path.lexists(folder / target):
                path.rename(folder / target)
            elif kind == "old" and path.is_dir():
                finish_swap(path, folder / target)
        except OSError:
            continue  # of another user, or gone by now


def finish_swap(old: Path, folder: Path) -> None:
    """Move the user's files from a replaced folder to the new one; of the old one nothing stays.

    A file whose name is taken meanwhile stays in the old folder.
    """
    owned = own_names(old)
    last = ("export.json", "config.json")  # by which the others are known
    for name in sorted(os.listdir(old), key=lambda name: (name in last, name)):
        if name in owned and not _is_real_folder(old / name):
            (old / name).unlink()
        elif not os.path.lexists(folder / name):
            (old / name).rename(folder / name)
    remove_empty([old])


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


# ------------------------------------------------------------------------------------ exports


def export_record(names: Iterable[str], facts: dict[str, Any]) -> dict[str, Any]:
    """The content of export.json in a folder with files of these names; facts: more about it."""
    return {"made_by": GENERATOR, "files": sorted(names), **facts}


def exported_names(folder: Path) -> frozenset[str] | None:
    """The names that the export.json in `folder` lists; None where there is none of bort's."""
    record = _read_object(folder / "export.json")
    names = record.get("files")
    if not str(record.get("made_by")).startswith("bort ") or not isinstance(names, list):
        return None
    plain = all(isinstance(name, str) and name == os.path.basename(name) for name in names)
    return frozenset(names) if plain and "export.json" in names else None


def own_names(folder: Path) -> frozenset[str]:
    """The names that bort gave in the folder of an export, a model or a corpus."""
    exported = exported_names(folder)
    return MODEL_FILES | CORPUS_FILES if exported is None else exported


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one for what is none, or cannot be read."""
    try:
        return read_json(path)
    except BortError:
        return {}


# ------------------------------------------------------------------------------------ runs


def run_record(job_settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a run's settings.json: its settings, beside the version of bort."""
    return {"bort": bort.__version__, **job_settings}


def run_settings(folder: Path) -> dict[str, Any] | None:
    """What a run of bort recorded in `folder` as its settings; None where there is no such run."""
    record = _read_object(folder / "settings.json")
    if not isinstance(record.pop("bort", None), str) or not isinstance(record.get("job"), str):
        return None
    return record


def foreign_names(folder: Path) -> list[str]:
    """What stands in a folder without a run of bort, but for hidden files that no run touches."""
    if not folder.is_dir():
        return []
    names = sorted(os.listdir(folder))
    return [name for name in names if not name.startswith(".") or name == ".hydra"]


def clear_run(folder: Path) -> None:
    """Remove what the run of bort in `folder` made, and the folders that are empty then.

    The folder itself stays. Without a settings.json of bort's nothing is removed.
    """
    if run_settings(folder) is None:
        return
    settle(folder)
    for pattern in RUNS_BELOW:
        for path in folder.glob(pattern):
            if _is_inside(path, folder):
                clear_run(path)
                remove_empty([path, *_between(path, folder)])
    for pattern in RUN_TREES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if _is_real_folder(path) else path.unlink()
            remove_empty(_between(path, folder))
    for pattern in RUN_FILES:
        remove_matching(folder, pattern)


def remove_matching(folder: Path, pattern: str) -> None:
    """Remove the files below a run folder with these names, and the folders that are empty then.

    What lies behind a linked folder may belong to another run and stays, but for checkpoints: those
    of a run may lie on another disk.
    """
    for path in folder.glob(pattern):
        linked = not _is_inside(path.parent, folder) and path.parent.name != "checkpoints"
        if not _is_real_folder(path) and not linked:
            path.unlink()
    if inner := pattern.rpartition("/")[0]:
        for path in folder.glob(inner):
            settle(path)
            remove_empty([path, *_between(path, folder)])


def remove_checkpoints(folder: Path) -> None:
    """Of a finished training in `folder`, which needs them no more: three times the model."""
    remove_matching(folder, f"checkpoints/{CHECKPOINT}")


def remove_model(folder: Path) -> None:
    """The model of the run in `folder`."""
    for name in MODEL_FILES:
        remove_matching(folder, f"model/{name}")


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these folders in turn, up to the first that is not empty."""
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            break


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _between(path: Path, folder: Path) -> list[Path]:
    """The folders that hold `path`, below `folder`; the innermost comes first."""
    return [parent for parent in path.parents if folder in parent.parents]


def is_made_by_run(path: Path, folder: Path) -> bool:
    """Whether an existing file is one of those that a run, a model or an export in `folder` has."""
    path, folder = path.resolve(), folder.resolve()
    if not path.exists() or folder not in path.parents:
        return False
    if path.parent == folder and path.name in own_names(folder):
        return True
    patterns = [*RUN_FILES, *(f"{run}/{name}" for run in RUNS_BELOW for name in RUN_FILES)]
    return any(path in folder.glob(pattern) for pattern in patterns)


# ------------------------------------------------------------------------------------ pages


def is_own_page(path: Path) -> bool:
    """Whether bort wrote this HTML page."""
    try:
        with path.open("rb") as file:
            return b'<meta name=generator content="bort ' in file.read(1000)
    except OSError:
        return False
