"""The settings of the loss of a distillation, and of its teacher."""

from dataclasses import dataclass, field

from bort.config.arch import ArchConfig
from bort.errors import BortError, check_at_least


@dataclass
class DistillConfig:
    """Loss weights: w_kd · τ² · KL(teacher ‖ student) + w_mlm · cross-entropy; w_kd = 0 is MLM."""

    w_kd: float = 1.0  # weight of learning the teacher's probabilities; 0 is plain MLM
    w_mlm: float = 0.0  # weight of learning the words of the text
    temperature: float = 1.0  # τ, which softens both distributions

    def __post_init__(self) -> None:
        check_at_least("distill.w_kd", self.w_kd, 0)
        check_at_least("distill.w_mlm", self.w_mlm, 0)
        if self.w_kd == self.w_mlm == 0:
            raise BortError("distill.w_kd and distill.w_mlm are both 0; nothing would be learnt")
        if not self.temperature > 0:
            raise BortError(f"distill.temperature={self.temperature:g} must be above 0")


@dataclass
class TeacherConfig:
    """A masked LM by name or folder; without a name one is trained on the same text first."""

    name: str | None = None  # a run folder, a Hugging Face folder or a hub name
    arch: ArchConfig = field(default_factory=lambda: ArchConfig(2, 4, 128, 512))
    max_steps: int = 1500  # steps of its training, where it has no name
    batch_size: int = 16  # sequences in a batch of its training; 8 may leave it on a plateau
    lr: float | None = None  # peak rate of its training; null: by its width, as optim.lr

    def __post_init__(self) -> None:
        check_at_least("teacher.max_steps", self.max_steps, 1)
        check_at_least("teacher.batch_size", self.batch_size, 1)
        if self.lr is not None and not self.lr > 0:
            raise BortError(f"teacher.lr={self.lr:g} must be above 0")
