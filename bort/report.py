"""A search as one self-contained HTML page, and its certificate in words."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from omegaconf import OmegaConf

from bort.cli import clock
from bort.config import SIZES, SearchRun
from bort.files import replacing
from bort.fptas import Xi, name, pareto
from bort.runs import NEAR

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1em;
       color: #1f2328; background: #fff; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .9em; }
td, th { padding: .2em .8em; border-bottom: 1px solid #d0d7de; text-align: right; }
th { background: #f6f8fa; } td:first-child, th:first-child { text-align: left; }
.big { display: flex; flex-wrap: wrap; gap: 1em; padding: 0; list-style: none; }
.big li { background: #f6f8fa; border-radius: 8px; padding: .6em 1em; }
.big b { display: block; font-size: 1.4em; }
.doubt { background: #fff8c5; border-left: 4px solid #d4a72c; padding: .2em 1em; }
pre { background: #f6f8fa; padding: .8em; overflow-x: auto; }
"""


def certificate_lines(summary: dict) -> Iterator[str]:
    """What is proven, what is assumed, and what to doubt; a sentence each."""
    counts = [f"{summary['trained']} trained", f"{summary['pruned']} pruned by proof"]
    for key, words in (
        ("assumed", "left out if errors are monotone"),
        ("skipped", "skipped by ε"),
        ("failed", "failed"),
        ("excluded", "excluded (budgets, or not smaller than T)"),
        ("invalid", "without a whole head size"),
    ):
        if summary[key]:
            counts.append(f"{summary[key]} {words}")
    yield f"search: of {summary['candidates'] + summary['invalid']} points: {', '.join(counts)}"
    regret = summary["regret_bound"]
    if regret == 0:
        yield "proven: no candidate left out has a larger W at this n, seed and data"
    else:
        yield f"proven: no candidate left out has a W larger by more than {regret:.4f}"
        weaker = summary["regret_bound_monotone"]
        if weaker is None:
            yield (
                f"errors are not monotone here ({summary['contradictions']} trained pairs "
                "contradict it beyond chance)"
            )
        else:
            yield f"if errors are monotone: by no more than {weaker:.4f}"
    if summary["ties"]:
        yield f"ties with the winner within noise: {', '.join(summary['ties'])}"
    share = summary["train_flops"] / summary["exhaustive_flops"]
    yield (
        f"cost: {summary['train_flops']:.2e} FLOPs, {share:.0%} of an exhaustive search's; T ran "
        f"over {summary['teacher_batches']:,} batches; {clock(summary['seconds'])} in all"
    )
    yield from doubts(summary)


def doubts(summary: dict) -> Iterator[str]:
    """Reasons not to trust the choice: near the unigram model, on the border, a short n."""
    below = summary["below_unigram"]
    if below < NEAR:
        where = f"only {below:.2f} nats below" if below >= 0 else f"{-below:.2f} nats above"
        yield (
            f"doubt: the winner is {where} word frequencies: n is too short, "
            "and W can only choose the smallest; raise search.n"
        )
    if summary["smallest"]:
        yield (
            "doubt: the winner is the smallest candidate: the grid has nothing below it, or "
            "search.n is too short; search.error=perplexity weighs errors more"
        )
    if summary["on_border"]:
        yield f"doubt: the grid may be too narrow: the winner has its {_and(summary['on_border'])}"
    if summary.get("winner_at_half") not in (None, summary["optimum_name"]):
        yield f"doubt: after half of the steps the winner was {summary['winner_at_half']}"
    if summary["control_bound"] == summary["optimum_name"]:
        yield "note: arg max W⁺, without any training, chooses the same"
    if summary.get("control_size") == summary["optimum_name"]:
        yield "note: W with an error fitted on the number of parameters chooses the same"


def _and(words: list[str]) -> str:
    return " and ".join(words)


def search_page(
    folder: Path,
    run: SearchRun,
    plan: dict,
    rows: list[dict],
    summary: dict,
    choices: dict[tuple[float, float], Xi],
) -> None:
    """Write report.html: one file, no request to any network."""
    trained = [row for row in rows if row["status"] == "trained"]
    teacher = next(row for row in rows if row["status"] == "teacher")
    unit = "ms" if summary["latency_unit"] == "ms" else "operations"
    figures = [
        ("Pareto front", _front(trained, teacher, unit)),
        ("W by candidate", _bars(trained, rows)),
        ("Which ξ wins for other weights", _map(choices)),
    ]
    parts = [_head(run, rows, summary, teacher, unit)]
    for number, (title, figure) in enumerate(figures):
        html = figure.to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            config={"responsive": True, "displayModeBar": False},
        )
        parts.append(f"<h2>{title}</h2>\n{html}")
    parts += [_costs(plan, summary), _table(rows), _reproduce(run, folder)]
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>bort search {escape(run.name)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>"
    )
    with replacing(folder / "report.html") as file:
        file.write(page.encode())


def _xi(row: dict) -> str:
    return name(tuple(row[key] for key in SIZES))


def _head(run: SearchRun, rows: list[dict], summary: dict, teacher: dict, unit: str) -> str:
    best = rows[0]
    shares = [best[key] / teacher[key] for key in ("parameters", "latency")]
    low, high = summary["w_interval"]
    latency = _latency(best["latency"], unit)
    figures = [
        (_xi(best), "optimum ⟨layers, heads, hidden, intermediate⟩"),
        (f"{summary['w']:.3f}", f"W [{low:.3f}, {high:.3f}]"),
        (f"{best['parameters']:,}", f"parameters, {shares[0]:.1%} of T's"),
        (latency, f"latency, {shares[1]:.1%} of T's ({summary['latency_note']})"),
        (f"{best['error']:.3f}", f"error in nats (T itself {teacher['error']:.3f})"),
    ]
    items = "".join(f"<li><b>{escape(a)}</b>{escape(b)}</li>" for a, b in figures)
    lines = list(certificate_lines(summary))
    plain = "".join(f"<li>{escape(x)}</li>" for x in lines if not x.startswith("doubt"))
    doubt = "".join(f"<p class=doubt>{escape(x)}</p>" for x in lines if x.startswith("doubt"))
    text = run.data.path if run.data.source == "text" else "the embedded docstrings"
    return (
        f"<h1>The optimal BERT on {escape(str(text))}</h1><ul class=big>{items}</ul>{doubt}"
        f"<h2>Certificate</h2><ul>{plain}</ul>"
        f"<p>n = {run.search.n:,} steps of {run.data.batch_size} × {run.data.length} tokens a "
        f"candidate, T = {_xi(teacher)}, errors on {summary['positions']:,} masked positions of "
        f"{summary['documents']:,} documents, word frequencies alone "
        f"{summary['unigram_error']:.3f}.</p>"
    )


def _latency(value: float, unit: str) -> str:
    return f"{value:.3g} ms" if unit == "ms" else f"{value / 1e6:,.1f} MFLOP"


def _front(trained: list[dict], teacher: dict, unit: str):
    import plotly.graph_objects as go

    scale = 1.0 if unit == "ms" else 1e-6
    label = "latency (ms)" if unit == "ms" else "operations of one inference (millions)"
    numbers = {
        tuple(r[k] for k in SIZES): (r["parameters"], r["latency"], r["error"]) for r in trained
    }
    front = set(pareto(numbers))
    figure = go.Figure()
    for on_front in (False, True):
        some = [r for r in trained if (tuple(r[k] for k in SIZES) in front) is on_front]
        figure.add_scatter(
            x=[r["latency"] * scale for r in some],
            y=[r["error"] for r in some],
            mode="markers",
            name="not beaten in p, i and e" if on_front else "beaten",
            marker={
                "size": [8 + 30 * r["parameters"] / teacher["parameters"] for r in some],
                "color": [r["w"] for r in some],
                "coloraxis": "coloraxis",
                "symbol": "circle" if on_front else "x",
                "line": {"width": 1, "color": "#1f2328"},
            },
            text=[f"{_xi(r)}<br>W {r['w']:.4f}, {r['parameters']:,} parameters" for r in some],
            hovertemplate="%{text}<br>latency %{x:.4g}, error %{y:.3f}<extra></extra>",
        )
    figure.add_scatter(
        x=[trained[0]["latency"] * scale],
        y=[trained[0]["error"]],
        mode="text",
        text=[f"  {_xi(trained[0])}"],
        textposition="middle right",
        name="optimum",
        showlegend=False,
    )
    figure.add_hline(y=teacher["error"], line_dash="dot", annotation_text="T's own entropy")
    figure.update_layout(
        template="plotly_white",
        height=480,
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        coloraxis={"colorscale": "Viridis", "colorbar": {"title": "W"}},
        legend={"orientation": "h", "y": 1.08},
    )
    figure.update_xaxes(title_text=label)
    figure.update_yaxes(title_text="error (nats per token)")
    return figure


def _bars(trained: list[dict], rows: list[dict]):
    import plotly.graph_objects as go

    shown = trained[:30]
    figure = go.Figure()
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
    rest = [r for r in rows if r["status"] in ("pruned", "assumed", "skipped")][: 30 - len(shown)]
    figure.add_scatter(
        x=[_xi(r) for r in [*shown, *rest]],
        y=[r["w_bound"] for r in [*shown, *rest]],
        mode="markers",
        name="W⁺, no W is larger",
        marker={"symbol": "line-ew-open", "size": 12, "color": "#8b949e"},
    )
    figure.add_hline(y=shown[0]["w"], line_dash="dot", line_color="#1f6feb")
    figure.update_layout(
        template="plotly_white",
        height=420,
        margin={"l": 60, "r": 20, "t": 20, "b": 120},
        legend={"orientation": "h", "y": 1.1},
    )
    figure.update_yaxes(title_text="W", rangemode="tozero")
    figure.update_xaxes(tickangle=-60)
    return figure


def _map(choices: dict[tuple[float, float], Xi]):
    import plotly.express as px
    import plotly.graph_objects as go

    weights = sorted({alpha for alpha, _ in choices})
    winners = sorted(set(choices.values()))
    colors = (px.colors.qualitative.Set2 * 4)[: len(winners)]
    figure = go.Figure()
    for xi, color in zip(winners, colors, strict=False):
        cells = [ab for ab, winner in choices.items() if winner == xi]
        figure.add_scatter(
            x=[a for a, _ in cells],
            y=[b for _, b in cells],
            mode="markers",
            name=name(xi),
            marker={"symbol": "square", "size": 18, "color": color},
            hovertemplate=f"{name(xi)}<br>α %{{x}}, β %{{y}}<extra></extra>",
        )
    figure.add_scatter(
        x=[1],
        y=[1],
        mode="markers",
        name="the paper's weights",
        marker={"symbol": "x-thin-open", "size": 12, "color": "#1f2328", "line": {"width": 2}},
    )
    margin = (weights[-1] - weights[0]) / len(weights) if len(weights) > 1 else 1
    figure.update_layout(
        template="plotly_white",
        height=480,
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        legend={"orientation": "h", "y": 1.12},
    )
    figure.update_xaxes(title_text="α, weight of parameters", range=[-margin, weights[-1] + margin])
    figure.update_yaxes(title_text="β, weight of latency", range=[-margin, weights[-1] + margin])
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
        ("ranking at half of n against n (Kendall's τ)", _tau(summary, "half")),
        ("ranking at a quarter of n against n", _tau(summary, "quarter")),
        ("optimum by W with the ratio of errors (the paper's)", summary["by_ratio"]),
        ("optimum by W with the ratio of perplexities", summary["by_perplexity"]),
        ("lowest error", summary["by_error"]),
        ("arg max W⁺, without any training", summary["control_bound"]),
        ("W with errors fitted on parameters", summary.get("control_size", "–")),
    ]
    body = "".join(f"<tr><td>{escape(a)}</td><td>{escape(str(b))}</td></tr>" for a, b in rows)
    return f"<h2>Costs and controls</h2><table>{body}</table>"


def _tau(summary: dict, label: str) -> str:
    tau = summary.get(f"tau_at_{label}")
    winner = summary.get(f"winner_at_{label}", "–")
    return "–" if tau is None else f"{tau:.2f}, winner {winner}"


def _table(rows: list[dict]) -> str:
    head = "<tr><th>ξ</th><th>status</th><th>parameters</th><th>latency</th><th>error</th>"
    head += "<th>W</th><th>W⁺</th><th>reason</th></tr>"
    body = ""
    for row in rows:
        cells = [_xi(row), row["status"], f"{row['parameters'] or 0:,}"]
        cells += [_number(row[key]) for key in ("latency", "error", "w", "w_bound")]
        cells.append(row["reason"] or "")
        body += "<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in cells) + "</tr>"
    return f"<h2>All points</h2><table>{head}{body}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _reproduce(run: SearchRun, folder: Path) -> str:
    given = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    words = " ".join(str(word) for word in given)
    again = f"python search.py {words}".strip()
    if "name=" not in words:
        again += f" name={run.name}"
    return (
        f"<h2>Again, and on from here</h2><pre>{escape(again)}\n"
        f"python train.py experiment=kd_pretrain arch_file={escape(str(folder))}/optimum.yaml</pre>"
        "<details><summary>Configuration</summary><pre>"
        f"{escape((folder / '.hydra' / 'config.yaml').read_text())}</pre></details>"
    )
