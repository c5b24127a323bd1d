"""Find, pre-train, fine-tune and ship the optimal BERT for a text, a teacher and a machine.

`docs/python.md` shows what the names below are for. Each is imported when it is first used, so that
`import bort` takes no time.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    "load": "predictor",
    "run": "api",
    "finetune": "api",
    "RunResult": "api",
    "BortError": "errors",
    # settings
    "Arch": "models.arch",
    "DataConfig": "config.data",
    "OptimConfig": "config.optim",
    "DistillConfig": "config.distill",
    # models
    "ModelConfig": "models.bert",
    "MaskedLM": "models.bert",
    "Classifier": "models.bert",
    "build_model": "models.initialization",
    "load_masked_lm": "models.huggingface",
    "save_model": "models.huggingface",
    "open_teacher": "teachers.opening",
    # training by Lightning
    "kd_loss": "pretraining.losses",
    "DistillationModule": "pretraining.module",
    "PackedDataModule": "pretraining.datamodule",
    "FineTuningModule": "finetuning.module",
    "TaskDataModule": "finetuning.datamodule",
    "SaveBestModel": "finetuning.callbacks",
    "build_task_classifier": "finetuning.heads",
    # a search of one's own numbers
    "Selection": "search.fptas",
    "Answer": "search.answers",
    "answer_by_all_aims": "search.answers",
    "Scale": "objectives.coefficient",
    "w_coefficient": "objectives.coefficient",
}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bort' has no attribute {name!r}")
    value = getattr(import_module(f"bort.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
