"""Pre-train a BERT: `python train.py experiment=kd_pretrain`; `--help` lists what can be set."""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bort import cli, config, runs


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode is RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir if sweep else cfg.output_dir)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if "LOCAL_RANK" in os.environ:  # a further process of DDP: its time stamp would be another
        folder = Path(os.environ.get("BORT_RUN_FOLDER", folder))
    else:
        os.environ["BORT_RUN_FOLDER"] = str(folder)
    try:
        return start(cfg, folder)
    except SystemExit as stopped:  # by a signal, after a checkpoint
        cli.stop(stopped.code, f"train.py: stopped; the same command with name={cfg.name} goes on")
    except Exception as error:
        line = cli.mistake(error)
        if line is None:
            raise
        if not sweep:
            cli.stop(1, f"train.py: {line}")  # here: Hydra would add a line of its own
        cli.say(f"train.py: {folder}: {line}")  # a result of the sweep, not its end
        return float("nan")


def start(cfg: DictConfig, folder: Path) -> float | None:
    """Run one job; returns val/loss, which external sweepers minimise (the score, of a task)."""
    run = config.parse(cfg)
    choices = HydraConfig.get().runtime.choices
    cli.say(f"{choices.experiment}: {config.describe(run)} → {folder}")
    if run.job != "compare" and not run.dry_run:
        if (summary := runs.done(run, folder, cli.say)) is not None:
            runs.finish(run, folder, summary, choices.experiment, cli.say)
            return objective(summary)
    from bort import agora_run, compare, finetune, plan, pretrain, report  # torch: only now

    if run.dry_run:
        plan.show(run, folder, cli.say)
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
    summary = jobs.get(run.job, pretrain.pretrain)(run, folder, cli.say, record)
    report.write(folder)
    runs.finish(run, folder, summary, choices.experiment, cli.say)
    return objective(summary)


def objective(summary: dict) -> float | None:
    return summary.get(summary.get("metric", "val/loss"))


if __name__ == "__main__":
    cli.run(main, "train.py")
