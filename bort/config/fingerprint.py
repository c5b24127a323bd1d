"""Which settings decide a run's result, and a short name for them."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from bort.config.optim import LINEAR
from bort.config.train import TrainConfig

# What may differ between a run and its continuation: none of these changes a weight.
FREE_KEYS = {"resume", "dry_run", "logger", "output_dir", "name", "checkpoint_every"}
# Callbacks of Lightning that end a training early, or set or average its weights. No other ones do.
ACTIVE_CALLBACKS = {
    "EarlyStopping",
    "Timer",
    "GradientAccumulationScheduler",
    "StochasticWeightAveraging",
    "WeightAveraging",
    "EMAWeightAveraging",
    "LearningRateFinder",
    "BatchSizeFinder",
}
POOL_KEYS = ("data.unlabelled", "data.unlabelled_rows", "data.split_sentences")
# Only who learns a task from a teacher reads these.
TEACHING_KEYS = ("distill.w_ce", "distill.kd_loss", "distill.guard", "distill.control")
TASK_KEYS = (  # only fine-tuning and Agora read these
    *("data.train", "data.val", "data.test", "data.label", "data.kind", "data.metric"),
    *("optim.class_weights", "data.windows", "data.window_stride"),
)
FREE_TRAINER_KEYS = {"enable_progress_bar", "log_every_n_steps", "profiler", "default_root_dir"}


def flatten_settings(run: TrainConfig) -> dict[str, Any]:
    """Flat `key: value` of all that decides a run's result, to compare it with its continuation."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    values = {k: v for k, v in asdict(run).items() if k not in FREE_KEYS}
    walk("", values | {"callbacks": _active_callbacks(run.callbacks)})
    free = {f"trainer.{key}" for key in FREE_TRAINER_KEYS} | {"data.workers"}
    if not run.fits_task:
        free |= {*TASK_KEYS}
    if not run.teaches_task:
        free |= {*TEACHING_KEYS}
        if not run.data.unlabelled:
            free |= {*POOL_KEYS}
    if run.optim.schedule == LINEAR:  # the only one that older versions had
        free |= {"optim.schedule"} | (set() if flat.get("search.halving") else {"optim.decay"})
    unread = () if run.job == "agora" else "agora."
    return {k: v for k, v in flat.items() if k not in free and not k.startswith(unread)}


def _active_callbacks(callbacks: dict | None) -> dict:
    """Those of the callbacks that decide how a training ends."""

    def kind(callback: Any) -> str:
        return str(callback.get("_target_")).split(".")[-1] if isinstance(callback, dict) else ""

    return {k: v for k, v in (callbacks or {}).items() if kind(v) in ACTIVE_CALLBACKS}


def fingerprint(values: dict[str, Any]) -> str:
    """16 hexadecimal digits that name these values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
