"""How sure a search can be of its choice: bootstrap, seeds, ties, controls, shorter trainings."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from bort.config.search import SearchRunConfig
from bort.files.checked import load_array
from bort.files.run_files import DOCUMENTS, ENTROPY, LOSSES
from bort.models.arch import Arch
from bort.objectives.coefficient import COSINE, ERRORS, w_coefficient
from bort.runs.folder import RunFolder
from bort.search.fptas import BY_ERROR, UNDECIDED, Selection, pareto
from bort.search.result import Horizon
from bort.trials.plan import SearchPlan
from bort.trials.records import REMEDY, Job, TrialRecord, find_best_record


class Paired:
    """Paired bootstrap over documents: all candidates are scored at the same positions."""

    def __init__(
        self, folder: Path, records: list[TrialRecord], run: SearchRunConfig, count: int = 1000
    ):
        self.folder, self.run, self.count = folder, run, count
        self.records = records
        self._weights: np.ndarray | None = None
        self._errors: dict[Arch, np.ndarray] = {}

    def resample_losses(self, losses: np.ndarray) -> np.ndarray:
        """Compute the means (count,) of resampled documents."""
        if self._weights is None:
            documents = np.load(RunFolder(self.folder).teacher / DOCUMENTS)
            _, self.inverse = np.unique(documents, return_inverse=True)
            self.sizes = np.bincount(self.inverse)
            rng = np.random.default_rng(0)
            n = len(self.sizes)
            self._weights = rng.multinomial(n, np.full(n, 1 / n), self.count).astype(float)
        sums = np.bincount(self.inverse, weights=losses.astype(float))
        return (self._weights @ sums) / (self._weights @ self.sizes)

    def resample_entropy(self) -> np.ndarray:
        """Compute T's resampled entropies (count,)."""
        return self.resample_losses(np.load(RunFolder(self.folder).teacher / ENTROPY))

    def resample_error(self, xi: Arch) -> np.ndarray:
        """Compute the resampled errors (count,) of ξ, of its rate with the lowest error."""
        if xi not in self._errors:
            record = find_best_record(self.records, xi, self.run)
            path = self.folder / Job(xi, self.run.seed, record.job.lr).folder / LOSSES
            self._errors[xi] = self.resample_losses(load_array(path, record.losses, REMEDY))
        return self._errors[xi]

    def is_worse(self, small: Arch, large: Arch) -> bool:
        """Whether the larger one's error is higher beyond the 95% interval of their difference."""
        difference = self.resample_error(large) - self.resample_error(small)
        return float(np.quantile(difference, 0.025)) > 0


def resample_w(chosen: Selection, xi: Arch, errors: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Compute W of ξ in each resample of the documents, ê and ê(T) from the same ones."""
    scale = chosen.scale
    if scale.error == COSINE:
        quality = 1 - errors
    else:
        quality = entropy / errors if scale.error == "ratio" else np.exp(entropy - errors)
    return chosen.gibbs(xi) * quality ** scale.exponents[2]


def pool_seed_spread(
    records: list[TrialRecord], chosen: Selection, run: SearchRunConfig
) -> float | None:
    """Compute the standard deviation of W over seeds, pooled over the finalists.

    Of each finalist the trainings at the rate that counts; None without any with further seeds.
    """
    variances, degrees = 0.0, 0
    for xi in chosen.errors:
        rate = find_best_record(records, xi, run).job.lr
        errors = [r.error for r in records if r.xi == xi and r.job.lr == rate and r.is_complete]
        values = [w_coefficient(*chosen.points[xi], error, chosen.scale) for error in errors]
        if len(values) > 1:
            variances += float(np.var(values, ddof=1)) * (len(values) - 1)
            degrees += len(values) - 1
    return math.sqrt(variances / degrees) if degrees else None


def find_ties(
    plan: SearchPlan, paired: Paired, chosen: Selection, seeds: float | None
) -> list[Arch]:
    """Find candidates that another sample of text, other seeds or noise in î could put first.

    Those whose W is lower by less than the 95% interval of the difference, from the documents
    (paired), the spread over seeds, and the latencies as far as W depends on them.
    """
    entropy, best = paired.resample_entropy(), chosen.best
    latency = {point.xi: point.latency for point in plan.points}
    teacher, beta = plan.teacher.latency, chosen.scale.exponents[1]
    middle, noise = teacher[0], _estimate_deviation(teacher)

    def compute_slope(xi: Arch) -> float:
        """By how much W falls per unit of î. It rises with î(T), by this value times î / î(T)."""
        return beta * chosen.w_coefficient(xi) / (middle - latency[xi][0])

    top = resample_w(chosen, best, paired.resample_error(best), entropy)
    tied = []
    for xi in sorted(chosen.errors, key=chosen.rank)[1:]:
        resampled = resample_w(chosen, xi, paired.resample_error(xi), entropy)
        variance = float(np.var(top - resampled)) + 2 * (seeds or 0.0) ** 2
        variance += sum(
            (compute_slope(x) * _estimate_deviation(latency[x])) ** 2 for x in (best, xi)
        )
        shares = [compute_slope(x) * latency[x][0] / middle for x in (best, xi)]
        variance += ((shares[0] - shares[1]) * noise) ** 2
        if chosen.w_coefficient(best) - chosen.w_coefficient(xi) <= 1.96 * math.sqrt(variance):
            tied.append(xi)
    return tied


def _estimate_deviation(latency: list[float]) -> float:
    """Estimate a standard deviation from [median, lower quartile, upper quartile]."""
    return (latency[2] - latency[1]) / 1.35


def describe_border(chosen: Selection) -> list[str]:
    """Name the dimensions in which the optimum is the smallest or largest of the grid.

    A depth of 1 is no border, because no grid has anything below it.
    """
    sides = []
    for key in ("depth", "hidden", "intermediate"):
        values = {getattr(xi, key) for xi in chosen.points}
        if len(values) > 1:
            side = {min(values): "smallest", max(values): "largest"}.get(getattr(chosen.best, key))
            if side and not (key == "depth" and chosen.best.depth == 1):
                sides.append(f"{side} {key}")
    return sides


def choose_by_controls(plan: SearchPlan, chosen: Selection) -> dict[str, str | None]:
    """Choose without training most of them, and by other aims, as fields of a `SearchResult`.

    None where there is no such control: where every bound is the same, fewer than three errors are
    there to fit, or the errors have no W.
    """
    body = {point.xi: point.body for point in plan.points}
    scale, weights = chosen.scale, tuple(plan.exponents)
    aims = {"by_error": replace(scale, exponents=BY_ERROR)}
    for kind in ERRORS if scale.error in ERRORS else ():
        aims[f"by_{kind}"] = replace(scale, exponents=weights, error=kind)
    winners = dict.fromkeys(f"by_{kind}" for kind in ERRORS)
    winners |= {key: name_winner(chosen.weigh_by(aim).winner) for key, aim in aims.items()}
    by_bound = by_size = None
    if len({chosen.gibbs(xi) for xi in chosen.order}) > 1:
        by_bound = str(chosen.find_first(chosen.gibbs))
    if len(chosen.errors) > 2:
        size = np.array([[1.0, math.log(body[xi])] for xi in chosen.errors])
        fit = np.linalg.lstsq(size, np.array(list(chosen.errors.values())), rcond=None)[0]
        guess = {xi: max(scale.e, float(fit @ [1.0, math.log(body[xi])])) for xi in chosen.order}
        by_size = str(
            chosen.find_first(lambda xi: w_coefficient(*chosen.points[xi], guess[xi], scale))
        )
    return winners | {"control_bound": by_bound, "control_size": by_size}


def name_winner(xi: Arch | None) -> str:
    """Write the winner as ⟨D,A,H,I⟩, or that there is none yet."""
    return UNDECIDED if xi is None else str(xi)


def find_front(plan: SearchPlan, chosen: Selection) -> tuple[list[Arch], list[Arch]]:
    """Find the trained candidates that none beats in p, i and e, and those that one might yet beat.

    A candidate of unknown error has at best T's entropy.
    """
    trained = {xi: (*chosen.points[xi], e) for xi, e in chosen.errors.items()}
    possible = {xi: (*chosen.points[xi], plan.teacher.error) for xi in chosen.unknown}
    proven = pareto(trained, possible)
    return proven, [xi for xi in pareto(trained) if xi not in proven]


def compare_horizons(
    records: list[TrialRecord], chosen: Selection, run: SearchRunConfig, entropy: float
) -> list[Horizon]:
    """Compare errors at n/4 and n/2 of the same trainings with those at n.

    Does a shorter n choose the same? The schedule is that of n steps, so these are not the errors
    that a search with n/4 steps would find, except by successive halving. KL then is of the
    positions that a validation looked at. A step at which not all were validated is left out.
    """
    best = {xi: find_best_record(records, xi, run) for xi in chosen.errors}
    curves = {xi: record.kl_by_step for xi, record in best.items()}
    looks = [record.look_positions for record in best.values() if record.look_positions]
    horizons = []
    for part, label in ((4, "quarter"), (2, "half")):
        step = max(1, run.search.n // 4) * (4 // part)
        errors = {xi: entropy + kl[str(step)] for xi, kl in curves.items() if str(step) in kl}
        if len(errors) != len(curves):
            continue
        then, tau = replace(chosen, errors=errors), None
        if len(errors) > 1:
            order = list(errors)
            at_end = [chosen.errors[xi] for xi in order]
            tau = float(kendalltau([errors[xi] for xi in order], at_end).statistic)
        winner = name_winner(then.winner)
        defined = tau is not None and not math.isnan(tau)
        tau = tau if defined else None
        fewest = min(looks, default=None)
        horizons.append(Horizon(label, step, str(then.best), winner, tau, fewest))
    return horizons
