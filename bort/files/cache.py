"""The cache: a folder that keeps between runs what is slow to make."""

from pathlib import Path

from bort.errors import BortError
from bort.machine import find_user_cache


def locate_cache() -> Path:
    """Return the folder of corpora and teachers: $BORT_CACHE, or bort in the user's cache."""
    if (folder := find_user_cache()) is None:
        raise BortError(
            "this user has no home folder to keep corpora and teachers in; set BORT_CACHE=FOLDER"
        )
    return folder
