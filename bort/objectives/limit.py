"""A budget of one candidate, and the smallest one that would leave it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A budget: the setting that gives it, the number of a candidate, and the most that it may be.

    A budget of None is none.
    """

    setting: str
    value: float
    most: float | None

    @property
    def is_broken(self) -> bool:
        """Whether the candidate is over the budget."""
        return self.value > self.most

    def describe_remedy(self) -> str:
        """Write the setting that would leave the candidate: the smallest of four digits."""
        if self.value == int(self.value):
            return f"{self.setting}={int(self.value)}"
        step = 10.0 ** (math.floor(math.log10(self.value)) - 3)
        return f"{self.setting}={math.ceil(self.value / step) * step:.4g}"
