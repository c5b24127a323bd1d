"""The dashboard in wandb: its panels, and `python -m bort.dashboard`, which makes it."""

import itertools
import logging
from dataclasses import dataclass
from typing import Any

from bort import shell
from bort.errors import BortError

logger = logging.getLogger("bort.dashboard")

# Section → title → keys of the log. Whatever else is logged has wandb's own panels.
PANELS: dict[str, dict[str, list[str]]] = {
    "Training": {
        "Loss": ["train/loss", "val/loss"],
        "Masked words predicted": ["val/mlm_accuracy"],
        "Distillation": ["train/kd_loss", "val/kd_loss", "val/teacher_entropy"],
        "Distance from the teacher's states": ["train/hidden_loss", "val/hidden_loss"],
        "KL to the teacher's relations": ["train/relation_loss", "val/relation_loss"],
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


def workspace(entity: str, project: str) -> Any:
    """Build a workspace of wandb with the PANELS; its `save()` creates it there.

    Raises BortError without the package.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise BortError(
            "the dashboard needs the package wandb-workspaces; pip install it"
        ) from None

    def create_panel(title: str, keys: list[str]) -> Any:
        if keys[0] in TABLES:
            return reports.WeavePanelSummaryTable(table_name=keys[0])
        if keys[0].startswith("search/"):
            return reports.MediaBrowser(title=title, media_keys=keys)
        return reports.LinePlot(title=title, x="trainer/global_step", y=keys)

    sections = [
        workspaces.Section(
            name=section,
            panels=list(itertools.starmap(create_panel, panels.items())),
            is_open=True,
        )
        for section, panels in PANELS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name="bort", sections=sections)


@dataclass
class DashboardConfig:
    """The panels of a project in wandb.

    python -m bort.dashboard entity=NAME project=bort

    makes a workspace of these panels in a project that runs were synced to; it needs the package
    wandb-workspaces and a wandb key.
    """

    entity: str | None = None  # the wandb user or team that owns the project
    project: str = "bort"  # the project's name

    def __post_init__(self) -> None:
        if not self.entity:
            raise BortError("give entity=NAME, the wandb user or team that owns the project")


def main(settings: DashboardConfig) -> None:
    """Make the workspace and print its address."""
    made = workspace(settings.entity, settings.project)
    made.save()
    logger.info(f"dashboard: {made.url}")


if __name__ == "__main__":
    shell.run_command(DashboardConfig, main, "bort.dashboard")
