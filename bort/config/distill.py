"""The settings of the losses of a distillation, of its teacher, and of its comparison with MLM."""

from dataclasses import dataclass, field, replace
from typing import Self

from bort.config.arch import ArchConfig
from bort.errors import BortError, check_at_least, check_choice


@dataclass
class DistillConfig:
    """The weights of the losses, whose weighted sum is trained; each learns in its own way.

    On masked text: w_kd · τ² · KL(teacher ‖ student) + w_mlm · cross-entropy. On unmasked text:
    w_hidden · (1 - cosine of final states) + w_relation · KL of attention's relations. On the rows
    of a task: w_kd · a loss of their soft labels + w_ce · cross-entropy, or the squared error.
    """

    # weight of learning the teacher's probabilities of masked words; null: 1, but 0 where w_hidden
    # or w_relation is given, or the teacher has no masked-LM head
    w_kd: float | None = None
    w_mlm: float = 0.0  # weight of learning the words of the text
    # weight of learning the teacher's final states; null: 0, but 1 in place of w_kd where the
    # teacher has no masked-LM head
    w_hidden: float | None = None
    w_relation: float = 0.0  # weight of learning how the tokens of the teacher's layer relate
    relation_layer: int = -1  # that layer of the teacher: 0 is its first, -1 its last
    relation_heads: int | None = None  # must divide both widths; null: by the narrower width
    temperature: float = 1.0  # τ, which softens both distributions
    # of experiment=kd_finetune: weight of learning the true labels, of rows that have one
    w_ce: float = 0.0
    # there, what is learnt of the teacher's answer: mse (its logits, their mean aside) or kl (its
    # probabilities at τ)
    kd_loss: str = "mse"
    # there, how much better than the most frequent label the teacher must answer the validation
    # rows, as a share of them; -1 takes any
    guard: float = 0.0
    # there, whether the same student also learns the true labels alone, for as many steps, to say
    # what the teacher has brought
    control: bool = False
    # most disk in GB for the teacher's final states, kept where they are read again; 0 keeps none
    states_gb: float = 4.0

    def __post_init__(self) -> None:
        for key in ("w_kd", "w_mlm", "w_hidden", "w_relation", "w_ce"):
            if getattr(self, key) is not None:
                check_at_least(f"distill.{key}", getattr(self, key), 0)
        check_choice("distill.kd_loss", self.kd_loss, ("mse", "kl"))
        check_at_least("distill.guard", self.guard, -1, below=1)
        if self.w_kd == self.w_mlm == self.w_ce == 0 and not (self.w_hidden or self.w_relation):
            raise BortError(
                "distill.w_kd, w_mlm, w_hidden, w_relation and w_ce are all 0; nothing would be "
                "learnt"
            )
        check_at_least("distill.states_gb", self.states_gb, 0)
        if not self.temperature > 0:
            raise BortError(f"distill.temperature={self.temperature:g} must be above 0")
        if self.relation_heads is not None:
            check_at_least("distill.relation_heads", self.relation_heads, 1)

    @property
    def is_open(self) -> bool:
        """Whether what is learnt from the teacher depends on what it can give."""
        return self.w_kd is None and not (self.w_hidden or self.w_relation)

    def settle(self, has_head: bool = True) -> Self:
        """Return the weights without null; has_head: whether the teacher has a masked-LM head."""
        w_kd, w_hidden = self.w_kd, self.w_hidden
        if self.is_open:  # w_hidden=0 is an answer, too: then a teacher without a head is refused
            w_kd, w_hidden = (0.0, 1.0) if not has_head and w_hidden is None else (1.0, 0.0)
        return replace(self, w_kd=w_kd or 0.0, w_hidden=w_hidden or 0.0)

    @property
    def reads_masked(self) -> bool:
        """Whether a loss predicts masked words, and so trains the student's head."""
        return self.is_open or bool(self.w_kd or self.w_mlm)

    @property
    def reads_unmasked(self) -> bool:
        """Whether a loss compares what becomes of unmasked text."""
        return bool(self.w_hidden or self.w_relation)

    @property
    def asks_teacher(self) -> bool:
        """Whether a loss compares the student with its teacher."""
        return self.is_open or self.reads_unmasked or bool(self.w_kd)


@dataclass
class TeacherConfig:
    """An encoder by name or folder; without a name one is trained on the same text first."""

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


@dataclass
class CompareConfig:
    """KD against plain MLM from the same start, at equal steps and at equal wall clock."""

    lrs: list[float] | None = None  # rates, of which each arm takes its best; null: optim.lr alone

    def __post_init__(self) -> None:
        if self.lrs is not None and (not self.lrs or min(self.lrs) <= 0):
            raise BortError(f"compare.lrs={self.lrs} needs at least one rate, all above 0")
