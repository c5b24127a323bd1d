"""From the configuration that Hydra composes out of conf/ to typed settings."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bort.config.search import TASK, SearchRunConfig, TaskSearchConfig
from bort.config.train import FITTING_JOBS, TrainConfig, choose_config
from bort.errors import BortError, shorten, suggest_path
from bort.files.untrusted import read_json, read_yaml
from bort.models.arch import Arch
from bort.models.identity import find_local_model

CONF = Path(__file__).parents[1] / "conf"  # in a wheel
if not CONF.is_dir():
    CONF = Path(__file__).parents[2] / "conf"


def find_local_settings() -> Path | None:
    """Return `conf` of the folder that we are in, if it has a `local` and is not bort's own."""
    folder = Path("conf")
    is_local = (folder / "local").is_dir() and not folder.samefile(CONF)
    return folder if is_local else None


def parse_settings(cfg: DictConfig, schema: type = TrainConfig) -> Any:
    """Return the composed configuration as dataclasses; a TrainConfig is one of its job's class.

    Raises BortError for every combination of settings that is wrong, and OmegaConf's own errors for
    a key or a type that is.
    """
    cfg = cfg.copy()
    if cfg.get("arch_file"):
        OmegaConf.update(cfg, "arch", _arch_from_file(Path(cfg.arch_file)))
    if cfg.get("job") == "pretrain" and cfg.get("model"):
        OmegaConf.update(cfg, "arch", _arch_of_model(cfg.model))
    if cfg.get("job") in FITTING_JOBS and cfg.task == "docstrings" and cfg.data.train:
        cfg.task = "custom"  # who names files means them, not the task that needs none
    if cfg.get("job") == "search" and cfg.search.get("proxy") == TASK and cfg.data.train:
        cfg.task = cfg.task or "custom"
    OmegaConf.resolve(cfg)
    # Once more through the schema: a key that was added by `+` is a mistake too.
    plain = OmegaConf.to_container(cfg)
    _drop_old_keys(plain)
    _check_finite("", {key: value for key, value in plain.items() if key != "callbacks"})
    if schema is TrainConfig:
        schema = choose_config(plain)
    elif schema is SearchRunConfig and plain["search"].get("proxy") == TASK:
        schema = TaskSearchConfig
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))


def _drop_old_keys(settings: dict) -> None:
    """Forget what version 0.1 wrote into the configuration of a run, and no run has any more."""
    agora = settings.get("agora")
    if isinstance(agora, dict) and agora.get("training", "") is None:
        del agora["training"]


def _check_finite(key: str, value: Any) -> None:
    """Raise BortError for an infinite number or a NaN anywhere below `key`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_finite(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            _check_finite(key, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BortError(f"{key}={value:g} is no finite number; give one")


def _arch_from_file(path: Path) -> dict:
    """The architecture in a YAML such as a search's optimum.yaml (bare, or under `arch`)."""
    if not path.is_file():
        hint = suggest_path(path, path.parent.glob("*.yaml"))
        raise BortError(f"arch_file={path} does not exist{hint}")
    try:
        content = read_yaml(path)
    except BortError:
        content = None
    table = content.get("arch", content) if isinstance(content, dict) else None
    # numbers only: the text of an interpolation must not reach a configuration
    if not isinstance(table, dict) or not all(
        type(table.get(key)) in (int, float) for key in Arch.KEYS
    ):
        raise BortError(
            f"arch_file={path} is not an architecture; it needs the four keys depth, heads, hidden "
            "and intermediate, each with a number"
        )
    return {key: table[key] for key in Arch.KEYS}


# The four numbers of an architecture, as a config.json of Hugging Face names them.
HUGGING_FACE_KEYS = {
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
}


def _arch_of_model(name: str) -> dict:
    """Read the architecture of the model that a pre-training continues.

    Everything else about the model is checked when it is opened.
    """
    folder = find_local_model(name)
    if folder is None:
        from bort.models.huggingface import read_config  # loads torch, which only this needs

        stated = read_config(name)
    else:
        stated = read_json(folder / "config.json")
    numbers = {key: stated.get(theirs) for key, theirs in HUGGING_FACE_KEYS.items()}
    if lacking := [HUGGING_FACE_KEYS[key] for key, n in numbers.items() if type(n) is not int]:
        kind = shorten(repr(stated.get("model_type")), 30)
        raise BortError(
            f"model={name} is of model_type {kind} without {lacking[0]}; pre-training continues "
            "BERT, RoBERTa, XLM-RoBERTa and CamemBERT"
        )
    return numbers
