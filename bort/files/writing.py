"""Writers of files and folders that are whole or absent.

They write under a temporary name beside the target, sync it to the disk, and rename it."""

import csv
import errno
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bort.errors import BortError
from bort.files import ownership

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)


@contextmanager
def _report_refusals(path: Path, numbers: tuple[int, ...] | None = None) -> Iterator[None]:
    """Turn OSErrors with these numbers (None: all) into one line about `path`."""
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


def expand_user_path(key: str, text: str) -> Path:
    """Return the path that a setting gives, with the home for ~; raise BortError without one."""
    path = Path(text)
    if text.startswith("~"):
        home = os.path.expanduser(path.parts[0])
        if not os.path.isdir(home):
            raise BortError(f"{key}={text}: there is no home folder {home}")
        path = Path(home, *path.parts[1:])
    return path


def check_writable(path: Path) -> None:
    """Raise BortError now for a file that could not be written after the work."""
    with _report_refusals(path):
        if path.is_dir():
            raise BortError(f"{path} is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            raise BortError(f"{path} is a device or a pipe; give the name of a file")
        if path.exists() and not os.access(path, os.W_OK):
            raise BortError(f"{path} cannot be written: {os.strerror(errno.EACCES)}")
        check_parent(_resolve_target(path), path)


def _resolve_target(path: Path) -> Path:
    """Return where a file or folder really is: a link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(path))


def check_parent(target: Path, path: Path) -> None:
    """Raise BortError unless the nearest existing folder is writable; path: as the user gave it."""
    with _report_refusals(path):
        parent = next(folder for folder in target.parents if folder.exists())
        if not parent.is_dir():
            raise BortError(f"{path} cannot be written: {parent} is a file")
        if not os.access(parent, os.W_OK):
            raise BortError(f"{path} cannot be written: {os.strerror(errno.EACCES)}")


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a binary file that takes its final name only when it is complete and on the disk.

    A new file has the mode that the umask leaves, a replaced one the mode that it had. Raises
    BortError when the disk is full or there can be no such file; nothing is left then.
    """
    check_writable(path)
    target = _resolve_target(path)
    with _report_refusals(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _settle_once(target.parent)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        part = ownership.name_temporary(target, "part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        handle = os.open(part, flags, 0o666 if mode is None else 0o600)
    try:
        with _report_refusals(path, REFUSED):
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                part.chmod(mode)
            os.replace(part, target)
            part = None
            sync_folder(target.parent)
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


_SETTLED: set[Path] = set()  # folders that this process has looked at


def _settle_once(folder: Path) -> None:
    """Remove what killed processes have left there, the first time that this one writes there."""
    if folder not in _SETTLED:
        _SETTLED.add(folder)
        ownership.settle(folder)


@contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """Open a file as `replace_file` does; write to a device, a pipe or a descriptor as it is."""
    if not is_stream(path):
        with replace_file(path) as file:
            yield file
        return
    with _report_refusals(path):
        number = _find_descriptor(path)
        # By its name, a file behind an open descriptor would be written from its start.
        handle = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
    with os.fdopen(handle, "wb") as file:
        yield file


def is_stream(path: Path) -> bool:
    """Whether there is a device, a pipe or an open descriptor of this name: no file to replace."""
    with _report_refusals(path):
        plain = not path.exists() or path.is_file() or path.is_dir()
        return not plain or _find_descriptor(path) is not None


def _find_descriptor(path: Path) -> int | None:
    """Return the descriptor that /dev/stdout, /dev/fd/3 and links to them stand for."""
    path = path.absolute()
    for _ in range(10):
        if match := re.fullmatch(r"(?:/dev|/proc/self|/proc/\d+)/fd/(\d+)", str(path)):
            return int(match[1])
        if not path.is_symlink():
            return None
        path = Path(os.path.normpath(path.parent / os.readlink(path)))
    return None


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `folder`, whole and on the disk, after the block.

    Only then is what bort wrote there before removed; files that a user has added move to the new
    folder.
    When the block raises, nothing has changed. What a killed process has left is settled first.
    Raises BortError when the disk is full, there can be no such folder, or a new file would replace
    one of the user's.
    """
    target = _resolve_target(folder)
    check_parent(target, folder)
    fresh = ownership.name_temporary(target, "new")
    with _report_refusals(folder):
        ownership.settle(target.parent)
        fresh.mkdir(parents=True)
    try:
        with _report_refusals(folder, REFUSED):
            yield fresh
            _check_collisions(fresh, target, folder)
            _set_modes(fresh, target)
            files = _list_files(fresh)
            for path in files:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            for parent in {fresh, *(path.parent for path in files)}:
                sync_folder(parent)
            swap_folder(fresh, target)
    finally:  # Ctrl-C included
        shutil.rmtree(fresh, ignore_errors=True)


def _list_files(folder: Path) -> list[Path]:
    """List the files in a folder and in those below it."""
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _check_collisions(fresh: Path, target: Path, folder: Path) -> None:
    owned = ownership.list_own_names(target)
    for path in _list_files(fresh):
        name = path.relative_to(fresh).as_posix()
        parent = target / name.partition("/")[0]  # a file or a link may have the name of a folder
        is_taken = "/" in name and os.path.lexists(parent) and not ownership.is_real_folder(parent)
        there = os.path.lexists(target / name)
        if is_taken or (there and (name not in owned or (target / name).is_dir())):
            raise BortError(
                f"{folder} holds a {name} that bort did not write; move it, or give another folder"
            )


def _set_modes(fresh: Path, target: Path) -> None:
    """Set the modes that the umask leaves; a file that is replaced keeps its own."""
    usual = stat.S_IMODE(fresh.stat().st_mode)
    for path in _list_files(fresh):
        before = target / path.relative_to(fresh)
        path.chmod(stat.S_IMODE(before.stat().st_mode) if before.is_file() else usual & 0o666)
    if target.is_dir():
        fresh.chmod(stat.S_IMODE(target.stat().st_mode))


def swap_folder(fresh: Path, target: Path) -> None:
    """Give `fresh` the name `target`; after a kill in between, `ownership.settle` finishes it."""
    old = ownership.name_temporary(target, "old")
    try:
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    if old.exists():
        ownership.finish_swap(old, target)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write strict JSON (no NaN), whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False, default=str)
    with replace_file(path) as file:
        file.write(text.encode() + b"\n")


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a table, whole or not at all; None and what a row lacks become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(column) for column in columns)
        writer.writerow(["" if cell is None else cell for cell in cells])
    with replace_file(path) as file:
        file.write(text.getvalue().encode())
