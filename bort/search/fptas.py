"""Choosing ξ: the FPTAS of arXiv 2010.08512 with the W-coefficient of arXiv 2010.10499, §3.

Numbers in, numbers out: parameters p, inference latency i and error e of each candidate, and those
of the maximum point T; nothing here trains or measures. `Selection` says what to evaluate next and
proves what it leaves out.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import Scale, w_coefficient
from bort.objectives.limit import Limit
from bort.trials.rungs import LEAST_PAIRED, Curves

OBJECTIVES = ("w", "error")
BY_ERROR = (0.0, 0.0, 1.0)  # the exponents of objective=error
# How certain an answer is: three levels, the strongest one in front, or none of them.
PROVEN, IF_MONOTONE = "proven", "if errors are monotone in size"
IF_CURVES = "if later curves do not cross by more than δ"
UNDECIDED = "not decided by these records"


@dataclass(frozen=True)
class Certificate:
    """What a search has proven about the candidates that it did not train.

    All of it holds for W with these n training steps, this seed and these data. regret_proven: no
    candidate is better than the optimum by more than this, since no error is below T's entropy
    (Gibbs' inequality). One that failed could be as good as its bound; one that diverged is no
    model and has W = 0. regret_monotone: the same bound under the assumption that a smaller D, H
    and I never lower e at equal A or H/A; None when a trained pair contradicts the assumption.
    regret_curves: the same bound if later curves do not cross by more than δ, see `Curves`; None
    where no trainings were shortened, or too few of them ended to measure δ.
    """

    # trained, pruned (proof), assumed, dropped (halving), skipped (ε), failed, diverged, excluded
    status: dict[Arch, str]
    regret_proven: float
    regret_monotone: float | None
    regret_curves: float | None = None

    def count(self, status: str) -> int:
        """Count the candidates with this status."""
        return sum(value == status for value in self.status.values())


def is_shrunk(small: Arch, large: Arch) -> bool:
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
    cannot win if errors are monotone (see `is_shrunk`); the first trained pair that contradicts it
    beyond its interval withdraws the assumption. significant(small, large): whether such a pair's
    difference is beyond chance; by default always. max_params, max_latency, max_share (of T's
    latency) and max_mb (of `megabytes`, ξ → size on disk) are budgets: what exceeds one is no
    candidate.

    `ask` gives the candidates with the largest bound first. No other order trains fewer candidates
    before the others are proven worse, since each one that it trains could still have won. While
    errors are assumed to be monotone, a training also bounds what is smaller: see
    `sort_by_urgency`.

    failed: candidates that have no error for a reason that says nothing about it; what they could
    have reached counts in the regret. diverged: those whose loss became no number: they are no
    models, and W = 0. curves: errors after fewer steps, where trainings may be dropped early.
    """

    points: Mapping[Arch, tuple[float, float]]
    scale: Scale
    epsilon: int = 1
    refine: bool = True
    monotone: bool = False
    max_params: float | None = None
    max_latency: float | None = None
    max_share: float | None = None
    max_mb: float | None = None
    megabytes: Mapping[Arch, float] = field(default_factory=dict)
    significant: Callable[[Arch, Arch], bool] = lambda small, large: True
    errors: dict[Arch, float] = field(default_factory=dict)
    failed: dict[Arch, str] = field(default_factory=dict)
    diverged: dict[Arch, str] = field(default_factory=dict)
    excluded: dict[Arch, str] = field(default_factory=dict)
    violations: list[tuple[Arch, Arch]] = field(default_factory=list)
    curves: Curves | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.epsilon <= max(1, len(self.points)) or self.epsilon != int(self.epsilon):
            raise BortError(
                f"search.epsilon={self.epsilon} must be a whole number from 1 to the "
                f"{len(self.points)} candidates of the grid"
            )
        for xi, (p, i) in self.points.items():
            if not (0 < p < math.inf and 0 < i < math.inf):
                raise BortError(f"{xi} has p={p:g} and i={i:g}; both must be above 0")
        reasons = {xi: self._explain_exclusion(xi) for xi in self.points}
        self.excluded = {xi: reason for xi, reason in reasons.items() if reason is not None}
        self.order = sorted(self.points.keys() - self.excluded.keys(), key=self._rank_by_cost)
        if not self.order:
            raise BortError(
                f"no candidate is left of {len(self.points)}; {self._describe_nearest_miss()}"
            )
        self.picks = self.order[:: self.epsilon]

    # ---- what there is to choose from

    def _rank_by_cost(self, xi: Arch) -> tuple:
        """Return the sort key of ξ by (p, i, ξ)."""
        return (*self.points[xi], xi)

    def _explain_exclusion(self, xi: Arch) -> str | None:
        """Return why ξ is no candidate, None if it is one."""
        if not self._is_below_teacher(xi):  # W of two negative factors would be large
            return "as large or slow as the maximum point"
        broken = [limit for limit in self._list_limits(xi) if limit.is_broken]
        return f"over {broken[0].setting}" if broken else None

    def _is_below_teacher(self, xi: Arch) -> bool:
        """Whether ξ has fewer parameters than T and a smaller latency."""
        p, i = self.points[xi]
        return p < self.scale.p and i < self.scale.i

    def _list_limits(self, xi: Arch) -> list[Limit]:
        """List the budgets, each with the number of ξ that it limits."""
        p, i = self.points[xi]
        limits = [
            Limit("search.max_params", p, self.max_params),
            Limit("search.max_latency_ms", i, self.max_latency),
            Limit("search.max_latency_share", i / self.scale.i, self.max_share),
            Limit("search.max_mb", self.megabytes.get(xi, 0.0), self.max_mb),
        ]
        return [limit for limit in limits if limit.most is not None]

    def _describe_nearest_miss(self) -> str:
        """Name the candidate that exceeds its budgets by the smallest factor, and what it needs.

        Where it can, it names one that is smaller and faster than T: no budget leaves others.
        """
        if not self.points:
            return "the grid is empty"

        def measure_excess(xi: Arch) -> float:
            p, i = self.points[xi]
            shares = [limit.value / limit.most for limit in self._list_limits(xi)]
            return max([*shares, p / self.scale.p, i / self.scale.i])

        below = [xi for xi in self.points if self._is_below_teacher(xi)]
        xi = min(below or self.points, key=lambda xi: (measure_excess(xi), xi))
        p, i = self.points[xi]
        is_timed = self.max_latency is not None or self.max_share is not None
        latency = f" and latency {i:,.4g}" if is_timed or not below else ""
        miss = f"the nearest miss is {xi} with {p:,.0f} parameters{latency}"
        if not below:
            return f"{miss}: none is smaller and faster than T"
        remedies = [limit.describe_remedy() for limit in self._list_limits(xi) if limit.is_broken]
        return f"{miss}; {' and '.join(remedies)} would leave it"

    # ---- what is known

    def w_coefficient(self, xi: Arch) -> float:
        """Return W of a trained candidate."""
        return w_coefficient(*self.points[xi], self.errors[xi], self.scale)

    def gibbs(self, xi: Arch) -> float:
        """Return W⁺, which no error of ξ can exceed."""
        return self.scale.compute_bound(*self.points[xi])

    def find_least_error(self, xi: Arch) -> float:
        """Return the lowest error that ξ can have if errors are monotone.

        It is the largest of the trained candidates that ξ is a shrunk form of, or T's entropy.
        """
        errors = [self.errors[zeta] for zeta in self.errors if is_shrunk(xi, zeta)]
        return max([self.scale.e, *errors])

    def compute_monotone_bound(self, xi: Arch) -> float:
        """Return the largest W that ξ can have if errors are monotone."""
        quality = self.scale.compute_quality(self.find_least_error(xi))
        return self.gibbs(xi) * quality ** self.scale.exponents[2]

    def compute_bound(self, xi: Arch) -> float:
        """Return the largest W that ξ can have, by the monotone bound while that is assumed."""
        return self.compute_monotone_bound(xi) if self.is_assuming else self.gibbs(xi)

    def bound_by_curves(self) -> Callable[[Arch], float]:
        """Return what gives the largest W of ξ if later curves do not cross by more than δ."""
        least = {} if self.curves is None else self.curves.find_least_errors()

        def compute_bound(xi: Arch) -> float:
            quality = self.scale.compute_quality(max(self.scale.e, least.get(xi, 0.0)))
            return self.gibbs(xi) * quality ** self.scale.exponents[2]

        return compute_bound

    @property
    def is_assuming(self) -> bool:
        """Whether errors are assumed to be monotone and no trained pair has contradicted it."""
        return self.monotone and not self.violations

    @property
    def unknown(self) -> list[Arch]:
        """The candidates whose error nobody knows: not trained, or failed."""
        return [xi for xi in self.order if xi not in self.errors and xi not in self.diverged]

    @property
    def rivals(self) -> list[Arch]:
        """The candidates of unknown error that the proof leaves able to be the best."""
        return self.find_able(self.unknown, self.gibbs)

    @property
    def winner(self) -> Arch | None:
        """The best of all, proven; None when a candidate of unknown error could beat it."""
        return None if self.rivals else self.best

    @property
    def certainty(self) -> str:
        """How certain `best` is: by the strongest level that decides it, or not decided.

        That errors are monotone helps only where no trained pair has contradicted it.
        """
        if not self.rivals:
            return PROVEN
        if not self.violations and not self.find_able(self.unknown, self.compute_monotone_bound):
            return IF_MONOTONE
        return UNDECIDED if self.find_able(self.unknown, self.bound_by_curves()) else IF_CURVES

    def find_first(
        self, value: Callable[[Arch], float], among: Iterable[Arch] | None = None
    ) -> Arch:
        """Find the candidate with the largest value, of all or of these; ties go as in `best`."""
        return min(among or self.order, key=lambda xi: (-value(xi), *self._rank_by_cost(xi)))

    def weigh_by(self, scale: Scale) -> "Selection":
        """Return a selection of the same candidates and errors by another scale."""
        return replace(self, scale=scale)

    @property
    def best(self) -> Arch | None:
        """The trained candidate with the largest W; ties go to the smaller (p, i, ξ)."""
        return min(self.errors, key=self.rank, default=None)

    def rank(self, xi: Arch) -> tuple:
        """Return the sort key of a trained candidate; the best one has the smallest."""
        return (-self.w_coefficient(xi), *self._rank_by_cost(xi))

    def find_able(self, candidates: Iterable[Arch], bound: Callable[[Arch], float]) -> list[Arch]:
        """Find the candidates that would each be the best one if its W were its `bound`."""
        if self.best is None:
            return list(candidates)
        limit = self.rank(self.best)
        return [xi for xi in candidates if (-bound(xi), *self._rank_by_cost(xi)) < limit]

    # ---- the loop

    def ask(self, count: int = 1) -> list[Arch]:
        """Choose up to `count` candidates to evaluate now; none when the search is over."""
        for pool in (self.picks, self._interval if self.refine else []):
            untried = [xi for xi in pool if not self.is_tried(xi)]
            if able := self.find_able(untried, self.compute_bound):
                return self.sort_by_urgency(able)[:count]
        return []

    def is_tried(self, xi: Arch) -> bool:
        """Whether ξ has an error, has failed or has diverged."""
        return xi in self.errors or xi in self.failed or xi in self.diverged

    def sort_by_bound(self, candidates: list[Arch]) -> list[Arch]:
        """Sort candidates, the one with the largest bound in front."""
        return sorted(candidates, key=lambda xi: (-self.compute_bound(xi), *self._rank_by_cost(xi)))

    def sort_by_urgency(self, able: list[Arch]) -> list[Arch]:
        """Sort candidates that can win, the one to train first in front.

        The order is that of the bounds. Where a training also bounds the errors of smaller
        candidates, each bound is multiplied by the root of how many of them are left, itself
        included. Of the orders tried this one leads to the fewest trainings, on grids of
        architectures and on random ones.
        """
        if not self.is_assuming or self.scale.exponents[2] == 0:
            return self.sort_by_bound(able)
        left = set(able)

        def rank_urgency(xi: Arch) -> tuple:
            reach = math.sqrt(1 + len(self._smaller[xi] & left))
            return (-self.compute_bound(xi) * reach, *self._rank_by_cost(xi))

        return sorted(able, key=rank_urgency)

    @cached_property
    def _smaller(self) -> dict[Arch, set[Arch]]:
        """ξ → the candidates whose errors are not below its error if errors are monotone."""
        smaller = {xi: set() for xi in self.order}
        for small, large in itertools.permutations(self.order, 2):
            if is_shrunk(small, large):
                smaller[large].add(small)
        return smaller

    @property
    def _interval(self) -> list[Arch]:
        """The candidates between the picks around the best one."""
        if self.best is None or self.epsilon == 1:
            return []
        index = self.order.index(self.best)
        first = (index - 1) // self.epsilon * self.epsilon + 1 if index else 0
        return self.order[first : index // self.epsilon * self.epsilon + self.epsilon]

    def tell(self, xi: Arch, e: float) -> None:
        """Take the error of ξ; of several trainings (learning rates) the smallest counts.

        Raises BortError for an error that no candidate can have.
        """
        self.scale.compute_quality(e)
        self.errors[xi] = min(e, self.errors.get(xi, math.inf))
        self.failed.pop(xi, None)
        self.diverged.pop(xi, None)
        pairs = [pair for zeta in self.errors for pair in ((xi, zeta), (zeta, xi))]
        self.violations = [pair for pair in self.violations if xi not in pair]
        self.violations += [pair for pair in pairs if self._is_contradiction(*pair)]

    def _is_contradiction(self, small: Arch, large: Arch) -> bool:
        """Whether a shrunk form has the lower error, beyond chance."""
        is_lower = self.errors[small] < self.errors[large]
        return is_lower and is_shrunk(small, large) and self.significant(small, large)

    def fail(self, xi: Arch, reason: str, diverged: bool = False) -> None:
        """Note that a training of ξ has given no error.

        diverged: because ξ cannot be trained, not for want of memory or time. Of several trainings
        of ξ (learning rates), one that ended well outweighs those that did not.
        """
        if xi in self.errors:
            return
        if not diverged:
            self.failed[xi] = reason
            self.diverged.pop(xi, None)
        elif xi not in self.failed:
            self.diverged[xi] = reason

    def certify(self) -> Certificate:
        """State what is proven about the candidates without an error.

        Raises BortError when nothing could be trained.
        """
        if self.best is None:
            raise BortError(self._describe_failure())
        w, rivals = self.w_coefficient(self.best), self.rivals
        regret = max((self.gibbs(xi) - w for xi in rivals), default=0.0)
        weaker = max((self.compute_monotone_bound(xi) - w for xi in rivals), default=0.0)
        return Certificate(
            self._list_statuses(),
            max(0.0, regret),
            None if self.violations else max(0.0, weaker),
            self._measure_regret_by_curves(rivals, w),
        )

    def _measure_regret_by_curves(self, rivals: list[Arch], w: float) -> float | None:
        """Measure the regret if later curves do not cross by more than δ; None without any δ."""
        if self.curves is None or len(self.curves.final) < LEAST_PAIRED:
            return None
        bound = self.bound_by_curves()
        return max([0.0, *(bound(xi) - w for xi in rivals)])

    def _describe_failure(self) -> str:
        """Say how many candidates have failed, and why the first one did."""
        reasons = [*self.failed.values(), *self.diverged.values()]
        tried = f"all {len(reasons)}"
        if len(reasons) < len(self.order):
            tried += f" tried of {len(self.order)}"
        reason = next(iter(reasons), "none was trained")
        return f"{tried} candidates failed; the first one: {reason}"

    def _list_statuses(self) -> dict[Arch, str]:
        """Give every point its status, in the order of `points`."""
        able = self.find_able(self.order, self.compute_bound)
        status = dict.fromkeys(self.order, "pruned")
        status |= dict.fromkeys(self.find_able(self.order, self.gibbs), "assumed")
        status |= dict.fromkeys(able, "skipped")
        if self.curves is not None:  # the proof is the stronger reason
            shortened = [xi for xi in able if self.curves.find_last_rung(xi)]
            status |= dict.fromkeys(shortened, "dropped")
        status |= dict.fromkeys(self.failed, "failed") | dict.fromkeys(self.diverged, "diverged")
        status |= dict.fromkeys(self.errors, "trained")
        return {xi: status.get(xi, "excluded") for xi in self.points}


# ---------------------------------------------------------------------------- beside the optimum


def pareto(
    numbers: Mapping[Arch, tuple[float, ...]],
    possible: Mapping[Arch, tuple[float, ...]] | None = None,
) -> list[Arch]:
    """Find the ξ that no other equals or beats in all of their numbers (smaller is better).

    possible: the smallest numbers that further candidates may turn out to have, which can beat ξ.
    """
    rows = {*numbers.values(), *(possible or {}).values()}
    return sorted(xi for xi, row in numbers.items() if not any(map(partial(is_beaten, row), rows)))


def is_beaten(row: tuple[float, ...], rival: tuple[float, ...]) -> bool:
    """Whether a rival is at most as large in every number, and smaller in one."""
    return rival != row and all(r <= x for r, x in zip(rival, row, strict=True))


def w_map(selection: Selection, weights: Iterable[float]) -> dict[tuple[float, float], Arch | None]:
    """Map (α, β) to the ξ that wins with exponents (α, β, 1), each from `weights`.

    None stands where a candidate of unknown error could win. Only the ratios of the exponents
    matter to the winner, so two of them say all.
    """
    winners = {}
    for alpha, beta in itertools.product(weights, repeat=2):
        scale = replace(selection.scale, exponents=(alpha, beta, 1.0))
        winners[alpha, beta] = selection.weigh_by(scale).winner
    return winners
