"""Which model a name stood for: a digest of its files shows another one under the same name.

Nothing heavy is imported, so that a finished run can be checked before torch is loaded.
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from bort.errors import BortError
from bort.files.run_files import MODEL

# What decides a model's outputs: its shape, its weights, its words.
PARTS = (
    "config.json",
    "model*.safetensors",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def digest_folder(folder: Path) -> str:
    """16 hexadecimal digits that name shape, weights and tokenizer of a model folder.

    By content: a copy of the folder has the same. Costs a read of the files, about 0.7 s per GB.
    """
    paths = sorted({path for part in PARTS for path in folder.glob(part)})
    files = {path.name: _file_digest(path, *_version(path)) for path in paths}
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _version(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _file_digest(path: Path, size: int, time: int) -> str:
    """Of the content; read once in a process as long as size and time stay what they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_local_model(name: str | None) -> Path | None:
    """The model folder that a name stands for on this disk; None for a hub name and for nothing."""
    if name:
        path = Path(name).expanduser()
        for folder in (path, path / MODEL):
            if (folder / "config.json").is_file():
                return folder
    return None


def check_models(then: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Raise BortError when a run would resume with another model under the name that it had.

    then, now: digests by the setting that names the model, as in `teacher.name`.
    """
    for key in sorted({*then, *now}):
        if key in then and key in now and then[key] != now[key]:
            what = {"model": "model", "teacher.name": "teacher"}.get(key, key)
            raise BortError(
                f"{folder} was started with another {what} under this name (weights or tokenizer "
                f"{then[key]}, now {now[key]}); use another name=, or resume=false"
            )
