"""The teacher's outputs to rows: its soft labels, kept on the disk.

They are computed once for the same teacher and the same rows, whatever student learns from them,
and in parts, so that a run that was stopped resumes after the last part.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bort.config.fingerprint import fingerprint
from bort.files.cache import locate_cache
from bort.finetuning.examples import hash_rows
from bort.finetuning.judge import Judge
from bort.tasks.task import Row
from bort.teachers.kept_outputs import keep_in_parts

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
    return keep_in_parts(
        locate_labels(judge, digest, rows),
        rows,
        lambda part: judge.answer(list(part)).float().numpy(),
        ("labelling", "labelled", "row"),
        PART,
    )
