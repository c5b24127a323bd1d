"""What a teacher gives for rows or texts, kept on disk in parts.

It is computed once, whatever student learns from it, and a run that was stopped resumes after the
last part.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bort.console import Progress, counted
from bort.errors import BortError
from bort.files.digests import read_array, write_array

logger = logging.getLogger(__name__)

PART = 4096  # rows that are computed and kept together, unless said otherwise


def keep_in_parts(
    folder: Path,
    rows: Sequence[Any],
    compute: Callable[[Sequence[Any]], np.ndarray],
    words: tuple[str, str, str],
    size: int = PART,
) -> np.ndarray:
    """Return the outputs (N, …) of `compute` for all rows, which are kept in `folder`.

    Parts that are kept already are not computed again; a part that cannot be kept is only used.
    compute: takes some of the rows. words: for what is said meanwhile, as in ("labelling",
    "labelled", "row"). size: rows of a part.
    """
    parts, computed = [], 0
    doing, done, name = words
    progress = Progress(logger, f"teacher: {doing} {name}s:")
    for start in range(0, len(rows), size):
        path, part = folder / f"part_{start // size:05d}", rows[start : start + size]
        outputs = read_array(path)
        if outputs is None or len(outputs) != len(part):
            outputs = compute(part)
            computed += len(part)
            _keep(path, outputs)
            progress.update(start + len(part), len(rows))
        parts.append(outputs)
    if computed < len(rows):
        logger.info(f"teacher: {counted(len(rows) - computed, name)} were {done} before")
    return np.concatenate(parts)


def _keep(path: Path, outputs: np.ndarray) -> None:
    try:
        write_array(path, outputs)
    except (OSError, BortError) as error:
        logger.warning(f"the teacher's outputs cannot be kept: {error}")
