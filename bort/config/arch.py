"""The settings of an architecture, as Hydra takes them."""

from dataclasses import dataclass

from omegaconf import MISSING

from bort.models.arch import Arch


@dataclass
class ArchConfig:
    """The numbers ⟨D, A, H, I⟩ of an architecture, of which `TrainConfig` makes an `Arch`.

    An `Arch` is frozen, and no command line could override a key of a frozen schema.
    """

    depth: int = MISSING  # D, encoder layers
    heads: int = MISSING  # A, attention heads of a layer; must divide arch.hidden
    hidden: int = MISSING  # H, numbers in the state of a token
    intermediate: int = MISSING  # I, inner width of the feed-forward part of a layer

    def __post_init__(self) -> None:
        self.to_arch()

    def to_arch(self) -> Arch:
        """The architecture with these numbers; raises BortError when no model can have them."""
        return Arch(**vars(self)).check()
