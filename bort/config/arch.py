"""The settings of an architecture and of a grid of them, as Hydra takes them."""

from dataclasses import dataclass

from omegaconf import MISSING

from bort.errors import BortError
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


@dataclass
class GridConfig:
    """Ξ, the candidates: every combination of these in which A divides H."""

    depth: list[int] = MISSING  # values of D
    hidden: list[int] = MISSING  # values of H
    heads: list[int] | None = None  # values of A
    head_size: int | None = None  # instead of grid.heads: A = H / head_size
    intermediate: list[int] | None = None  # values of I
    ratio: list[float] | None = None  # instead of grid.intermediate: I = ratio · H
    # numbers of words, each trimmed from those of teacher.name=: a search for every one of them
    vocab_size: list[int] | None = None

    def __post_init__(self) -> None:
        if not self.depth and not self.hidden:
            return  # grid=none
        for key in ("depth", "hidden"):
            if not getattr(self, key):
                raise BortError(f"grid.{key} is empty; give it values or use grid=tiny")
        for key, substitute in (("heads", "head_size"), ("intermediate", "ratio")):
            if bool(getattr(self, key)) == bool(getattr(self, substitute)):
                raise BortError(
                    f"grid.{key} or grid.{substitute} needs values, and not both: set the other "
                    "to null"
                )
        sizes = [*self.depth, *self.hidden, self.head_size or 1]
        for values in (self.heads, self.intermediate, self.ratio):
            sizes += values or ()
        if self.vocab_size is not None:
            if not self.vocab_size or len(set(self.vocab_size)) < len(self.vocab_size):
                raise BortError(
                    f"grid.vocab_size={self.vocab_size} must be one or more different numbers"
                )
            sizes += self.vocab_size
        if min(sizes) <= 0:
            raise BortError("grid: every size must be above 0")
        if not self.points()[0]:
            raise BortError("grid: no number of heads divides any hidden size; fix grid.heads")

    def points(self) -> tuple[list[Arch], list[Arch]]:
        """The architectures in which A divides H, and those in which it does not; each once.

        Raises BortError for sizes that no model can have.
        """
        valid, invalid = [], []
        for depth in self.depth:
            for hidden in self.hidden:
                for heads in self.heads or [max(1, hidden // self.head_size)]:
                    sizes = self.intermediate or [round(r * hidden) for r in self.ratio]
                    for size in sizes:
                        arch = Arch(depth, heads, hidden, size)
                        if arch.heads_divide_hidden:
                            valid.append(arch.check())
                        else:
                            invalid.append(arch)
        return list(dict.fromkeys(valid)), list(dict.fromkeys(invalid))
