"""What a page says of a task's distillation: what was learnt from, and which model to deploy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from bort.config.train import EMBED
from bort.console import decimal
from bort.files.run_files import CONTROL, MODEL
from bort.runs.baselines import read_baselines
from bort.runs.summary import RunSummary
from bort.tasks.metrics import is_falling


def describe_lesson(settings: Mapping[str, Any]) -> str:
    """Say, of flat settings, on which other texts was learnt and from which teacher."""
    if settings.get("task") == EMBED:
        return f", on {settings['data.unlabelled']}, taught by {settings['teacher.name']}"
    texts = f" and {settings['data.unlabelled']}" if settings["data.unlabelled"] else ""
    return f"{texts}, taught by {settings['teacher.name']}"


def list_results(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """List the scores of the teacher and the control arm, and the numbers of rows.

    All are pairs (value, name).
    """
    for name, title in (("teacher", "the teacher"), (CONTROL, "the student without a teacher")):
        score = summary.get(f"{name}/{summary.metric}")
        if isinstance(score, float):
            yield f"{score:.4g}", f"{summary.metric} of {title}"
    for key in ("labelled_rows", "unlabelled_rows"):
        if key in summary:
            yield f"{summary[key]:,}", key.replace("_", " ")


@dataclass(frozen=True)
class Answerer:
    """Something that answers the task's rows, and its score by the metric of the run."""

    title: str
    score: float


def list_others(summary: RunSummary) -> Iterator[Answerer]:
    """List what stands beside the model of a fine-tuning, the teacher aside; the simplest first."""
    for baseline in read_baselines(summary):
        if (score := baseline.scores.get(str(summary.metric))) is not None:
            yield Answerer(baseline.title, score)
    of_control = summary.get(f"{CONTROL}/{summary.metric}")
    if of_control is not None:
        yield Answerer(f"the student without a teacher ({CONTROL}/{MODEL})", of_control)


def list_answerers(summary: RunSummary) -> Iterator[Answerer]:
    """List what a distillation has compared, the teacher aside; what is simpler comes first."""
    yield from list_others(summary)
    if (score := summary.get(str(summary.metric))) is not None:
        yield Answerer("this student", score)


def recommend(summary: RunSummary) -> str | None:
    """Say which of what was compared is best to deploy; None where nothing has a score.

    Of equal scores the simpler answer wins. The teacher is named beside it where it is better.
    """
    metric = str(summary.metric)
    sign = -1 if is_falling(metric) else 1
    answerers = list(list_answerers(summary))
    if not answerers:
        return None
    best = max(answerers, key=lambda answerer: sign * answerer.score)  # the first of equals
    line = f"{best.title}, {metric} {decimal(best.score)}"
    others = [f"{other.title} {decimal(other.score)}" for other in answerers if other is not best]
    if others:
        line += f", against {', '.join(others)}"
    teacher = summary.get(f"teacher/{metric}")
    if teacher is None:
        return line
    is_better = sign * teacher > sign * best.score
    side = "better, if it is small enough" if is_better else "no better"
    return f"{line}; the teacher's {decimal(teacher)} is {side}"


def build_recommendation(summary: RunSummary) -> Iterator[str]:
    """Build the line of a page that says what to deploy; nothing of a run without scores."""
    if line := recommend(summary):
        yield f"<p><b>To deploy:</b> {escape(line)}.</p>"
