"""An architecture ⟨D, A, H, I⟩ and the ways to start a model: what is known without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

from bort.errors import BortError, check_at_least, check_at_most

INITS = ("default", "paper", "teacher")
# Far above any encoder that was ever trained; larger ones are typing mistakes or attacks.
LARGEST = {"depth": 1_000, "heads": 10_000, "hidden": 100_000, "intermediate": 1_000_000}


@dataclass(frozen=True, order=True)
class Arch:
    """⟨D, A, H, I⟩, the four numbers of an architecture: depth, heads, hidden, intermediate.

    Architectures sort by these numbers in this order. Any four numbers can be written down: `check`
    raises for those that no model can have.
    """

    depth: int
    heads: int
    hidden: int
    intermediate: int

    KEYS: ClassVar[tuple[str, ...]] = tuple(LARGEST)

    def check(self) -> Self:
        """Return this architecture; raises BortError when no model can have these sizes."""
        for key, value in asdict(self).items():
            check_at_least(f"arch.{key}", value, 1)
            check_at_most(f"arch.{key}", value, LARGEST[key])
        if not self.heads_divide_hidden:
            divisors = [n for n in range(1, self.hidden + 1) if self.hidden % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.heads))[:3])
            use = " or ".join(", ".join(map(str, near)).rsplit(", ", 1))
            raise BortError(
                f"arch.heads={self.heads} does not divide arch.hidden={self.hidden}; use {use}"
            )
        return self

    @property
    def heads_divide_hidden(self) -> bool:
        """Whether every head gets a whole number of the hidden units."""
        return self.hidden % self.heads == 0

    # ---- as text, in tables and in JSON

    def __str__(self) -> str:
        return f"⟨{self.depth},{self.heads},{self.hidden},{self.intermediate}⟩"

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `str` writes; raises ValueError or TypeError for anything else."""
        return cls(*map(int, text.removeprefix("⟨").removesuffix("⟩").split(",")))

    @classmethod
    def from_table(cls, table: Mapping[str, object], prefix: str = "") -> Self:
        """Read the four keys, each behind `prefix`, of a row, of settings or of a summary.

        The values are whole numbers, or texts of them. Raises KeyError for a key that is missing
        and ValueError for a value that is no whole number; does not `check` them.
        """
        return cls(*(int(str(table[prefix + key])) for key in cls.KEYS))

    def to_table(self, prefix: str = "") -> dict[str, int]:
        """The four numbers by their keys, each key behind `prefix`."""
        return {prefix + key: value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, sizes: Iterable[int]) -> Self:
        """Read [D, A, H, I]; raises TypeError when these are not four."""
        return cls(*sizes)

    def to_json(self) -> list[int]:
        """[D, A, H, I]."""
        return list(asdict(self).values())
