"""What bort may replace or remove: only names that it can prove to have given itself.

There are three kinds of proof. The name of a temporary holds the process, random digits and the
machine. An export lists its files in its export.json, beside the version of bort that wrote it. A
run folder has a settings.json, and `run_files` lists the names that a run gives. Everything else in
such folders is the user's and stays.
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

# `part` is a file that is being written. `new` is a folder that is being written, and `old` the
# folder whose name the new one takes when it is complete.
TEMPORARY = re.compile(
    r"\.(?P<target>.+)\.(?P<kind>part|new|old)-(?P<process>\d{1,9})-[0-9a-f]{16}@(?P<machine>.+)"
)
MODEL_FILES = frozenset(
    "config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json "
    "added_tokens.json chat_template.jinja".split()
)
# What makes an encoder's folder one of the package sentence-transformers. Bort wrote these files
# where its config.json has the mark; elsewhere they may be the user's.
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
SENTENCE_LENGTH = "sentence_bert_config.json"
SENTENCE_SETTINGS = "config_sentence_transformers.json"
SENTENCE_FILES = frozenset((MODULES, POOLING, SENTENCE_LENGTH, SENTENCE_SETTINGS))
KIND, EMBEDDING = "bort_kind", "Embedding"  # the mark: a key of config.json and its value
EXPORT = "export.json"  # lists the files of an export, beside the version of bort
CORPUS_FILES = frozenset(("info.json", "train.bin", "val.bin"))
GENERATOR = f"bort {bort.__version__}"  # stands in what bort writes beside files of others
PAGE_MARK = f'<meta name=generator content="{GENERATOR}">'


# ------------------------------------------------------------------------------------ temporaries


def name_temporary(target: Path, kind: str) -> Path:
    """Return a name beside `target` that nobody else gives; kind: part, new or old."""
    owner = f"{os.getpid()}-{os.urandom(8).hex()}@{platform.node()}"
    return target.with_name(f".{target.name}.{kind}-{owner}")


def list_abandoned(folder: Path) -> list[tuple[Path, str, str]]:
    """List the temporaries of processes that are gone, as (path, name of the target, kind)."""
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
    """Finish what killed processes have left undone directly in `folder`.

    A replaced folder that is the only copy gets its name back. Where the new folder is complete,
    the user's files move into it and the replaced one is removed. Unfinished files and folders are
    removed, too.
    """
    for path, target, kind in sorted(list_abandoned(folder), key=lambda entry: entry[2] != "old"):
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
    """Move the user's files from a replaced folder to the new one, and remove the old one.

    A file whose name is taken meanwhile stays in the old folder.
    """
    _move_foreign(old, folder, list_own_names(old))


def _move_foreign(old: Path, folder: Path, owned: frozenset[str]) -> None:
    """Remove the files `owned` of a folder, move all others to the new one, and remove it.

    A folder that holds one of the owned files, or that the new folder has too, is gone through in
    the same way.
    """
    last = (EXPORT, "config.json")  # by which the others are known
    for name in sorted(os.listdir(old), key=lambda name: (name in last, name)):
        below = frozenset(path[len(name) + 1 :] for path in owned if path.startswith(f"{name}/"))
        if is_real_folder(old / name) and (below or is_real_folder(folder / name)):
            _move_foreign(old / name, folder / name, below)
        elif name in owned and not is_real_folder(old / name):
            (old / name).unlink()
        elif not os.path.lexists(folder / name):
            folder.mkdir(exist_ok=True)
            (old / name).rename(folder / name)
    remove_empty([old])


def is_real_folder(path: Path) -> bool:
    """Whether a path is a folder and no link to one."""
    return path.is_dir() and not path.is_symlink()


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these folders in turn, up to the first that is not empty."""
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            break


# ------------------------------------------------------------------------------------ exports


def make_export_record(names: Iterable[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of export.json for files of these names; facts: more about the export."""
    return {"made_by": GENERATOR, "files": sorted(names), **facts}


def read_exported_names(folder: Path) -> frozenset[str] | None:
    """Read the names that the export.json in `folder` lists; None where bort wrote no such file."""
    record = read_json_or_empty(folder / EXPORT)
    names = record.get("files")
    if not str(record.get("made_by")).startswith("bort ") or not isinstance(names, list):
        return None
    plain = all(isinstance(name, str) and _is_plain(name) for name in names)
    return frozenset(names) if plain and EXPORT in names else None


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in a folder, or one of the known files below it."""
    return name == os.path.basename(name) or name in SENTENCE_FILES


def list_own_names(folder: Path) -> frozenset[str]:
    """List the names that bort gave in the folder of an export, a model or a corpus.

    A file in a folder below it has the path from there, as in `1_Pooling/config.json`.
    """
    exported = read_exported_names(folder)
    if exported is not None:
        return exported
    return MODEL_FILES | CORPUS_FILES | list_sentence_names(folder)


def list_sentence_names(folder: Path) -> frozenset[str]:
    """List the files of sentence-transformers that bort wrote in the folder of a model."""
    is_marked = read_json_or_empty(folder / "config.json").get(KIND) == EMBEDDING
    return SENTENCE_FILES if is_marked else frozenset()


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one for a file that holds none, or cannot be read."""
    try:
        return read_json(path)
    except BortError:
        return {}


# ------------------------------------------------------------------------------------ pages


def is_own_page(path: Path) -> bool:
    """Whether bort wrote this HTML page."""
    try:
        with path.open("rb") as file:
            return b'<meta name=generator content="bort ' in file.read(1000)
    except OSError:
        return False
