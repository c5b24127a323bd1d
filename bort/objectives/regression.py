"""Latency predicted for all shapes from some that were measured, and the choice of those."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.parameters import count_encoder_operations


def fit_latency(measured: dict[Arch, float], length: int) -> tuple[Callable[[Arch], float], float]:
    """Fit ms(ξ) = D (a H² + b H I + c H s + d A s²) + e, all ≥ 0, to some measured shapes.

    Non-negative least squares of the relative error. Returns the function and by how much a shape
    is missed at most when it is predicted from the others: with an error of 0.25, each time lies
    within a factor of 1.25 of its prediction, on either side. Raises BortError for a fit that
    predicts no time at all for one of them.
    """
    archs = list(measured)
    rows = np.array([_compute_terms(arch, length) for arch in archs])
    times = np.array([measured[arch] for arch in archs])

    def solve(keep: np.ndarray) -> np.ndarray:
        return nnls(rows[keep] / times[keep, None], np.ones(len(keep)))[0]

    everything = np.arange(len(archs))
    ratios = np.array([rows[k] @ solve(np.delete(everything, k)) / times[k] for k in everything])
    if min(ratios) <= 0:
        raise BortError(
            f"latency=fitted predicts nothing for {archs[ratios.argmin()]} from the other "
            f"{len(archs) - 1} shapes; raise latency.shapes"
        )
    weights = solve(everything)
    error = float(np.maximum(ratios, 1 / ratios).max()) - 1
    return lambda arch: float(_compute_terms(arch, length) @ weights), error


def _compute_terms(arch: Arch, length: int) -> np.ndarray:
    """Compute what the coefficients of `fit_latency` are multiplied by."""
    D, A, H, I = arch.depth, arch.heads, arch.hidden, arch.intermediate  # noqa: E741
    s = length
    return np.array([D * H * H, D * H * I, D * H * s, D * A * s * s, 1.0], dtype=float)


def spread_out(archs: list[Arch], count: int, length: int) -> list[Arch]:
    """Choose `count` of these from the cheapest to the most expensive, evenly by rank."""
    ranked = sorted(archs, key=lambda a: (count_encoder_operations(a, 1, length), str(a)))
    ranks = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[rank] for rank in np.unique(ranks)]
