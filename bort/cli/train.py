"""`python train.py …` and `bort train …`: one training, or a sweep of several."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from bort import console, shell
from bort.config import train as config

logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    # Not at the top: --help, --cfg and completion need none of it.
    from bort.runs import folder as runs

    console.show_log()  # a launcher's process has not passed through the shell
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    folder = None
    try:
        with shell.resumable(cfg.name):
            folder = locate_folder(cfg, sweep)
            return start(cfg, folder)
    except Exception as error:
        line = shell.mistake(error)
        if line is None:
            raise
        if not sweep:
            shell.stop(1, f"{shell.program()}: {line}")  # here: Hydra would add a line of its own
        logger.info(f"{shell.program()}: {folder}: {line}")  # a result of the sweep, not its end
        if folder is not None:
            runs.note_failure(folder)
        return float("nan")


def locate_folder(cfg: DictConfig, sweep: bool) -> Path:
    """The folder of this job, seen from here; the processes of DDP share that of the first one."""
    from bort.runs import folder as runs

    if not sweep:
        runs.reserve_stamp(cfg, lambda: Path(cfg.output_dir))
    folder = Path(HydraConfig.get().runtime.output_dir if sweep else cfg.output_dir)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if "LOCAL_RANK" in os.environ:  # a further process of DDP: its time stamp would be another
        return Path(os.environ.get("BORT_RUN_FOLDER", folder))
    os.environ["BORT_RUN_FOLDER"] = str(folder)
    return folder


def start(cfg: DictConfig, folder: Path) -> float | None:
    """Run one job; returns val/loss, which external sweepers minimise (the score, of a task)."""
    from bort.config import unused
    from bort.runs import folder as runs

    if cfg.job in ("finetune", "agora"):  # wrong names first, then what is missing beside them
        from bort.tasks import custom, registry

        registry.check_name(cfg.task)
        if not cfg.model:  # which is said next
            custom.check_files(cfg.data)
    run = config.parse(cfg)
    unused.refuse_unused(run, HydraConfig.get().overrides.task)
    choices = HydraConfig.get().runtime.choices
    logger.info(f"{choices.experiment}: {config.describe(run)} → {folder}")
    if run.job != "compare" and not run.dry_run:
        if (summary := runs.done(run, folder)) is not None:
            if not (folder / "report.html").exists():  # a kill came between them
                from bort import report

                report.write(folder)
            runs.finish(run, folder, summary, choices.experiment)
            return objective(summary)
    with shell.loading(shell.program()):  # torch, only now
        from bort import report
        from bort.agora import dry_run as agora_plan
        from bort.agora import recipe as agora_run
        from bort.finetuning import dry_run as finetuning_plan
        from bort.finetuning import recipe as finetune
        from bort.pretraining import dry_run as pretraining_plan
        from bort.pretraining import kd_vs_mlm as compare
        from bort.pretraining import recipe as pretrain

    if run.dry_run:
        plans = {"finetune": finetuning_plan.show, "agora": agora_plan.show}
        plans.get(run.job, pretraining_plan.show)(run, folder)
        return None
    record = {
        "config.yaml": OmegaConf.to_yaml(cfg),
        "overrides.yaml": OmegaConf.to_yaml(HydraConfig.get().overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(HydraConfig.get()),
    }
    jobs = {
        "compare": compare.compare,
        "finetune": finetune.finetune,
        "agora": agora_run.agora,
    }
    more = {"launch": launcher(folder)} if run.job == "agora" else {}
    summary = jobs.get(run.job, pretrain.pretrain)(run, folder, record, **more)
    report.write(folder)
    runs.finish(run, folder, summary, choices.experiment)
    return objective(summary)


def launcher(folder: Path) -> Callable[[list[list[str]]], None] | None:
    """Starts this program with further settings through hydra/launcher, where one was chosen."""
    own = HydraConfig.get()
    if own.mode is RunMode.MULTIRUN or own.runtime.choices["hydra/launcher"] == "basic":
        return None  # of a sweep, the launcher has the runs
    overrides = [*own.overrides.task, f"name={folder.name}"]
    places = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=."]
    running = GlobalHydra.instance().hydra
    config = running.compose_config(
        "train", [*own.overrides.hydra, *overrides, *places], run_mode=RunMode.MULTIRUN
    )
    context = HydraContext(config_loader=running.config_loader, callbacks=Callbacks(config))
    found = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=job, config=config
    )

    def launch(several: list[list[str]]) -> None:
        for each in found.launch([[*overrides, *more] for more in several], initial_job_idx=0):
            if each.status is JobStatus.FAILED:
                raise each._return_value

    return launch


def job(cfg: DictConfig) -> None:
    """One of Agora's trainings, in a process of the launcher."""
    from bort.agora.student import train_one

    console.show_log()
    train_one(config.parse(cfg), Path(cfg.output_dir))


def objective(summary: dict) -> float | None:
    """None where nothing was validated; NaN, a failed trial, for a score that is not defined."""
    value = summary.get(summary.get("metric", "val/loss"))
    return float("nan") if value is None and "metric" in summary else value
