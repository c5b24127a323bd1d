"""The page of a benchmark: its rows as bars and as a table."""

import math
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from bort import html
from bort.benchmark.rows import ENGINE_NAMES, BenchmarkRow
from bort.console import significant

# What matters first: on a narrow window the other columns are reached by scrolling.
COLUMNS = ("model", "engine", "batch × tokens", "ms", "ratio", "quartiles (ms)", "sequences/s")
COLUMNS = (*COLUMNS, "parameters", "on disk", "peak memory", "measures", "shape")
COLORS = dict(zip(ENGINE_NAMES, ("#9a6700", "#6e7781", "#1f6feb", "#1a7f37"), strict=True))
LONGEST_NAME = 26  # characters beside a bar
WIDE = 20  # times the shortest bar; where the longest is longer, the axis is logarithmic


def write_page(path: Path, rows: list[BenchmarkRow], notes: list[str]) -> None:
    """Write the rows as one HTML file that asks no network for anything."""
    html.write_page(path, "bort latency", page_parts(rows, notes))


def page_parts(rows: list[BenchmarkRow], notes: list[str]) -> Iterator[Any]:
    """Yield the HTML and the figure about these rows."""
    yield "<h1>Latency</h1>"
    yield draw_bars(rows)
    yield html.format_table(map(format_cells, rows), COLUMNS)
    yield "<p>Parameters: of the whole model, its head included where it has one.</p>"
    yield "".join(f"<p>{escape(note)}</p>" for note in notes)


def format_cells(row: BenchmarkRow) -> list[str]:
    """Return a row of the table in the units of the screen; a dash for what was not measured."""

    def show(value: float | None, format_value: Callable[[float], str]) -> str:
        return "–" if value is None else format_value(value)

    return [
        row.name,
        row.engine_name,
        f"{row.batch} × {row.length}".replace(" ", "\N{NO-BREAK SPACE}"),
        f"{row.median_ms:.2f}",
        f"{row.ratio:.2f}\N{NO-BREAK SPACE}×",
        f"{row.low_ms:.2f}–{row.high_ms:.2f}",
        show(row.sequences_per_s, "{:,.1f}".format),
        show(row.parameters, "{:,}".format),
        show(row.disk_bytes, lambda count: f"{count / 1e6:,.2f}\N{NO-BREAK SPACE}MB"),
        show(row.peak_bytes, lambda count: f"{count / 1e6:,.0f} MB"),
        row.measures,
        str(row.arch),
    ]


def draw_bars(rows: list[BenchmarkRow]) -> Any:
    """Return a figure with a panel of milliseconds for each size, a colour for each engine."""
    from plotly.subplots import make_subplots

    sizes = list(dict.fromkeys(row.size for row in rows))
    names = list(dict.fromkeys(row.name for row in rows))
    engines = list(dict.fromkeys(row.engine for row in rows))
    titles = [f"batch {batch} × {length} tokens" for batch, length in sizes]
    figure = make_subplots(len(sizes), 1, subplot_titles=titles, vertical_spacing=0.2 / len(sizes))
    for number, size in enumerate(sizes):
        for engine in engines:
            shown = [row for row in rows if row.size == size and row.engine == engine]
            _add_bars(figure, shown, engine, number)
    figure.update_layout(
        template="plotly_white",
        height=120 + len(sizes) * (70 + 26 * len(names) * len(engines)),
        margin={"l": 20, "r": 20, "t": 80, "b": 40},
        legend={"orientation": "h", "y": 1.0, "yanchor": "top", "yref": "container"},
    )
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names,
        tickvals=names,
        ticktext=[
            name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in names
        ],
        autorange="reversed",
        automargin=True,
    )
    shortest, longest = min(row.low_ms for row in rows), max(row.high_ms for row in rows)
    if longest > WIDE * shortest:
        ends = [math.log10(shortest / 2), math.log10(longest * 1.3)]
        figure.update_xaxes(type="log", range=ends, dtick=1, exponentformat="none")
        unit = "ms, on a logarithmic scale"
    else:
        figure.update_xaxes(rangemode="tozero")
        unit = "ms"
    figure.update_xaxes(title_text=unit, row=len(sizes), col=1)  # above, a title takes its room
    return figure


def _add_bars(figure: Any, rows: list[BenchmarkRow], engine: str, panel: int) -> None:
    """Add the bars of one engine to a panel, with their quartiles."""
    figure.add_bar(
        orientation="h",
        y=[row.name for row in rows],
        x=[row.median_ms for row in rows],
        error_x={
            "type": "data",
            "array": [row.high_ms - row.median_ms for row in rows],
            "arrayminus": [row.median_ms - row.low_ms for row in rows],
            **{"color": html.GREY, "thickness": 1, "width": 3},
        },
        text=[f"  {significant(row.median_ms)} ms, {significant(row.ratio)} ×" for row in rows],
        textposition="auto",
        insidetextanchor="start",  # the error bar is at its end
        name=ENGINE_NAMES[engine],
        marker_color=COLORS[engine],
        legendgroup=engine,
        showlegend=panel == 0,
        row=panel + 1,
        col=1,
    )
