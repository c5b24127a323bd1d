"""Measure what each variant of the search saves and finds, replayed from exhaustive records.

    python benchmarks/search.py tiny       # grid=tiny; 15 minutes
    python benchmarks/search.py fixed      # D {1,2,3,4,6} × H {64,…,256} × I {H,2H,4H}; hours
    python benchmarks/search.py horizon    # does n predict 4 n? twelve points of grid=tiny
    python benchmarks/search.py kappa      # the best rate at three widths
    python benchmarks/search.py latency    # do measured latencies choose otherwise?
    python benchmarks/search.py miniature  # is its answer better than BERT-tiny? 25 minutes
    python benchmarks/search.py smoke      # all parts with tiny candidates; only prints

Every candidate is trained once, into runs/benchmarks, and a second call resumes where the first was
stopped. Tables go to benchmarks/results/search_<part>.md.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from arms import format_mean
from parts import Bench, run_parts
from scipy.stats import kendalltau

from bort.config.search import SearchRunConfig
from bort.files.writing import write_json
from bort.models.arch import Arch
from bort.objectives.coefficient import w_coefficient
from bort.objectives.latency import Latencies, measure_latencies
from bort.objectives.regression import spread_out
from bort.pretraining.recipe import pretrain
from bort.runs.summary import RunSummary
from bort.search.fptas import Scale, Selection
from bort.search.statistics import Paired
from bort.search.sweep import open_sweep, run_in_process
from bort.trials.plan import SearchPlan
from bort.trials.records import Job, read_records
from bort.trials.training import evaluate

# By error alone the bound excludes nothing, so that every candidate is trained.
EXHAUSTIVE = ["search.objective=w", "search.exponents=[0,0,1]"]  # by which no bound is below any W
EXHAUSTIVE += ["search.seeds=1", "search.finalists=1"]
MINIATURE, SEEDS = Arch(2, 2, 128, 512), [0, 1, 2]
# With the teacher that train.py trains by default, from which no candidate starts.
TINY = ["grid=tiny", "latency=analytic", "init=default"]
TINY += ["teacher.arch={depth: 2, heads: 4, hidden: 128, intermediate: 512}"]
FIXED = [
    *("latency=analytic", "init=default"),
    "grid={depth: [1,2,3,4,6], hidden: [64,128,192,256], head_size: 32, intermediate: null}",
    "grid.ratio=[1,2,4]",
    "teacher.arch={depth: 6, heads: 8, hidden: 256, intermediate: 1024}",
    "teacher.lr=2e-3",  # at 4e-3, tuned for H = 128, wide and deep ones stay on the plateau
]


VARIANTS = {
    "exhaustive, W": {"exhaustive": True},
    "pruned by proof": {},
    "+ monotone errors assumed": {"monotone": True},
    **{
        f"ε = {epsilon}, {'refined' if refine else 'the paper alone'}": {
            "epsilon": epsilon,
            "refine": refine,
        }
        for epsilon in (2, 4, 8, 16)
        for refine in (True, False)
    },
    "error=perplexity": {"error": "perplexity"},
    "error=perplexity, monotone": {"error": "perplexity", "monotone": True},
    "objective=error": {"exponents": (0.0, 0.0, 1.0)},
    "objective=error, monotone": {"exponents": (0.0, 0.0, 1.0), "monotone": True},
}


def replay_variants(plan: SearchPlan, folder: Path, run: SearchRunConfig) -> list[str]:
    """Replay each variant on the recorded errors: optimum, true and stated regret, FLOPs."""
    errors = {r.xi: r.error for r in read_records(folder) if r.is_trained}
    points = {p.xi: (p.parameters, p.latency[0]) for p in plan.points}
    flops = plan.flops
    teacher = plan.teacher
    worse = Paired(folder, read_records(folder), run).is_worse
    lines = [
        "| variant | optimum | e | true regret | stated: proven | monotone | trained | FLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    everything = sum(flops[xi] for xi in errors)
    for label, options in VARIANTS.items():
        if options.get("epsilon", 1) > len(points):
            continue
        options = dict(options)
        scale = Scale(
            *(teacher.parameters, teacher.latency[0], teacher.error),
            exponents=options.pop("exponents", (1.0, 1.0, 1.0)),
            error=options.pop("error", "ratio"),
        )
        everyone = options.pop("exhaustive", False)
        selection = Selection(points, scale, significant=worse, **options)
        while batch := selection.ask():
            selection.tell(batch[0], errors[batch[0]])
        if everyone:
            for xi in selection.order:
                selection.tell(xi, errors[xi])
        certificate = selection.certify()
        best = max(w_coefficient(*points[xi], errors[xi], scale) for xi in selection.order)
        regret = best - selection.w_coefficient(selection.best)
        share = sum(flops[xi] for xi in selection.errors) / everything
        weaker = certificate.regret_monotone
        lines.append(
            f"| {label} | {selection.best} | {errors[selection.best]:.3f} | {regret:.4f} | "
            f"{certificate.regret_proven:.4f} | {'–' if weaker is None else f'{weaker:.4f}'} | "
            f"{len(selection.errors)} | {share:.0%} |"
        )
    return lines


def list_facts(plan: SearchPlan, run: SearchRunConfig, folder: Path) -> list[str]:
    teacher = plan.teacher
    passes = len(np.load(folder / "teacher" / f"train-s{run.seed}.npy")) - 1
    count = len(read_records(folder))
    return [
        f"T = {teacher.xi}, entropy {teacher.error:.3f} nats, word "
        f"frequencies against T {teacher.unigram_error:.3f}; n = {run.search.n} steps of "
        f"{run.data.batch_size} × {run.data.length} tokens; {plan.positions:,} positions of "
        f"{plan.documents:,} documents. T ran over {passes} training batches; one pass per "
        f"candidate would be {passes * count:,}.",
        "",
    ]


def tiny(bench: Bench) -> list[str]:
    """Replay the variants on grid=tiny."""
    return search_grid(bench, "search_tiny", TINY)


def fixed(bench: Bench) -> list[str]:
    """Replay the variants on a larger grid."""
    return search_grid(bench, "search_fixed", FIXED)


def search_grid(bench: Bench, name: str, grid: list[str]) -> list[str]:
    """Train a whole grid, and replay the variants on its records."""
    run, folder = bench.compose_search(*EXHAUSTIVE, *grid), bench.runs / name
    plan = run_in_process(run, folder)
    return list_facts(plan, run, folder) + replay_variants(plan, folder, run)


def horizon(bench: Bench) -> list[str]:
    """Compare errors after n steps with those after 4 n: what is a certificate worth?"""
    rows = ["| n | Kendall's τ against 4 n | optimum by W at n | at 4 n |", "|---|---|---|---|"]
    archs = bench.compose_search(*TINY).grid.points()[0]
    shown = spread_out([a for a in archs if a != Arch(2, 4, 128, 512)], bench.choose(12, 3), 128)
    errors_by_n: dict[int, dict] = {}
    plans = {}
    numbers = bench.choose((75, 300, 1200), (4, 16, 64))
    for n in numbers:
        run = bench.compose_search(*EXHAUSTIVE, *TINY)
        run = replace(run, search=replace(run.search, n=n))
        folder = bench.runs / f"search_n{n}"
        with open_sweep(run, folder) as sweep:
            plans[n] = sweep.plan
            for arch in shown:
                job_folder = folder / Job(arch, run.seed, run.optim.lr).folder
                evaluate(replace(run, arch=arch), folder, job_folder)
        errors_by_n[n] = {r.xi: r.error for r in read_records(folder) if r.is_trained}
    for n in numbers[:2]:
        tau = kendalltau(list(errors_by_n[n].values()), list(errors_by_n[4 * n].values())).statistic
        winners = [find_best_by_w(plans[m], errors_by_n[m]) for m in (n, 4 * n)]
        rows.append(f"| {n} | {tau:.2f} | {winners[0]} | {winners[1]} |")
    names = [str(arch) for arch in shown]
    return ["Points: " + ", ".join(names), "", *rows]


def find_best_by_w(plan: SearchPlan, errors: dict) -> tuple:
    teacher = plan.teacher
    scale = Scale(teacher.parameters, teacher.latency[0], teacher.error)
    points = {p.xi: (p.parameters, p.latency[0]) for p in plan.points}
    return Selection(points, scale).find_first(
        lambda xi: w_coefficient(*points[xi], errors[xi], scale), errors
    )


def kappa(bench: Bench) -> list[str]:
    """Find the rate with the lowest error at three widths, and the slope between them."""
    lrs = bench.shorten([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], 3)
    widths = bench.choose([32, 64, 128], [16, 32])
    grid = (
        "grid={depth: [2], hidden: [32, 64, 128], head_size: 32, intermediate: [256], ratio: null}"
    )
    run, folder = (
        bench.compose_search(*EXHAUSTIVE, *TINY, grid, "search.kappa=0"),
        bench.runs / "search_kappa",
    )
    with open_sweep(run, folder):
        for lr in lrs:
            for arch in run.grid.points()[0]:
                candidate_run = replace(run, arch=arch, optim=replace(run.optim, lr=lr))
                job_folder = folder / Job(arch, run.seed, lr).folder
                evaluate(candidate_run, folder, job_folder)
    error = {(r.xi.hidden, r.job.lr): r.error for r in read_records(folder)}
    rows = ["| H | " + " | ".join(f"lr {lr:g}" for lr in lrs) + " |", "|---" * (len(lrs) + 1) + "|"]
    best = {}
    for width in widths:
        values = [error[width, lr] or math.inf for lr in lrs]
        # the vertex of a parabola through the best rate and its neighbours, on a logarithmic scale
        at = min(max(int(np.argmin(values)), 1), len(lrs) - 2)
        a, b, _ = np.polyfit(np.log(lrs[at - 1 : at + 2]), values[at - 1 : at + 2], 2)
        best[width] = math.exp(-b / (2 * a)) if a > 0 else lrs[int(np.argmin(values))]
        rows.append(f"| {width} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    slope = np.polyfit(np.log(widths), np.log([best[w] for w in widths]), 1)[0]
    rates = ", ".join(f"{w}: {lr:.2g}" for w, lr in best.items())
    text = f"Best rate by width (parabola): {rates}; κ = {-slope:.2f} in lr ∝ H^-κ."
    return [*rows, "", text]


def latency(bench: Bench) -> list[str]:
    """Choose from the exhaustive tiny records under other latencies, without a new training."""
    run = bench.compose_search(*EXHAUSTIVE, *TINY)
    folder = bench.runs / "search_tiny"
    plan = run_in_process(run, folder)
    errors = {r.xi: r.error for r in read_records(folder) if r.is_trained}
    shape = plan.teacher.xi
    rows = [
        "| latency | T | optimum by W | its latency | lowest e within half of T's |",
        "|---" * 5 + "|",
    ]
    cache = bench.runs / "search_latency"
    cache.mkdir(parents=True, exist_ok=True)
    for source in bench.shorten(("analytic", "measured", "fitted", "onnx", "onnx_int8")):
        run_of_source = bench.compose_search(*TINY, f"latency={source}", "latency.threads=2")
        path = cache / f"{source}.json"
        if not path.exists():
            archs = list(dict.fromkeys([shape, *run_of_source.grid.points()[0]]))
            latencies = measure_latencies(run_of_source.latency, archs, shape, 8192, cache)
            path.write_text(json.dumps(latencies.to_json()))
        points = Latencies.from_json(json.loads(path.read_text())).points
        teacher = plan.teacher
        limit = points[shape][0]
        scale = Scale(teacher.parameters, limit, teacher.error)
        size = {p.xi: p.parameters for p in plan.points}
        i = {xi: points[xi][0] for xi in errors}
        able = [xi for xi in errors if i[xi] < limit]
        if not able:  # measured latencies of tiny shapes vary enough for T to be the fastest
            rows.append(f"| {source} | {limit:.4g} | none faster than T | – | none |")
            continue
        best = max(able, key=lambda xi: w_coefficient(size[xi], i[xi], errors[xi], scale))
        within = min((xi for xi in able if i[xi] <= limit / 2), key=errors.get, default="none")
        rows.append(
            f"| {source} | {limit:.4g} | {best} | {i[best] / limit:.1%} of T's | {within} |"
        )
    return rows


def miniature(bench: Bench) -> list[str]:
    """Pre-train the answer of a search within BERT-tiny's latency, and BERT-tiny itself."""
    folder, steps = bench.runs / "search_miniature", bench.choose(600, 2)
    words = bench.choose(["trainer.precision=auto"], ["latency=analytic"])  # a clock is too coarse
    run = bench.compose_search("search.finalists=1", "search.seeds=1", *words)
    teacher = run.teacher.arch
    path = bench.runs / "miniature_latency.json"
    if not path.exists():
        archs = list(dict.fromkeys([teacher, MINIATURE, *run.grid.points()[0]]))
        latencies = measure_latencies(run.latency, archs, teacher, 8192, bench.runs)
        write_json(path, latencies.to_json())
    points = Latencies.from_json(json.loads(path.read_text())).points
    limit = points[MINIATURE][0]
    budget = bench.choose({"max_latency_ms": limit}, {"max_latency_share": 1.0})
    run = replace(run, search=replace(run.search, **budget))
    run_in_process(run, folder)
    errors = {record.xi: record.error for record in read_records(folder) if record.is_trained}
    best = min(errors, key=errors.get)
    lines = [
        f"The budget is {limit:.2f} ms, BERT-tiny's latency in PyTorch beside the grid's. Both are "
        f"pre-trained by the same T = {teacher} for {steps} steps, with seeds {SEEDS}.",
        "",
        "| model | parameters | ms | masked words that are right | loss, nats |",
        "|---|---|---|---|---|",
    ]
    for name, xi in {"the answer": best, "BERT-tiny": MINIATURE}.items():
        summaries = [pretrain_shape(bench, run, xi, seed, steps) for seed in SEEDS]
        accuracy, loss = (
            format_mean([summary[key] for summary in summaries])
            for key in ("val/mlm_accuracy", "val/loss")
        )
        cells = f"{summaries[0]['parameters']:,} | {points[xi][0]:.2f} | {accuracy} | {loss}"
        lines.append(f"| {name}, {xi} | {cells} |")
    return lines


def pretrain_shape(
    bench: Bench, run: SearchRunConfig, xi: Arch, seed: int, steps: int
) -> RunSummary:
    """Pre-train a shape under the teacher of a search, on the first call."""
    sizes = [f"arch.{key}={size}" for key, size in xi.to_table().items()]
    teacher = [f"teacher.arch.{key}={size}" for key, size in run.teacher.arch.to_table().items()]
    words = ("experiment=kd_pretrain", "trainer.precision=auto", f"seed={seed}")
    length = [f"trainer.max_steps={steps}"]
    settings = bench.compose_pretraining(*words, *length, *sizes, *teacher)
    shape = "-".join(map(str, xi.to_json()))
    return pretrain(settings, bench.runs / "miniature" / f"{shape}_{seed}")


PARTS = {"kappa": kappa, "tiny": tiny, "latency": latency, "horizon": horizon, "fixed": fixed}
PARTS |= {"miniature": miniature}

if __name__ == "__main__":
    run_parts("search", PARTS)
