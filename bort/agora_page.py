"""What Agora brought: the table at the end of a run, and its part of the run's page."""

import csv
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bort import page

ARMS = {
    "default": "plain, default θ",
    "plain": "plain, all of Θ",
    "random": "plain, with random rows",
    "agora": "Agora",
}
SHOWN = 15  # generated rows on the page


def arms(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Column names and a line per arm, and for S: the scores on dev, and the first one on E."""
    held = f"eval/{summary['metric'].split('/')[1]}"
    metrics = [k for k in summary if k.startswith("val") and k.count("/") == 1 and k != "val/loss"]
    lines = []
    for arm, label in {**ARMS, "teacher": "S, the judge"}.items():
        prefix = "" if arm == "agora" else f"{arm}/"
        lines.append([label, *(f"{summary[prefix + key]:.4f}" for key in (*metrics, held))])
    return ["", *(f"dev {key}" for key in metrics), "E"], lines


def verdict(summary: dict) -> str:
    """Agora against the better of its control arms, and what it took."""
    name = summary["metric"]
    margin = summary[name] - max(summary[f"{arm}/{name}"] for arm in ("plain", "random"))
    return (
        f"Agora is {'above' if margin > 0 else 'not above'} its control arms on dev "
        f"({margin:+.4f}): {summary['generated']:,} rows generated, {summary['trainings']} "
        f"trainings in {summary['rounds']} rounds, {summary['pruned']} θ pruned; "
        f"{summary['steps']:,} steps in each of the three arms"
    )


def show(summary: dict, folder: Path) -> None:
    """The arms side by side, and what it says in words."""
    console = Console(highlight=False)
    head, lines = arms(summary)
    table = Table(*head, title="what did Agora bring?")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(verdict(summary))
    console.print(f"  rows      {folder}/generated.jsonl", soft_wrap=True)


def parts(folder: Path, summary: dict) -> Iterator[Any]:
    """HTML and the figure about a run; of one that is not finished, its rounds so far."""
    if summary:
        head, lines = arms(summary)
        yield "<h2>Agora and its control arms</h2>"
        yield f"{page.table(lines, head)}<p>{escape(verdict(summary))}</p>"
    if (path := folder / "metrics.csv").is_file():
        with path.open(newline="") as file:
            trainings = list(csv.DictReader(file))
        rounds = json.loads((folder / "rounds.json").read_text())["rounds"]
        yield from [
            "<h2>Rounds</h2><div class=grid>",
            *page.panel("E by round", plot(trainings, rounds)),
            "</div>",
        ]
        lines = [list(row.values()) for row in trainings]
        yield page.details("all trainings of the rounds", page.table(lines, list(trainings[0])))
    if (path := folder / "generated.jsonl").is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        cells = [
            (
                row["label"],
                f"{row['confidence']:.0%}",
                *(" / ".join(row[k]) for k in ("source", "texts")),
            )
            for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
        ]
        if cells:
            yield "<h2>Rows that were generated</h2>"
            yield page.table(cells, ("label by S", "sure", "from", "made"), "texts")


def plot(trainings: list[dict], rounds: list[dict]) -> Any:
    """Scores on E of all trainings, and of the best of each round."""
    found = page.figure("round", "score on E")
    found.add_scatter(
        x=[int(row["round"]) for row in trainings],
        y=[float(row["score"]) if row["score"] else None for row in trainings],
        text=[row["theta"] + (", replayed" if row["replay"] != "0" else "") for row in trainings],
        mode="markers",
        name="a θ",
        marker={"color": "#8b949e", "size": 8},
    )
    found.add_scatter(
        x=[each["round"] for each in rounds],
        y=[each["scores"][each["best"]] for each in rounds],
        text=[f"{each['best']}; {each['rows']:,} rows" for each in rounds],
        mode="lines+markers",
        name="best of the round",
        line={"color": "#1f6feb"},
    )
    found.update_xaxes(dtick=1)
    return found
