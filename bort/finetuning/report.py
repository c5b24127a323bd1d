"""What a fine-tuned model gets wrong on a validation set, as parts of a page.

Reads `predictions/val.jsonl`: the objects that bort.tasks.metrics.write_answers wrote, one per row.
"""

import math
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bort import html
from bort.console import counted, to_printable
from bort.errors import BortError
from bort.files.untrusted import json_object
from bort.tasks.registry import decoded

SHOWN = 20  # errors
MOST_CLASSES = 25  # of a confusion matrix: the most frequent ones
LONGEST = 500  # characters of a text
BINS, LEAST = 5, 10  # of the score by length: bins, and rows in one


def parts(path: Path) -> Iterator[Any]:
    """HTML and figures about the answers in a file; nothing for an empty one."""
    rows = read_answers(path)
    if not rows:
        return
    classes = "label" in rows[0]
    right = sum(row["true"] == row.get("label") for row in rows)
    share = f", {right:,} answered correctly" if classes else ""
    yield f"<h2>Answers to {escape(path.stem)}: {counted(len(rows), 'row')}{share}</h2>"
    if classes and len(answers := {row["label"] for row in rows}) == 1:
        yield f"<p class=doubt>One answer for all rows: {escape(to_printable(answers.pop()))}</p>"
    yield "<div class=grid>"
    if classes:
        yield from html.panel("Confusion", confusion(rows))
    else:
        yield from html.panel("Answers and true values", scatter(rows))
    if (plot := by_length(rows, classes)) is not None:
        title = "Accuracy by length" if classes else "Mean error by length"
        yield from html.panel(title, plot)
    yield "</div>"
    yield errors(rows, classes)


def read_answers(path: Path) -> list[dict]:
    """The objects of a file of answers; raises BortError, with the line, for any other content."""
    if not path.stat().st_size:
        return []
    rows: list[dict] = []
    for number, line in enumerate(decoded(path).removesuffix("\n").split("\n"), start=1):
        where = f"{path}, line {number}"
        row = json_object(line, where)
        kinds = {"true": str, "label": str, "score": float, "scores": dict, "tokens": int}
        if "label" not in row:  # of a regression
            kinds = {"true": float, "score": float, "tokens": int}
        texts = row.get("texts", [])
        good = all(isinstance(row.get(key), kind) for key, kind in kinds.items())
        good &= isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        good &= ("label" in row) == ("label" in (rows or [row])[0])
        if not good:
            raise BortError(f"{where}: not an answer of bort; restore the file or remove it")
        rows.append(row)
    return rows


def confusion(rows: list[dict]):
    """Counts of true labels (rows) by answers (columns); the color is the share of the row."""
    counts = Counter((row["true"], row["label"]) for row in rows)
    frequent = Counter(row["true"] for row in rows)
    labels = list(rows[0]["scores"])
    if len(labels) > MOST_CLASSES:
        labels = [label for label, _ in frequent.most_common(MOST_CLASSES)]
    table = np.array([[counts[true, label] for label in labels] for true in labels])
    places = list(range(len(labels)))
    found = html.figure("answer", "", 140 + max(200, 24 * len(labels)))
    found.add_heatmap(
        z=table / np.maximum(table.sum(1, keepdims=True), 1),
        x=places,
        y=places,
        text=table if len(labels) <= 12 else None,
        texttemplate="%{text}" if len(labels) <= 12 else None,
        customdata=table,
        hovertemplate="true %{y}<br>answer %{x}<br>%{customdata} rows, %{z:.0%}<extra></extra>",
        colorscale="Blues",
        zmin=0,
        zmax=1,
        showscale=False,
    )
    names = [_short(label) for label in labels]
    found.update_xaxes(tickvals=places, ticktext=names, tickangle=-45, automargin=True)
    found.update_yaxes(tickvals=places, ticktext=names, autorange="reversed", automargin=True)
    found.update_yaxes(title_text="true label")
    return found


def scatter(rows: list[dict]):
    """Answers of a regression over the true values."""
    true, answers = ([row[key] for row in rows] for key in ("true", "score"))
    ends = [min(true + answers), max(true + answers)]
    found = html.figure("true value", "answer")
    found.add_scattergl(x=true, y=answers, mode="markers", marker={"size": 5, "opacity": 0.5})
    found.add_scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "#8b949e"})
    found.update_layout(showlegend=False)
    return found


def by_length(rows: list[dict], classes: bool):
    """The score of rows of similar length, with its interval of 95%; None for too few rows."""
    lengths = np.array([row["tokens"] for row in rows])
    if classes:
        values = np.array([float(row["true"] == row["label"]) for row in rows])
    else:
        values = np.array([abs(row["true"] - row["score"]) for row in rows])
    count = min(BINS, len(rows) // LEAST)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1])) if count else []
    places = np.searchsorted(edges, lengths, side="left")
    bins = [place for place in range(len(edges) + 1) if (places == place).any()]
    if len(bins) < 2:
        return None
    names, means, low, high = [], [], [], []
    for place in bins:
        own, some = values[places == place], lengths[places == place]
        names.append(f"{some.min()}–{some.max()}")
        means.append(own.mean())
        down, up = _interval(own, classes)
        low.append(own.mean() - down)
        high.append(up - own.mean())
    found = html.figure("tokens", "accuracy" if classes else "mean |answer − true|")
    found.add_bar(
        x=names,
        y=means,
        error_y={"type": "data", "array": high, "arrayminus": low, "color": "#57606a"},
        marker={"color": "#54aeff"},
        customdata=[int((places == place).sum()) for place in bins],
        hovertemplate="%{x} tokens: %{y:.3f} of %{customdata} rows<extra></extra>",
    )
    found.update_xaxes(type="category")
    found.update_yaxes(rangemode="tozero", range=[0, 1] if classes else None)
    return found


def _interval(values: np.ndarray, shares: bool) -> tuple[float, float]:
    """95% around the mean: Wilson's of a share, else the normal one."""
    n, mean, z = len(values), values.mean(), 1.96
    if not shares:
        half = z * values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
        return mean - half, mean + half
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return center - half, center + half


def errors(rows: list[dict], classes: bool) -> str:
    """The wrong answers that the model was most sure of, of a regression the farthest ones."""
    if classes:
        wrong = [row for row in rows if row["true"] != row["label"]]
        wrong.sort(key=lambda row: -row["score"])
        cells = [
            (to_printable(r["true"]), to_printable(r["label"]), f"{r['score']:.1%}", _texts(r))
            for r in wrong[:SHOWN]
        ]
        title, head = "Errors it was most sure of", ("true", "answer", "sure", "text")
    else:
        wrong = sorted(rows, key=lambda row: -abs(row["true"] - row["score"]))
        cells = [(f"{r['true']:g}", f"{r['score']:.3f}", _texts(r)) for r in wrong[:SHOWN]]
        title, head = "Farthest answers", ("true", "answer", "text")
    if not cells:
        return "<p>No answer is wrong.</p>"
    return f"<h3>{title}</h3>{html.table(cells, head, 'texts')}"


def _texts(row: dict) -> str:
    return to_printable(" ⏎ ".join(row.get("texts", ())), 2 * LONGEST)


def _short(label: str, most: int = 18) -> str:
    """Plotly reads tags in its texts."""
    label = to_printable(label)
    return escape(label if len(label) <= most else label[: most - 1] + "…")
