"""Files and folders that are whole or absent: temporary name beside the target, fsync, rename."""

import csv
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bort.errors import BortError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a binary file that takes its final name only when it is complete and on the disk.

    Raises BortError when the disk is full or the folder cannot be written to; nothing is left then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BortError(
                f"no space left for {path}; free some and repeat the same command"
            ) from error
        if isinstance(error, PermissionError):
            raise BortError(f"{path} cannot be written: {error.strerror}") from error
        raise
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its name, whole and on the disk, after the block.

    What stood there before goes only then; when the block raises, it stays and nothing else does.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{part}") for part in ("new", "old"))
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        sync_folder(folder.parent)
    finally:  # Ctrl-C included
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Strict JSON (no NaN), whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False, default=str)
    with replacing(path) as file:
        file.write(text.encode() + b"\n")


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """A table that is whole or absent; None and what a row lacks are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(column) for column in columns)
        writer.writerow(["" if cell is None else cell for cell in cells])
    with replacing(path) as file:
        file.write(text.getvalue().encode())
