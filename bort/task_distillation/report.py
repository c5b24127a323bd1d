"""What a page says of a task's distillation: how good its teacher is, and what was learnt from."""

from collections.abc import Iterator, Mapping
from typing import Any

from bort.runs.summary import RunSummary


def describe_lesson(settings: Mapping[str, Any]) -> str:
    """Say, of flat settings, on which other texts was learnt and from which teacher."""
    texts = f" and {settings['data.unlabelled']}" if settings["data.unlabelled"] else ""
    return f"{texts}, taught by {settings['teacher.name']}"


def list_results(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """List the teacher's score and the numbers of rows as (value, name)."""
    score = summary.get(f"teacher/{summary.metric}")
    if isinstance(score, float):
        yield f"{score:.4g}", f"{summary.metric} of the teacher"
    for key in ("labelled_rows", "unlabelled_rows"):
        if key in summary:
            yield f"{summary[key]:,}", key.replace("_", " ")
