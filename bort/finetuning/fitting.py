"""The training of a classifier: what every fine-tuning, distillation and round of Agora does."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.callbacks import EarlyStopping

from bort.config.train import TrainConfig
from bort.finetuning.callbacks import LogAnswers, SaveBestModel
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import TaskExamples
from bort.finetuning.module import FineTuningModule
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier
from bort.runs.folder import RunFolder
from bort.tasks.metrics import is_falling
from bort.training.trainer import choose_device, fit


@dataclass(frozen=True)
class TrainingRecord:
    """What a classifier's training took, and what it was of."""

    parameters: int  # of the model that is kept
    tokens: int
    steps: int
    tokens_per_s: float
    seconds: float  # of training, validation left out
    lr: float
    seed: int
    precision: str
    task: str
    metric: str  # that chose the checkpoint, as in val/accuracy

    def to_json(self) -> dict:
        """Spell the record as summary.json has it."""
        return asdict(self)


def train_classifier(
    run: TrainConfig,
    folder: Path,
    model: Classifier,
    examples: TaskExamples,
    label: str = "fine-tuning",
    teacher: np.ndarray | None = None,
    module: FineTuningModule | None = None,
) -> tuple[Classifier, TrainingRecord]:
    """Train on the `train` rows; return the model of the best validation, and what it took.

    That model is in `folder/model`, too. label: the training's name in its progress lines. teacher:
    a teacher's outputs (N, classes) to the training rows, for a `module` that learns from them.
    """
    data = TaskDataModule.from_examples(examples, run.data, run.seed, teacher)
    module = module or FineTuningModule(model, run.optim, examples)
    callbacks = [SaveBestModel(RunFolder(folder).model, examples), LogAnswers()]
    if run.patience:
        callbacks.append(_stop_early(module.metric, run.patience))
    trainer, throughput = fit(run, folder, module, data, label, callbacks)
    trainer.strategy.barrier()  # until the process that saves the best model has saved it
    best, _ = load_classifier(RunFolder(folder).model)
    return best.to(choose_device(run)), TrainingRecord(
        parameters=sum(p.numel() for p in best.parameters()),
        tokens=module.tokens,
        steps=trainer.global_step,
        tokens_per_s=module.tokens / max(throughput.seconds, 1e-9),
        seconds=throughput.seconds,
        lr=module.optim.lr,
        seed=run.seed,
        precision=str(run.trainer_config.precision),
        task=examples.task.name,
        metric=module.metric,
    )


def _stop_early(metric: str, patience: int) -> EarlyStopping:
    """Build the callback that ends a training `patience` validations after the best one."""
    return EarlyStopping(
        monitor=metric,
        mode="min" if is_falling(metric) else "max",
        patience=patience,
        check_finite=False,  # a score that is not defined is infinitely bad
        strict=False,  # a run may end before its first validation
    )
