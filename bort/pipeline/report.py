"""The page of a whole pipeline: an overview, then each stage's own figures."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from bort import html, report
from bort.benchmark.report import page_parts
from bort.benchmark.rows import BenchmarkRow, read_rows, warn_of_wide_quartiles
from bort.console import clock, counted, decimal, significant
from bort.errors import BortError
from bort.export.result import ExportResult
from bort.files.ownership import EXPORT
from bort.files.untrusted import read_json
from bort.runs.folder import RunFolder
from bort.runs.loaded import load_run
from bort.runs.summary import RunSummary
from bort.search import report as search_report
from bort.search.optimum import choose_optimum
from bort.search.result import SearchResult, find_doubts
from bort.task_distillation.report import list_others
from bort.trials.plan import read_plan

TITLES = {
    "search": "Search",
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "export": "Export",
    "benchmark": "Latency",
}
TRAININGS = ("pretrain", "finetune")  # the stages whose summary is a RunSummary
ADVICE = "repeat the stage that wrote it"
LATENCY_NOTE = (
    "medians [quartiles] of rounds in alternating order; archs: the encoder alone with random "
    "weights; models: whole, head included"
)


def summarize(folders: dict[str, Path], seconds: dict[str, float]) -> dict[str, str]:
    """Return the results in a few lines, title → value; folders, seconds: by stage."""
    search, shipped = _read_search(folders), _read_export(folders)
    student, tuned = _read_summaries(folders)
    largest = read_plan(folders["search"]).teacher.parameters
    share = student.parameters / largest
    low, high = search.w_interval
    label = search.criterion
    lines = {
        "optimum": f"{search.optimum_name} of {search.candidates} candidates",
        label: f"{search.w:.4f} [{low:.4f}, {high:.4f}]",
    }
    for answer in search.answers:
        if answer.xi != search.optimum:
            lines[answer.title] = f"{answer.xi}, {answer.doubt}" if answer.xi else answer.note
    lines |= {
        "parameters": f"{student.parameters:,}, {share:.0%} of T's {largest:,}",
        "pre-training": student.describe_validation(),
        "task": ", ".join([str(tuned.task), *_format_scores(tuned)]),
        "int8": shipped.describe_agreement(),
    }
    for metric, before, after in shipped.paired_scores():
        lines[f"int8 val/{metric}"] = f"{decimal(after)}, in float32 {decimal(before)}"
    rows = read_rows(folders["benchmark"])
    lines |= dict(_describe_latencies(rows, folders))
    if warning := warn_of_wide_quartiles(rows):
        lines["latency in doubt"] = warning.removeprefix("warning: ")
    spent = ", ".join(f"{key} {clock(value)}" for key, value in seconds.items())
    return lines | {"time": f"{clock(sum(seconds.values()))}: {spent}"}


def _format_scores(summary: RunSummary) -> Iterator[str]:
    for key, value in summary.scores.items():
        if not key.endswith("/loss"):
            yield f"{key} {decimal(value)}"


def _describe_latencies(
    rows: list[BenchmarkRow], folders: dict[str, Path]
) -> Iterator[tuple[str, str]]:
    """Yield the milliseconds of int8 at the first size, how much faster it is, its size on disk."""
    first_size = [row for row in rows if row.size == rows[0].size]
    int8 = next(row for row in first_size if row.name == str(folders["export"]))
    yield (
        "latency of int8",
        f"{int8.median_ms:.2f} ms for {int8.batch} × {int8.length} tokens, "
        f"{counted(int8.threads, 'thread')}",
    )
    for row in first_size:
        if row is int8:
            continue
        is_same = row.name == str(folders["finetune"])
        yield (
            f"against {'the same model' if is_same else row.name}",
            f"{row.median_ms / int8.median_ms:.1f} × as fast "
            f"({row.engine_name} {row.median_ms:.2f} ms), "
            f"{int8.disk_bytes / row.disk_bytes:.1%} of {row.disk_bytes / 1e6:.1f} MB",
        )
    yield "size of int8 on disk", f"{int8.disk_bytes / 1e6:.2f} MB"


def list_doubts(folders: dict[str, Path]) -> list[str]:
    """Return what to doubt in the results of the stages, which stands first on the page."""
    doubts = find_doubts(_read_search(folders))
    lines = [line for line in doubts if line.startswith("doubt")]
    for key, summary in zip(TRAININGS, _read_summaries(folders), strict=True):
        if line := summary.find_doubt():
            lines.append(f"{TITLES[key]}: {line}")
    return lines


def parts(
    name: str, overview: dict[str, str], folders: dict[str, Path], commands: list[str]
) -> Iterator[Any]:
    """Yield HTML and figures; overview: of `summarize`, folders: by stage, commands: of them."""
    yield f"<h1>bort pipeline {escape(name)}</h1>"
    yield "".join(f"<p class=doubt>{escape(line)}</p>" for line in list_doubts(folders))
    yield from draw_overview(folders)
    yield html.format_table(overview.items(), kind="settings")
    links = (f'<a href="#{key}">{title}</a>' for key, title in TITLES.items())
    yield f"<p>{' · '.join(links)}</p><h2>Again</h2><pre>{escape(chr(10).join(commands))}</pre>"
    for key, title in TITLES.items():
        yield f"<hr id={key}><p>{title}: {escape(str(folders[key]))}</p>"
        yield from _stage_parts(key, folders)


def draw_overview(folders: dict[str, Path]) -> Iterator[Any]:
    """Draw the score of the model against its milliseconds, in float32 and in int8.

    What a user would try first, and the teacher of the task if there is one, are horizontals.
    Nothing is drawn where the task has no score that is defined.
    """
    tuned, shipped = _read_summaries(folders)[1], _read_export(folders)
    scores = {metric: pair for metric, *pair in shipped.paired_scores()}
    pair = scores.get(str(tuned.metric).partition("/")[2], (None, None))
    if None in pair:
        return
    rows = read_rows(folders["benchmark"])
    size = rows[0].size
    times = {row.name: row for row in rows if row.size == size}
    models = [times[str(folders[key])] for key in ("finetune", "export")]
    figure = html.create_figure(f"ms for {size[0]} × {size[1]} tokens", str(tuned.metric), 360)
    figure.add_scatter(
        x=[row.median_ms for row in models],
        y=list(pair),
        text=[f"{row.engine_name}, {significant(row.median_ms)} ms" for row in models],
        mode="markers+text",
        textposition="top center",
        marker={"size": 12, "color": html.COLORS[0]},
        hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
    )
    levels = {other.title: other.score for other in list_others(tuned)}
    levels["the teacher of the task"] = tuned.get(f"teacher/{tuned.metric}")
    for name, level in levels.items():
        if level is not None:
            figure.add_hline(y=level, line_dash="dot", annotation_text=escape(name))
    figure.update_xaxes(range=[0, 1.25 * max(row.median_ms for row in models)])
    yield from ["<h2>The model, beside what is simpler</h2>", figure]


def _stage_parts(key: str, folders: dict[str, Path]) -> Iterator[Any]:
    """Yield the figures of one stage; what to doubt in it stands above all stages."""
    if key == "search":
        chosen = choose_optimum(folders[key])
        yield from search_report.build_parts(folders[key], chosen, with_doubts=False)
    elif key in TRAININGS:
        yield from report.build_parts(load_run(folders[key]), with_doubt=False)
    elif key == "export":
        yield from _export_parts(folders[key], _read_export(folders))
    else:
        yield from page_parts(read_rows(folders[key]), [LATENCY_NOTE])


def _export_parts(folder: Path, result: ExportResult) -> Iterator[str]:
    """Yield what the export's checks found, and the files that it left."""
    rows = [
        ("format", result.format),
        ("largest difference of a logit", f"{result.largest_difference:.2e}"),
        ("int8 beside float32", result.describe_agreement()),
        ("matrices that stay float32", ", ".join(result.float32) if result.float32 else "none"),
    ]
    for key, value in (result.scores or {}).items():
        rows.append((key.replace("/", ": val/", 1), decimal(value)))
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sizes = [(path.name, f"{path.stat().st_size / 1e3:,.1f} kB") for path in files]
    yield f"<h1>export/{escape(folder.name)}, int8 for onnxruntime</h1>{html.format_table(rows)}"
    yield f"<h2>Files</h2>{html.format_table(sizes)}"


def _read_search(folders: dict[str, Path]) -> SearchResult:
    path = RunFolder(folders["search"]).summary_file
    try:
        return SearchResult.from_json(read_json(path, ADVICE))
    except KeyError as error:
        raise BortError(f"{path} lacks {error}; {ADVICE}") from None


def _read_summaries(folders: dict[str, Path]) -> list[RunSummary]:
    """Read the summaries of both trainings, in the order of TRAININGS."""
    return [RunSummary.read(RunFolder(folders[key]).summary_file) for key in TRAININGS]


def _read_export(folders: dict[str, Path]) -> ExportResult:
    return ExportResult.from_json(read_json(folders["export"] / EXPORT, ADVICE))
