"""The embedded task: which installed package does a docstring come from? Nothing to download.

The names of the packages are taken out of the texts, and all docstrings of a file are in one split,
so that neither a name nor a text that is repeated within a file gives an answer away. A row's group
is its file: Agora keeps those together too.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from bort.custom import own_task
from bort.documents import docstrings, python_files, versions
from bort.errors import BortError
from bort.files import replacing
from bort.rows import Row, Task

VERSION = 2  # part of the cache's name: raise it when the same installation would give other rows
CLASSES = ("python", "networkx", "numpy", "pandas", "scipy", "sympy", "torch", "transformers")
ROWS = {"train": 400, "val": 100, "test": 100}  # of each class
LONGEST = 600  # characters of a docstring: the beginning says what a thing is
NAMES = re.compile(
    r"\b(python|networkx|nx|numpy|np|ndarrays?|pandas|pd|scipy|sympy|sp|(?:py)?torch|transformers?|"
    r"hugging ?face|hf)\b",
    re.IGNORECASE,
)


def read(cache: Path) -> tuple[Task, dict[str, list[Row]]]:
    """The task and its rows, from the folder `cache` after they were written there once.

    Raises BortError when fewer than two of the packages are installed.
    """
    packages = {"python": platform.python_version(), **versions(CLASSES)}
    names = tuple(name for name in CLASSES if name in packages)
    if len(names) < 2:
        raise BortError(f"task=docstrings needs two of {', '.join(CLASSES)}; install numpy")
    identity = json.dumps([VERSION, packages, ROWS, LONGEST, NAMES.pattern], sort_keys=True)
    path = cache / "tasks" / f"docstrings-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        found = {split: [] for split in ROWS}
        for label, name in enumerate(names):
            for split, texts in _texts(name).items():
                found[split] += [[text, label, file] for text, file in texts]
        with replacing(path) as file:
            file.write(json.dumps(found).encode())
    stored = json.loads(path.read_text())
    rows = {
        split: [
            Row(number, (text,), label, group=file)
            for number, (text, label, file) in enumerate(stored[split])
        ]
        for split in ROWS
    }
    return own_task("docstrings", "classes", ("docstring",), names, cut=0), rows


def _texts(package: str) -> dict[str, list[tuple[str, str]]]:
    """Distinct texts of each split and the file of each, `package/path`.

    Files are taken by their hash until there are enough.
    """
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in ROWS}
    seen: set[str] = set()
    files = python_files(package)
    root = os.path.commonpath(files)
    for split, file in _files(files, root):
        if len(found[split]) < ROWS[split]:
            texts = [NAMES.sub("…", text[:LONGEST]) for text in docstrings(file)]
            new = [text for text in dict.fromkeys(texts) if text not in seen]
            named = f"{package}/{os.path.relpath(file, root)}"
            found[split] += [(text, named) for text in new[: ROWS[split] - len(found[split])]]
            seen.update(new)
        if all(len(found[split]) == count for split, count in ROWS.items()):
            break
    return found


def _files(files: list[str], root: str) -> Iterator[tuple[str, str]]:
    """The files in the order of a hash, each after the split that another part of it names."""
    digests = {f: hashlib.sha256(os.path.relpath(f, root).encode()).digest() for f in files}
    total = sum(ROWS.values())
    for file in sorted(files, key=lambda f: digests[f]):
        place = int.from_bytes(digests[file][-4:]) % total
        for split, count in ROWS.items():
            if place < count:
                yield split, file
                break
            place -= count
