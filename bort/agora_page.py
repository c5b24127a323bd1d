"""What Agora brought: the table at the end of a run, and the picture of E by round."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bort.agora import Round
from bort.files import replacing

ARMS = {
    "default": "plain, default θ",
    "plain": "plain, all of Θ, Agora's steps",
    "random": "rows from random rows, Agora's steps",
    "agora": "Agora",
}


def show(summary: dict, folder: Path) -> None:
    """The arms side by side, and where everything is."""
    console = Console(highlight=False)
    name = summary["metric"]
    metrics = [k for k in summary if k.startswith("val") and k.count("/") == 1 and k != "val/loss"]
    table = Table("", *(f"dev {k}" for k in metrics), "E", title="what did Agora bring?")
    for arm, label in ARMS.items():
        prefix = "" if arm == "agora" else f"{arm}/"
        cells = [f"{summary[prefix + k]:.4f}" for k in metrics]
        table.add_row(label, *cells, f"{summary[prefix + 'eval/' + name.split('/')[1]]:.4f}")
    s = [f"{summary[f'teacher/{k}']:.4f}" for k in metrics]
    table.add_row("S, the judge", *s, f"{summary['teacher/eval/' + name.split('/')[1]]:.4f}")
    console.print(table)
    best = max(summary[f"{arm}/{name}"] for arm in ("plain", "random"))
    word = "above" if summary[name] > best else "not above"
    console.print(
        f"Agora is {word} its control arms on dev ({summary[name] - best:+.4f}): "
        f"{summary['generated']:,} rows generated, {summary['trainings']} trainings in "
        f"{summary['rounds']} rounds, {summary['steps']:,} steps each, {summary['pruned']} θ pruned"
    )
    for label, file in (("rows  ", "generated.jsonl"), ("rounds", "rounds.html")):
        console.print(f"  {label}    {folder}/{file}", soft_wrap=True)


def picture(trained: list[dict], history: list[Round], metric: str, path: Path) -> None:
    """Scores on E of all trainings by round, one self-contained page."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_scatter(
        x=[row["round"] for row in trained],
        y=[row["score"] for row in trained],
        text=[
            row["theta"] + (f", replay {row['replay']}" if row["replay"] else "") for row in trained
        ],
        mode="markers",
        name="a θ",
        marker={"color": "#8b949e", "size": 9},
    )
    figure.add_scatter(
        x=[each.number for each in history],
        y=[each.score for each in history],
        text=[f"{each.thetas[each.best]}; {len(each.data):,} rows" for each in history],
        mode="lines+markers",
        name="best of the round",
        line={"color": "#1f6feb"},
    )
    figure.update_layout(
        title="Agora: E by round",
        template="plotly_white",
        xaxis={"title": "round", "dtick": 1},
        yaxis={"title": f"{metric} on E"},
    )
    with replacing(path) as file:
        file.write(figure.to_html(include_plotlyjs=True, full_html=True).encode())
