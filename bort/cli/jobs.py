"""From a composed configuration to a finished run folder: what `train.py` and `bort.run` share."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from bort.config import unused
from bort.config.compose import parse_settings
from bort.config.train import EMBED, FITTING_JOBS, TrainConfig
from bort.console import show_log
from bort.errors import shorten
from bort.files.run_files import HYDRA_CONFIG, HYDRA_OVERRIDES, HYDRA_SETTINGS, REPORT
from bort.runs.summary import RunSummary
from bort.shell import LONGEST_LINE

logger = logging.getLogger(__name__)


def locate_folder(cfg: DictConfig, hydra: DictConfig) -> Path:
    """Return the folder of a job, relative where it lies below the folder that we are in.

    cfg: the composed settings; hydra: Hydra's own. The processes of a distributed training share
    the folder of the first one.
    """
    from bort.runs.names import reserve_name

    is_sweep = hydra.mode is RunMode.MULTIRUN
    if not is_sweep:
        reserve_name(cfg, lambda: Path(cfg.output_dir))
    folder = Path(hydra.runtime.output_dir if is_sweep else cfg.output_dir)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if "LOCAL_RANK" in os.environ:  # a further process of DDP: its time stamp would be another
        return Path(os.environ.get("BORT_RUN_FOLDER", folder))
    os.environ["BORT_RUN_FOLDER"] = str(folder)
    return folder


def run_job(
    cfg: DictConfig,
    hydra: DictConfig,
    folder: Path,
    loading: Callable[[], AbstractContextManager] = nullcontext,
) -> RunSummary | None:
    """Run one job in `folder` and return its summary; None after a dry run.

    cfg: the composed settings; hydra: Hydra's own, which know what was chosen on the command line.
    loading: the context in which large packages are imported. Raises BortError for a mistake of the
    user, and SystemExit or KeyboardInterrupt when a signal has stopped the training.
    """
    run = _read_settings(cfg, hydra)
    experiment = hydra.runtime.choices.experiment
    line = f"{experiment}: {run.describe()} → {folder}"
    logger.info(shorten(line, LONGEST_LINE, keep_end=True))
    if (summary := _find_finished(run, folder, experiment)) is not None:
        return summary
    with loading():  # torch, only now
        recipe, show_plan = _import_recipe(run)
        from bort import report

    if run.dry_run:
        show_plan(run, folder)
        return None
    record = {
        HYDRA_CONFIG: OmegaConf.to_yaml(cfg),
        HYDRA_OVERRIDES: OmegaConf.to_yaml(hydra.overrides.task),
        HYDRA_SETTINGS: OmegaConf.to_yaml(hydra),
    }
    options = {"launch": make_launcher(hydra, folder)} if run.job in ("agora", "compare") else {}
    summary = recipe(run, folder, record, **options)
    report.write_page(folder)
    _print_outcome(run, folder, summary, experiment)
    return summary


def _print_outcome(run: TrainConfig, folder: Path, summary: RunSummary, experiment: str) -> None:
    """Print what a run has left, and of a task's distillation which model is best to deploy."""
    from bort.runs.closing import print_result

    print_result(run, folder, summary, experiment)
    if run.job == "kd_finetune" and not run.learns_embeddings:
        from bort.task_distillation.report import recommend

        if line := recommend(summary):
            logger.info(f"ship: {line}")


def _read_settings(cfg: DictConfig, hydra: DictConfig) -> TrainConfig:
    """Return the typed settings; a wrong name is refused before what is missing beside it."""
    if cfg.job in FITTING_JOBS:
        from bort.tasks import custom, registry

        registry.check_task_name(cfg.task)
        if not cfg.model:  # which is said next
            custom.check_files(cfg.data)
    run = parse_settings(cfg)
    unused.refuse_unused(run, hydra.overrides.task)
    unused.refuse_distillation(run, str(hydra.runtime.choices.experiment))
    return run


def _find_finished(run: TrainConfig, folder: Path, experiment: str) -> RunSummary | None:
    """Return the summary when `folder` holds this very run, finished; nothing is trained then."""
    from bort.runs.folder import RunFolder

    if run.job == "compare" or run.dry_run:
        return None
    if (summary := RunFolder(folder).find_result(run)) is None:
        return None
    if not (folder / REPORT).exists():  # the process was killed between the two
        from bort import report

        report.write_page(folder)
    _print_outcome(run, folder, summary, experiment)
    return summary


def _import_recipe(run: TrainConfig) -> tuple[Callable[..., RunSummary], Callable[..., None]]:
    """Return what trains a job, and what shows the plan of a dry run."""
    job = run.job
    if run.learns_embeddings:
        from bort.embeddings.dry_run import show
        from bort.embeddings.recipe import distil_embeddings

        return distil_embeddings, show
    if job == "finetune" and run.task == EMBED:
        from bort.embeddings.pairs import finetune_embeddings
        from bort.finetuning.dry_run import show

        return finetune_embeddings, show
    if job == "finetune":
        from bort.finetuning.dry_run import show
        from bort.finetuning.recipe import finetune

        return finetune, show
    if job == "kd_finetune":
        from bort.task_distillation.dry_run import show
        from bort.task_distillation.recipe import distill_task

        return distill_task, show
    if job == "agora":
        from bort.agora.dry_run import show
        from bort.agora.recipe import agora

        return agora, show
    from bort.pretraining.dry_run import show

    if job == "compare":
        from bort.pretraining.kd_vs_mlm import compare

        return compare, show
    from bort.pretraining.recipe import pretrain

    return pretrain, show


def make_launcher(hydra: DictConfig, folder: Path) -> Callable[[list[str]], None] | None:
    """Return what has hydra/launcher do trainings of an Agora or a comparison, by their names.

    None where no launcher was chosen, and in a sweep, whose own jobs use the launcher.
    """
    if hydra.mode is RunMode.MULTIRUN or hydra.runtime.choices["hydra/launcher"] == "basic":
        return None
    overrides = [*hydra.overrides.task, f"name={folder.name}"]
    folders = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=."]
    running = GlobalHydra.instance().hydra
    composed = running.compose_config(
        "train", [*hydra.overrides.hydra, *overrides, *folders], run_mode=RunMode.MULTIRUN
    )
    context = HydraContext(config_loader=running.config_loader, callbacks=Callbacks(composed))
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=train_one, config=composed
    )

    def launch(names: list[str]) -> None:
        jobs = [[*overrides, f"+training={name}"] for name in names]
        for result in launcher.launch(jobs, initial_job_idx=0):
            if result.status is JobStatus.FAILED:
                raise result._return_value

    return launch


def train_one(cfg: DictConfig) -> None:
    """Do one of the trainings of a run, in a process of the launcher."""
    show_log()  # a launcher's process has not passed through the shell
    with open_dict(cfg):
        name = cfg.pop("training")  # no setting of a run
    run = parse_settings(cfg)
    if run.job == "compare":
        from bort.pretraining.kd_vs_mlm import train_one as train
    else:
        from bort.agora.student import train_one as train

    train(run, Path(cfg.output_dir), name)


def read_objective(summary: RunSummary) -> float | None:
    """Return what external sweepers minimise: val/loss, or the score of a task.

    Of a model without a masked-LM head it is the distance from its teacher. None where nothing was
    validated; NaN, a failed trial, for a score that is not defined.
    """
    losses = ("val/loss", "val/hidden_loss", "val/relation_loss")
    judged = next((key for key in losses if key in summary), losses[0])
    value = summary.get(summary.metric or judged)
    return float("nan") if value is None and "metric" in summary else value
