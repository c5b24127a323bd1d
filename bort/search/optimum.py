"""From the records of a search to its result: what is proven, how sure it is, and the files."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from bort import html
from bort.config.compose import parse_settings
from bort.config.search import SearchRunConfig
from bort.console import typed
from bort.errors import BortError, shorten
from bort.files.run_files import CANDIDATES, PLAN
from bort.files.writing import replace_file, write_csv
from bort.models.arch import Arch
from bort.objectives.coefficient import COSINE, LIKELIHOOD
from bort.runs.folder import SHARE, RunFolder, add_missing_settings
from bort.runs.summary import RunSummary
from bort.search import report
from bort.search.answers import (
    BY_W,
    NO_W,
    Answer,
    choose_answers,
    describe_answers,
    describe_budget,
    describe_latency,
)
from bort.search.fptas import Certificate, Selection, w_map
from bort.search.result import CandidateRow, Conclusion, SearchResult, describe_certificate
from bort.search.statistics import (
    Paired,
    choose_by_controls,
    compare_horizons,
    describe_border,
    find_front,
    find_ties,
    pool_seed_spread,
    resample_w,
)
from bort.search.sweep import build_selection, list_due_candidates, list_due_finalists
from bort.trials.plan import SearchPlan, list_training_passes, read_plan
from bort.trials.records import TrialRecord, find_best_record, read_crowded_jobs, read_records

logger = logging.getLogger(__name__)

# The quality of an error in words, by the kind of a `Scale`.
QUALITIES = {"ratio": "e(T)/e", "perplexity": "exp(e(T) − e)", COSINE: "1 − e"}
QUALITIES[LIKELIHOOD] = QUALITIES["perplexity"]


def conclude(folder: Path) -> SearchResult:
    """Choose from the records of a search; write and log all that `write_conclusion` does."""
    return write_conclusion(folder).result


def write_conclusion(folder: Path) -> Conclusion:
    """Choose from the records of a search; write its table, optima, summary.json and report.

    Needs the run folder alone. Raises BortError when every candidate failed; nothing is written
    then.
    """
    conclusion = choose_optimum(folder)
    run, result = conclusion.run, conclusion.result
    rows = [row.to_table() for row in conclusion.rows]
    run_folder = RunFolder(folder)
    write_csv(folder / CANDIDATES, list(rows[0]), rows)
    (by_w,) = (answer.xi for answer in result.answers if answer.key == BY_W)
    for path, xi in ((run_folder.optimum, result.optimum), (run_folder.optimum_w, by_w)):
        if xi is None:  # there is no W
            continue
        with replace_file(path) as file:
            file.write(OmegaConf.to_yaml(xi.to_table()).encode())
    run_folder.write_summary(RunSummary(result.to_json()))
    parts = report.build_parts(folder, conclusion)
    html.write_page(run_folder.report, f"bort search {run.name}", parts)
    for line in describe_outcome(folder, conclusion):
        logger.info(line)
    if run.logger.name == "wandb":
        report.log_to_wandb(folder, conclusion)
        logger.info(f"  wandb     wandb sync {folder}/wandb/offline-run-*   (when it was offline)")
    return conclusion


def is_over(run: SearchRunConfig, folder: Path) -> bool:
    """Whether `folder` holds this search, and nothing of it is left to train or to make again.

    Neither the text nor the teacher is read for that, so both may be gone. Raises BortError when
    the folder holds something else, or a record that was changed.
    """
    run_folder = RunFolder(folder)
    run_folder.check_settings(run)
    is_planned = (folder / PLAN).is_file()
    if not run.resume or run_folder.find_summary() is None or not is_planned:
        return False
    run = run.settle_as(run_folder.read_settings())
    plan = read_plan(folder)
    records = read_records(folder, plan)
    chosen = build_selection(plan, run, records, Paired(folder, records, run))
    crowded = read_crowded_jobs(folder, plan)
    due = list_due_candidates(run, chosen, records) or list_due_finalists(run, chosen, records)
    if crowded or due:
        return False
    try:
        for path in list_training_passes(folder):
            count_batches(path)
    except BortError:  # the search makes it again
        return False
    return run_folder.find_result(run) is not None


def choose_optimum(folder: Path) -> Conclusion:
    """Choose from the records of the search in a folder; nothing is written.

    Raises BortError when every candidate failed.
    """
    stored = OmegaConf.create(RunFolder(folder).read_config())
    settings = add_missing_settings(RunFolder(folder).read_settings() or {})
    OmegaConf.update(stored, SHARE, settings[SHARE])  # which an older record lacks
    run = parse_settings(stored, SearchRunConfig).settle_as(settings)
    plan = read_plan(folder)
    RunFolder(folder).check_settings(replace(run, resume=True))  # those that the records are of
    records = read_records(folder, plan)
    paired = Paired(folder, records, run)
    chosen = build_selection(plan, run, records, paired)
    certificate = chosen.certify()
    rows = list_candidates(plan, paired, chosen, certificate)
    result = summarize(plan, paired, chosen, certificate, rows)
    budget = describe_budget(run.search, plan.latency_unit)
    answers = answer_by_settings(plan, paired, chosen, budget)
    result = replace(result, budget=budget, answers=answers)
    choices = {} if not run.has_w else w_map(chosen, [k / 4 for k in range(13)])
    return Conclusion(run, plan, rows, result, report.draw_figures(rows, result, choices))


def answer_by_settings(
    plan: SearchPlan, paired: Paired, chosen: Selection, budget: str
) -> list[Answer]:
    """Choose as a search for the lowest error and one for the largest W would, and the knee."""

    def select(objective: str) -> Selection | None:
        """Select by another objective; None where it does not exist, or excludes all."""
        if paired.run.search.objective == objective:
            return chosen
        if objective == "w" and not paired.run.has_w:
            return None
        search = replace(paired.run.search, objective=objective)
        try:
            return build_selection(plan, replace(paired.run, search=search), paired.records, paired)
        except BortError:
            return None

    no_w = NO_W.get(paired.run.search.proxy, "")
    return choose_answers(chosen, select("error"), select("w"), budget, no_w)


def list_candidates(
    plan: SearchPlan, paired: Paired, chosen: Selection, certificate: Certificate
) -> list[CandidateRow]:
    """List every point of the grid, the best first, then T, then the points that are no models."""
    entropy, rows = paired.resample_entropy(), []
    for point in plan.points:
        xi = point.xi
        reasons = {
            **describe_dropped(chosen),
            **chosen.excluded,
            **chosen.failed,
            **chosen.diverged,
        }
        row = CandidateRow(
            xi,
            point.parameters,
            point.latency[0],
            status=certificate.status[xi],
            w_bound=None if xi in chosen.excluded else chosen.gibbs(xi),
            mb=chosen.megabytes[xi],
            reason=reasons.get(xi, ""),
        )
        if xi in chosen.errors:
            w = resample_w(chosen, xi, paired.resample_error(xi), entropy)
            best = find_best_record(paired.records, xi, paired.run)
            row = replace(
                row,
                error=chosen.errors[xi],
                w=chosen.w_coefficient(xi),
                w_low=float(np.quantile(w, 0.025)),
                w_high=float(np.quantile(w, 0.975)),
                lr=best.lr,
                seconds=best.seconds,
            )
        rows.append(row)
    rows.sort(key=lambda row: _sort_key(chosen, row.xi))
    teacher = plan.teacher
    w = 0.0 if paired.run.has_w else 1.0  # W(T) = 0, but its own quality is 1
    numbers = {"latency": teacher.latency[0], "error": teacher.error, "w": w, "reason": None}
    rows.append(CandidateRow(teacher.xi, teacher.parameters, status="teacher", **numbers))
    for xi in plan.invalid:
        reason = f"heads={xi.heads} does not divide hidden={xi.hidden}"
        rows.append(CandidateRow(xi, status="invalid", reason=reason))
    return rows


def describe_dropped(chosen: Selection) -> dict[Arch, str]:
    """Say of each candidate that was trained to fewer than n steps how far it came."""
    if chosen.curves is None:
        return {}
    rungs = {xi: chosen.curves.find_last_rung(xi) for xi in chosen.unknown}
    return {
        xi: f"e {chosen.curves.errors[steps][xi]:.3f} after {steps:,} steps"
        for xi, steps in rungs.items()
        if steps
    }


def _sort_key(chosen: Selection, xi: Arch) -> tuple:
    """Sort the trained candidates as the search ranks them, the others by their bound."""
    if xi in chosen.errors:
        return (0, *chosen.rank(xi))
    if xi in chosen.excluded:
        return (2, *chosen.points[xi], xi)
    return (1, -chosen.gibbs(xi), *chosen.points[xi], xi)


def count_batches(path: Path) -> int:
    """Count the batches of a teacher's pass by its index; raises BortError for a damaged one."""
    try:
        return len(np.load(path, allow_pickle=False)) - 1
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise BortError(
            f"{path} is damaged ({shorten(error)}); the search makes it again"
        ) from None


def summarize(
    plan: SearchPlan,
    paired: Paired,
    chosen: Selection,
    certificate: Certificate,
    rows: list[CandidateRow],
) -> SearchResult:
    """Bring together the choice, its proof, its doubts and its costs."""
    run, records, best = paired.run, paired.records, chosen.best
    top = next(row for row in rows if row.status == "trained")
    seeds = pool_seed_spread(records, chosen, run)
    front, undecided = find_front(plan, chosen)
    diverged = certificate.count("diverged")
    return SearchResult(
        optimum=best,
        objective=run.search.objective,
        quality=QUALITIES[chosen.scale.error],
        proxy=run.search.proxy,
        w=chosen.w_coefficient(best),
        w_interval=[top.w_low, top.w_high],
        candidates=len(chosen.points),
        invalid=len(plan.invalid),
        **{s: certificate.count(s) for s in ("trained", "pruned", "assumed", "dropped", "skipped")},
        excluded=certificate.count("excluded"),
        failed=certificate.count("failed") + diverged,
        diverged=diverged,
        regret_bound=certificate.regret_proven,
        regret_bound_monotone=certificate.regret_monotone,
        regret_bound_curves=certificate.regret_curves,
        **_list_crossings(chosen),
        contradictions=len(chosen.violations),
        error=chosen.errors[best],
        teacher_error=plan.teacher.error,
        unigram_error=plan.teacher.unigram_error,
        on_border=describe_border(chosen),
        smallest=best == chosen.order[0],
        ties=[str(xi) for xi in find_ties(plan, paired, chosen, seeds)],
        seed_spread=seeds,
        **choose_by_controls(plan, chosen),
        pareto=list(map(str, front)),
        pareto_undecided=list(map(str, undecided)),
        n=run.search.n,
        horizons=compare_horizons(records, chosen, run, plan.teacher.error),
        parameters=top.parameters,
        latency=top.latency,
        latency_unit=plan.latency_unit,
        latency_note=plan.latency_note,
        positions=plan.positions,
        documents=plan.documents,
        seed=run.seed,
        precision=str(run.trainer_config.precision),
        **_count_costs(plan, paired, chosen),
    )


def _list_crossings(chosen: Selection) -> dict[str, list]:
    """List the rungs before n and δ at each, as fields of a `SearchResult`."""
    curves = chosen.curves
    rungs = [] if curves is None else [steps for steps in sorted(curves.errors) if steps < curves.n]
    return {"rungs": rungs, "crossings": [curves.measure_crossing(steps) for steps in rungs]}


def _count_costs(plan: SearchPlan, paired: Paired, chosen: Selection) -> dict[str, float]:
    """Count trainings, FLOPs and seconds of the search, as fields of a `SearchResult`."""
    run, flops = paired.run, plan.flops
    trained = [record for record in paired.records if record.is_trained]
    failed = [record for record in paired.records if not record.is_trained]
    # Of a task, T answers each row once, and its answers are kept for all searches.
    passes = 1 if run.fits_task else len(list_training_passes(paired.folder))
    once = plan.teacher_val_flops  # T over the held-out positions
    work = {r.job: flops[r.xi] if r.flops is None else r.flops for r in trained}
    spent = sum(work.values())
    return {
        "trainings": len(trained),
        "shortened": sum(record.job.steps is not None for record in trained),
        "further_trainings": sum(_is_further(record, run) for record in trained),
        "further_failed": sum(_is_further(record, run) for record in failed),
        "teacher_batches": sum(map(count_batches, list_training_passes(paired.folder))),
        "train_flops": spent + plan.teacher_flops * passes + once,
        "exhaustive_flops": sum(flops[xi] for xi in chosen.order) + plan.teacher_flops + once,
        "finalist_flops": sum(work[r.job] for r in trained if r.job.seed != run.seed),
        "seconds": sum(record.wall for record in trained) + plan.teacher_pass_seconds,
    }


def _is_further(record: TrialRecord, run: SearchRunConfig) -> bool:
    """Whether it is a finalist's training with another seed or rate."""
    return record.job.seed != run.seed or record.job.lr != run.optim.lr


def describe_outcome(folder: Path, conclusion: Conclusion) -> Iterator[str]:
    """Write the last lines of a search: the best ones, what is proven, what to doubt, the files."""
    result, rows = conclusion.result, conclusion.rows
    yield "search: the best candidates"
    label = result.criterion
    for row in [row for row in rows if row.status == "trained"][:5]:
        latency = describe_latency(row.latency, result.latency_unit)
        yield (
            f"  {row.xi:>18}  {label} {row.w:.4f} [{row.w_low:.4f}, {row.w_high:.4f}]  "
            f"{row.parameters:,} parameters  {latency}  e {row.error:.3f}"
        )
    yield from describe_certificate(result)
    if result.answers:  # not of a search that an older version has ended
        yield from describe_answers(result.answers, result.latency_unit)
    run_folder = RunFolder(folder)
    yield f"  latency   {result.latency_note}"
    yield f"  optimum   {run_folder.optimum}"
    by_w = f"none: {NO_W[result.proxy]}" if result.proxy in NO_W else run_folder.optimum_w
    yield f"  by W      {by_w}"
    yield f"  report    {run_folder.report}"
    yield f"  table     {folder / CANDIDATES}, {run_folder.summary_file.name}"
    top = next(row for row in rows if row.xi == result.optimum)
    yield f"  next      {typed(report.compose_next(folder, top, conclusion.run))}"
