"""The teacher's outputs to rows: its soft labels, kept on the disk.

They are computed once for the same teacher and the same rows, whatever student learns from them,
and in parts, so that a run that was stopped resumes after the last part.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bort.config.fingerprint import fingerprint
from bort.console import Progress, counted
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.files.digests import read_array, write_array
from bort.finetuning.examples import hash_rows
from bort.finetuning.judge import Judge
from bort.tasks.task import Row

logger = logging.getLogger(__name__)

PART = 4096  # rows that are answered and kept together
VERSION = 1  # of what is kept; raise it whenever the same rows would get other outputs


def locate_labels(judge: Judge, digest: str, rows: Sequence[Row]) -> Path:
    """Return the folder of a teacher's outputs to these rows. digest: that of the teacher."""
    facts = {
        "teacher": digest,
        "task": judge.task.name,
        "labels": judge.task.labels,
        "length": judge.length,
        "rows": hash_rows({"rows": list(rows)}),
        "version": VERSION,
    }
    if judge.task.overlap is not None:
        facts["overlap"] = judge.task.overlap
    return locate_cache() / "soft_labels" / fingerprint(facts)


def label_rows(judge: Judge, digest: str, rows: Sequence[Row]) -> np.ndarray:
    """Return the teacher's logits (N, classes), or numbers (N, 1), of rows, in float32.

    Parts that are kept already are not computed again; a part that cannot be kept is only used.
    digest: that of the teacher.
    """
    folder, parts = locate_labels(judge, digest, rows), []
    progress = Progress(logger, "teacher: labelling rows:")
    computed = 0
    for start in range(0, len(rows), PART):
        path, part = folder / f"part_{start // PART:05d}", rows[start : start + PART]
        outputs = read_array(path)
        if outputs is None or len(outputs) != len(part):
            outputs = judge.answer(list(part)).float().numpy()
            computed += len(part)
            _keep(path, outputs)
            progress.update(start + len(part), len(rows))
        parts.append(outputs)
    if computed < len(rows):
        logger.info(f"teacher: {counted(len(rows) - computed, 'row')} were labelled before")
    return np.concatenate(parts)


def _keep(path: Path, outputs: np.ndarray) -> None:
    try:
        write_array(path, outputs)
    except (OSError, BortError) as error:
        logger.warning(f"the teacher's labels cannot be kept: {error}")
