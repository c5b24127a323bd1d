"""From the records of a sweep to the optimum: what is proven, how sure it is, what to doubt."""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.stats import kendalltau

from bort import html
from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.console import typed
from bort.errors import BortError, shorten
from bort.files.untrusted import read_settings
from bort.files.writing import replacing, write_csv
from bort.models.arch import Arch
from bort.runs import commands
from bort.runs.folder import RunFolder
from bort.search import report as search_page
from bort.search import wandb_run
from bort.search.coefficient import w_coefficient
from bort.search.fptas import BY_ERROR, UNDECIDED, Certificate, Selection, pareto, w_map
from bort.search.records import Paired, best_record, crowded_jobs, read_plan, records
from bort.search.sweep import due_finalists, selection

logger = logging.getLogger(__name__)


def conclude(folder: Path) -> dict:
    """Choose from the records of a sweep; write candidates.csv, optimum.yaml, summary.json, report.

    Needs the run folder alone. Raises BortError when every candidate failed; nothing is written
    then.
    """
    run, plan, rows, summary, plots = choice(folder)
    write_csv(folder / "candidates.csv", list(rows[0]), rows)
    best = Arch.from_json(summary["optimum"]).to_table()
    with replacing(folder / "optimum.yaml") as file:
        file.write(OmegaConf.to_yaml(best).encode())
    RunFolder(folder).write_summary(summary)
    parts = search_page.parts(folder, run, plan, rows, summary, plots)
    html.write(folder / "report.html", f"bort search {run.name}", parts)
    for line in outcome(folder, summary, rows):
        logger.info(line)
    if run.logger.name == "wandb":
        wandb_run.log_search(run, folder, summary, rows, plots)
        logger.info(f"  wandb     wandb sync {folder}/wandb/offline-run-*   (when it was offline)")
    return summary


def is_over(run: SearchRunConfig, folder: Path) -> bool:
    """Whether `folder` holds this search, and nothing of it is left to train or to make again.

    Neither the text nor the teacher is read for that, so both may be gone. Raises BortError when
    the folder holds something else, or a record that was changed.
    """
    run_folder = RunFolder(folder)
    run_folder.check_settings(run)
    if (
        not run.resume
        or run_folder.find_summary() is None
        or not (folder / "search.json").is_file()
    ):
        return False
    plan = read_plan(folder)
    trained = records(folder, plan)
    chosen = selection(plan, run, trained, Paired(folder, trained, run))
    if crowded_jobs(folder, plan) or chosen.ask(1) or due_finalists(run, chosen, trained):
        return False
    try:
        for path in (folder / "teacher").glob("train-s*.npy"):
            count_batches(path)
    except BortError:  # the search makes it again
        return False
    return run_folder.find_result(run) is not None


def choice(folder: Path) -> tuple[SearchRunConfig, dict, list[dict], dict, dict[str, Any]]:
    """Settings, plan, rows of candidates, summary and figures of the sweep in a folder."""
    stored = read_settings(folder / ".hydra" / "config.yaml")
    run = parse_settings(OmegaConf.create(stored), SearchRunConfig)
    plan = read_plan(folder)
    # the settings that the records are of
    RunFolder(folder).check_settings(replace(run, resume=True))
    found = records(folder, plan)
    paired = Paired(folder, found, run)
    chosen = selection(plan, run, found, paired)
    certificate = chosen.certificate()
    rows = candidate_rows(plan, run, paired, chosen, certificate)
    summary = summarize(plan, run, paired, chosen, certificate, rows)
    choices = w_map(chosen, [k / 4 for k in range(13)])
    return run, plan, rows, summary, search_page.figures(rows, summary, choices)


def candidate_rows(
    plan: dict, run: SearchRunConfig, paired: Paired, chosen: Selection, certificate: Certificate
) -> list[dict]:
    """One row per point of the grid and one for T, the best first; intervals are of 95%."""
    entropy, rows = paired.teacher(), []
    for point in plan["points"]:
        xi = Arch.from_json(point["xi"])
        row = xi.to_table() | {"parameters": point["parameters"], "latency": point["latency"][0]}
        row |= {"error": None, "status": certificate.status[xi], "w": None, "w_low": None}
        row |= {"w_high": None, "w_bound": None, "lr": None, "seconds": None, "reason": ""}
        if xi in chosen.excluded:
            row["reason"] = chosen.excluded[xi]
        else:
            row["w_bound"] = chosen.gibbs(xi)
        row["reason"] = {**chosen.failed, **chosen.diverged}.get(xi, row["reason"])
        if xi in chosen.errors:
            w = resampled_w(chosen, xi, paired.error(xi), entropy)
            best = best_record(paired.found, xi, run)
            row |= {"error": chosen.errors[xi], "w": chosen.w_coefficient(xi), "lr": best["lr"]}
            row |= {"w_low": float(np.quantile(w, 0.025)), "w_high": float(np.quantile(w, 0.975))}
            row["seconds"] = best["seconds"]
        rows.append(row)
    rows.sort(key=lambda row: _place(chosen, Arch.from_table(row)))
    empty = dict.fromkeys(rows[0])
    teacher = plan["teacher"]
    numbers = {"parameters": teacher["parameters"], "latency": teacher["latency"][0]}
    numbers |= {"error": teacher["error"], "status": "teacher", "w": 0.0}
    rows.append(empty | Arch.from_json(teacher["xi"]).to_table() | numbers)
    for xi in map(Arch.from_json, plan["invalid"]):
        reason = f"heads={xi.heads} does not divide hidden={xi.hidden}"
        rows.append(empty | xi.to_table() | {"status": "invalid", "reason": reason})
    return rows


def _place(chosen: Selection, xi: Arch) -> tuple:
    """Sorts the trained candidates as the search ranks them, the others by their bound."""
    if xi in chosen.errors:
        return (0, *chosen.rank(xi))
    if xi in chosen.excluded:
        return (2, *chosen.points[xi], xi)
    return (1, -chosen.gibbs(xi), *chosen.points[xi], xi)


def resampled_w(chosen: Selection, xi: Arch, errors: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """W of ξ in each resample of the documents, ê and ê(T) from the same ones."""
    scale = chosen.scale
    quality = entropy / errors if scale.error == "ratio" else np.exp(entropy - errors)
    return chosen.gibbs(xi) * quality ** scale.exponents[2]


def count_batches(path: Path) -> int:
    """The batches of a teacher's pass by its index; raises BortError for a damaged one."""
    try:
        return len(np.load(path, allow_pickle=False)) - 1
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise BortError(
            f"{path} is damaged ({shorten(error)}); the search makes it again"
        ) from None


def summarize(
    plan: dict,
    run: SearchRunConfig,
    paired: Paired,
    chosen: Selection,
    certificate: Certificate,
    rows: list[dict],
) -> dict:
    """The flat summary of a search."""
    found = paired.found
    flops = {Arch.from_json(p["xi"]): p["flops"] for p in plan["points"]}
    trained = [r for r in found if r["status"] == "trained"]
    passes = sorted((paired.folder / "teacher").glob("train-s*.npy"))
    batches = sum(count_batches(path) for path in passes)
    spent = sum(flops[r["xi"]] for r in trained)
    once = plan.get("teacher_val_flops", 0.0)  # T over the held-out positions
    best, teacher = chosen.best, plan["teacher"]
    top = next(row for row in rows if row["status"] == "trained")
    seeds = seed_spread(found, chosen, run)
    return {
        "optimum": best.to_json(),
        "optimum_name": str(best),
        "objective": run.search.objective,
        "quality": "e(T)/e" if run.search.error == "ratio" else "exp(e(T) − e)",
        "w": chosen.w_coefficient(best),
        "w_interval": [top["w_low"], top["w_high"]],
        "candidates": len(chosen.points),
        "invalid": len(plan["invalid"]),
        **{s: certificate.count(s) for s in ("trained", "pruned", "assumed", "skipped")},
        "excluded": certificate.count("excluded"),
        "failed": certificate.count("failed") + certificate.count("diverged"),
        "diverged": certificate.count("diverged"),
        "regret_bound": certificate.regret_proven,
        "regret_bound_monotone": certificate.regret_monotone,
        "contradictions": len(chosen.violations),
        "error": chosen.errors[best],
        "teacher_error": teacher["error"],
        "unigram_error": teacher["unigram_error"],
        "below_unigram": teacher["unigram_error"] - chosen.errors[best],
        "on_border": border(chosen),
        "smallest": best == chosen.order[0],
        "ties": [str(xi) for xi in ties(plan, paired, chosen, seeds)],
        "seed_spread": seeds,
        "further_trainings": sum(_further(r, run) for r in trained),
        "further_failed": sum(_further(r, run) for r in found if r["status"] == "failed"),
        **controls(plan, chosen),
        **front(plan, chosen),
        **horizon(found, chosen, run, teacher["error"]),
        "parameters": top["parameters"],
        "latency": top["latency"],
        "latency_unit": plan["latency"]["unit"],
        "latency_note": plan["latency"]["note"],
        "positions": plan["positions"],
        "documents": plan["documents"],
        "trainings": len(trained),
        "teacher_batches": batches,
        "train_flops": spent + plan["teacher_flops"] * len(passes) + once,
        "exhaustive_flops": sum(flops[xi] for xi in chosen.order) + plan["teacher_flops"] + once,
        "finalist_flops": sum(flops[r["xi"]] for r in trained if r["seed"] != run.seed),
        "seconds": sum(r["wall"] for r in trained) + plan["teacher_pass_seconds"],
        "seed": run.seed,
    }


def _further(record: dict, run: SearchRunConfig) -> bool:
    """Whether it is a finalist's training with another seed or rate."""
    return record["seed"] != run.seed or record["base_lr"] != run.optim.lr


def seed_spread(found: list[dict], chosen: Selection, run: SearchRunConfig) -> float | None:
    """Standard deviation of W over seeds, pooled over the finalists; None without their runs.

    Of each finalist the trainings at the rate that counts.
    """
    variances, degrees = 0.0, 0
    for xi in chosen.errors:
        rate = best_record(found, xi, run)["base_lr"]
        own = [r for r in found if r["xi"] == xi and r["base_lr"] == rate]
        values = [
            w_coefficient(*chosen.points[xi], r["error"], chosen.scale)
            for r in own
            if r["status"] == "trained"
        ]
        if len(values) > 1:
            variances += float(np.var(values, ddof=1)) * (len(values) - 1)
            degrees += len(values) - 1
    return math.sqrt(variances / degrees) if degrees else None


def ties(plan: dict, paired: Paired, chosen: Selection, seeds: float | None) -> list[Arch]:
    """Trained candidates that another sample of text, other seeds or noise in î could put first.

    Those whose W is lower by less than the 95% interval of the difference, from the documents
    (paired), the spread over seeds, and the latencies as far as W depends on them.
    """
    entropy, best = paired.teacher(), chosen.best
    latency = {Arch.from_json(p["xi"]): p["latency"] for p in plan["points"]}
    teacher, beta = plan["teacher"]["latency"], chosen.scale.exponents[1]
    middle, noise = teacher[0], _deviation(teacher)

    def slope(xi: Arch) -> float:
        """By how much W falls with î; it rises with î(T) by this times î / î(T)."""
        return beta * chosen.w_coefficient(xi) / (middle - latency[xi][0])

    top = resampled_w(chosen, best, paired.error(best), entropy)
    tied = []
    for xi in sorted(chosen.errors, key=chosen.rank)[1:]:
        theirs = resampled_w(chosen, xi, paired.error(xi), entropy)
        variance = float(np.var(top - theirs)) + 2 * (seeds or 0.0) ** 2
        variance += sum((slope(x) * _deviation(latency[x])) ** 2 for x in (best, xi))
        shares = [slope(x) * latency[x][0] / middle for x in (best, xi)]
        variance += ((shares[0] - shares[1]) * noise) ** 2
        if chosen.w_coefficient(best) - chosen.w_coefficient(xi) <= 1.96 * math.sqrt(variance):
            tied.append(xi)
    return tied


def _deviation(latency: list[float]) -> float:
    """A standard deviation from [median, lower quartile, upper quartile]."""
    return (latency[2] - latency[1]) / 1.35


def border(chosen: Selection) -> list[str]:
    """Dimensions in which the optimum is the smallest or largest of the grid."""
    sides = []
    for key in ("depth", "hidden", "intermediate"):
        values = {getattr(xi, key) for xi in chosen.points}
        if len(values) > 1:
            side = {min(values): "smallest", max(values): "largest"}.get(getattr(chosen.best, key))
            sides += [f"{side} {key}"] if side else []
    return sides


def controls(plan: dict, chosen: Selection) -> dict[str, str | None]:
    """What would have been chosen without training most of them, and by other aims.

    None where there is no such control: where every bound is the same, or fewer than three errors
    are there to fit.
    """
    body = {Arch.from_json(p["xi"]): p["body"] for p in plan["points"]}
    scale, weights = chosen.scale, tuple(plan["exponents"])
    aims = {"by_error": replace(scale, exponents=BY_ERROR)} | {
        f"by_{kind}": replace(scale, exponents=weights, error=kind)
        for kind in ("ratio", "perplexity")
    }
    winners = {key: named(chosen.under(aim).winner()) for key, aim in aims.items()}
    by_bound = by_size = None
    if len({chosen.gibbs(xi) for xi in chosen.order}) > 1:
        by_bound = str(chosen.first(chosen.gibbs))
    if len(chosen.errors) > 2:
        size = np.array([[1.0, math.log(body[xi])] for xi in chosen.errors])
        fit = np.linalg.lstsq(size, np.array(list(chosen.errors.values())), rcond=None)[0]
        guess = {xi: max(scale.e, float(fit @ [1.0, math.log(body[xi])])) for xi in chosen.order}
        by_size = str(chosen.first(lambda xi: w_coefficient(*chosen.points[xi], guess[xi], scale)))
    return winners | {"control_bound": by_bound, "control_size": by_size}


def named(xi: Arch | None) -> str:
    return UNDECIDED if xi is None else str(xi)


def front(plan: dict, chosen: Selection) -> dict[str, list[str]]:
    """Trained candidates that no other beats in p, i and e, and those that an unknown one might.

    A candidate of unknown error has at best T's entropy.
    """
    trained = {xi: (*chosen.points[xi], e) for xi, e in chosen.errors.items()}
    possible = {xi: (*chosen.points[xi], plan["teacher"]["error"]) for xi in chosen.unknown}
    proven = pareto(trained, possible)
    return {
        "pareto": [str(xi) for xi in proven],
        "pareto_undecided": [str(xi) for xi in pareto(trained) if xi not in proven],
    }


def horizon(found: list[dict], chosen: Selection, run: SearchRunConfig, entropy: float) -> dict:
    """Does a shorter n choose the same? Errors at n/4 and n/2 of the same trainings, against n.

    Kendall's τ between the rankings by error of what was trained, which of these is ahead by W at
    each, and which is the winner there, when what was not trained could not be; the schedule is
    that of n steps, so these are not the errors that a search with n/4 steps would find.
    """
    curves = {xi: best_record(found, xi, run)["kl_by_step"] for xi in chosen.errors}
    shown: dict = {"n": run.search.n}
    for part, label in ((4, "quarter"), (2, "half")):
        step = max(1, run.search.n // 4) * (4 // part)
        at = {xi: entropy + kl[str(step)] for xi, kl in curves.items() if str(step) in kl}
        if len(at) != len(curves):
            continue
        then = replace(chosen, errors=at)
        shown[f"step_at_{label}"] = step
        shown[f"ahead_at_{label}"] = str(then.best)
        shown[f"winner_at_{label}"] = named(then.winner())
        if len(at) > 1:
            tau = kendalltau([at[xi] for xi in at], [chosen.errors[xi] for xi in at]).statistic
            shown[f"tau_at_{label}"] = None if math.isnan(tau) else float(tau)
    return shown


def outcome(folder: Path, summary: dict, rows: list[dict]) -> Iterator[str]:
    """The last lines of a search: the best ones, what is proven, what to doubt, where it all is."""
    yield "search: the best candidates"
    for row in [row for row in rows if row["status"] == "trained"][:5]:
        xi = Arch.from_table(row)
        yield (
            f"  {xi:>18}  W {row['w']:.4f} [{row['w_low']:.4f}, {row['w_high']:.4f}]  "
            f"{row['parameters']:,} parameters  {latency_text(row['latency'], summary)}  "
            f"e {row['error']:.3f}"
        )
    yield from search_page.certificate_lines(summary)
    yield f"  optimum   {folder}/optimum.yaml"
    yield f"  report    {folder}/report.html"
    yield f"  table     {folder}/candidates.csv, summary.json"
    top = next(row for row in rows if str(Arch.from_table(row)) == summary["optimum_name"])
    following = commands.next_training(folder, folder / "optimum.yaml", top["hidden"], top["lr"])
    yield f"  next      {typed(following)}"


def latency_text(value: float, summary: dict) -> str:
    return f"{value:.2f} ms" if summary["latency_unit"] == "ms" else f"{value / 1e6:,.1f} MFLOP"
