"""A search as one self-contained HTML page, and its certificate in words."""

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from bort import html
from bort.config.search import SearchRunConfig
from bort.console import clock, typed
from bort.models.arch import Arch
from bort.runs import commands
from bort.runs.summary import NEAR
from bort.search.coefficient import rounded_up
from bort.search.fptas import UNDECIDED

GREY = "#8b949e"  # of what is not known
FAITHFUL = 0.8  # Kendall's τ from which on an earlier step ranks much as the last one does
SYMBOLS = (
    "ξ = ⟨layers, heads, hidden, intermediate⟩ is a shape; p, i and e are its parameters, latency "
    "and error; W weighs how small, fast and accurate ξ is against T, the teacher: α weighs "
    "parameters and β latency; W⁺ is a bound that no W of ξ exceeds."
)


def certificate_lines(summary: dict) -> Iterator[str]:
    """What is proven, what is assumed, and what to doubt; a sentence each."""
    counts = [f"{summary['trained']} trained", f"{summary['pruned']} pruned by proof"]
    diverged = summary.get("diverged", 0)
    numbers = summary | {"failed": summary["failed"] - diverged, "diverged": diverged}
    for key, words in (
        ("assumed", "left out if errors are monotone"),
        ("skipped", "skipped by ε"),
        ("failed", "failed"),
        ("diverged", "diverged (no model, so W = 0)"),
        ("excluded", "excluded (budgets, or not smaller than T)"),
        ("invalid", "without a whole head size"),
    ):
        if numbers[key]:
            counts.append(f"{numbers[key]} {words}")
    yield f"search: of {summary['candidates'] + summary['invalid']} points: {', '.join(counts)}"
    yield from proof(summary)
    if summary["ties"]:
        yield f"ties with the winner within noise: {', '.join(summary['ties'])}"
    if summary.get("further_failed"):
        yield (
            f"note: {summary['further_failed']} trainings of finalists with other seeds or rates "
            f"failed; {summary['further_trainings']} ended well"
        )
    share = summary["train_flops"] / summary["exhaustive_flops"]
    yield (
        f"cost: {summary['train_flops']:.2e} FLOPs, {share:.0%} of an exhaustive search's; T ran "
        f"over {summary['teacher_batches']:,} batches; {clock(summary['seconds'])} in all"
    )
    yield from doubts(summary)


def proof(summary: dict) -> Iterator[str]:
    """How much better a candidate could be that was left out: not trained, or failed."""
    by_error = summary.get("objective") == "error"
    aim = f"an {summary['quality']}" if by_error else "a W"
    regret, weaker = summary["regret_bound"], summary["regret_bound_monotone"]
    timed = " and with these latencies" if summary.get("latency_unit") == "ms" else ""
    if regret == 0:
        better = "a lower error" if by_error else "a larger W"
        yield f"proven: no candidate left out has {better} at this n, seed and data{timed}"
        return
    failed = "; what failed counts with its bound" if summary["failed"] else ""
    bound = rounded_up(regret)
    yield f"proven: no candidate left out has {aim} larger by more than {bound}{timed}{failed}"
    if weaker is None:
        yield (
            f"errors are not monotone here ({summary['contradictions']} trained pairs "
            "contradict it beyond chance)"
        )
    else:
        yield f"if errors are monotone: by no more than {rounded_up(weaker)}"


def doubts(summary: dict) -> Iterator[str]:
    """Reasons not to trust the choice: near the unigram model, on the border, a short n."""
    below, best = summary["below_unigram"], summary["optimum_name"]
    by_error = summary.get("objective") == "error"
    if below < NEAR:
        where = f"only {below:.2f} nats below" if below >= 0 else f"{-below:.2f} nats above"
        only = "" if by_error else ", and W can only choose the smallest"
        yield f"doubt: the winner is {where} word frequencies: n is too short{only}; raise search.n"
    reach = summary.get("unigram_error", math.inf) - summary.get("teacher_error", 0.0)
    if reach < NEAR:
        yield (
            f"doubt: T's own output is {reach:.2f} nats from word frequencies: no candidate can "
            "show more; train T longer"
        )
    if summary["smallest"]:
        weigh = summary.get("quality", "e(T)/e") == "e(T)/e" and not by_error
        hint = "; search.error=perplexity weighs errors more" if weigh else ""
        yield (
            "doubt: the winner is the smallest candidate: the grid has nothing below it, or "
            f"search.n is too short{hint}"
        )
    if summary["on_border"]:
        yield f"doubt: the grid may be too narrow: the winner has its {_and(summary['on_border'])}"
    if summary.get("ahead_at_half") not in (None, best):
        step = f"{summary['step_at_half']:,} of {summary['n']:,} steps"
        yield f"doubt: after {step} {summary['ahead_at_half']} was ahead of the winner"
    for label in ("half", "quarter"):
        tau = summary.get(f"tau_at_{label}")
        if tau is not None and tau < FAITHFUL:
            yield (
                f"doubt: after {summary[f'step_at_{label}']:,} of {summary['n']:,} steps the "
                f"errors ranked the candidates otherwise than at the end (Kendall's τ {tau:.2f}): "
                "the ranking may change with a larger search.n"
            )
            break
    if summary["control_bound"] == best:
        yield "note: arg max W⁺, without any training, chooses the same"
    if summary.get("control_size") == best:
        yield "note: W with an error fitted on the number of parameters chooses the same"


def _and(words: list[str]) -> str:
    return " and ".join(words)


def figures(
    rows: list[dict], summary: dict, choices: dict[tuple[float, float], Arch | None]
) -> dict[str, Any]:
    """Title → plotly figure."""
    trained = [row for row in rows if row["status"] == "trained"]
    teacher = next(row for row in rows if row["status"] == "teacher")
    unit = "ms" if summary["latency_unit"] == "ms" else "operations"
    return {
        "Pareto front": _front(trained, teacher, summary, unit),
        "W by candidate": _bars(trained, rows),
        "Which ξ wins for other weights": _map(choices),
    }


def parts(
    folder: Path,
    run: SearchRunConfig,
    plan: dict,
    rows: list[dict],
    summary: dict,
    plots: dict[str, Any],
    with_doubts: bool = True,
) -> Iterator[Any]:
    """HTML and figures about the search in `folder`; plots: see `figures`.

    with_doubts: False where the page says above what to doubt.
    """
    teacher = next(row for row in rows if row["status"] == "teacher")
    unit = "ms" if summary["latency_unit"] == "ms" else "operations"
    best = next(row for row in rows if _xi(row) == summary["optimum_name"])
    yield _head(run, rows, summary, teacher, unit, with_doubts)
    yield f"<p>{SYMBOLS}</p>"
    for title, figure in plots.items():
        yield from [f"<h2>{title}</h2>", figure]
    yield from [_costs(plan, summary), _table(rows, unit), _reproduce(run, folder, best)]


def _xi(row: dict) -> str:
    return str(Arch.from_table(row))


def _head(
    run: SearchRunConfig,
    rows: list[dict],
    summary: dict,
    teacher: dict,
    unit: str,
    with_doubts: bool,
) -> str:
    best = rows[0]
    shares = [best[key] / teacher[key] for key in ("parameters", "latency")]
    low, high = summary["w_interval"]
    latency = _latency(best["latency"], unit)
    proven = summary["regret_bound"] == 0
    choice, title = (
        ("optimum", "The optimal BERT") if proven else ("best found", "The best BERT found")
    )
    figures = [
        (_xi(best), f"{choice} ⟨layers, heads, hidden, intermediate⟩"),
        (f"{summary['w']:.3f}", f"W [{low:.3f}, {high:.3f}]"),
        (f"{best['parameters']:,}", f"parameters, {shares[0]:.1%} of T's"),
        (latency, f"latency, {shares[1]:.1%} of T's ({summary['latency_note']})"),
        (f"{best['error']:.3f}", f"error in nats (T itself {teacher['error']:.3f})"),
    ]
    lines = list(certificate_lines(summary))
    plain = "".join(f"<li>{escape(x)}</li>" for x in lines if not x.startswith("doubt"))
    doubt = "".join(f"<p class=doubt>{escape(x)}</p>" for x in lines if x.startswith("doubt"))
    doubt = doubt if with_doubts else ""
    text = run.data.path if run.data.source == "text" else "the embedded docstrings"
    return (
        f"<h1>{title} on {escape(str(text))}</h1>{html.big(figures)}{doubt}"
        f"<h2>Certificate</h2><ul>{plain}</ul>"
        f"<p>n = {run.search.n:,} steps of {run.data.batch_size} × {run.data.length} tokens a "
        f"candidate, T = {_xi(teacher)}, errors on {summary['positions']:,} masked positions of "
        f"{summary['documents']:,} documents, word frequencies alone "
        f"{summary['unigram_error']:.3f}.</p>"
    )


def _latency(value: float, unit: str) -> str:
    return f"{value:.3g} ms" if unit == "ms" else f"{value / 1e6:,.1f} MFLOP"


def _front(trained: list[dict], teacher: dict, summary: dict, unit: str):
    scale = 1.0 if unit == "ms" else 1e-6
    label = "latency (ms)" if unit == "ms" else "operations of one inference (millions)"
    kinds = {"beaten": ([], "x"), "not beaten in p, i and e": ([], "circle"), UNDECIDED: ([], "")}
    for row in trained:
        proven, undecided = (_xi(row) in summary[key] for key in ("pareto", "pareto_undecided"))
        kind = list(kinds)[2 if undecided else 1 if proven else 0]
        kinds[kind][0].append(row)
    figure = html.figure(label, "error (nats per token)", 480)
    for kind, (some, symbol) in kinds.items():
        if not some and kind == UNDECIDED:
            continue
        color = {"color": [r["w"] for r in some], "coloraxis": "coloraxis", "symbol": symbol}
        if kind == UNDECIDED:
            color = {"color": GREY, "symbol": "circle-open"}
        figure.add_scatter(
            x=[r["latency"] * scale for r in some],
            y=[r["error"] for r in some],
            mode="markers",
            name=kind,
            marker={
                "size": [8 + 30 * r["parameters"] / teacher["parameters"] for r in some],
                "line": {"width": 1, "color": "#1f2328"},
                **color,
            },
            text=[f"{_xi(r)}<br>W {r['w']:.4f}, {r['parameters']:,} parameters" for r in some],
            hovertemplate="%{text}<br>latency %{x:.4g}, error %{y:.3f}<extra></extra>",
        )
    figure.add_annotation(  # with an arrow, since there are others around it
        x=trained[0]["latency"] * scale,
        y=trained[0]["error"],
        text=_xi(trained[0]),
        **{"ax": 30, "ay": 45, "arrowhead": 2, "arrowwidth": 1, "bgcolor": "#fffd"},
    )
    figure.add_hline(y=teacher["error"], line_dash="dot", annotation_text="T's own entropy")
    scale = {"colorscale": "Viridis", "colorbar": {"title": "W", "thickness": 10}}
    if len({row["w"] for row in trained}) == 1:  # else plotly makes a range of its own around it
        scale |= {"cmin": 0.0, "cmax": max(1.0, trained[0]["w"])}
    figure.update_layout(coloraxis=scale)
    return figure


def _bars(trained: list[dict], rows: list[dict]):
    shown = trained[:30]
    figure = html.figure("", "W", 420)
    figure.add_scatter(
        x=[_xi(r) for r in shown],
        y=[r["w"] for r in shown],
        error_y={
            "type": "data",
            "array": [r["w_high"] - r["w"] for r in shown],
            "arrayminus": [r["w"] - r["w_low"] for r in shown],
        },
        mode="markers",
        name="W, 95% over documents",
        marker={"size": 9, "color": "#1f6feb"},
    )
    bounded = ("pruned", "assumed", "skipped", "failed")
    rest = [r for r in rows if r["status"] in bounded][: 30 - len(shown)]
    figure.add_scatter(
        x=[_xi(r) for r in [*shown, *rest]],
        y=[r["w_bound"] for r in [*shown, *rest]],
        mode="markers",
        name="W⁺: no W can be larger than this bound",
        marker={"symbol": "line-ew-open", "size": 12, "color": GREY},
    )
    figure.add_hline(y=shown[0]["w"], line_dash="dot", line_color="#1f6feb")
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickangle=-60, automargin=True)
    return figure


def _map(choices: dict[tuple[float, float], Arch | None]):
    from plotly.colors import qualitative

    weights = sorted({alpha for alpha, _ in choices})
    winners = sorted({xi for xi in choices.values() if xi is not None})
    colors = dict(zip(winners, qualitative.Set2 * len(winners), strict=False))
    if None in choices.values():
        colors[None] = GREY
    figure = html.figure("α, weight of parameters", "β, weight of latency", 480)
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
        marker={"symbol": "x-thin-open", "size": 12, "color": "#1f2328", "line": {"width": 2}},
    )
    margin = (weights[-1] - weights[0]) / len(weights) if len(weights) > 1 else 1
    figure.update_xaxes(range=[-margin, weights[-1] + margin])
    figure.update_yaxes(range=[-margin, weights[-1] + margin])
    return figure


def _costs(plan: dict, summary: dict) -> str:
    rows = [
        ("trainings", f"{summary['trainings']:,}"),
        ("FLOPs of the search", f"{summary['train_flops']:.3e}"),
        ("of them for the finalists' further seeds", f"{summary['finalist_flops']:.3e}"),
        ("FLOPs of an exhaustive search", f"{summary['exhaustive_flops']:.3e}"),
        ("batches that T ran over", f"{summary['teacher_batches']:,}"),
        ("teacher passes, one after the other", clock(plan["teacher_pass_seconds"])),
        ("time of all trainings", clock(summary["seconds"])),
        *_ranking(summary, "half"),
        *_ranking(summary, "quarter"),
        ("optimum by W with the ratio of errors (the paper's)", summary["by_ratio"]),
        ("optimum by W with the ratio of perplexities", summary["by_perplexity"]),
        ("lowest error", summary["by_error"]),
        ("arg max W⁺, without any training", summary["control_bound"] or "–"),
        ("W with errors fitted on parameters", summary["control_size"] or "–"),
    ]
    grey = f"<td class=unknown>{UNDECIDED}</td>"
    table = html.table(rows).replace(f"<td>{UNDECIDED}</td>", grey)
    return f"<h2>Costs and controls</h2>{table}"


def _ranking(summary: dict, label: str) -> Iterator[tuple[str, str]]:
    """How the errors at an earlier step rank what was trained, and who wins there."""
    if f"step_at_{label}" not in summary:
        return
    step, tau = (f"{summary[f'step_at_{label}']:,}", summary.get(f"tau_at_{label}"))
    if tau is not None:
        yield (f"ranking of the trained ones after {step} steps (Kendall's τ)", f"{tau:.2f}")
    yield (f"winner after {step} steps", summary[f"winner_at_{label}"])


def _table(rows: list[dict], unit: str) -> str:
    head = ("ξ", "status", "parameters", "latency", "error (nats)", "W", "W⁺", "reason")
    body = []
    for row in rows:
        cells = [_xi(row), row["status"], f"{row['parameters'] or 0:,}"]
        cells.append("" if row["latency"] is None else _latency(row["latency"], unit))
        cells += [_number(row[key]) for key in ("error", "w", "w_bound")]
        body.append([*cells, row["reason"]])
    return f"<h2>All points</h2>{html.table(body, head)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _reproduce(run: SearchRunConfig, folder: Path, best: dict) -> str:
    """The commands that search again, and that pre-train `best`, the row of the optimum."""
    config = (folder / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    again = commands.command(folder, "search.py", run.name)
    following = commands.next_training(folder, folder / "optimum.yaml", best["hidden"], best["lr"])
    return (
        f"<h2>Again, and on from here</h2><pre>{escape(again)}\n"
        f"{escape(typed(following))}</pre>"
        + html.details("Configuration", f"<pre>{escape(config)}</pre>")
    )
