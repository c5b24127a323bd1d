"""Choosing ξ: the FPTAS of arXiv 2010.08512 with the W-coefficient of arXiv 2010.10499, §3.

Numbers in, numbers out: parameters p, inference latency i and error e of each candidate, and those
of the maximum point T; nothing here trains or measures. `Selection` says what to evaluate next and
proves what it leaves out. With numbers of your own:

    python -m bort.fptas candidates.csv exponents=1,2,1 epsilon=4
"""

import csv
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bort import cli
from bort.config import SIZES
from bort.errors import BortError

Xi = tuple[int, int, int, int]  # ⟨D, A, H, I⟩

ERRORS = ("ratio", "perplexity")
OBJECTIVES = ("w", "error")


def name(xi: Xi) -> str:
    return "⟨" + ",".join(map(str, xi)) + "⟩"


@dataclass(frozen=True)
class Scale:
    """T's numbers, and how p, i and e become one number to maximise.

    p, i: parameters and latency of T, any unit. e: entropy of T's own output, in nats per token.
    exponents: α, β, γ ≥ 0, the weights of the three factors. error: what stands for the quality of
    a candidate, `ratio` e(T)/e (the paper's W, times the constant e(T)) or `perplexity`
    exp(e(T) - e) = exp(-KL(T ‖ ξ)). Both are in (0, 1], since a cross-entropy against T is never
    below T's entropy (Gibbs).
    """

    p: float
    i: float
    e: float
    exponents: tuple[float, float, float] = (1.0, 1.0, 1.0)
    error: str = "ratio"

    def __post_init__(self) -> None:
        if not (self.p > 0 and self.i > 0 and self.e > 0):
            raise BortError(f"the maximum point needs p, i and e above 0, not {self}")
        if len(self.exponents) != 3 or min(self.exponents) < 0 or not any(self.exponents):
            raise BortError(
                f"exponents={list(self.exponents)} must be three numbers, at least 0, not all 0"
            )
        if self.error not in ERRORS:
            raise BortError(f"error={self.error} is unknown; use {' or '.join(ERRORS)}")

    def bound(self, p: float, i: float) -> float:
        """W⁺: no candidate with these p and i has a larger W, whatever its error."""
        alpha, beta, _ = self.exponents
        return (1 - p / self.p) ** alpha * (1 - i / self.i) ** beta

    def quality(self, e: float) -> float:
        """In (0, 1], 1 for T itself. Raises BortError for an e that no candidate can have."""
        if e < self.e * (1 - 1e-6):
            raise BortError(
                f"an error of {e:.6g} is below the entropy {self.e:.6g} of the maximum point: they "
                "are not cross-entropies against its output at the same positions"
            )
        if self.error == "ratio":
            return min(1.0, self.e / e)
        return min(1.0, math.exp(self.e - e))

    def w(self, p: float, i: float, e: float) -> float:
        """The W-coefficient, times e(T): unit-free, 0 ≤ W < 1, W(T) = 0."""
        return self.bound(p, i) * self.quality(e) ** self.exponents[2]


@dataclass(frozen=True)
class Certificate:
    """What is known about the candidates that were not trained, in W at this n, seed and data.

    regret_proven: no candidate is better than the optimum by more than this (Gibbs).
    regret_monotone: the same if e never improves when D, H and I shrink at equal A or H/A; None
    when a trained pair contradicts it.
    """

    status: dict[Xi, str]  # trained, pruned (proof), assumed, skipped (ε), failed, excluded
    regret_proven: float
    regret_monotone: float | None

    def count(self, status: str) -> int:
        return sum(value == status for value in self.status.values())


def shrinks(small: Xi, large: Xi) -> bool:
    """Whether `small` has no more of D, H and I than `large`, at equal A or equal H/A."""
    if small == large or any(small[k] > large[k] for k in (0, 2, 3)):
        return False
    return small[1] == large[1] or small[2] * large[1] == large[2] * small[1]


@dataclass
class Selection:
    """Which candidate to evaluate next, which is the best so far, and what that proves.

    points: ξ → (p, i) in T's units. epsilon: evaluate every ε-th of the order by (p, i), then, with
    `refine`, what can still win between the neighbours of the best. monotone: also leave out what
    cannot win if errors are monotone (see `shrinks`); the first trained pair that contradicts it
    beyond its interval withdraws the assumption. significant(small, large): whether such a pair's
    difference is beyond chance; by default always.

    `ask` gives the candidates with the largest bound first: of all orders it trains the fewest
    before the rest is proven worse, since each one it trains could still have won.
    """

    points: Mapping[Xi, tuple[float, float]]
    scale: Scale
    epsilon: int = 1
    refine: bool = True
    monotone: bool = False
    max_params: float | None = None
    max_latency: float | None = None
    significant: Callable[[Xi, Xi], bool] = lambda small, large: True
    errors: dict[Xi, float] = field(default_factory=dict)
    failed: dict[Xi, str] = field(default_factory=dict)
    excluded: dict[Xi, str] = field(default_factory=dict)
    violations: list[tuple[Xi, Xi]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= self.epsilon <= max(1, len(self.points)) or self.epsilon != int(self.epsilon):
            raise BortError(
                f"search.epsilon={self.epsilon} must be a whole number from 1 to the "
                f"{len(self.points)} candidates of the grid"
            )
        self.excluded = {xi: why for xi in self.points if (why := self._too_large(xi))}
        self.order = sorted((xi for xi in self.points if xi not in self.excluded), key=self._key)
        if not self.order:
            raise BortError(f"no candidate is left of {len(self.points)}; {self._nearest_miss()}")
        self.picks = self.order[:: self.epsilon]

    # ---- what there is to choose from

    def _key(self, xi: Xi) -> tuple:
        return (*self.points[xi], xi)

    def _too_large(self, xi: Xi) -> str | None:
        p, i = self.points[xi]
        if p >= self.scale.p or i >= self.scale.i:  # two negative factors would make a winner
            return "as large or slow as the maximum point"
        if self.max_params is not None and p > self.max_params:
            return "over search.max_params"
        if self.max_latency is not None and i > self.max_latency:
            return "over search.max_latency_ms"
        return None

    def _nearest_miss(self) -> str:
        def excess(xi: Xi) -> float:
            p, i = self.points[xi]
            limits = [(p, self.max_params), (i, self.max_latency), (p, self.scale.p)]
            return max(value / limit for value, limit in limits if limit is not None)

        if not self.points:
            return "the grid is empty"
        xi = min(self.points, key=lambda xi: (excess(xi), xi))
        p, i = self.points[xi]
        return f"the nearest miss is {name(xi)} with {p:,.0f} parameters and latency {i:,.4g}"

    # ---- what is known

    def w(self, xi: Xi) -> float:
        return self.scale.w(*self.points[xi], self.errors[xi])

    def gibbs(self, xi: Xi) -> float:
        return self.scale.bound(*self.points[xi])

    def monotone_bound(self, xi: Xi) -> float:
        """W⁺ with the quality of the best trained candidate that ξ is a shrunk form of."""
        above = [self.scale.quality(e) for zeta, e in self.errors.items() if shrinks(xi, zeta)]
        return self.gibbs(xi) * min(above, default=1.0) ** self.scale.exponents[2]

    def bound(self, xi: Xi) -> float:
        """The largest W that ξ can have by what is relied on."""
        return self.monotone_bound(xi) if self.assuming else self.gibbs(xi)

    @property
    def assuming(self) -> bool:
        return self.monotone and not self.violations

    @property
    def best(self) -> Xi | None:
        """The trained candidate with the largest W; ties go to the smaller (p, i, ξ)."""
        return min(self.errors, key=self.rank, default=None)

    def rank(self, xi: Xi) -> tuple:
        """Sorts trained candidates, the best first."""
        return (-self.w(xi), *self._key(xi))

    def can_win(self, bound: Callable[[Xi], float]) -> Callable[[Xi], bool]:
        """Whether a candidate would be the best one if its W were `bound`."""
        best = self.best
        limit = None if best is None else self.rank(best)
        return lambda xi: limit is None or (-bound(xi), *self._key(xi)) < limit

    # ---- the loop

    def ask(self, count: int = 1) -> list[Xi]:
        """Up to `count` candidates to evaluate now; none when the search is over."""
        for pool in (self.picks, self._interval() if self.refine else []):
            left = [xi for xi in pool if xi not in self.errors and xi not in self.failed]
            if able := list(filter(self.can_win(self.bound), left)):
                return sorted(able, key=lambda xi: (-self.bound(xi), *self._key(xi)))[:count]
        return []

    def _interval(self) -> list[Xi]:
        """The candidates between the picks around the best one."""
        if self.best is None or self.epsilon == 1:
            return []
        place = self.order.index(self.best)
        first = (place - 1) // self.epsilon * self.epsilon + 1 if place else 0
        return self.order[first : place // self.epsilon * self.epsilon + self.epsilon]

    def tell(self, xi: Xi, e: float) -> None:
        """The error of ξ; of several trainings (learning rates) the smallest counts."""
        self.scale.quality(e)  # raises for an impossible one
        self.errors[xi] = min(e, self.errors.get(xi, math.inf))
        self.failed.pop(xi, None)
        others = [pair for pair in self.violations if xi not in pair]
        pairs = [pair for zeta in self.errors for pair in ((xi, zeta), (zeta, xi))]
        self.violations = others + [pair for pair in pairs if self._contradicts(*pair)]

    def _contradicts(self, small: Xi, large: Xi) -> bool:
        lower = self.errors[small] < self.errors[large]
        return lower and shrinks(small, large) and self.significant(small, large)

    def fail(self, xi: Xi, reason: str) -> None:
        if xi not in self.errors:
            self.failed[xi] = reason

    def certificate(self) -> Certificate:
        """Raises BortError when nothing could be trained."""
        best = self.best
        if best is None:
            reason = next(iter(self.failed.values()), "none was trained")
            raise BortError(f"all {len(self.failed)} candidates failed; the first one: {reason}")
        status = self._statuses()
        left = [xi for xi, value in status.items() if value in ("assumed", "skipped")]
        regret = max((self.gibbs(xi) - self.w(best) for xi in left), default=0.0)
        weaker = max((self.monotone_bound(xi) - self.w(best) for xi in left), default=0.0)
        return Certificate(status, max(0.0, regret), None if self.violations else max(0.0, weaker))

    def _statuses(self) -> dict[Xi, str]:
        status = dict.fromkeys(self.order, "skipped")
        proven, assumed = self.can_win(self.gibbs), self.can_win(self.bound)
        for xi in self.order:
            if not proven(xi):
                status[xi] = "pruned"
            elif not assumed(xi):
                status[xi] = "assumed"
        status |= dict.fromkeys(self.failed, "failed") | dict.fromkeys(self.errors, "trained")
        return {xi: status.get(xi, "excluded") for xi in self.points}


# ---------------------------------------------------------------------------- beside the optimum


def pareto(numbers: Mapping[Xi, tuple[float, ...]]) -> list[Xi]:
    """The ξ that no other equals or beats in all of their numbers (smaller is better)."""

    def beaten(xi: Xi) -> bool:
        ours = numbers[xi]
        return any(
            theirs != ours and all(t <= o for t, o in zip(theirs, ours, strict=True))
            for theirs in numbers.values()
        )

    return sorted(xi for xi in numbers if not beaten(xi))


def w_map(
    numbers: Mapping[Xi, tuple[float, float, float]], scale: Scale, weights: Iterable[float]
) -> dict[tuple[float, float], Xi]:
    """(α, β) → the ξ of (p, i, e) that wins with exponents (α, β, 1), each from `weights`.

    Only the ratios of the exponents matter to the winner, so two of them say all.
    """
    weights = list(weights)
    found = {}
    for alpha in weights:
        for beta in weights:
            other = Scale(scale.p, scale.i, scale.e, (alpha, beta, 1.0), scale.error)
            found[alpha, beta] = min(
                numbers, key=lambda xi: (-other.w(*numbers[xi]), numbers[xi][:2], xi)
            )
    return found


# --------------------------------------------------------------------------- numbers of your own


def read(path: Path) -> tuple[dict[Xi, tuple[float, float]], dict[Xi, float], Scale]:
    """Candidates, their errors where known, and T's numbers, from a CSV.

    Columns depth, heads, hidden, intermediate, parameters, latency, error, status; the row of T has
    the status `teacher`. A search's candidates.csv is one. Raises BortError with the line's number.
    """
    needed = [*SIZES, "parameters", "latency", "error"]
    points, errors, scale = {}, {}, None
    if not path.is_file():
        raise BortError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := [c for c in [*needed, "status"] if c not in (rows.fieldnames or [])]:
            found = ", ".join(rows.fieldnames or ["nothing"])
            raise BortError(f"{path} has no column {missing[0]}; found {found}")
        for row in rows:
            if row["status"] == "invalid":  # heads that do not divide the width: no numbers
                continue
            try:
                xi = tuple(int(row[column]) for column in needed[:4])
                p, i = float(row["parameters"]), float(row["latency"])
                e = float(row["error"]) if row["error"] else None
            except (TypeError, ValueError) as error:
                raise BortError(f"{path} line {rows.line_num}: {error}") from None
            if row["status"] == "teacher":
                scale = Scale(p, i, e or 0.0)
                continue
            points[xi] = (p, i)
            if e is not None:
                errors[xi] = e
    if scale is None:
        raise BortError(f"{path} has no row with the status teacher, the maximum point")
    return points, errors, scale


def main(arguments: list[str]) -> None:
    """Print the optimum of a CSV by other exponents, another ε or another error."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return
    if not arguments or "=" in arguments[0]:
        raise BortError("usage: python -m bort.fptas candidates.csv [exponents=1,1,1] [epsilon=1]")
    known = {"exponents": "1,1,1", "epsilon": "1", "error": "ratio", "objective": "w"}
    settings = cli.keys(arguments[1:], known)
    try:
        exponents = tuple(float(x) for x in settings["exponents"].split(","))
        epsilon = int(settings["epsilon"])
    except ValueError as error:
        raise BortError(f"exponents= and epsilon= take numbers: {error}") from None
    points, errors, scale = read(Path(arguments[0]))
    if settings["objective"] == "error":
        exponents = (0.0, 0.0, 1.0)
    scale = Scale(scale.p, scale.i, scale.e, exponents, settings["error"])
    search = Selection(points, scale, epsilon)
    while batch := search.ask():
        for xi in batch:
            if xi in errors:
                search.tell(xi, errors[xi])
            else:
                search.fail(xi, "no error in the table")
    unknown = len(search.failed)
    search.failed.clear()  # nobody has tried them: they count as skipped, and in the regret
    certificate = search.certificate()
    for xi in sorted(search.errors, key=search.rank)[:10]:
        p, i = points[xi]
        print(f"{name(xi):>20}  W {search.w(xi):.4f}  p {p:,.0f}  i {i:,.4g}  e {errors[xi]:.4f}")
    counts = {
        status: certificate.count(status) for status in sorted({*certificate.status.values()})
    }
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if unknown:
        print(f"{unknown} that could still win have no error in the table")
    print(f"optimum {name(search.best)}, regret at most {certificate.regret_proven:.4f} (proven)")


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]), "bort.fptas")
