"""Trainings that stop early and are continued: their rungs, and what early errors say of late ones.

Numbers in, numbers out: nothing here trains or measures.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter

from bort.models.arch import Arch

SHORTEST = 4  # steps of a training
LEAST_PAIRED = 3  # candidates trained to the last rung, from which on crossings are measured


def list_rungs(n: int) -> list[int]:
    """List the steps after which a training of n steps may stop: n/8, n/4, n/2, and n.

    n/2 and n/4 are those of the comparison with shorter searches; a training is not shorter than
    SHORTEST.
    """
    quarter = n // 4
    return [steps for steps in (n // 8, quarter, 2 * quarter, n) if steps >= SHORTEST]


@dataclass
class Curves:
    """The errors of candidates after different numbers of steps, each with a rate that ends there.

    errors: rung, in steps → ξ → e there; n: the last rung.

    Later curves do not cross by more than δ means: whoever is behind by more than δ at a rung is
    not ahead at n. δ is measured on the candidates that were trained to n.
    """

    n: int
    errors: dict[int, dict[Arch, float]] = field(default_factory=dict)

    def tell(self, xi: Arch, steps: int, e: float) -> None:
        """Take the error of ξ after so many steps."""
        self.errors.setdefault(steps, {})[xi] = e

    @property
    def final(self) -> Mapping[Arch, float]:
        """The errors at n."""
        return self.errors.get(self.n, {})

    def find_last_rung(self, xi: Arch) -> int:
        """Find the number of steps that ξ has an error of; 0 without any."""
        return max((steps for steps, errors in self.errors.items() if xi in errors), default=0)

    def measure_crossing(self, steps: int) -> float | None:
        """Measure δ after so many steps, in nats.

        It is the most by which any candidate was behind one that it beat at n, 0 where none was.
        None while fewer than LEAST_PAIRED candidates have errors at both: what nobody has
        measured is not assumed.
        """
        then = self.errors.get(steps, {})
        pairs = sorted((e, then[xi]) for xi, e in self.final.items() if xi in then)
        if len(pairs) < LEAST_PAIRED:
            return None
        delta = most = 0.0  # most: the largest error then of those that are better at n
        for _, equal in groupby(pairs, key=itemgetter(0)):
            errors = [e for _, e in equal]
            delta = max(delta, most - min(errors))
            most = max(most, *errors)
        return delta

    def find_least_errors(self) -> dict[Arch, float]:
        """Find the lowest error at n that each candidate can have, if curves do not cross by more.

        It is the largest at n of those that ξ was behind of by more than δ at any of its rungs;
        candidates that were behind of nobody are left out.
        """
        least: dict[Arch, float] = {}
        for steps, errors in self.errors.items():
            delta = None if steps == self.n else self.measure_crossing(steps)
            if delta is None:
                continue
            ahead = sorted((errors[xi], e) for xi, e in self.final.items() if xi in errors)
            largest = list(accumulate((e for _, e in ahead), max))
            for xi, e in errors.items():
                # The first ones of `ahead` are those that ξ is behind of by more than δ.
                count = bisect_left(ahead, True, key=lambda pair, e=e: not e - pair[0] > delta)
                if count:
                    least[xi] = max(least.get(xi, 0.0), largest[count - 1])
        return least
