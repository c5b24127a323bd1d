"""A whole search: which candidates are trained next, the finalists' repeats, and the progress.

A candidate is one run folder with a `point.json`, which the package `trials` makes; `optimum.py`
turns the records into the result.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from omegaconf import OmegaConf

from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig
from bort.console import clock, counted
from bort.files.run_files import (
    HYDRA_CONFIG,
    HYDRA_OVERRIDES,
    PLAN,
    TRIAL,
)
from bort.models import hub
from bort.objectives.coefficient import COSINE, LIKELIHOOD, Scale
from bort.objectives.latency import check_device
from bort.pretraining.recipe import settle_by_teacher
from bort.pretraining.teacher import Sources, hash_teacher, open_sources
from bort.runs.folder import RunFolder
from bort.search.answers import describe_default_budget
from bort.search.fptas import Selection
from bort.search.halving import Outcome, choose_trainings, tell_outcome
from bort.search.statistics import Paired
from bort.teachers.teacher import Teacher
from bort.training.precision import settle_precision
from bort.training.threads import choose_threads
from bort.training.trainer import check_trainer
from bort.trials import task
from bort.trials.inputs import (
    forget_corpus_and_teacher,
    open_corpus_and_teacher,
)
from bort.trials.plan import (
    MaximumPoint,
    SearchPlan,
    read_plan,
)
from bort.trials.planning import (
    check_latency,
    check_validation,
    complete_plan,
    list_candidates,
    pass_over_training,
    restore_passes,
)
from bort.trials.records import (
    Job,
    TrialRecord,
    TrialStatus,
    find_best_record,
    read_crowded_jobs,
    read_records,
    write_record,
)
from bort.trials.rungs import Curves, list_rungs
from bort.trials.task import forget_lesson, open_lesson
from bort.trials.training import evaluate

logger = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------- running it


@contextmanager
def open_sweep(run: SearchRunConfig, folder: Path, record: dict | None = None) -> Iterator["Sweep"]:
    """Prepare the search of these settings in `folder`; one process at a time works there.

    record: file name → text for the folder's `.hydra`; by default the settings alone.
    """
    check_trainer(run)
    check_device(run.latency)
    run_folder = RunFolder(folder)
    run_folder.check_settings(run)
    check_latency(run, folder)
    sources = None
    if run.fits_task:  # a mistake is told before the precision is timed
        forget_lesson()
        open_lesson(run, folder)
    else:
        sources = open_sources(run)
        run = settle_by_teacher(run, folder, sources.teacher)
    run = settle_precision(run, run_folder.precision)
    threads = choose_threads(run, run_folder.threads) or torch.get_num_threads()
    if record is None:
        config = OmegaConf.to_yaml(OmegaConf.create(asdict(run)))
        record = {HYDRA_CONFIG: config, HYDRA_OVERRIDES: "[]"}
    with run_folder.lock(wait=False):
        run_folder.begin(run, record, threads)  # with which its candidates are trained
        try:
            yield Sweep(run, folder, sources)
        finally:
            forget_corpus_and_teacher()
            forget_lesson()


def run_in_process(run: SearchRunConfig, folder: Path) -> SearchPlan:
    """Run a whole search in this process, without Hydra's launchers; returns its plan."""
    with open_sweep(run, folder) as sweep:
        alone = replace(sweep.run.search, parallel=1)
        while batch := sweep.ask():
            for job in batch:
                settings = job.apply(replace(sweep.run, search=alone))
                evaluate(settings, folder, folder / job.folder)
            sweep.collect(batch)
        return sweep.plan


# ------------------------------------------------------------------------------------ the search


class Sweep:
    """What the sweeper asks and tells; everything that it knows is in the run folder."""

    def __init__(self, run: SearchRunConfig, folder: Path, sources: Sources | None = None):
        self.run, self.folder = run, folder
        self.plan = self._plan_task() if run.fits_task else self._plan_text(sources)
        self._refresh()
        self._announce()

    def _refresh(self) -> None:
        self.records = read_records(self.folder, self.plan)
        paired = Paired(self.folder, self.records, self.run)
        self.selection = build_selection(self.plan, self.run, self.records, paired)

    def _plan_text(self, sources: Sources | None) -> SearchPlan:
        """Read the plan of a search on text, or make it: T's numbers, each p and i, T's passes."""
        run, folder = self.run, self.folder
        forget_corpus_and_teacher()
        corpus, teacher = open_corpus_and_teacher(run, folder, sources)
        if (folder / PLAN).exists():  # written last: all else is there, too
            restore_passes(run, folder, corpus, teacher)
            return read_plan(folder)
        check_validation(run, corpus)
        (digest,) = hash_teacher(run, corpus).values()
        return complete_plan(self._list_points(teacher, digest), run, folder, corpus, teacher)

    def _plan_task(self) -> SearchPlan:
        """Read the plan of a search on a task, or make it: T's numbers, each p and i."""
        run, folder = self.run, self.folder
        lesson = open_lesson(run, folder)
        task.check_inputs(run, RunFolder(folder), lesson)
        if (folder / PLAN).exists():
            return read_plan(folder)
        points = self._list_points(lesson.teacher, hub.digest_model(run.teacher.name))
        return task.complete_plan(points, run, folder, lesson)

    def _list_points(self, teacher: Teacher, digest: str) -> SearchPlan:
        """List T and all candidates with p and i; raises BortError when the budgets leave none."""
        plan = list_candidates(self.run, self.folder, teacher, digest)
        build_selection(plan, self.run, [])
        return plan

    def _announce(self) -> None:
        chosen, plan = self.selection, self.plan
        if self.run.fits_task:
            scale = f"T's entropy {plan.teacher.error:.3f} nats at {plan.positions:,} held-out rows"
            scale += ", one constant answer has e "
        elif self.run.compares_states:
            scale = f"T's states at {plan.positions:,} tokens, one constant state has e "
        else:
            scale = f"T's entropy {plan.teacher.error:.3f} nats at {plan.positions:,} positions, "
            scale += "unigram "
        logger.info(
            f"search: {len(chosen.order)} of {counted(len(chosen.points), 'candidate')} below "
            f"T = {plan.teacher.xi} and within the budgets; {scale}{plan.teacher.unigram_error:.3f}"
        )
        if (line := describe_default_budget(self.run.search, plan.latency_unit)) is not None:
            logger.info(f"search: {line}")
        if self.records:
            logger.info(f"search: {len(self.records)} recorded already")

    def ask(self) -> list[Job]:
        """Choose the next jobs, at most `search.parallel` of them; none when the search is over.

        A job that found no memory beside others is a batch of its own.
        """
        parallel = self.run.search.parallel
        batch = jobs = list_due_candidates(self.run, self.selection, self.records)[:parallel]
        if not batch:
            jobs = self._list_due_finalists()[:parallel]
        crowded = [job for job in read_crowded_jobs(self.folder, self.plan) if job in jobs]
        if crowded:
            logger.info(f"search: {crowded[0]} found no memory beside others; now alone")
            return crowded[:1]
        if batch:
            self._report_progress(batch)
        else:
            for job in jobs:
                rate = width_lr(job.xi.hidden, job.lr, self.run.search.kappa)  # of its width
                logger.info(
                    f"search: finalist {job.xi} is trained again with seed {job.seed}, "
                    f"lr {rate:.3g}"
                )
        return jobs

    def _list_due_finalists(self) -> list[Job]:
        """List what `list_due_finalists` does; T has run over their batches then."""
        due = list_due_finalists(self.run, self.selection, self.records)
        seeds = {job.seed for job in due}
        if not (self.run.fits_task or seeds <= {self.run.seed}):  # other seeds are other batches
            corpus, teacher = open_corpus_and_teacher(self.run, self.folder)
            for seed in sorted(seeds):
                pass_over_training(self.run, self.folder, corpus, teacher, seed)
        return due

    def collect(self, batch: list[Job], died: str | None = None) -> None:
        """Take what the jobs of `batch` have recorded.

        died: why a process ended without a record: a result of its candidate, like any other. So
        is a lack of memory, when there was no other job.
        """
        crowded = read_crowded_jobs(self.folder, self.plan)
        for job in batch:
            path, reason = self.folder / job.folder / TRIAL, None
            if died and not path.exists():
                reason = died
            elif len(batch) == 1 and job in crowded:
                reason = "out of memory"
            if reason:
                origin = self.plan.origin
                write_record(path, TrialRecord(job, origin, TrialStatus.FAILED, reason=reason))
        self._refresh()
        for record in self.records:
            job = record.job
            if record.status is TrialStatus.FAILED and job in batch:
                is_first = (job.seed, job.lr) == (self.run.seed, self.run.optim.lr)
                trial = str(job.xi) if is_first else f"finalist {job}"
                logger.info(f"search: {trial} failed: {record.reason}")

    def _report_progress(self, batch: list[Job]) -> None:
        """Say what is trained next, what is the best so far, and how long it may still take."""
        chosen, names = self.selection, ", ".join(str(job.xi) for job in batch)
        if self.run.search.halving:
            n, steps = self.run.search.n, batch[0].steps or self.run.search.n
            logger.info(f"search: to {steps:,} of {n:,} steps: {names}")
            return
        done = sum(map(chosen.is_tried, chosen.order))
        able = [xi for xi in chosen.order if not chosen.is_tried(xi)]
        left = chosen.find_able(able, chosen.gibbs)
        proven = len(able) - len(left)
        work, eta, best = self.plan.flops, "", ""
        trained = [record for record in self.records if record.is_trained]
        if spent := sum(work[record.xi] for record in trained):
            rate = sum(record.wall for record in trained) / spent
            eta = f" · at most about {clock(sum(work[xi] for xi in left) * rate)} for the rest"
        if chosen.best and self.run.search.objective == "error":
            best = f" · lowest e {chosen.errors[chosen.best]:.3f} {chosen.best}"
        elif chosen.best:
            best = f" · best W {chosen.w_coefficient(chosen.best):.4f} {chosen.best}"
        logger.info(
            f"search: candidate {done + 1} of at most {done + len(left)}: {names}{best} · "
            f"{proven} proven away{eta}"
        )


# ------------------------------------------------------------------------------------ the records


def build_scale(teacher: MaximumPoint, run: SearchRunConfig) -> Scale:
    """Build what W weighs candidates by: T's numbers and the exponents of the objective."""
    search = run.search
    exponents = tuple(search.exponents) if search.objective == "w" else (0.0, 0.0, 1.0)
    error, quality = teacher.error, search.error
    if run.compares_states:  # known before T runs
        error, quality = 0.0, COSINE
    elif run.fits_task:
        quality = LIKELIHOOD
    return Scale(teacher.parameters, teacher.latency[0], error, exponents, quality)


def list_due_candidates(
    run: SearchRunConfig, chosen: Selection, records: list[TrialRecord]
) -> list[Job]:
    """List candidates to train now; none when the choice is made.

    By successive halving, they are those of a rung that are still without a record; otherwise one
    or more, the first ones of all.
    """
    seed, lr, n = run.seed, run.optim.lr, run.search.n
    if not run.search.halving:
        return [Job(xi, seed, lr) for xi in chosen.ask(run.search.parallel)]
    outcomes = {
        (record.xi, record.job.steps or n): make_outcome(record)
        for record in records
        if (record.job.seed, record.job.lr) == (seed, lr)
    }
    due = choose_trainings(chosen, list_rungs(n), outcomes)
    return [Job(xi, seed, lr, None if steps == n else steps) for xi, steps in due]


def make_outcome(record: TrialRecord) -> Outcome:
    """Make of a record what a search by halving is told of it."""
    return Outcome(record.error, record.reason, record.diverged)


def list_due_finalists(
    run: SearchRunConfig, chosen: Selection, records: list[TrialRecord]
) -> list[Job]:
    """List trainings still to do of the best ones: with further rates, then with further seeds."""
    if chosen.best is None:
        return []
    best = sorted(chosen.errors, key=chosen.rank)[: run.search.finalists]
    done = {record.job for record in records}
    rates = [Job(xi, run.seed, lr) for xi in best for lr in run.search.lrs]
    further = range(run.seed + 1, run.seed + run.search.seeds)
    rate = {xi: find_best_record(records, xi, run).job.lr for xi in best}
    seeds = [Job(xi, seed, rate[xi]) for seed in further for xi in best]
    for stage in (rates, seeds):
        if due := [job for job in stage if job not in done]:
            return due
    return []


def build_selection(
    plan: SearchPlan,
    run: SearchRunConfig,
    records: list[TrialRecord],
    paired: Paired | None = None,
) -> Selection:
    """Build the selection of these records; `paired` tells contradictions from chance.

    Records of points that are no candidates, as they are not within the budget, do not count.
    """
    beyond_chance = {"significant": paired.is_worse} if paired else {}
    chosen = Selection(
        {point.xi: (point.parameters, point.latency[0]) for point in plan.points},
        build_scale(plan.teacher, run),
        epsilon=run.search.epsilon,
        refine=run.search.refine,
        monotone=run.search.assume == "monotone",
        max_params=run.search.max_params,
        max_latency=run.search.max_latency_ms,
        max_share=run.search.latency_share,
        max_mb=run.search.max_mb,
        megabytes=plan.count_megabytes(max(run.data.length, 512)),
        curves=Curves(run.search.n) if run.search.halving else None,
        **beyond_chance,
    )
    candidates = set(chosen.order)
    for record in records:
        if record.job.seed != run.seed or record.xi not in candidates:
            continue
        if chosen.curves is not None and record.job.lr == run.optim.lr:
            steps = record.job.steps or run.search.n
            tell_outcome(chosen, record.xi, steps, make_outcome(record))
        elif record.is_trained:
            chosen.tell(record.xi, record.error)
        else:
            chosen.fail(record.xi, record.reason, record.diverged)
    return chosen
