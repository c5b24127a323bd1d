"""The LightningModule of a task's distillation."""

from torch import Tensor

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig
from bort.finetuning.examples import TaskExamples
from bort.finetuning.module import FineTuningModule
from bort.models.bert import Classifier
from bort.task_distillation.losses import compute_task_losses


class TaskDistillationModule(FineTuningModule):
    """A classifier that is trained by the outputs of a teacher, and by labels where there are any.

    It is validated as in any fine-tuning. distill: the weights of the losses.
    """

    def __init__(
        self,
        model: Classifier,
        optim: OptimConfig,
        examples: TaskExamples,
        distill: DistillConfig,
    ):
        super().__init__(model, optim, examples)
        self.distill = distill

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the losses of a batch and count them into its optimizer step."""
        losses = compute_task_losses(
            self.task.kind, self(batch), batch, self.distill, self.reduction
        )
        self.count(batch, losses)
        return self.drop_unit(losses["loss"])
