"""The embedded task, task=docstrings: which installed package does a docstring come from?

`bort.text.docstrings` picks its rows; this module keeps them in the cache and gives them a form.
"""

import hashlib
import json
import logging
import platform
from pathlib import Path

from bort.errors import BortError
from bort.files.digests import read_sealed, write_sealed
from bort.tasks.custom import define_task
from bort.tasks.task import Row, Task
from bort.text import docstrings
from bort.text.sources import list_python_files, parse_docstrings, read_versions

logger = logging.getLogger(__name__)


def read_docstring_task(folder: Path) -> tuple[Task, dict[str, list[Row]]]:
    """The task and its rows, from a cache folder after they were written there once.

    Raises BortError when fewer than two of the packages are installed.
    """
    classes = docstrings.CLASSES
    packages = {"python": platform.python_version(), **read_versions(classes)}
    names = [name for name in classes if name in packages]
    if len(names) < 2:
        raise BortError(f"task=docstrings needs two of {', '.join(classes)}; install numpy")
    identity = json.dumps([packages, docstrings.list_settings()], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = folder / "tasks" / f"docstrings-{name}.json"
    stored = read_sealed(path)
    if stored is None:
        if path.exists():
            logger.info(f"task=docstrings: {path} is damaged; it is made again")
        files = {name: list_python_files(name) for name in names}
        picks = docstrings.pick_rows(names, files, parse_docstrings)
        stored = {split: list(map(_strip_names, picked)) for split, picked in picks.items()}
        write_sealed(path, stored)
    rows: dict[str, list[Row]] = {}
    for split in docstrings.ROWS:
        cells = enumerate(stored[split])
        rows[split] = [Row(k, (text,), label, group=file) for k, (text, label, file) in cells]
    return define_task("docstrings", "classes", ("docstring",), tuple(names), cut=0), rows


def _strip_names(pick: docstrings.Pick) -> list:
    """Take the names of packages out of a row's text; returns text, label and file."""
    return [docstrings.remove_names(pick.text), pick.label, pick.file]
