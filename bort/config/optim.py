"""The settings of the optimizer, and the rate that suits a width."""

from dataclasses import dataclass
from typing import Any

from bort.errors import BortError, check_at_least, check_choice, shorten

BASE_LR, BASE_WIDTH = 4e-3, 128  # the best rate at this width, measured; narrower ones take more
KAPPA = 0.67  # measured at H = 32, 64 and 128
# A fine-tuning's rate times the width: 1e-3 at a width of 64 (measured), 8e-5 at BERT's 768.
LR_WIDTH = 0.064
LINEAR, WSD = "linear", "wsd"  # schedules of the rate
AUTO_RATE = "auto"  # as optim.lr: a fine-tuning tries three rates


def width_lr(hidden: int, base: float = BASE_LR, kappa: float = KAPPA) -> float:
    """Peak rate of AdamW that suits a width, when `base` suits BASE_WIDTH."""
    return base * (hidden / BASE_WIDTH) ** -kappa


def finetuning_lr(hidden: int) -> float:
    """Peak rate of AdamW that suits the fine-tuning of a pre-trained model of this width."""
    return LR_WIDTH / hidden


@dataclass
class OptimConfig:
    """Muon for the encoder's matrices and AdamW for the rest, or AdamW alone (the paper's)."""

    name: str = "muon"  # muon or adamw
    # peak rate of AdamW; null: 4e-3 · (H / 128)^-0.67, and 0.064 / H in fine-tuning, where auto
    # tries half of that, that and twice that on held-out training rows; a search takes it as the
    # rate at H = 128, from which search.kappa makes that of each candidate
    lr: Any = None
    muon_ratio: float = 2.5  # the peak rate of Muon is optim.lr times this
    weight_decay: float = 0.01  # spares LayerNorms, biases and embeddings
    warmup: float = 0.05  # share of the budget in which the rate rises
    # how the rate goes on: linear, it falls to 0 at once, or wsd (warm-up, stable, decay), it stays
    # at the peak, so that the training can be continued, and falls to 0 in the end
    schedule: str = LINEAR
    decay: float = 0.2  # share of the budget in which the rate falls in the end, of schedule=wsd
    beta1: float = 0.9  # decay of AdamW's mean of the gradients
    beta2: float = 0.98  # decay of AdamW's mean of their squares
    eps: float = 1e-6  # what AdamW adds to the root of that mean
    # of fine-tuning on skewed classes: balanced (each class has the same share in the loss) or null
    class_weights: str | None = None

    def __post_init__(self) -> None:
        check_choice("optim.name", self.name, ("muon", "adamw"))
        check_choice("optim.schedule", self.schedule, (LINEAR, WSD))
        if self.class_weights is not None:
            check_choice("optim.class_weights", self.class_weights, ("balanced",))
        self._settle_rate()
        for key in ("muon_ratio", "eps"):
            if getattr(self, key) is not None and not getattr(self, key) > 0:
                raise BortError(f"optim.{key}={getattr(self, key):g} must be above 0")
        check_at_least("optim.weight_decay", self.weight_decay, 0)
        check_at_least("optim.warmup", self.warmup, 0, below=1)
        if not 0 < self.decay <= 1:
            raise BortError(f"optim.decay={self.decay:g} must be above 0 and at most 1")
        if self.schedule == WSD and self.warmup + self.decay > 1:
            raise BortError(
                f"optim.warmup={self.warmup:g} and optim.decay={self.decay:g} are shares of one "
                "budget; their sum must be at most 1"
            )
        check_at_least("optim.beta1", self.beta1, 0, below=1)
        check_at_least("optim.beta2", self.beta2, 0, below=1)

    def _settle_rate(self) -> None:
        """Make a number of the rate; raises BortError for what is neither one nor auto."""
        if self.lr is None or self.lr == AUTO_RATE:
            return
        try:
            rate = float("no number" if isinstance(self.lr, bool) else self.lr)
        except (TypeError, ValueError):
            kind, shown = type(self.lr).__name__, shorten(str(self.lr), 30)
            raise BortError(
                f"optim.lr={shown}: Value '{shown}' of type '{kind}' could not be converted to "
                "Float; give a rate, or auto"
            ) from None
        if not rate > 0:
            raise BortError(f"optim.lr={rate:g} must be above 0")
        self.lr = rate
