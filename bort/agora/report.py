"""The report of Agora: the table at the end of a run, and its part of the page."""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bort import html
from bort.agora.result import ARMS, AgoraResult
from bort.console import counted, decimal, to_printable
from bort.errors import BortError
from bort.files.json_lines import read_json_lines
from bort.files.run_files import GENERATED, ROUNDS
from bort.files.text_files import read_whole_text
from bort.files.untrusted import read_json
from bort.runs.folder import RunFolder

RESTORE = "restore it or remove it"  # what to do about a damaged file
SHOWN = 15  # generated rows on the page


def list_arms(result: AgoraResult) -> tuple[list[str], list[list[str]]]:
    """List column names and a line for each arm and S: scores on dev, and the first one on E."""
    scores = result.arms["agora"].scores
    metrics = [key for key in scores if key.startswith("val") and key != "val/loss"]
    lines = []
    for arm, label in ARMS.items():
        cells = (result.arms[arm].scores[key] for key in metrics)
        lines.append([label, *map(decimal, cells), decimal(result.arms[arm].on_e)])
    cells = []
    for key in metrics:
        split, _, metric = key.partition("/")
        cells.append(decimal(result.judge.dev[split][metric]))
    on_e = result.judge.on_e[result.metric.split("/")[1]]
    lines.append(["S, the judge", *cells, decimal(on_e)])
    return ["", *(f"dev {key}" for key in metrics), "E"], lines


def judge_agora(result: AgoraResult) -> str:
    """Compare Agora with the better of its control arms, and say what it took."""
    name = result.metric
    score, *controls = (result.arms[arm].scores[name] for arm in ("agora", "plain", "random"))
    if None in (score, *controls):
        verdict = f"Agora cannot be compared: {name} of an arm is not defined"
    else:
        margin = score - max(controls)
        sign = "above" if margin > 0 else "not above"
        verdict = f"Agora is {sign} its control arms on dev ({margin:+.4f})"
    steps = [f"{result.arms[arm].steps:,} {title}" for arm, title in ARMS.items()]
    return (
        f"{verdict}: {counted(result.generated, 'row')} generated, "
        f"{counted(result.trainings, 'training')} in {counted(result.rounds, 'round')}, "
        f"{result.pruned} θ pruned; steps by arm: {'; '.join(steps)}"
    )


def show_result(result: AgoraResult, folder: Path) -> None:
    """Print the arms side by side, and what they say in words."""
    console = Console(highlight=False)
    head, lines = list_arms(result)
    table = Table(*head, title="what did Agora bring?")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(judge_agora(result))
    console.print(f"  rows      {folder}/{GENERATED}", soft_wrap=True)


def build_parts(folder: str | os.PathLike, summary: Mapping[str, Any]) -> Iterator[Any]:
    """Build HTML and the figure about a run; of one that is not finished, its rounds so far.

    Raises BortError for a file that is damaged.
    """
    folder = RunFolder(folder)
    if summary:
        with _checked_file(folder.summary_file):
            result = AgoraResult.from_json(summary)
            (head, lines), words = list_arms(result), judge_agora(result)
        yield "<h2>Agora and its control arms</h2>"
        yield f"{html.format_table(lines, head)}<p>{escape(words)}</p>"
    if (path := folder.metrics).is_file():
        trainings = list(csv.DictReader(io.StringIO(read_whole_text(path), newline="")))
        with _checked_file(f"{path} or {ROUNDS}"):
            rounds = read_json(folder / ROUNDS, RESTORE)["rounds"]
            figure, columns = plot_rounds(trainings, rounds), list(trainings[0])
        yield from [
            "<h2>Rounds</h2><div class=grid>",
            *html.build_panel("E by round", figure),
            "</div>",
        ]
        lines = [list(row.values()) for row in trainings]
        yield html.fold("all trainings of the rounds", html.format_table(lines, columns))
    if (path := folder / GENERATED).is_file():
        with _checked_file(path):
            cells = _list_generated([line.record for line in read_json_lines(path, RESTORE)])
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


@contextmanager
def _checked_file(path: Path | str) -> Iterator[None]:
    """What a file lacks, or has as another type, as one line about the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = to_printable(f"{type(error).__name__}: {error}")
        raise BortError(f"{path} is damaged ({reason}); {RESTORE}") from None


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
