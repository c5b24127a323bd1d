"""The callbacks that save the best model and show some answers after each validation."""

from pathlib import Path

import lightning.pytorch as pl

from bort.finetuning.examples import TaskExamples
from bort.finetuning.heads import describe_outputs
from bort.finetuning.module import FineTuningModule
from bort.models.huggingface import save_model
from bort.tasks.answers import to_readable
from bort.tasks.metrics import is_falling
from bort.training.loggers import log_samples


class SaveBestModel(pl.Callback):
    """Saves the model of the best validation as a Hugging Face folder.

    The best validation has the best value of the task's first metric on the first validation set:
    the highest, or of `rmse` and `mae` the lowest. A value that is not defined is below any other,
    and of two such validations the one with the lower loss is better. Only a better model than all
    before replaces what the folder holds.
    """

    def __init__(self, folder: str | Path, examples: TaskExamples):
        self.folder, self.examples = Path(folder), examples
        self.best: tuple[bool, float] | None = None  # whether the score is defined; it, or -loss

    def state_dict(self) -> dict:
        """The rank of the best model, for a checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take the rank of the best model from a checkpoint."""
        self.best = state_dict["best"] and tuple(state_dict["best"])

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        """Take the rank from where version 0.1 kept it in a checkpoint."""
        if rank := checkpoint.get("bort", {}).get("best_rank"):
            self.best = tuple(rank)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuningModule) -> None:
        """Save the model if it is the best one so far."""
        if trainer.sanity_checking:
            return
        values = pl_module.validation
        score, loss = values[pl_module.metric], values["val/loss"]
        sign = -1 if is_falling(pl_module.metric) else 1
        rank = (False, -loss) if score is None else (True, sign * score)
        if self.best is None or rank > self.best:
            self.best = rank
            if trainer.is_global_zero:
                labels = describe_outputs(self.examples.task)
                save_model(pl_module.model, self.examples.tokenizer, self.folder, labels)


class LogAnswers(pl.Callback):
    """Shows the loggers that take tables the answers to some rows of the first validation set."""

    def __init__(self, count: int = 5):
        self.count = count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuningModule) -> None:
        """Log text, true label and answer of `count` rows that are spread over the set."""
        name, rows = next(iter(pl_module.rows.items()))
        lines = []
        for number in range(0, len(rows), max(1, len(rows) // self.count))[: self.count]:
            row, answer = rows[number], pl_module.answers[name][number]
            labels = [to_readable(pl_module.task, label) for label in (row.label, answer)]
            lines.append([" / ".join(row.texts), *labels])
        log_samples(trainer.loggers, lines)
