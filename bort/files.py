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

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def _refusals(path: Path, numbers: tuple[int, ...] | None = None) -> Iterator[None]:
    """OSErrors with these numbers (None: all) as one line about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            line = f"no space left for {path}; free some and repeat the same command"
        elif numbers is None or error.errno in numbers:
            line = f"{path} cannot be written: {error.strerror}"
        else:
            raise
        raise BortError(line) from error


def user_path(key: str, text: str) -> Path:
    """The path that a setting gives, with the home for ~; raises BortError where there is none."""
    path = Path(text)
    if text.startswith("~"):
        home = os.path.expanduser(path.parts[0])
        if not os.path.isdir(home):
            raise BortError(f"{key}={text}: there is no home folder {home}")
        path = Path(home, *path.parts[1:])
    return path


def check_writable(path: Path) -> None:
    """Raise BortError now for a file that could not be written after the work."""
    with _refusals(path):
        if path.is_dir():
            raise BortError(f"{path} is a folder; give the name of a file")
    _check_place(path)


def _check_place(path: Path) -> None:
    """Whether the nearest folder that is there may be written to."""
    with _refusals(path):
        place = next(folder for folder in path.absolute().parents if folder.exists())
        if not place.is_dir():
            raise BortError(f"{path} cannot be written: {place} is a file")
        if not os.access(place, os.W_OK):
            raise BortError(f"{path} cannot be written: {os.strerror(errno.EACCES)}")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a binary file that takes its final name only when it is complete and on the disk.

    Raises BortError when the disk is full or there can be no such file; nothing is left then.
    """
    check_writable(path)
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with _refusals(path, REFUSED):
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
            os.replace(temporary, path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its name, whole and on the disk, after the block.

    What stood there before goes only then; when the block raises, it stays and nothing else does.
    Raises BortError when the disk is full or there can be no such folder.
    """
    _check_place(folder)
    fresh, old = (folder.with_name(f".{folder.name}.{part}") for part in ("new", "old"))
    with _refusals(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(parents=True)
    try:
        with _refusals(folder, REFUSED):
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
