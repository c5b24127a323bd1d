"""The W-coefficient of arXiv 2010.10499, §3, and the bound on it that holds before any training."""

import math
from dataclasses import dataclass

from bort.config.search import check_exponents
from bort.errors import BortError

ERRORS = ("ratio", "perplexity")  # of a search for the largest W
COSINE = "cosine"  # of errors whose bound is 0, which have no W
LIKELIHOOD = "likelihood"  # of errors on the rows of a task, which have no W either
ROUNDING = 1e-5  # nats by which a mean of float32 cross-entropies may fall below the true one


@dataclass(frozen=True)
class Scale:
    """T's numbers, and how p, i and e become one number to maximise.

    p, i: parameters and latency of T, any unit. e: entropy of T's own output, in nats per token.
    exponents: α, β, γ ≥ 0, the weights of the three factors. error: what stands for the quality of
    a candidate, `ratio` e(T)/e (the paper's W, times the constant e(T)) or `perplexity`
    exp(e(T) - e) = exp(-KL(T ‖ ξ)). Both are in (0, 1], since a cross-entropy against T is never
    below T's entropy (Gibbs). Of errors 1 - cos of states it is `cosine`, the mean cosine 1 - e,
    from -1 to 1: T's own error is 0, and its ratio to e would be 0 for all. Of errors on the rows
    of a task it is `likelihood`, exp(e(T) - e), where e(T) is 0 if they are against labels.
    """

    p: float
    i: float
    e: float
    exponents: tuple[float, float, float] = (1.0, 1.0, 1.0)
    error: str = "ratio"

    def __post_init__(self) -> None:
        is_bounded = 0 < self.e < math.inf
        if self.error in (COSINE, LIKELIHOOD):
            is_bounded = self.e == 0 or (self.error == LIKELIHOOD and is_bounded)
        if not (is_bounded and all(0 < x < math.inf for x in (self.p, self.i))):
            raise BortError(f"the maximum point needs p, i and e above 0, not {self}")
        check_exponents("exponents", self.exponents)
        if self.error not in (*ERRORS, COSINE, LIKELIHOOD):
            raise BortError(f"error={self.error} is unknown; use {' or '.join(ERRORS)}")

    def compute_bound(self, p: float, i: float) -> float:
        """Return W⁺: no candidate with these p and i has a larger W, whatever its error."""
        alpha, beta, _ = self.exponents
        return (1 - p / self.p) ** alpha * (1 - i / self.i) ** beta

    def compute_quality(self, e: float) -> float:
        """Return the quality of an error e, at most 1 and 1 for T itself.

        Raises BortError for an e that no candidate can have.

        An e below T's entropy by rounding alone counts as equal to it, so that no quality is above
        1 and no W above its bound.
        """
        if not math.isfinite(e):
            raise BortError(f"an error of {e} is no number")
        if e < self.e - ROUNDING * max(1.0, self.e):
            raise BortError(
                f"an error of {e:.6g} is below the entropy {self.e:.6g} of the maximum point: they "
                "are not cross-entropies against its output at the same positions"
            )
        if self.error == COSINE:
            return min(1.0, 1.0 - e)
        if self.error == "ratio":
            return min(1.0, self.e / e)
        return min(1.0, math.exp(self.e - e))


def w_coefficient(p: float, i: float, e: float, scale: Scale) -> float:
    """Return the W-coefficient of a candidate, times e(T): unit-free, 0 ≤ W < 1, W(T) = 0.

    p, i: parameters and latency, in the units of `scale`; e: cross-entropy against T's output, in
    nats per token. Raises BortError for an e that no candidate can have.
    """
    return scale.compute_bound(p, i) * scale.compute_quality(e) ** scale.exponents[2]


def format_upper(value: float) -> str:
    """Write four decimals that are never below the value: what bounds it bounds them, too."""
    return f"{math.ceil(value * 1e4) / 1e4:.4f}"
