"""Self-contained HTML pages: each is one file that loads nothing and fits a narrow window.

They are light or dark, as the reader's system is. The library plotly, which draws the figures, is
compressed inside a page (2.0 of 4.8 MB), and a figure stands there as JSON until the page is read.
"""

import base64
import functools
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bort.files.ownership import PAGE_MARK
from bort.files.writing import replace_file

logger = logging.getLogger(__name__)

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --page: #fff; --line: #d0d7de; --soft: #f6f8fa;
        --doubt: #fff8c5; --faint: #6e7781; --shadow: #0004; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --page: #0d1117; --line: #30363d; --soft: #161b22; --doubt: #3b2e00;
          --faint: #9198a1; --shadow: #fff6; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1em;
       color: var(--ink); background: var(--page); overflow-wrap: break-word; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; margin: 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .9em;
        width: fit-content; max-width: 100%;
        /* a shadow at the side where there is more: its cover scrolls along with the cells */
        --cover: var(--page) 2em, #0000; --edge: var(--shadow), #0000;
        background: linear-gradient(to right, var(--cover)) local 0 0 / 4em 100% no-repeat,
                    linear-gradient(to left, var(--cover)) local 100% 0 / 4em 100% no-repeat,
                    linear-gradient(to right, var(--edge)) scroll 0 0 / 1em 100% no-repeat,
                    linear-gradient(to left, var(--edge)) scroll 100% 0 / 1em 100% no-repeat; }
td, th { padding: .2em .5em; border-bottom: 1px solid var(--line); text-align: right; }
th { background: color-mix(in srgb, var(--line) 35%, transparent); }
td:first-child, th:first-child { text-align: left; }
table.texts td, table.texts th { text-align: left; vertical-align: top; }
table.texts td:last-child { min-width: 14em; }
table.settings td, table.settings th { text-align: left; vertical-align: top;
                                       overflow-wrap: anywhere; }
.big { display: flex; flex-wrap: wrap; gap: 1em; padding: 0; list-style: none; }
.big li { background: var(--soft); border-radius: 8px; padding: .6em 1em; }
.big b { display: block; font-size: 1.4em; }
.grid { display: grid; gap: 1em;
        grid-template-columns: repeat(auto-fill, minmax(min(100%, 26em), 1fr)); }
.grid > div { min-width: 0; }
.doubt { background: var(--doubt); border-left: 4px solid #d4a72c; padding: .2em 1em; }
.unknown { color: var(--faint); }
.legend { padding: 0; list-style: none; font-size: .9em; }
.legend i { display: inline-block; width: 2em; vertical-align: middle; margin-right: .5em;
            border-top: 3px solid; }
pre { background: var(--soft); padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere; }
"""
# Unpacks plotly and draws every figure; again when the system changes between light and dark.
DRAWING = """
addEventListener("load", async () => {
  const figures = document.querySelectorAll(".figure");
  if (!window.DecompressionStream) {
    figures.forEach((figure) => figure.firstChild.textContent = "A figure for a newer browser.");
    return;
  }
  figures.forEach((figure) => figure.firstChild.textContent = "");
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent),
                                 (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const code = document.createElement("script");
  code.textContent = await new Response(stream).text();
  document.head.append(code);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => figures.forEach((figure) => {
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    const ink = getComputedStyle(document.body).color, line = dark.matches ? "#30363d" : "#d8dee4";
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0, 0, 0, 0)";
    layout.font = { ...layout.font, color: ink };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
      layout[axis] = { gridcolor: line, zerolinecolor: line, ...layout[axis] };
    Plotly.react(figure.firstChild, data, layout,
                 { responsive: true, displayModeBar: false });
  });
  paint();
  dark.addEventListener("change", paint);
});
"""
# Lines take these colors in turn, and then again with the next kind of dashes.
COLORS = ("#1f6feb", "#d29922", "#1a7f37", "#8250df", "#cf222e", "#8b949e", "#0a3069", "#bf3989")
GREY = "#7d8590"  # is seen on light and on dark pages
MOST_POINTS = 400  # A longer curve is drawn as the means of that many stretches.


def write_page(path: Path, title: str, parts: Iterable[Any]) -> bool:
    """Write a page of pieces of HTML and plotly figures, the first of which brings plotly along.

    Returns whether it was written: without the package plotly, a line says that it is not.
    """
    try:
        body = list(_to_html(parts))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        logger.warning(f"report: {path} is not written, since plotly is not installed")
        return False
    text = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"{PAGE_MARK}<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>"
    )
    with replace_file(path) as file:
        file.write(text.encode())
    return True


def _to_html(parts: Iterable[Any]) -> Iterator[str]:
    """Yield pieces of HTML, figures as JSON in their places, and at last what draws them."""
    has_figures = False
    for part in parts:
        if isinstance(part, str):
            yield part
            continue
        has_figures = True
        style = f"min-height: {part.layout.height or 450}px"  # plotly's own height is 450
        content = part.to_json().replace("<", "\\u003c")  # no text of a user ends the script
        yield (
            f'<div class=figure style="{style}"><div>A figure, if scripts can run.</div>'
            f"<script type=application/json>{content}</script></div>"
        )
    if has_figures:
        yield f"<script type=text/plain id=plotly>{_pack_plotly()}</script>"
        yield f"<script>{DRAWING}</script>"


@functools.cache
def _pack_plotly() -> str:
    """Pack plotly's code, as a page unpacks it; this takes half a second."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 9)).decode()


def format_numbers(figures: Iterable[tuple[str, str]]) -> str:
    """Format the main numbers, given as (value, name), in large letters."""
    items = "".join(f"<li><b>{escape(a)}</b>{escape(b)}</li>" for a, b in figures)
    return f"<ul class=big>{items}</ul>"


def format_table(rows: Iterable[Sequence[Any]], head: Sequence[str] = (), kind: str = "") -> str:
    """Format rows of cells, which are escaped; None gives an empty cell."""

    def line(cells: Sequence[Any], tag: str) -> str:
        texts = ("" if cell is None else escape(str(cell)) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = (line(head, "th") if head else "") + "".join(line(row, "td") for row in rows)
    return f'<table class="{kind}">{body}</table>'


def fold(summary: str, html: str) -> str:
    """Fold a piece of HTML away behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def choose_stroke(number: int) -> tuple[str, str]:
    """Return the color and the dashes of line `number`, as plotly names them."""
    dashes = ("solid", "dash", "dot")[number // len(COLORS) % 3]
    return COLORS[number % len(COLORS)], dashes


def format_legend(names: Iterable[tuple[str, str]]) -> str:
    """Format the names of the lines of several figures, given as (name, more about it)."""
    items = []
    for number, (name, more) in enumerate(names):
        color, dashes = choose_stroke(number)
        css = {"solid": "solid", "dash": "dashed", "dot": "dotted"}[dashes]
        mark = f'<i style="border-color: {color}; border-top-style: {css}"></i>'
        items.append(f"<li>{mark}<b>{escape(name)}</b> {escape(more)}</li>")
    return f"<ul class=legend>{''.join(items)}</ul>"


def create_figure(x: str, y: str, height: int = 320):
    """Create an empty plotly figure with these axes."""
    import plotly.graph_objects as go

    empty = go.Figure()
    empty.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 55, "r": 10, "t": 30, "b": 45},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    empty.update_xaxes(title_text=x)
    empty.update_yaxes(title_text=y)
    return empty


def build_panel(title: str, plot: Any) -> list[Any]:
    """Put a figure under its title, as one cell of a grid."""
    return [f"<div><h3>{escape(title)}</h3>", plot, "</div>"]


def draw_curve(
    plot: Any, name: str, curve: tuple[Any, Any], number: int, scale: float = 1.0
) -> None:
    """Draw a curve as line `number` of a plot, with marks where there are few points.

    curve: steps and values. scale: what one step is worth on the axis.
    """
    import numpy as np

    color, dashes = choose_stroke(number)
    steps, values = curve
    if len(steps) > MOST_POINTS:
        steps = [part[-1] for part in np.array_split(steps, MOST_POINTS)]
        values = [part.mean() for part in np.array_split(values, MOST_POINTS)]
    plot.add_scatter(
        x=[float(step) * scale for step in steps],
        y=[float(value) for value in values],
        name=escape(name),
        mode="lines+markers" if len(steps) < 20 else "lines",
        line={"color": color, "dash": dashes, "width": 1.5},
    )
