"""Measuring models and architectures side by side: the rows, what is printed of them, the page."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bort import html
from bort.benchmark import contenders
from bort.config.compose import CONF, parse_settings
from bort.config.search import BenchmarkConfig, register
from bort.config.unused import BENCHMARK_RULES, LATENCY_RULES, refuse_unused
from bort.console import counted
from bort.errors import BortError, nearest
from bort.files.locks import check_unread, output
from bort.files.ownership import is_own_page
from bort.files.writing import check_writable, user_path, write_csv
from bort.machine import count_usable_cores, is_busy
from bort.models.arch import Arch

logger = logging.getLogger(__name__)

ENGINE_NAMES = {
    "huggingface": "Hugging Face",
    "measured": "PyTorch",
    "onnx": "ONNX",
    "onnx_int8": "ONNX int8",
}


def named(names: list[str]) -> dict[Arch, str]:
    """Architectures of conf/arch by their names."""
    known = {path.stem: path for path in (CONF / "arch").glob("*.yaml")}
    for name in names:
        if name not in known:
            raise BortError(f"archs={name} is unknown{nearest(name, known)}; see conf/arch")
    return {Arch.from_table(OmegaConf.load(known[name])).check(): name for name in names}


def compare(settings: BenchmarkConfig) -> list[dict]:
    """Measure models and archs with all engines and sizes, print and write; returns the rows."""
    import torch

    from bort.machine import describe_machine
    from bort.models import onnx

    engines, sizes, wanted = settings.chosen_engines, settings.sizes, settings.latency
    archs, longest = named(settings.archs), max(length for _, length in settings.sizes)
    models = [contenders.of_folder(name) for name in dict.fromkeys(settings.models)]
    for each in models:
        if longest > each.limit:
            raise BortError(
                f"lengths={longest} is beyond the {each.limit} tokens that {each.name} takes"
            )
    if set(engines) != {"measured"}:
        onnx.require_onnx()
    threads = wanted.threads or torch.get_num_threads()
    machine = f"{describe_machine()}; int8 products: {int8_instructions()}"
    logger.info(machine)
    if busy := busy_note():
        logger.info(busy)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for arch, name in archs.items():
            given = (engines, settings.vocab_size, max(512, longest), Path(folder))
            found += contenders.of_arch(arch, name, *given, settings.huggingface)
        for each in models:
            found += contenders.exported(each, engines, Path(folder))
        rows = contenders.measure(found, sizes, threads, wanted.rounds, settings.memory)
    notes = [
        f"{counted(threads, 'thread')}, rows without padding, medians [quartiles] of "
        f"{wanted.rounds} rounds in alternating order; the ratio is to the first row of the same "
        "size",
        f"archs: the encoder alone, random weights, vocabulary {settings.vocab_size:,}; models: "
        "whole, head included (a masked LM gives logits at every token)",
    ]
    notes += [note for note in (busy, wide_note(rows)) if note]
    if settings.memory:
        notes.append("peak: resident memory of a process that loads this model alone, all included")
    for line in notes:
        logger.info(line)
    width = max(len(row["name"]) for row in rows)
    for batch, length in sizes:
        logger.info(f"batch {batch} × {length} tokens")
        for row in rows:
            if (row["batch"], row["length"]) == (batch, length):
                logger.info(line_of(row, width))
    if settings.out:
        out = Path(settings.out)
        write_csv(out, list(rows[0]), rows)
        write_page(out.with_suffix(".html"), rows, [machine, *notes])
        logger.info(f"table: {out}, picture: {out.with_suffix('.html')}")
    return rows


WIDE = 0.25  # of the median, between the quartiles: from there on, a ratio is in doubt


def busy_note() -> str | None:
    """A warning when other work has the processors; to be asked before anything is measured."""
    if not is_busy():
        return None
    cores = counted(count_usable_cores(), "core")
    return (
        f"warning: other work runs on this machine (load {os.getloadavg()[0]:.1f}, {cores}): it "
        "slows long calls more than short ones, so ratios are in doubt; measure again when it "
        "is idle"
    )


def wide_note(rows: list[dict]) -> str | None:
    """A warning that names the rows whose quartiles are far apart; rows: as a comparison's."""
    wide = [r for r in rows if r["high_ms"] - r["low_ms"] > WIDE * r["median_ms"]]
    if not wide:
        return None
    names = ", ".join(dict.fromkeys(f"{r['name']} {ENGINE_NAMES[r['engine']]}" for r in wide[:3]))
    more = f" and {len(wide) - 3} more" if len(wide) > 3 else ""
    return (
        f"warning: quartiles more than {WIDE:.0%} of the median apart ({names}{more}): something "
        "disturbed the machine, so ratios are in doubt; measure again, or raise latency.rounds"
    )


def int8_instructions() -> str:
    """What the processor has for products of int8; without any of it int8 gains little."""
    flags = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    info = Path("/proc/cpuinfo")
    found = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    if not found:
        return "unknown"
    return ", ".join(flag for flag in flags if flag in found) or "no VNNI"


def line_of(row: dict, width: int) -> str:
    peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f} MB"
    return (
        f"  {row['name']:<{width}}  {row['measures']:<10} {ENGINE_NAMES[row['engine']]:<12} "
        f"{row['parameters']:>11,} parameters {row['disk_bytes'] / 1e6:8.2f} MB "
        f"{row['median_ms']:8.2f} ms [{row['low_ms']:.2f}, {row['high_ms']:.2f}] "
        f"{row['sequences_per_s']:8.1f}/s  peak {peak:>8} {row['ratio']:6.2f} ×"
    )


def write_page(path: Path, rows: list[dict], notes: list[str]) -> None:
    """The rows as bars and as a table: one HTML file that asks no network for anything."""
    html.write(path, "bort latency", page_parts(rows, notes))


def page_parts(rows: list[dict], notes: list[str]) -> Iterator[Any]:
    """HTML and the figure about these rows."""
    yield "<h1>Latency</h1>"
    yield bars(rows)
    yield html.table(map(cells_of, rows), COLUMNS)
    yield "<p>Parameters: of the whole model, its head included where it has one.</p>"
    yield "".join(f"<p>{escape(note)}</p>" for note in notes)


# What matters first: on a narrow window the rest is reached by scrolling.
COLUMNS = ("model", "engine", "batch × tokens", "ms", "ratio", "quartiles (ms)", "sequences/s")
COLUMNS = (*COLUMNS, "parameters", "on disk", "peak memory", "measures", "shape")


def cells_of(row: dict) -> list[str]:
    """A row of the table in the units of `line_of`; a dash for what was not measured."""

    def shown(key: str, text: Callable[[float], str]) -> str:
        return "–" if row.get(key) is None else text(row[key])

    return [
        row["name"],
        ENGINE_NAMES.get(row["engine"], row["engine"]),
        f"{row['batch']} × {row['length']}".replace(" ", "\N{NO-BREAK SPACE}"),
        f"{row['median_ms']:.2f}",
        f"{row['ratio']:.2f}\N{NO-BREAK SPACE}×",
        f"{row['low_ms']:.2f}–{row['high_ms']:.2f}",
        shown("sequences_per_s", "{:,.1f}".format),
        shown("parameters", "{:,}".format),
        shown("disk_bytes", lambda count: f"{count / 1e6:,.2f}\N{NO-BREAK SPACE}MB"),
        shown("peak_bytes", lambda count: f"{count / 1e6:,.0f} MB"),
        row.get("measures", "encoder"),
        str(Arch.from_table(row)),
    ]


def bars(rows: list[dict]):
    """A panel of milliseconds for each size, a colour for each engine."""
    from plotly.subplots import make_subplots

    sizes = list(dict.fromkeys((row["batch"], row["length"]) for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    titles = [f"batch {batch} × {length} tokens" for batch, length in sizes]
    figure = make_subplots(len(sizes), 1, subplot_titles=titles, vertical_spacing=0.2 / len(sizes))
    colors = dict(zip(ENGINE_NAMES, ("#9a6700", "#6e7781", "#1f6feb", "#1a7f37"), strict=True))
    for number, size in enumerate(sizes):
        for engine in engines:
            some = [r for r in rows if (r["batch"], r["length"], r["engine"]) == (*size, engine)]
            figure.add_bar(
                orientation="h",
                y=[r["name"] for r in some],
                x=[r["median_ms"] for r in some],
                error_x={
                    "type": "data",
                    "array": [r["high_ms"] - r["median_ms"] for r in some],
                    "arrayminus": [r["median_ms"] - r["low_ms"] for r in some],
                    **{"color": "#1f2328", "thickness": 1, "width": 3},
                },
                text=[f"  {r['median_ms']:.3g} ms, {r['ratio']:.3g} ×" for r in some],
                textposition="auto",
                insidetextanchor="start",  # its end is the error bar's place
                name=ENGINE_NAMES[engine],
                marker_color=colors[engine],
                legendgroup=engine,
                showlegend=number == 0,
                row=number + 1,
                col=1,
            )
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
        ticktext=[name if len(name) <= 26 else f"…{name[-25:]}" for name in names],
        autorange="reversed",
        automargin=True,
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title_text="ms", row=len(sizes), col=1)  # above, a title is in its place
    return figure


def table(settings: BenchmarkConfig) -> list[dict]:
    """Architectures with the one engine and size of `latency`: what latency=table reads."""
    from bort.machine import describe_machine
    from bort.objectives.latency import measure_latencies  # torch is loaded only now
    from bort.objectives.parameters import count_parameters

    points, wanted = settings.grid.points()[0], settings.latency
    archs = {arch: "" for arch in points} if points else named(settings.archs)
    logger.info(describe_machine())
    busy = busy_note() if wanted.source != "analytic" else None
    if busy:
        logger.info(busy)
    with tempfile.TemporaryDirectory() as folder:
        found = measure_latencies(wanted, list(archs), None, settings.vocab_size, Path(folder))
    rows, first = [], next(iter(found["points"].values()))[0]
    for arch, name in archs.items():
        value, low, high = found["points"][str(arch)]
        numbers = {"latency_ms": value, "low": low, "high": high}
        if found["unit"] != "ms":
            numbers = {"operations": value}
        size = count_parameters(arch, settings.vocab_size, 512)
        rows.append(
            {"name": name, **arch.to_table(), **numbers, "parameters": size, "ratio": first / value}
        )
    times = {"latency_ms": "median_ms", "low": "low_ms", "high": "high_ms"}
    engine = wanted.engine if wanted.source == "fitted" else wanted.source
    size = {"engine": engine, "batch": wanted.batch, "length": wanted.length}
    shown = [{times.get(key, key): x for key, x in row.items()} | size for row in rows]
    timed = wanted.source not in ("analytic", "fitted")
    if (wide := wide_note(shown) if timed else None) is not None:
        logger.info(wide)
    logger.info(
        f"{found['note']}, vocabulary {settings.vocab_size:,}; the ratio is to the first row"
    )
    for row, arch in zip(rows, archs, strict=True):
        if found["unit"] == "ms":
            value = f"{row['latency_ms']:9.2f} ms [{row['low']:.2f}, {row['high']:.2f}]"
        else:
            value = f"{row['operations'] / 1e9:9.3f} GFLOP"
        logger.info(
            f"{row['name']:>14} {str(arch):>18} {row['parameters']:>13,} parameters "
            f"{value}  {row['ratio']:.2f} ×"
        )
    if settings.out:
        columns = [key for key in rows[0] if key != "ratio"]
        write_csv(Path(settings.out), columns, rows)
        logger.info(f"table: {settings.out}")
    if settings.out and found["unit"] == "ms" and not points:
        path = Path(settings.out).with_suffix(".html")
        write_page(path, shown, [describe_machine(), found["note"], *filter(None, (busy, wide))])
        logger.info(f"picture: {path}")
    return rows


def run(settings: BenchmarkConfig) -> list[dict]:
    if not settings.out:
        return compare(settings) if settings.compares else table(settings)
    out = user_path("out", settings.out)
    settings = replace(settings, out=str(out))
    check_writable(out)
    for name in settings.models:
        check_unread(out, {"models": name})
    if has_picture(settings) and (picture := out.with_suffix(".html")).exists():
        if not is_own_page(picture):
            raise BortError(f"{picture}, beside out={out}, is no page of bort; give another out=")
    with output(out):
        return compare(settings) if settings.compares else table(settings)


def has_picture(settings: BenchmarkConfig) -> bool:
    """Whether a picture goes beside out=; a table of a grid or of operations has none."""
    plain = settings.grid.points()[0] or settings.latency.source == "analytic"
    return settings.compares or not plain


def compose_settings(schema: type[BenchmarkConfig], words: list[str]) -> BenchmarkConfig:
    """Return the settings of a command line: groups such as latency=onnx are files of conf/."""
    register(schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = parse_settings(compose("benchmark", words), schema)
    refuse_unused(settings, words, (*LATENCY_RULES, *BENCHMARK_RULES))
    return settings
