"""Random searches by numbers alone, what brute force finds in them, and a result."""

import math
import random

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import ERRORS, Scale
from bort.search.fptas import Selection, is_shrunk
from bort.search.result import SearchResult


def instance(seed: int, budgets: bool = False) -> tuple[dict, dict, dict]:
    """A random search: keyword arguments of Selection, the true errors, what fails.

    What fails: ξ → whether it diverged, so that there is no such model; else it has its true error
    all the same, which nobody gets to know. budgets: draw also those of size on disk and of a share
    of T's latency.
    """
    rng = random.Random(seed)
    grid = [
        Arch(d, a, h, i)
        for d in (1, 2, 4)
        for a in (1, 2)
        for h in (8, 16, 32)
        for i in (8, 16, 64)
        if rng.random() < rng.choice([0.2, 0.6])
    ] or [Arch(1, 1, 8, 8)]
    scale = Scale(
        *(1000.0, 50.0, rng.uniform(0.5, 4)),
        exponents=rng.choice([(1, 1, 1), (1, 1, 1), (0, 0, 1), (2, 0.5, 1), (1, 1, 0)]),
        error=rng.choice(ERRORS),
    )
    coarse = rng.random() < 0.3  # equal numbers: ties
    number = (lambda x: float(round(x))) if coarse else float
    points = {xi: (number(rng.uniform(1, 1100)), number(rng.uniform(1, 55))) for xi in grid}
    errors = {xi: scale.e + number(rng.expovariate(0.7)) for xi in grid}
    if rng.random() < 0.5:  # errors that really are monotone
        for small in sorted(grid, reverse=True):
            above = [errors[large] for large in grid if is_shrunk(small, large)]
            errors[small] = max([errors[small], *above])
    arguments = {
        "points": points,
        "scale": scale,
        "epsilon": rng.randint(1, len(grid)) if rng.random() < 0.7 else 1,
        "refine": rng.random() < 0.5,
        "monotone": rng.random() < 0.5,
        "max_params": rng.choice([None, None, 600.0, 60.0]),
        "max_latency": rng.choice([None, None, 30.0]),
    }
    failed = {xi: rng.random() < 0.5 for xi in grid if rng.random() < 0.1}
    if budgets:  # drawn last, so that all else is as it is without them
        arguments["megabytes"] = {xi: rng.uniform(0.1, 10) for xi in grid}
        arguments["max_mb"] = rng.choice([None, 2.0, 6.0])
        arguments["max_share"] = rng.choice([None, 0.2, 0.5])
    return arguments, errors, failed


def run(arguments: dict, errors: dict, failed: dict, count: int = 1) -> Selection | None:
    """The selection to its end; None when nothing is left to choose from."""
    try:
        selection = Selection(**arguments)
    except BortError as error:
        assert "no candidate is left" in str(error)
        return None
    while batch := selection.ask(count):
        assert len(batch) <= count
        for xi in batch:
            assert not selection.is_tried(xi)
            if xi in failed:
                selection.fail(xi, "no error", diverged=failed[xi])
            else:
                selection.tell(xi, errors[xi])
    return selection


def by_brute_force(arguments: dict, errors: dict, failed: dict, scale=None) -> dict:
    """ξ → W of every candidate within the limits that is a model, from the formulas.

    scale: other exponents or another error than those of the search.
    """
    scale = scale or arguments["scale"]
    keys = ("max_params", "max_latency", "max_share", "max_mb")
    limits = [arguments.get(key) for key in keys]
    models = {}
    for xi, (p, i) in arguments["points"].items():
        if p >= scale.p or i >= scale.i or failed.get(xi):
            continue
        numbers = (p, i, i / scale.i, arguments.get("megabytes", {}).get(xi, 0.0))
        if any(limit is not None and x > limit for x, limit in zip(numbers, limits, strict=True)):
            continue
        e, (a, b, c) = errors[xi], scale.exponents
        quality = scale.e / e if scale.error == "ratio" else math.exp(scale.e - e)
        models[xi] = (1 - p / scale.p) ** a * (1 - i / scale.i) ** b * quality**c
    return models


RESULT = SearchResult(
    **{"candidates": 24, "invalid": 0, "trained": 9, "pruned": 15, "assumed": 0, "skipped": 0},
    **{"failed": 0, "diverged": 0, "excluded": 0, "regret_bound": 0.0},
    **{"regret_bound_monotone": 0.0, "contradictions": 0, "ties": [], "train_flops": 3e9},
    **{"exhaustive_flops": 6e9, "finalist_flops": 0.0, "teacher_batches": 300, "seconds": 90.0},
    **{"unigram_error": 6.0, "teacher_error": 4.0, "error": 4.8, "smallest": False},
    **{"on_border": [], "optimum": Arch(2, 2, 64, 128), "n": 300, "seed": 0},
    **{"control_bound": "⟨1,1,32,128⟩", "control_size": "⟨1,1,32,128⟩", "by_error": ""},
    **{"by_ratio": "", "by_perplexity": "", "pareto": [], "pareto_undecided": []},
    **{"objective": "w", "quality": "e(T)/e", "w": 0.5, "w_interval": [0.4, 0.6]},
    **{"seed_spread": None, "further_trainings": 0, "further_failed": 0, "parameters": 10},
    **{"latency": 1.0, "latency_unit": "operations", "latency_note": "", "positions": 9},
    **{"documents": 3, "trainings": 9},
)
