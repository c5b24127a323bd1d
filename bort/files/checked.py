"""Records of a search that notice a change: JSON with a check value, arrays with a SHA-256 digest.

A file that is not as it was written raises BortError with a remedy. `bort.files.digests` is for
what can be made again without a word.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from bort.errors import BortError
from bort.files.untrusted import parse_json
from bort.files.writing import replace_file, write_json


def compute_check_value(content: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any value of what JSON keeps of `content`."""
    plain = json.loads(json.dumps(content, default=str))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_checked(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whose last value, `check`, tells whether the others were changed."""
    write_json(path, content | {"check": compute_check_value(content)})


def read_checked(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file of `write_checked`, without its check value.

    remedy: what a user can do about a file that is not as it was written, as the BortError says.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
        check = content.pop("check")
        is_whole = check == compute_check_value(content)
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise BortError(f"{path} was changed, damaged or written by another version; {remedy}")
    return content


def save_array(path: Path, array: np.ndarray) -> str:
    """Write an array, whole and on the disk; return the digest of its file."""
    file = io.BytesIO()
    np.save(file, array)
    with replace_file(path) as target:
        target.write(file.getvalue())
    return _hash_bytes(file.getvalue())


def load_array(path: Path, digest: str, remedy: str) -> np.ndarray:
    """Read an array of `save_array`; raise BortError when it is not the one with this digest."""
    if digest_content(path) != digest:
        raise BortError(f"{path} is missing, changed or damaged; {remedy}")
    return np.load(path, allow_pickle=False)


def digest_content(path: Path) -> str:
    """Return 16 hexadecimal digits of a file's content; an absent file counts as an empty one."""
    return _hash_bytes(path.read_bytes() if path.is_file() else b"")


def _hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
