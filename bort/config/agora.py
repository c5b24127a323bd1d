"""The settings of Agora."""

from dataclasses import dataclass, field

from bort.errors import BortError, check_at_least, check_choice


@dataclass
class ThetaConfig:
    """Θ of Agora: every combination of these; null is the run's own value."""

    lr: list[float] | None = None  # peak rates; null: each lr_factor times the run's own
    lr_factor: list[float] = field(default_factory=lambda: [1.0, 3.0])  # used where lr is null
    seed: list[int] | None = field(default_factory=lambda: [0, 1])  # seeds of a training
    weight_decay: list[float] | None = None  # as optim.weight_decay
    warmup: list[float] | None = None  # as optim.warmup
    batch_size: list[int] | None = None  # as data.batch_size
    epochs: list[int] | None = None  # as trainer.max_epochs

    def __post_init__(self) -> None:
        for key, values in vars(self).items():
            if values is not None and not values:
                raise BortError(f"agora.grid.{key}=[] leaves nothing to train; give it values")
            if values and len(set(values)) < len(values):
                raise BortError(f"agora.grid.{key}={values} names a value twice")
            zero = key in ("seed", "weight_decay", "warmup")
            if any(value < 0 or (value == 0 and not zero) for value in values or ()):
                raise BortError(
                    f"agora.grid.{key}={values} must be {'at least' if zero else 'above'} 0"
                )
        if max(self.warmup or [0]) >= 1:
            raise BortError(f"agora.grid.warmup={self.warmup} must be below 1")


@dataclass
class AgoraConfig:
    """Rounds of training, mistakes, and rows generated from them (arXiv 2010.07990)."""

    # S, a model that is fine-tuned on the task already; null: the teacher is fine-tuned first
    teacher: str | None = None
    mlm: str | None = None  # the masked LM of generator=mlm; null: the encoder of S, or the student
    grid: ThetaConfig = field(default_factory=ThetaConfig)
    rounds: int | None = None  # the most rounds; null: until Θ is used up
    prune: str = "half"  # how Θ shrinks: half (the worse half goes) or lcs (as published)
    replays: int = 1  # how many rounds, of all, may be repeated because E became worse
    # mlm, nearest (by the student's embeddings), edit (deletion, swap), or pool (rows of
    # data.unlabelled near to the mistakes)
    generator: str = "mlm"
    mistakes: str = "train"  # whose mistakes rows are made from: train (D) or eval (E, published)
    rate: float = 0.15  # share of a row's words that a generator changes
    samples: int | None = None  # rows that are generated in a round; null: a quarter of D
    labels: str = "hard"  # what S gives a generated row: hard (a label) or soft (probabilities)
    # the least probability with which S keeps a hard label; null: what it has on 3/4 of E's rows
    confidence: float | None = None
    eval_fraction: float = 0.2  # share of the training rows that becomes E
    guard: float = 2 / 3  # balanced accuracy that S needs on E

    def __post_init__(self) -> None:
        check_choice("agora.prune", self.prune, ("half", "lcs"))
        check_choice("agora.generator", self.generator, ("mlm", "nearest", "edit", "pool"))
        check_choice("agora.mistakes", self.mistakes, ("train", "eval"))
        check_choice("agora.labels", self.labels, ("hard", "soft"))
        check_at_least("agora.replays", self.replays, 0)
        for key in ("rounds", "samples"):
            if getattr(self, key) is not None:
                check_at_least(f"agora.{key}", getattr(self, key), 1)
        for key in ("confidence", "guard"):
            check_at_least(f"agora.{key}", getattr(self, key) or 0.0, 0, below=1)
        for key in ("rate", "eval_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise BortError(f"agora.{key}={getattr(self, key):g} must be above 0 and below 1")
