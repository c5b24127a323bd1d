"""The dashboard in wandb: its panels, and the run of a whole search.

    python -m bort.dashboard entity=NAME project=bort

makes a workspace of these panels in a project that runs were synced to; it needs the package
wandb-workspaces and a wandb key.
"""

import sys
from html import escape
from pathlib import Path
from typing import Any

from bort import shell as cli
from bort.config.search import SearchRun
from bort.config.train import SIZES, settings
from bort.errors import BortError
from bort.search.report import certificate_lines
from bort.training.loggers import wandb_options

# Section → title → keys of the log. Whatever else is logged has wandb's own panels.
PANELS: dict[str, dict[str, list[str]]] = {
    "Training": {
        "Loss": ["train/loss", "val/loss"],
        "Masked words predicted": ["val/mlm_accuracy"],
        "Distillation": ["train/kd_loss", "val/kd_loss", "val/teacher_entropy"],
        "Learning rate": ["train/lr"],
        "Gradient norm": ["train/grad_norm"],
        "Tokens per second": ["perf/tokens_per_s"],
    },
    "Tasks": {
        "Score of classes": ["val/accuracy", "val/macro_f1"],
        "Score of numbers": ["val/pearson", "val/spearman"],
    },
    "Agora": {
        "Score on E by training": ["agora/score"],
        "Round": ["agora/round"],
        "Training rows": ["agora/rows"],
    },
    "Samples": {"Predictions": ["samples/predictions"]},
    "Search": {
        "Pareto front": ["search/pareto_front"],
        "W by candidate": ["search/w_by_candidate"],
        "Which ξ wins for other weights": ["search/w_map"],
        "Certificate": ["search/certificate"],
        "Candidates": ["search/candidates"],
    },
}
TABLES = ("samples/predictions", "search/candidates")
FIGURES = ("search/pareto_front", "search/w_by_candidate", "search/w_map")  # as on the page
COLUMNS = (*SIZES, "status", "parameters", "latency", "error", "w", "w_low", "w_high", "w_bound")


def log_search(
    run: SearchRun, folder: Path, summary: dict, rows: list[dict], plots: dict[str, Any]
) -> None:
    """One wandb run of the whole sweep, in one group with those of its candidates.

    rows: of candidates.csv; plots: of `search_page.figures`, in its order.
    """
    import wandb

    options = wandb_options(run.logger, folder.name, "-".join(folder.parts[-2:]))
    options |= {"dir": folder, "config": settings(run), "job_type": "search"}
    table = wandb.Table(list(COLUMNS), [[row[column] for column in COLUMNS] for row in rows])
    lines = "".join(f"<p>{escape(line)}</p>" for line in certificate_lines(summary))
    with wandb.init(**options) as log:
        figures = {k: wandb.Plotly(plot) for k, plot in zip(FIGURES, plots.values(), strict=True)}
        certificate = {"search/certificate": wandb.Html(lines, inject=False)}
        log.log({**figures, **certificate, "search/candidates": table})
        log.summary.update(summary)


def workspace(entity: str, project: str) -> Any:
    """PANELS as a workspace of wandb; `save()` creates it. Raises BortError without the package."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise BortError(
            "the dashboard needs the package wandb-workspaces; pip install it"
        ) from None

    def panel(title: str, keys: list[str]) -> Any:
        if keys[0] in TABLES:
            return reports.WeavePanelSummaryTable(table_name=keys[0])
        if keys[0].startswith("search/"):
            return reports.MediaBrowser(title=title, media_keys=keys)
        return reports.LinePlot(title=title, x="trainer/global_step", y=keys)

    sections = [
        workspaces.Section(
            name=section,
            panels=[panel(title, keys) for title, keys in panels.items()],
            is_open=True,
        )
        for section, panels in PANELS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name="bort", sections=sections)


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    given = cli.keys(sys.argv[1:], {"entity": None, "project": "bort"})
    if not given["entity"]:
        raise BortError("give entity=NAME, the wandb user or team that owns the project")
    made = workspace(given["entity"], given["project"])
    made.save()
    cli.say(f"dashboard: {made.url}")


if __name__ == "__main__":
    cli.run(main, "bort.dashboard")
