"""The report of Agora: the table at the end of a run, and its part of the page."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bort import html
from bort.console import counted, decimal, to_printable
from bort.errors import BortError
from bort.files.text_files import read_whole_text
from bort.files.untrusted import parse_object

ARMS = {
    "default": "plain, default θ",
    "plain": "plain, all of Θ",
    "random": "plain, with random rows",
    "agora": "Agora",
}
SHOWN = 15  # generated rows on the page


def list_arms(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Column names and a line per arm, and for S: the scores on dev, and the first one on E."""
    held = f"eval/{summary['metric'].split('/')[1]}"
    metrics = [k for k in summary if k.startswith("val") and k.count("/") == 1 and k != "val/loss"]
    lines = []
    for arm, label in {**ARMS, "teacher": "S, the judge"}.items():
        prefix = "" if arm == "agora" else f"{arm}/"
        lines.append([label, *(decimal(summary[prefix + key]) for key in (*metrics, held))])
    return ["", *(f"dev {key}" for key in metrics), "E"], lines


def judge_agora(summary: dict) -> str:
    """Compare Agora with the better of its control arms, and say what it took."""
    name = summary["metric"]
    controls = [summary[f"{arm}/{name}"] for arm in ("plain", "random")]
    if None in (summary[name], *controls):
        result = f"Agora cannot be compared: {name} of an arm is not defined"
    else:
        margin = summary[name] - max(controls)
        sign = "above" if margin > 0 else "not above"
        result = f"Agora is {sign} its control arms on dev ({margin:+.4f})"
    steps = []
    for arm, title in ARMS.items():
        count = summary[f"{arm}/steps"]
        steps.append(f"{count:,} {title}")
    return (
        f"{result}: {counted(summary['generated'], 'row')} generated, "
        f"{counted(summary['trainings'], 'training')} in {counted(summary['rounds'], 'round')}, "
        f"{summary['pruned']} θ pruned; steps by arm: {'; '.join(steps)}"
    )


def show_result(summary: dict, folder: Path) -> None:
    """The arms side by side, and what it says in words."""
    console = Console(highlight=False)
    head, lines = list_arms(summary)
    table = Table(*head, title="what did Agora bring?")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(judge_agora(summary))
    console.print(f"  rows      {folder}/generated.jsonl", soft_wrap=True)


def build_parts(folder: Path, summary: dict) -> Iterator[Any]:
    """HTML and the figure about a run; of one that is not finished, its rounds so far.

    Raises BortError for a file that is damaged.
    """
    if summary:
        with _checked_file(folder / "summary.json"):
            (head, lines), words = list_arms(summary), judge_agora(summary)
        yield "<h2>Agora and its control arms</h2>"
        yield f"{html.format_table(lines, head)}<p>{escape(words)}</p>"
    if (path := folder / "metrics.csv").is_file():
        trainings = list(csv.DictReader(io.StringIO(read_whole_text(path), newline="")))
        with _checked_file(f"{folder}/metrics.csv or rounds.json"):
            rounds = _read_objects(folder / "rounds.json", is_single=True)[0]["rounds"]
            figure, columns = plot_rounds(trainings, rounds), list(trainings[0])
        yield from [
            "<h2>Rounds</h2><div class=grid>",
            *html.build_panel("E by round", figure),
            "</div>",
        ]
        lines = [list(row.values()) for row in trainings]
        yield html.fold("all trainings of the rounds", html.format_table(lines, columns))
    if (path := folder / "generated.jsonl").is_file():
        with _checked_file(path):
            cells = _list_generated(_read_objects(path))
        if cells:
            yield "<h2>Rows that were generated</h2>"
            yield html.format_table(cells, ("label by S", "sure", "from", "made"), "texts")


def _list_generated(rows: list[dict]) -> list[tuple[str, ...]]:
    """List the cells of some generated rows, spread over all of them."""
    cells = []
    for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        source, texts = " / ".join(row["source"]), " / ".join(row["texts"])
        cells.append((to_printable(row["label"]), f"{row['confidence']:.0%}", source, texts))
    return cells


def _read_objects(path: Path, is_single: bool = False) -> list[dict]:
    """Read the JSON objects of a file: one on each line, or a single one."""
    if not path.is_file() or not path.stat().st_size:  # of no row there is no line
        return []
    if is_single:
        return [parse_object(read_whole_text(path), str(path))]
    lines = enumerate(read_whole_text(path).split("\n"), start=1)
    return [parse_object(line, f"{path}, line {number}") for number, line in lines if line]


@contextmanager
def _checked_file(path: Path | str) -> Iterator[None]:
    """What a file lacks, or has as another type, as one line about the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = to_printable(f"{type(error).__name__}: {error}")
        raise BortError(f"{path} is damaged ({reason}); restore it or remove it") from None


def plot_rounds(trainings: list[dict], rounds: list[dict]) -> Any:
    """Scores on E of all trainings, and of the best of each round."""
    figure = html.create_figure("round", "score on E")
    figure.add_scatter(
        x=[int(row["round"]) for row in trainings],
        y=[float(row["score"]) if row["score"] else None for row in trainings],
        text=[row["theta"] + (", replayed" if row["replay"] != "0" else "") for row in trainings],
        mode="markers",
        name="a θ",
        marker={"color": "#8b949e", "size": 8},
    )
    figure.add_scatter(
        x=[played["round"] for played in rounds],
        y=[played["scores"][played["best"]] for played in rounds],
        text=[f"{played['best']}; {played['rows']:,} rows" for played in rounds],
        mode="lines+markers",
        name="best of the round",
        line={"color": "#1f6feb"},
    )
    figure.update_xaxes(dtick=1)
    return figure
