"""Whether a file that was kept is still what was written: cheap digests, at 10 GB/s.

They find what a disk, a kill or an editor did to a file; they are no protection against intent.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

from bort.files import replacing


def content_digest(path: Path) -> str:
    """XXH3 (128 bits) of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON that carries its own digest, whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps({"digest": _seal(value), "content": value}, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None for a file that is absent or has changed since."""
    try:
        sealed = json.loads(path.read_bytes())
        whole = sealed["digest"] == _seal(sealed["content"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return sealed["content"] if whole else None


def _seal(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
