"""The run of a whole search in wandb: its figures, its table of candidates, its certificate."""

from html import escape
from pathlib import Path
from typing import Any

from bort.config.fingerprint import flatten_settings
from bort.config.search import SearchRunConfig
from bort.models.arch import Arch
from bort.search.report import certificate_lines
from bort.training.loggers import choose_wandb_options

FIGURES = ("search/pareto_front", "search/w_by_candidate", "search/w_map")  # as on the page
COLUMNS = (*Arch.KEYS, "status", "parameters", "latency", "error")
COLUMNS += ("w", "w_low", "w_high", "w_bound")


def log_search(
    run: SearchRunConfig, folder: Path, summary: dict, rows: list[dict], plots: dict[str, Any]
) -> None:
    """One wandb run of the whole sweep, in one group with those of its candidates.

    rows: of candidates.csv; plots: of `search_page.figures`, in its order.
    """
    import wandb

    options = choose_wandb_options(run.logger, folder.name, "-".join(folder.parts[-2:]))
    options |= {"dir": folder, "config": flatten_settings(run), "job_type": "search"}
    table = wandb.Table(list(COLUMNS), [[row[column] for column in COLUMNS] for row in rows])
    lines = "".join(f"<p>{escape(line)}</p>" for line in certificate_lines(summary))
    with wandb.init(**options) as log:
        figures = {k: wandb.Plotly(plot) for k, plot in zip(FIGURES, plots.values(), strict=True)}
        certificate = {"search/certificate": wandb.Html(lines, inject=False)}
        log.log({**figures, **certificate, "search/candidates": table})
        log.summary.update(summary)
