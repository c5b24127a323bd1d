"""Digests, at 10 GB/s, of corpora and teacher passes, which can be made again.

They find what a disk, a kill or an editor did to a file; they are no protection against intent. A
file that has changed reads as None, so that it is made again. `bort.files.checked` guards the
records of a search, where a change is a mistake that the user must hear of.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bort.files.writing import replace_file


def hash_file(path: Path) -> str:
    """Return XXH3 (128 bits) of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON that carries its own digest, whole or not at all."""
    with replace_file(path) as file:
        file.write(json.dumps({"digest": _hash_value(value), "content": value}, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read what `write_sealed` wrote; None for a file that is absent or has changed since."""
    try:
        sealed = json.loads(path.read_bytes())
        is_whole = sealed["digest"] == _hash_value(sealed["content"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return sealed["content"] if is_whole else None


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `numpy.load` reads it, and its digest behind; whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    with replace_file(path) as file:
        file.write(content + xxhash.xxh3_128_digest(content))


def read_array(path: Path) -> np.ndarray | None:
    """Read what `write_array` wrote; None for a file that is absent or has changed since."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    content, digest = content[:-16], content[-16:]
    if not digest or xxhash.xxh3_128_digest(content) != digest:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)


def _hash_value(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
