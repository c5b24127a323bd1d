"""The parts of a report about a fine-tuned model: its data, what it gets wrong, what it beats.

The answers are those of `predictions/val.jsonl`, one per row.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bort import html
from bort.console import counted, decimal, to_printable
from bort.errors import BortError
from bort.files.json_lines import read_json_lines
from bort.runs.baselines import read_baselines
from bort.tasks.answers import Answer, score_classes
from bort.tasks.overview import PREFIX

SHOWN = 20  # errors
MOST_CLASSES = 25  # of a confusion matrix: the most frequent ones
LONGEST = 500  # characters of a text
BINS, LEAST = 5, 10  # of the score by length: bins, and rows in one


def build_baselines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Build the table of a model's scores beside its baselines; nothing for runs without them."""
    baselines = read_baselines(summary)
    columns = list(dict.fromkeys(key for baseline in baselines for key in baseline.scores))
    if not columns:
        return
    lines = [("this model", *(decimal(summary.get(key)) for key in columns), "")]
    for baseline in baselines:
        cells = (decimal(baseline.scores[key]) if baseline.scores else "–" for key in columns)
        lines.append((baseline.title, *cells, baseline.note))
    others = {baseline.name for baseline in baselines}
    title = "Beside others" if "start" in others else "Beside simple answers"
    yield f"<h2>{title}</h2>" + html.format_table(lines, ("", *columns, ""))


DATA_COLUMNS = {  # of the table of splits, by their keys in summary.json
    "rows": "rows",
    "tokens_median": "tokens (median)",
    "tokens_95": "tokens (95% up to)",
    "cut": "cut",
    "duplicates": "duplicates",
    "relabelled": "with another label",
    "in_train": "also in train",
}


def build_data(summary: Mapping[str, Any]) -> Iterator[str]:
    """Build the table of the rows that a model was trained and scored on; nothing for old runs."""
    labels, kind = (summary.get(f"{PREFIX}{key}") for key in ("labels", "kind"))
    lines = []
    for key in summary:
        if (match := re.fullmatch(rf"{PREFIX}(\w+)/rows", key)) is not None:
            numbers = (summary.get(f"{PREFIX}{match[1]}/{name}") for name in DATA_COLUMNS)
            lines.append((match[1], *(f"{n:,}" if isinstance(n, int) else "–" for n in numbers)))
    if not lines:
        return
    yield "<h2>Data</h2>" + html.format_table(lines, ("", *DATA_COLUMNS.values()))
    line = to_printable(f"Labels of train ({kind}): {labels}", LONGEST)
    yield f"<p>{escape(line)}</p>"


def build_task_parts(predictions: Path, summary: Mapping[str, Any]) -> Iterator[Any]:
    """Build the parts about the answers in a folder of predictions, and about the data."""
    for path in sorted(predictions.glob("val*.jsonl")):
        yield from build_parts(path)
    yield from build_data(summary)


def build_parts(path: Path) -> Iterator[Any]:
    """Build HTML and figures about the answers in a file; nothing for an empty one."""
    answers = read_answers(path)
    if not answers:
        return
    classes, has_sets = answers[0].label is not None, isinstance(answers[0].label, tuple)
    right = sum(answer.true == answer.label for answer in answers)
    share = f", {right:,} answered correctly" if classes else ""
    yield f"<h2>Answers to {escape(path.stem)}: {counted(len(answers), 'row')}{share}</h2>"
    if classes and len(labels := {answer.label for answer in answers}) == 1:
        label = escape(_name_answer(labels.pop()))
        yield f"<p class=doubt>One answer for all rows: {label}</p>"
    yield "<div class=grid>"
    if has_sets:
        yield from html.build_panel("Rows with each label", plot_counts(answers))
    elif classes:
        yield from html.build_panel("Confusion", plot_confusion(answers))
    else:
        yield from html.build_panel("Answers and true values", plot_numbers(answers))
    if (plot := plot_by_length(answers, classes)) is not None:
        title = "Mean error by length"
        if classes:
            title = "Exact match by length" if has_sets else "Accuracy by length"
        yield from html.build_panel(title, plot)
    yield "</div>"
    if classes:
        yield from build_class_scores(answers)
    yield list_errors(answers, classes)


def build_class_scores(answers: list[Answer]) -> Iterator[str]:
    """Build the table of each class's scores; of many classes it has the most frequent ones."""
    scores = score_classes(answers)
    shown = sorted(scores, key=lambda score: -score.rows)[:MOST_CLASSES]
    title = "Each class" if len(shown) == len(scores) else f"The {MOST_CLASSES} largest classes"
    lines = []
    for score in shown if len(shown) < len(scores) else scores:
        numbers = (score.precision, score.recall, score.f1)
        cells = ("–" if value is None else f"{value:.3f}" for value in numbers)
        lines.append((to_printable(score.label), *cells, f"{score.rows:,}"))
    yield f"<h3>{title}</h3>"
    yield html.format_table(lines, ("label", "precision", "recall", "F1", "rows"))


def read_answers(path: Path) -> list[Answer]:
    """Read a file of answers; raises BortError, with the line, for any other content."""
    answers: list[Answer] = []
    remedy = "restore the file or remove it"
    for line in read_json_lines(path, remedy):
        try:
            answer = Answer.from_json(line.record)
            if answers and type(answer.label) is not type(answers[0].label):
                raise ValueError("answers of several kinds in one file")
        except ValueError:
            raise BortError(f"{line.where}: not an answer of bort; {remedy}") from None
        answers.append(answer)
    return answers


def plot_confusion(answers: list[Answer]) -> Any:
    """Plot the counts of true labels (rows) by answers (columns).

    The color is the share of the row.
    """
    counts = Counter((answer.true, answer.label) for answer in answers)
    frequent = Counter(answer.true for answer in answers)
    labels = list(answers[0].scores)
    if len(labels) > MOST_CLASSES:
        labels = [label for label, _ in frequent.most_common(MOST_CLASSES)]
    table = np.array([counts[true, label] for true in labels for label in labels])
    table = table.reshape(len(labels), len(labels))
    ticks = list(range(len(labels)))
    figure = html.create_figure("answer", "", 140 + max(200, 24 * len(labels)))
    figure.add_heatmap(
        z=table / np.maximum(table.sum(1, keepdims=True), 1),
        x=ticks,
        y=ticks,
        text=table if len(labels) <= 12 else None,
        texttemplate="%{text}" if len(labels) <= 12 else None,
        customdata=table,
        hovertemplate="true %{y}<br>answer %{x}<br>%{customdata} rows, %{z:.0%}<extra></extra>",
        colorscale="Blues",
        zmin=0,
        zmax=1,
        showscale=False,
    )
    names = [_shorten(label) for label in labels]
    figure.update_xaxes(tickvals=ticks, ticktext=names, tickangle=-45, automargin=True)
    figure.update_yaxes(tickvals=ticks, ticktext=names, autorange="reversed", automargin=True)
    figure.update_yaxes(title_text="true label")
    return figure


def plot_counts(answers: list[Answer]) -> Any:
    """Plot how many rows have each of several labels, are answered so, and rightly so."""
    scores = score_classes(answers)
    scores = sorted(scores, key=lambda score: -score.rows)[:MOST_CLASSES]
    answered = Counter(label for answer in answers for label in answer.label)
    counts = {
        "true": [score.rows for score in scores],
        "answered": [answered[score.label] for score in scores],
        "both": [round((score.recall or 0.0) * score.rows) for score in scores],
    }
    figure = html.create_figure("", "rows")
    for name, numbers in counts.items():
        figure.add_bar(x=[_shorten(score.label) for score in scores], y=numbers, name=name)
    figure.update_xaxes(type="category", automargin=True)
    return figure


def plot_numbers(answers: list[Answer]) -> Any:
    """Plot the answers of a regression over the true values."""
    true, scores = [answer.true for answer in answers], [answer.score for answer in answers]
    ends = [min(true + scores), max(true + scores)]
    figure = html.create_figure("true value", "answer")
    figure.add_scattergl(x=true, y=scores, mode="markers", marker={"size": 5, "opacity": 0.5})
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "#8b949e"})
    figure.update_layout(showlegend=False)
    return figure


def plot_by_length(answers: list[Answer], classes: bool) -> Any:
    """Plot the score of rows of similar length, with its interval of 95%.

    Returns None for too few rows, or rows that are all of one length.
    """
    lengths = np.array([answer.tokens for answer in answers])
    if classes:
        values = np.array([float(answer.true == answer.label) for answer in answers])
    else:
        values = np.array([abs(answer.true - answer.score) for answer in answers])
    count = min(BINS, len(answers) // LEAST)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1])) if count else []
    numbers = np.searchsorted(edges, lengths, side="left")  # of each row's bin
    bins = np.unique(numbers)
    if len(bins) < 2:
        return None
    names, means, low, high = [], [], [], []
    for number in bins:
        part, tokens = values[numbers == number], lengths[numbers == number]
        names.append(f"{tokens.min()}–{tokens.max()}")
        means.append(part.mean())
        down, up = _compute_interval(part, classes)
        low.append(part.mean() - down)
        high.append(up - part.mean())
    figure = html.create_figure("tokens", "accuracy" if classes else "mean |answer − true|")
    figure.add_bar(
        x=names,
        y=means,
        error_y={"type": "data", "array": high, "arrayminus": low, "color": html.GREY},
        marker={"color": "#54aeff"},
        customdata=[int((numbers == number).sum()) for number in bins],
        hovertemplate="%{x} tokens: %{y:.3f} of %{customdata} rows<extra></extra>",
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero", range=[0, 1] if classes else None)
    return figure


def _compute_interval(values: np.ndarray, are_shares: bool) -> tuple[float, float]:
    """Compute 95% around the mean: Wilson's interval of a share, else the normal one."""
    n, mean, z = len(values), values.mean(), 1.96
    if not are_shares:
        half = z * values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
        return mean - half, mean + half
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return center - half, center + half


def list_errors(answers: list[Answer], classes: bool) -> str:
    """List the wrong answers that the model was most sure of, of a regression the farthest ones."""
    if classes:
        wrong = [answer for answer in answers if answer.true != answer.label]
        wrong.sort(key=lambda answer: -answer.score)
        cells = [
            (_name_answer(a.true), _name_answer(a.label), f"{a.score:.1%}", _join_texts(a))
            for a in wrong[:SHOWN]
        ]
        title, head = "Errors it was most sure of", ("true", "answer", "sure", "text")
    else:
        wrong = sorted(answers, key=lambda answer: -abs(answer.true - answer.score))
        cells = [(f"{a.true:g}", f"{a.score:.3f}", _join_texts(a)) for a in wrong[:SHOWN]]
        title, head = "Farthest answers", ("true", "answer", "text")
    if not cells:
        return "<p>No answer is wrong.</p>"
    return f"<h3>{title}</h3>{html.format_table(cells, head, 'texts')}"


def _name_answer(label: str | tuple[str, ...]) -> str:
    """Name a label, or several of one row."""
    joined = label if isinstance(label, str) else ", ".join(label) or "no label"
    return to_printable(joined)


def _join_texts(answer: Answer) -> str:
    return to_printable(" ⏎ ".join(answer.texts), 2 * LONGEST)


def _shorten(label: str, most: int = 18) -> str:
    """Shorten a label, and escape it: Plotly reads tags in its texts."""
    label = to_printable(label)
    return escape(label if len(label) <= most else label[: most - 1] + "…")
