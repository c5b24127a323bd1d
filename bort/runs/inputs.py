"""The state of the user's data files that a run reads."""

import os
from pathlib import Path

from bort.config.fingerprint import fingerprint
from bort.config.train import EMBED, TrainConfig


def digest_data_files(run: TrainConfig) -> str | None:
    """Digest the names, sizes and times of the user's data files into 16 digits.

    Returns None where there are none, or where one is missing: then nothing can be compared.
    """
    paths = [Path(name).expanduser() for name in _list_data_names(run) if name]
    files: list[tuple[str, int, int]] = []
    try:
        for path in paths:
            for file in _list_files(path) if path.is_dir() else [path]:
                state = file.stat()
                files.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    except OSError:
        return None
    return fingerprint({"files": files}) if files else None


def _list_data_names(run: TrainConfig) -> list[str | None]:
    """Return the data files, or folders of them, that the settings of this run name."""
    data = run.data
    if not run.fits_task:
        return [data.path]
    rows = [data.train, data.val, data.test] if run.task in ("custom", EMBED) else []
    root = [] if run.task == "custom" else [data.root]
    return [*rows, *root, data.unlabelled]


def _list_files(folder: Path) -> list[Path]:
    """List all files below a folder, sorted."""
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
