"""Choosing ξ: the FPTAS of arXiv 2010.08512 with the W-coefficient of arXiv 2010.10499, §3.

Numbers in, numbers out: parameters p, inference latency i and error e of each candidate, and those
of the maximum point T; nothing here trains or measures. `Selection` says what to evaluate next and
proves what it leaves out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from bort.errors import BortError
from bort.models.arch import Arch
from bort.search.coefficient import Scale, w_coefficient

OBJECTIVES = ("w", "error")
BY_ERROR = (0.0, 0.0, 1.0)  # the exponents of objective=error
UNDECIDED = "not decided by these records"


@dataclass(frozen=True)
class Certificate:
    """What is known about the candidates without an error, in W at this n, seed and data.

    regret_proven: no candidate is better than the optimum by more than this (Gibbs); one that
    failed could be as good as its bound, one that diverged is no model and has W = 0.
    regret_monotone: the same if e never improves when D, H and I shrink at equal A or H/A; None
    when a trained pair contradicts it.
    """

    # trained, pruned (proof), assumed, skipped (ε), failed, diverged, excluded
    status: dict[Arch, str]
    regret_proven: float
    regret_monotone: float | None

    def count(self, status: str) -> int:
        return sum(value == status for value in self.status.values())


def shrinks(small: Arch, large: Arch) -> bool:
    """Whether `small` has no more of D, H and I than `large`, at equal A or equal H/A."""
    if small == large:
        return False
    if small.depth > large.depth or small.hidden > large.hidden:
        return False
    if small.intermediate > large.intermediate:
        return False
    return small.heads == large.heads or small.hidden * large.heads == large.hidden * small.heads


@dataclass
class Selection:
    """Which candidate to evaluate next, which is the best so far, and what that proves.

    points: ξ → (p, i) in T's units. epsilon: evaluate every ε-th of the order by (p, i), then, with
    `refine`, what can still win between the neighbours of the best. monotone: also leave out what
    cannot win if errors are monotone (see `shrinks`); the first trained pair that contradicts it
    beyond its interval withdraws the assumption. significant(small, large): whether such a pair's
    difference is beyond chance; by default always.

    `ask` gives the candidates with the largest bound first: of all orders it trains the fewest
    before the rest is proven worse, since each one it trains could still have won. While errors
    are assumed to be monotone, a training also bounds what is smaller: see `_urgency`.

    failed: candidates that have no error for a reason that says nothing about it; what they could
    have reached counts in the regret. diverged: those whose loss became no number: they are no
    models, and W = 0.
    """

    points: Mapping[Arch, tuple[float, float]]
    scale: Scale
    epsilon: int = 1
    refine: bool = True
    monotone: bool = False
    max_params: float | None = None
    max_latency: float | None = None
    significant: Callable[[Arch, Arch], bool] = lambda small, large: True
    errors: dict[Arch, float] = field(default_factory=dict)
    failed: dict[Arch, str] = field(default_factory=dict)
    diverged: dict[Arch, str] = field(default_factory=dict)
    excluded: dict[Arch, str] = field(default_factory=dict)
    violations: list[tuple[Arch, Arch]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= self.epsilon <= max(1, len(self.points)) or self.epsilon != int(self.epsilon):
            raise BortError(
                f"search.epsilon={self.epsilon} must be a whole number from 1 to the "
                f"{len(self.points)} candidates of the grid"
            )
        for xi, (p, i) in self.points.items():
            if not (0 < p < math.inf and 0 < i < math.inf):
                raise BortError(f"{xi} has p={p:g} and i={i:g}; both must be above 0")
        self.excluded = {xi: why for xi in self.points if (why := self._too_large(xi))}
        self.order = sorted((xi for xi in self.points if xi not in self.excluded), key=self._key)
        if not self.order:
            raise BortError(f"no candidate is left of {len(self.points)}; {self._nearest_miss()}")
        self.picks = self.order[:: self.epsilon]

    # ---- what there is to choose from

    def _key(self, xi: Arch) -> tuple:
        return (*self.points[xi], xi)

    def _too_large(self, xi: Arch) -> str | None:
        p, i = self.points[xi]
        if p >= self.scale.p or i >= self.scale.i:  # two negative factors would make a winner
            return "as large or slow as the maximum point"
        if self.max_params is not None and p > self.max_params:
            return "over search.max_params"
        if self.max_latency is not None and i > self.max_latency:
            return "over search.max_latency_ms"
        return None

    def _nearest_miss(self) -> str:
        def excess(xi: Arch) -> float:
            p, i = self.points[xi]
            limits = [(p, self.max_params), (i, self.max_latency), (p, self.scale.p)]
            return max(value / limit for value, limit in limits if limit is not None)

        if not self.points:
            return "the grid is empty"
        xi = min(self.points, key=lambda xi: (excess(xi), xi))
        p, i = self.points[xi]
        return f"the nearest miss is {xi} with {p:,.0f} parameters and latency {i:,.4g}"

    # ---- what is known

    def w_coefficient(self, xi: Arch) -> float:
        return w_coefficient(*self.points[xi], self.errors[xi], self.scale)

    def gibbs(self, xi: Arch) -> float:
        return self.scale.bound(*self.points[xi])

    def monotone_bound(self, xi: Arch) -> float:
        """W⁺ with the quality of the best trained candidate that ξ is a shrunk form of."""
        above = [self.scale.quality(e) for zeta, e in self.errors.items() if shrinks(xi, zeta)]
        return self.gibbs(xi) * min(above, default=1.0) ** self.scale.exponents[2]

    def bound(self, xi: Arch) -> float:
        """The largest W that ξ can have by what is relied on."""
        return self.monotone_bound(xi) if self.assuming else self.gibbs(xi)

    @property
    def assuming(self) -> bool:
        return self.monotone and not self.violations

    @property
    def unknown(self) -> list[Arch]:
        """The candidates whose error nobody knows: not trained, or failed."""
        return [xi for xi in self.order if xi not in self.errors and xi not in self.diverged]

    @property
    def rivals(self) -> list[Arch]:
        """The candidates of unknown error that the proof leaves able to be the best."""
        return list(filter(self.can_win(self.gibbs), self.unknown))

    def winner(self) -> Arch | None:
        """The best of all, proven; None when a candidate of unknown error could beat it."""
        return None if self.rivals else self.best

    def first(self, value: Callable[[Arch], float], among: Iterable[Arch] | None = None) -> Arch:
        """The candidate with the largest value, of all or of these; ties go as in `best`."""
        return min(among or self.order, key=lambda xi: (-value(xi), *self._key(xi)))

    def under(self, scale: Scale) -> "Selection":
        """The same candidates and errors, weighed otherwise."""
        return replace(self, scale=scale)

    @property
    def best(self) -> Arch | None:
        """The trained candidate with the largest W; ties go to the smaller (p, i, ξ)."""
        return min(self.errors, key=self.rank, default=None)

    def rank(self, xi: Arch) -> tuple:
        """Sorts trained candidates, the best first."""
        return (-self.w_coefficient(xi), *self._key(xi))

    def can_win(self, bound: Callable[[Arch], float]) -> Callable[[Arch], bool]:
        """Whether a candidate would be the best one if its W were `bound`."""
        best = self.best
        limit = None if best is None else self.rank(best)
        return lambda xi: limit is None or (-bound(xi), *self._key(xi)) < limit

    # ---- the loop

    def ask(self, count: int = 1) -> list[Arch]:
        """Up to `count` candidates to evaluate now; none when the search is over."""
        for pool in (self.picks, self._interval() if self.refine else []):
            left = [xi for xi in pool if not self.ended(xi)]
            if able := list(filter(self.can_win(self.bound), left)):
                return sorted(able, key=self._urgency(able))[:count]
        return []

    def ended(self, xi: Arch) -> bool:
        """Whether ξ was tried."""
        return xi in self.errors or xi in self.failed or xi in self.diverged

    def _urgency(self, able: list[Arch]) -> Callable[[Arch], tuple]:
        """Sorts candidates that can win, the one to train first in front.

        By the bound alone; where a training also bounds the errors of smaller candidates, by the
        bound times the root of how many that are, itself included. Of the orders tried it leaves
        the fewest trainings, on grids of architectures and on random ones.
        """
        if not self.assuming or self.scale.exponents[2] == 0:
            return lambda xi: (-self.bound(xi), *self._key(xi))
        left = set(able)

        def reach(xi: Arch) -> float:
            return math.sqrt(1 + len(self._smaller[xi] & left))

        return lambda xi: (-self.bound(xi) * reach(xi), *self._key(xi))

    @cached_property
    def _smaller(self) -> dict[Arch, set[Arch]]:
        """ξ → the candidates whose error its own bounds if errors are monotone."""
        return {xi: {small for small in self.order if shrinks(small, xi)} for xi in self.order}

    def _interval(self) -> list[Arch]:
        """The candidates between the picks around the best one."""
        if self.best is None or self.epsilon == 1:
            return []
        place = self.order.index(self.best)
        first = (place - 1) // self.epsilon * self.epsilon + 1 if place else 0
        return self.order[first : place // self.epsilon * self.epsilon + self.epsilon]

    def tell(self, xi: Arch, e: float) -> None:
        """The error of ξ; of several trainings (learning rates) the smallest counts."""
        self.scale.quality(e)  # raises for an impossible one
        self.errors[xi] = min(e, self.errors.get(xi, math.inf))
        self.failed.pop(xi, None)
        self.diverged.pop(xi, None)
        others = [pair for pair in self.violations if xi not in pair]
        pairs = [pair for zeta in self.errors for pair in ((xi, zeta), (zeta, xi))]
        self.violations = others + [pair for pair in pairs if self._contradicts(*pair)]

    def _contradicts(self, small: Arch, large: Arch) -> bool:
        lower = self.errors[small] < self.errors[large]
        return lower and shrinks(small, large) and self.significant(small, large)

    def fail(self, xi: Arch, reason: str, diverged: bool = False) -> None:
        """ξ has no error; diverged: because it cannot be trained, not for want of memory or time.

        One of several trainings of ξ (learning rates) that ended well outweighs those that did not.
        """
        if xi in self.errors:
            return
        if not diverged:
            self.failed[xi] = reason
            self.diverged.pop(xi, None)
        elif xi not in self.failed:
            self.diverged[xi] = reason

    def certificate(self) -> Certificate:
        """Raises BortError when nothing could be trained."""
        best = self.best
        if best is None:
            reasons = [*self.failed.values(), *self.diverged.values()]
            reason = next(iter(reasons), "none was trained")
            tried = f"all {len(reasons)}"
            if len(reasons) < len(self.order):
                tried += f" tried of {len(self.order)}"
            raise BortError(f"{tried} candidates failed; the first one: {reason}")
        rivals = self.rivals
        regret = max((self.gibbs(xi) - self.w_coefficient(best) for xi in rivals), default=0.0)
        weaker = max(
            (self.monotone_bound(xi) - self.w_coefficient(best) for xi in rivals), default=0.0
        )
        return Certificate(
            self._statuses(), max(0.0, regret), None if self.violations else max(0.0, weaker)
        )

    def _statuses(self) -> dict[Arch, str]:
        status = dict.fromkeys(self.order, "skipped")
        proven, assumed = self.can_win(self.gibbs), self.can_win(self.bound)
        for xi in self.order:
            if not proven(xi):
                status[xi] = "pruned"
            elif not assumed(xi):
                status[xi] = "assumed"
        status |= dict.fromkeys(self.failed, "failed") | dict.fromkeys(self.diverged, "diverged")
        status |= dict.fromkeys(self.errors, "trained")
        return {xi: status.get(xi, "excluded") for xi in self.points}


# ---------------------------------------------------------------------------- beside the optimum


def pareto(
    numbers: Mapping[Arch, tuple[float, ...]],
    possible: Mapping[Arch, tuple[float, ...]] | None = None,
) -> list[Arch]:
    """The ξ that no other equals or beats in all of their numbers (smaller is better).

    possible: the least that further candidates may turn out to have; they count as others.
    """
    rivals = [*numbers.values(), *(possible or {}).values()]

    def beaten(xi: Arch) -> bool:
        ours = numbers[xi]
        return any(
            theirs != ours and all(t <= o for t, o in zip(theirs, ours, strict=True))
            for theirs in rivals
        )

    return sorted(xi for xi in numbers if not beaten(xi))


def w_map(chosen: Selection, weights: Iterable[float]) -> dict[tuple[float, float], Arch | None]:
    """(α, β) → the ξ that wins with exponents (α, β, 1), each from `weights`.

    None where a candidate of unknown error could win. Only the ratios of the exponents matter to
    the winner, so two of them say all.
    """
    weights = list(weights)
    return {
        (alpha, beta): chosen.under(replace(chosen.scale, exponents=(alpha, beta, 1.0))).winner()
        for alpha in weights
        for beta in weights
    }
