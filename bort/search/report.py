"""A search as one self-contained HTML page."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bort import html
from bort.config.fingerprint import flatten_settings
from bort.config.search import STATES, SearchRunConfig
from bort.console import clock, typed
from bort.models.arch import Arch
from bort.runs import commands
from bort.runs.folder import RunFolder
from bort.search.answers import NO_W, format_numbers
from bort.search.fptas import UNDECIDED, pareto
from bort.search.result import (
    MEASURED_AT,
    CandidateRow,
    Conclusion,
    SearchResult,
    describe_certificate,
    describe_look,
)
from bort.training.loggers import choose_wandb_options
from bort.trials.records import find_best_record, read_records

if TYPE_CHECKING:  # plotly is loaded when something is drawn
    from plotly.graph_objects import Figure

SYMBOLS = (
    "ξ = ⟨layers, heads, hidden, intermediate⟩ is a shape; p, i and e are its parameters, latency "
    "and error; W weighs how small, fast and accurate ξ is against T, the teacher: α weighs "
    "parameters and β latency; W⁺ is a bound that no W of ξ exceeds. The larger a mark in the "
    "picture of the front, the more parameters."
)


def _find_teacher(rows: list[CandidateRow]) -> CandidateRow:
    """Find T's row."""
    return next(row for row in rows if row.status == "teacher")


def draw_figures(
    rows: list[CandidateRow], result: SearchResult, choices: dict[tuple[float, float], Arch | None]
) -> dict[str, "Figure"]:
    """Draw the figures, by their titles."""
    trained = [row for row in rows if row.status == "trained"]
    teacher = _find_teacher(rows)
    unit = "ms" if result.latency_unit == "ms" else "operations"
    label = result.criterion
    figures = {
        "Pareto front": _draw_front(trained, teacher, result, unit),
        f"{label} by candidate": _draw_bars(trained, rows, label),
    }
    if choices:
        figures["Which ξ wins for other weights"] = _draw_map(choices)
    return figures


def build_parts(
    folder: Path, conclusion: Conclusion, with_doubts: bool = True
) -> Iterator["str | Figure"]:
    """Build the HTML and the figures about the search in `folder`.

    with_doubts: False where the page says above what to doubt.
    """
    rows, result = conclusion.rows, conclusion.result
    unit = "ms" if result.latency_unit == "ms" else "operations"
    best = next(row for row in rows if row.xi == result.optimum)
    yield _write_head(conclusion, unit, with_doubts)
    yield write_answers(result)
    alone = "" if result.objective == "w" else f" Here W is {result.quality} alone."
    if not result.has_w:
        alone = f" Here W is {result.quality} alone: {NO_W[result.proxy]}."
    yield f"<p>{SYMBOLS}{alone}</p>"
    for title, figure in conclusion.plots.items():
        yield from [f"<h2>{title}</h2>", figure]
    yield write_costs(conclusion.plan.teacher_pass_seconds, result)
    error = "error" if result.proxy == STATES else "error (nats)"
    names = (error, "W", "W⁺") if result.has_w else (error, result.quality, "its bound")
    yield write_table(rows, unit, names)
    yield write_commands(conclusion.run, folder, best)


def _write_head(conclusion: Conclusion, unit: str, with_doubts: bool) -> str:
    run, rows, result = conclusion.run, conclusion.rows, conclusion.result
    best, teacher = rows[0], _find_teacher(rows)
    shares = [best.parameters / teacher.parameters, best.latency / teacher.latency]
    low, high = result.w_interval
    latency = _write_latency(best.latency, unit)
    proven = result.regret_bound == 0
    choice, title = (
        ("optimum", "The optimal BERT") if proven else ("best found", "The best BERT found")
    )
    label = result.criterion
    budget = f", within {result.budget}" if result.objective == "error" else ""
    figures = [
        (str(best.xi), f"{choice} ⟨layers, heads, hidden, intermediate⟩"),
        (f"{result.w:.3f}", f"{label} [{low:.3f}, {high:.3f}]"),
        (f"{best.parameters:,}", f"parameters, {shares[0]:.1%} of T's"),
        (latency, f"latency, {shares[1]:.1%} of T's ({result.latency_note})"),
        (f"{best.error:.3f}", f"{result.error_name} (T itself {teacher.error:.3f})"),
    ]
    lines = list(describe_certificate(result))
    plain = "".join(f"<li>{escape(x)}</li>" for x in lines if not x.startswith("doubt"))
    doubt = "".join(f"<p class=doubt>{escape(x)}</p>" for x in lines if x.startswith("doubt"))
    doubt = doubt if with_doubts else ""
    text = run.data.path if run.data.source == "text" else "the embedded docstrings"
    tokens, documents = f" × {run.data.length} tokens", f" of {result.documents:,} documents"
    if run.fits_task:
        text = run.data.train if run.task == "custom" else run.task
        tokens, documents = " rows", ""
    return (
        f"<h1>{title} on {escape(str(text))}{escape(budget)}</h1>"
        f"{html.format_numbers(figures)}{doubt}"
        f"<h2>Certificate</h2><ul>{plain}</ul>"
        f"<p>n = {run.search.n:,} steps of {run.data.batch_size}{tokens} a "
        f"candidate, T = {teacher.xi}, errors on {result.positions:,} {MEASURED_AT[result.proxy]}"
        f"{documents}, {result.baseline} alone "
        f"{result.unigram_error:.3f}.</p>"
    )


def write_answers(result: SearchResult) -> str:
    """Write the three answers as a table; nothing of a search that an older version has ended."""
    if not result.answers:
        return ""
    body = []
    for answer in result.answers:
        numbers = [] if answer.xi is None else format_numbers(answer, result.latency_unit)
        cells = [answer.title, str(answer.xi or "none"), ", ".join(numbers)]
        body.append([*cells, answer.doubt, answer.note])
    head = ("", "ξ", "", "how certain", "")
    grey = f"<td class=unknown>{UNDECIDED}"
    table = html.format_table(body, head).replace(f"<td>{UNDECIDED}", grey)
    return f"<h2>Three answers from the same records</h2>{table}"


def _write_latency(value: float, unit: str) -> str:
    return f"{value:.3g} ms" if unit == "ms" else f"{value / 1e6:,.1f} MFLOP"


def _draw_front(
    trained: list[CandidateRow], teacher: CandidateRow, result: SearchResult, unit: str
):
    scale = 1.0 if unit == "ms" else 1e-6
    label = "latency (ms)" if unit == "ms" else "operations of one inference (millions)"
    kinds = {"beaten": ([], "x"), "not beaten in p, i and e": ([], "circle"), UNDECIDED: ([], "")}
    for row in trained:
        name = str(row.xi)
        undecided, proven = name in result.pareto_undecided, name in result.pareto
        kind = list(kinds)[2 if undecided else 1 if proven else 0]
        kinds[kind][0].append(row)
    by_states = result.proxy == STATES
    error = result.error_name if by_states else "error (nats per token)"
    figure = html.create_figure(label, error, 480)
    weight = result.criterion
    for kind, (members, symbol) in kinds.items():
        if not members and kind == UNDECIDED:
            continue
        color = {"color": [r.w for r in members], "coloraxis": "coloraxis", "symbol": symbol}
        if kind == UNDECIDED:
            color = {"color": html.GREY, "symbol": "circle-open"}
        figure.add_scatter(
            x=[r.latency * scale for r in members],
            y=[r.error for r in members],
            mode="markers",
            name=kind,
            marker={
                "size": [8 + 30 * r.parameters / teacher.parameters for r in members],
                "line": {"width": 1, "color": html.GREY},
                **color,
            },
            text=[f"{r.xi}<br>{weight} {r.w:.4f}, {r.parameters:,} parameters" for r in members],
            hovertemplate="%{text}<br>latency %{x:.4g}, error %{y:.3f}<extra></extra>",
        )
    front = sort_front(trained, result)
    figure.add_scatter(
        x=[row.latency * scale for row in front],
        y=[row.error for row in front],
        mode="lines",
        name="front of latency and error",
        line={"color": html.GREY, "dash": "dot", "width": 1, "shape": "hv"},
        hoverinfo="skip",
    )
    figure.add_annotation(  # with an arrow, since there are others around it
        x=trained[0].latency * scale,
        y=trained[0].error,
        text=str(trained[0].xi),
        **{"ax": 30, "ay": 45, "arrowhead": 2, "arrowwidth": 1},
    )
    bound = "T itself" if by_states else "T's own entropy"
    figure.add_hline(y=teacher.error, line_dash="dot", annotation_text=bound)
    scale = {"colorscale": "Viridis", "colorbar": {"title": weight, "thickness": 10}}
    if len({row.w for row in trained}) == 1:  # else plotly makes a range of its own around it
        scale |= {"cmin": 0.0, "cmax": max(1.0, trained[0].w)}
    figure.update_layout(coloraxis=scale)
    return figure


def sort_front(trained: list[CandidateRow], result: SearchResult) -> list[CandidateRow]:
    """Sort the candidates that none beats in both latency and error, the fastest in front.

    Those of which the records do not tell are left out.
    """
    known = [row for row in trained if str(row.xi) not in result.pareto_undecided]
    front = set(pareto({row.xi: (row.latency, row.error) for row in known}))
    return sorted((row for row in known if row.xi in front), key=lambda row: row.latency)


def _draw_bars(trained: list[CandidateRow], rows: list[CandidateRow], label: str):
    shown = trained[:30]
    figure = html.create_figure("", label, 420)
    figure.add_scatter(
        x=[str(r.xi) for r in shown],
        y=[r.w for r in shown],
        error_y={
            "type": "data",
            "array": [r.w_high - r.w for r in shown],
            "arrayminus": [r.w - r.w_low for r in shown],
        },
        mode="markers",
        name=f"{label}, 95% over documents",
        marker={"size": 9, "color": "#1f6feb"},
    )
    bounded = ("pruned", "assumed", "dropped", "skipped", "failed")
    bounds = [r for r in rows if r.status in bounded][: 30 - len(shown)]
    figure.add_scatter(
        x=[str(r.xi) for r in [*shown, *bounds]],
        y=[r.w_bound for r in [*shown, *bounds]],
        mode="markers",
        name=f"{label}⁺: no {label} can be larger than this bound",
        marker={"symbol": "line-ew-open", "size": 12, "color": html.GREY},
    )
    figure.add_hline(y=shown[0].w, line_dash="dot", line_color="#1f6feb")
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickangle=-60, automargin=True)
    return figure


def _draw_map(choices: dict[tuple[float, float], Arch | None]):
    from plotly.colors import qualitative

    weights = sorted({alpha for alpha, _ in choices})
    winners = sorted({xi for xi in choices.values() if xi is not None})
    colors = dict(zip(winners, qualitative.Set2 * len(winners), strict=False))
    if None in choices.values():
        colors[None] = html.GREY
    figure = html.create_figure("α, weight of parameters", "β, weight of latency", 480)
    for xi, color in colors.items():
        cells = [ab for ab, winner in choices.items() if winner == xi]
        label = UNDECIDED if xi is None else str(xi)
        figure.add_scatter(
            x=[a for a, _ in cells],
            y=[b for _, b in cells],
            mode="markers",
            name=label,
            marker={"symbol": "square", "size": 18, "color": color},
            hovertemplate=f"{label}<br>α %{{x}}, β %{{y}}<extra></extra>",
        )
    figure.add_scatter(
        x=[1],
        y=[1],
        mode="markers",
        name="the paper's weights",
        marker={"symbol": "x-thin-open", "size": 12, "color": html.GREY, "line": {"width": 2}},
    )
    margin = (weights[-1] - weights[0]) / len(weights) if len(weights) > 1 else 1
    figure.update_xaxes(range=[-margin, weights[-1] + margin])
    figure.update_yaxes(range=[-margin, weights[-1] + margin])
    return figure


def write_costs(teacher_seconds: float, result: SearchResult) -> str:
    rows = [
        ("trainings", f"{result.trainings:,}"),
        ("of them to fewer than n steps", f"{result.shortened:,}"),
        ("FLOPs of the search", f"{result.train_flops:.3e}"),
        ("of them for the finalists' further seeds", f"{result.finalist_flops:.3e}"),
        ("FLOPs of an exhaustive search", f"{result.exhaustive_flops:.3e}"),
        ("batches that T ran over", f"{result.teacher_batches:,}"),
        ("teacher passes, one after the other", clock(teacher_seconds)),
        ("time of all trainings", clock(result.seconds)),
        *_list_rankings(result),
        ("optimum by W with the ratio of errors (the paper's)", result.by_ratio or "–"),
        ("optimum by W with the ratio of perplexities", result.by_perplexity or "–"),
        ("lowest error", result.by_error),
        ("arg max W⁺, without any training", result.control_bound or "–"),
        ("the choice by errors fitted on parameters", result.control_size or "–"),
    ]
    grey = f"<td class=unknown>{UNDECIDED}</td>"
    table = html.format_table(rows).replace(f"<td>{UNDECIDED}</td>", grey)
    return f"<h2>Costs and controls</h2>{table}"


def _list_rankings(result: SearchResult) -> Iterator[tuple[str, str]]:
    """List how the errors at earlier steps rank what was trained, and who wins there."""
    for horizon in reversed(result.horizons):
        step = f"{horizon.step:,} steps{describe_look(horizon, result)}"
        if horizon.tau is not None:
            ranking = f"ranking of the trained ones after {step} (Kendall's τ)"
            yield (ranking, f"{horizon.tau:.2f}")
        yield (f"winner after {step}", horizon.winner)


def write_table(
    rows: list[CandidateRow], unit: str, names: Sequence[str] = ("error (nats)", "W", "W⁺")
) -> str:
    """Write all points as a table; names: of the error, of W, and of its bound."""
    head = ("ξ", "status", "parameters", "latency", *names, "reason")
    body = []
    for row in rows:
        cells = [str(row.xi), row.status, f"{row.parameters or 0:,}"]
        cells.append("" if row.latency is None else _write_latency(row.latency, unit))
        cells += [_write_number(value) for value in (row.error, row.w, row.w_bound)]
        body.append([*cells, row.reason])
    return f"<h2>All points</h2>{html.format_table(body, head)}"


def _write_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def compose_next(folder: Path, best: CandidateRow, run: SearchRunConfig) -> str:
    """Return the words after `python` that train the optimum on; best: its row."""
    if run.fits_task:
        records = read_records(folder)
        job = find_best_record(records, best.xi, run).job
        return commands.compose_task_training(folder, folder / job.folder)
    optimum = RunFolder(folder).optimum
    return commands.compose_training(folder, optimum, best.xi.hidden, best.lr)


def write_commands(run: SearchRunConfig, folder: Path, best: CandidateRow) -> str:
    """The commands that search again, and that pre-train `best`, the row of the optimum."""
    run_folder = RunFolder(folder)
    config = run_folder.config_file.read_text(encoding="utf-8")
    again = commands.compose_command(folder, "search.py", run.name)
    command = compose_next(folder, best, run)
    return (
        f"<h2>Again, and on from here</h2><pre>{escape(again)}\n"
        f"{escape(typed(command))}</pre>"
        + html.fold("Configuration", f"<pre>{escape(config)}</pre>")
    )


# ------------------------------------------------------------------------------------ in wandb

FIGURES = ("search/pareto_front", "search/w_by_candidate", "search/w_map")  # as on the page
COLUMNS = (*Arch.KEYS, "status", "parameters", "latency", "error")
COLUMNS += ("w", "w_low", "w_high", "w_bound")


def log_to_wandb(folder: Path, conclusion: Conclusion) -> None:
    """Log one wandb run of the whole search, in one group with those of its candidates."""
    import wandb

    run, result, plots = conclusion.run, conclusion.result, conclusion.plots.values()
    options = choose_wandb_options(run.logger, folder.name, "-".join(folder.parts[-2:]))
    options |= {"dir": folder, "config": flatten_settings(run), "job_type": "search"}
    rows = [row.to_table() for row in conclusion.rows]
    cells = [list(map(row.get, COLUMNS)) for row in rows]
    lines = "".join(f"<p>{escape(line)}</p>" for line in describe_certificate(result))
    with wandb.init(**options) as log:
        figures = {k: wandb.Plotly(plot) for k, plot in zip(FIGURES, plots, strict=False)}
        certificate = {"search/certificate": wandb.Html(lines, inject=False)}
        table = {"search/candidates": wandb.Table(list(COLUMNS), cells)}
        log.log({**figures, **certificate, **table})
        log.summary.update(result.to_json())
