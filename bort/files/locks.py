"""Locks that end with their process, and names that only one process can have."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bort.errors import BortError
from bort.files import ownership
from bort.files.run_files import is_made_by_run
from bort.files.writing import check_parent, is_stream


@contextmanager
def lock(path: Path, busy: str, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock file `path`; yield its descriptor, for child processes that shall hold it too.

    A process that ends, however it ends, no longer holds it. The file is never written to, and it
    is removed if it is empty. busy: the message of the BortError where another process holds it.
    waiting: if given, it is called once, and then the lock waits for that process instead.
    """
    has_called = False
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                os.close(handle)
                raise BortError(busy) from None
            if not has_called:
                waiting()
            has_called = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # some network disks have no locks
            os.close(handle)
            raise BortError(f"{path} cannot be locked: {error.strerror}") from None
        # Whoever had the lock removed the file with it: a lock on that one keeps nobody out.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)
    try:
        yield handle
    finally:
        if not os.fstat(handle).st_size:  # a file with content is not ours
            path.unlink(missing_ok=True)
        os.close(handle)


def remove_stale(path: Path) -> None:
    """Remove the lock file of a process that was killed; one that is held stays."""
    if path.is_file():
        with suppress(BortError), lock(path, "held"):
            pass  # at the end of its block a lock removes its file


def _open(path: Path) -> int:
    """Open an ordinary file; raise BortError for a link, a device or a pipe of that name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise BortError(f"{path} is a link, where bort keeps its lock; remove it")
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        raise BortError(f"{path.parent} cannot be written: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BortError(f"{path} is no ordinary file, and bort keeps its lock there; remove it")
    return handle


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Hold what out= names, a file or a folder, from the first check to the last write.

    Raises BortError where another process writes to it.
    """
    if is_stream(out):
        yield
        return
    target = Path(os.path.realpath(out))
    check_parent(target, out)
    created = create_folder(target.parent)
    try:
        busy = f"another process is writing to {out}; wait for it or use another out="
        with lock(target.with_name(f".{target.name}.bort-lock"), busy):
            yield
    finally:
        ownership.remove_empty(created)


def check_unread(out: Path, sources: dict[str, str | None]) -> None:
    """Raise BortError when out= names a file that the same command reads.

    sources: the values of the keys that name what is read, files and folders of models.
    """
    if not out.exists():
        return
    for key, source in sources.items():
        path = Path(source or "").expanduser()
        if not source or not path.exists():
            continue
        if path.samefile(out) or (path.is_dir() and is_made_by_run(out, path)):
            raise BortError(f"out={out} is read from {key}={source}; give another file")


def create_folder(folder: Path) -> list[Path]:
    """Make a folder; return those that were not there before, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BortError(f"{folder} cannot be written: {error.strerror}") from error
    return missing


_RESERVED: list[list[Path]] = []


def reserve(folder: Path) -> bool:
    """Make a folder that is not there yet; return False where another process was faster.

    `release` removes it, if it is still empty then.
    """
    created = create_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    _RESERVED.append([folder, *created])
    return True


def release() -> None:
    """Remove the reserved folders that nothing was written to."""
    while _RESERVED:
        ownership.remove_empty(_RESERVED.pop())
