"""Ask what a choice after n steps is worth after 8 n: which way to search has the least regret?

    python benchmarks/horizon.py           # three hours on one core
    python benchmarks/horizon.py smoke     # tiny candidates; only prints

Sixteen shapes of depth 1 to 6 and width 64 to 256 are trained to n/8, n/4, n/2 and n steps, from
random weights and from the embeddings of their teacher T, and from the latter also to 8 n. An error
is one after the rate has fallen to 0 (the rungs of search.halving). Every way to search chooses,
within shares of T's operations, by the errors to n alone; its regret is by how much the error of
its choice after 8 n steps is above the lowest one, in nats.

Every training is kept under runs/benchmarks/horizon, so that a second call resumes where the first
was stopped. The table is results/horizon_choice.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from parts import RUNS, Bench, run_parts
from scipy.optimize import least_squares
from scipy.stats import kendalltau

from bort.files.run_files import TRIAL
from bort.models.arch import Arch
from bort.search.fptas import BY_ERROR, Scale, Selection
from bort.search.halving import Outcome, choose_trainings
from bort.search.sweep import open_sweep
from bort.trials.plan import SearchPlan
from bort.trials.records import Job, read_record
from bort.trials.rungs import list_rungs
from bort.trials.training import evaluate

N, LATER = 150, 8
SHARES = [0.1, 0.25, 0.5, 1.0]
GRID = [
    "grid={depth: [1, 2, 3, 4, 6], hidden: [64, 128, 192, 256], head_size: 32, ratio: [4]}",
    "teacher.arch={depth: 6, heads: 8, hidden: 256, intermediate: 1024}",
    "latency=analytic",
]
LEFT_OUT = {Arch(3, 2, 64, 256), Arch(3, 4, 128, 512), Arch(3, 6, 192, 768)}  # 16 stay
Errors = dict[tuple[Arch, int], float]  # by shape and steps


@dataclass(frozen=True)
class Trained:
    """What a search of n steps has trained: errors and FLOPs of every shape at every rung."""

    plan: SearchPlan
    n: int
    errors: Errors
    flops: Errors

    @property
    def shapes(self) -> list[Arch]:
        return list(dict.fromkeys(xi for xi, _ in self.errors))

    def find_within(self, share: float) -> list[Arch]:
        """Find the shapes within this share of T's operations."""
        most = share * self.plan.teacher.latency[0]
        cost = {point.xi: point.latency[0] for point in self.plan.points}
        return [xi for xi in self.shapes if cost[xi] <= most]

    def sum_flops(self, shapes: list[Arch]) -> float:
        """Sum the FLOPs of training these shapes to n at once, without rungs."""
        flops = self.plan.flops
        return sum(flops[xi] for xi in shapes)


def train_shapes(bench: Bench, start: str, n: int, rungs: list[int]) -> Trained:
    """Train all shapes to these rungs of a search of n steps, on the first call."""
    run = bench.compose_search(f"init={start}", *GRID)
    search = replace(run.search, n=n, halving=True, max_latency_share=1.0)
    run = replace(run, search=search)
    folder = bench.runs / f"{start}_{n}"
    errors, flops = {}, {}
    with open_sweep(run, folder) as sweep:
        largest = sweep.plan.teacher.xi
        shapes = [p.xi for p in sweep.plan.points if p.xi != largest and p.xi not in LEFT_OUT]
        for xi in bench.shorten(shapes, 3):
            for steps in rungs:
                job = Job(xi, run.seed, run.optim.lr, None if steps == n else steps)
                evaluate(job.apply(sweep.run), folder, folder / job.folder)
                record = read_record(folder / job.folder / TRIAL, sweep.plan)
                errors[xi, steps], flops[xi, steps] = record.error, record.flops
                print(f"{start}, {xi}, {steps} of {n} steps: e {record.error:.3f}", flush=True)
        return Trained(sweep.plan, n, errors, flops)


# ------------------------------------------------------------------------------------- the ways

Way = Callable[[Trained, list[Arch]], tuple[dict[Arch, float], float]]  # → predictions, FLOPs


def take_last_error(trained: Trained, shapes: list[Arch]) -> tuple[dict[Arch, float], float]:
    """Predict by the errors at n."""
    return {xi: trained.errors[xi, trained.n] for xi in shapes}, trained.sum_flops(shapes)


def extrapolate(trained: Trained, shapes: list[Arch]) -> tuple[dict[Arch, float], float]:
    """Predict by a power law through the errors at all rungs."""
    rungs, least = list_rungs(trained.n), trained.plan.teacher.error
    predicted = {
        xi: continue_curve({steps: trained.errors[xi, steps] for steps in rungs}, least)
        for xi in shapes
    }
    return predicted, sum(trained.flops[xi, steps] for xi in shapes for steps in rungs)


def continue_curve(errors: dict[int, float], least: float) -> float:
    """Fit e = a + b · (steps / n)^-c, with a not below `least`; return e at LATER times n.

    errors: by steps, of which n are the most.
    """
    n, last = max(errors), errors[max(errors)]
    times, values = np.array(list(errors)) / n, np.array(list(errors.values()))

    def miss(sizes: np.ndarray) -> np.ndarray:
        a, b, c = sizes
        return a + b * times**-c - values

    bounds = ([least, 0.0, 0.01], [math.inf, math.inf, 2.0])
    a, b, c = least_squares(miss, (max(last - 0.2, least + 1e-3), 0.2, 0.5), bounds=bounds).x
    return float(a + b * LATER**-c)


def halve(trained: Trained, shapes: list[Arch]) -> tuple[dict[Arch, float], float]:
    """Train as search.halving=true does; who is dropped counts as worse than all at n."""
    points = {point.xi: (point.parameters, point.latency[0]) for point in trained.plan.points}
    teacher = trained.plan.teacher
    scale = Scale(teacher.parameters, teacher.latency[0], teacher.error, BY_ERROR)
    selection, outcomes = Selection({xi: points[xi] for xi in shapes}, scale), {}
    while due := choose_trainings(selection, list_rungs(trained.n), outcomes):
        outcomes |= {training: Outcome(trained.errors[training]) for training in due}
    predicted = dict.fromkeys(shapes, math.inf)
    predicted |= {xi: trained.errors[xi, s] for xi, s in outcomes if s == trained.n}
    return predicted, sum(trained.flops[training] for training in outcomes)


def take_largest(trained: Trained, shapes: list[Arch]) -> tuple[dict[Arch, float], float]:
    """Predict that more parameters mean a lower error, without any training."""
    sizes = {point.xi: float(point.parameters) for point in trained.plan.points}
    return {xi: -sizes[xi] for xi in shapes}, 0.0


WAYS: dict[str, tuple[str, Way]] = {
    "random weights, e at n": ("default", take_last_error),
    "T's embeddings, e at n": ("teacher", take_last_error),
    "T's embeddings, extrapolated": ("teacher", extrapolate),
    "T's embeddings, halving": ("teacher", halve),
    "the most parameters": ("teacher", take_largest),
}


def choice(bench: Bench) -> list[str]:
    """Compare the ways by their regret after 8 n steps."""
    n = bench.choose(N, 16)
    trained = {
        start: train_shapes(bench, start, n, list_rungs(n)) for start in ("default", "teacher")
    }
    later = train_shapes(bench, "teacher", LATER * n, [LATER * n])
    truth = {xi: e for (xi, _), e in later.errors.items()}
    some = trained["teacher"]
    whole = some.sum_flops(some.shapes)
    lines = [
        f"T = {some.plan.teacher.xi}, entropy {some.plan.teacher.error:.3f} nats; n = {n} steps; "
        f"{len(truth)} shapes. Regret in nats after {LATER * n:,} steps; FLOPs beside those of "
        "training all shapes to n.",
        "",
        f"| by | Kendall's τ | {' | '.join(f'within {share:.0%}' for share in SHARES)} | FLOPs |",
        "|---" * (3 + len(SHARES)) + "|",
    ]
    for name, (start, way) in WAYS.items():
        predicted, spent = way(trained[start], some.shapes)
        tau = kendalltau([predicted[xi] for xi in truth], list(truth.values())).statistic
        cells = [find_regret(trained[start], way, truth, share) for share in SHARES]
        lines.append(f"| {name} | {tau:.2f} | {' | '.join(cells)} | {spent / whole:.0%} |")
    return lines


def find_regret(trained: Trained, way: Way, truth: dict[Arch, float], share: float) -> str:
    """Make the cell of a budget: the regret of the choice, and the choice."""
    shapes = trained.find_within(share)
    if not shapes:
        return "–"
    predicted, _ = way(trained, shapes)
    best = min(shapes, key=lambda xi: predicted[xi])
    return f"{truth[best] - min(truth[xi] for xi in shapes):.3f} {best}"


if __name__ == "__main__":
    run_parts("horizon", {"choice": choice}, RUNS / "horizon")
