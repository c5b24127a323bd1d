"""What a search will cost, before it starts; what it would refuse is refused here, too."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig, TaskSearchConfig
from bort.config.train import PretrainRunConfig
from bort.console import data_size, listed
from bort.errors import BortError
from bort.models import hub
from bort.models.arch import Arch
from bort.objectives.latency import measure_latencies
from bort.objectives.parameters import count_int8_bytes, count_parameters
from bort.pretraining.dry_run import (
    HUB_TEACHERS,
    describe_time,
    format_flops,
    list_teacher_parts,
    look_ahead,
    show_missing,
)
from bort.pretraining.flops import (
    Amount,
    Text,
    count_candidate_flops,
    count_logits_flops,
    count_states_flops,
    count_student_readings,
    measure_amount,
    repeat_amount,
)
from bort.runs.folder import RunFolder
from bort.search.answers import NO_W, describe_budget, describe_default_budget
from bort.search.fptas import Selection
from bort.search.sweep import build_scale
from bort.teachers.opening import read_shape
from bort.training.precision import describe_precision, foresee_precision
from bort.training.trainer import check_trainer
from bort.trials.inputs import count_held_sequences, expect_look
from bort.trials.plan import MaximumPoint
from bort.trials.planning import check_latency
from bort.trials.task import (
    count_task_flops,
    make_batches,
    measure_text,
    measure_training,
    read_examples,
)
from bort.trials.training import list_legs, make_candidate_settings

logger = logging.getLogger(__name__)


def _select_candidates(run: SearchRunConfig, teacher: Arch, vocab: int) -> Selection:
    """Select the candidates as the search will; operations stand in for measured latencies.

    Raises BortError when the budgets leave none.
    """
    valid, _ = run.grid.points()
    positions = max(run.data.length, 512)
    is_exact = run.latency.source in ("analytic", "table")
    config = run.latency if is_exact else replace(run.latency, source="analytic", path=None)
    latency = measure_latencies(config, [teacher, *valid], teacher, vocab, Path()).points
    numbers = {a: (count_parameters(a, vocab, positions), latency[a][0]) for a in latency}
    maximum = MaximumPoint(teacher, None, "", numbers[teacher][0], latency[teacher])
    search = run.search
    sizes = {arch: count_int8_bytes(arch, vocab, positions) / 1e6 for arch in valid}
    return Selection(
        {arch: numbers[arch] for arch in valid},
        build_scale(maximum, run),
        epsilon=search.epsilon,
        max_params=search.max_params,
        max_latency=search.max_latency_ms if is_exact else None,
        max_share=search.latency_share if is_exact else None,
        max_mb=search.max_mb,
        megabytes=sizes,
    )


def _describe_budget(run: SearchRunConfig) -> Iterator[str]:
    """Write the budget of a search; nothing where there is none."""
    unit = "operations" if run.latency.source == "analytic" else "ms"
    if run.search.has_budget:
        yield describe_budget(run.search, unit)
    elif (line := describe_default_budget(run.search, unit)) is not None:
        yield line


def _describe_bounds(run: SearchRunConfig, chosen: Selection) -> str:
    """Write between what W lies by its bounds, or why there is none."""
    if not run.has_w:
        return f"none: {NO_W[run.search.proxy]}"
    bounds = sorted(chosen.gibbs(xi) for xi in chosen.order)
    return f"W⁺ from {bounds[0]:.3f} to {bounds[-1]:.3f}; the proven worse are skipped"


def _shorten(amount: Amount, first: int, steps: int) -> Amount:
    """Return the work of the steps after the `first` ones, up to so many in all."""
    share, text = (steps - first) / amount.steps, amount.train
    train = Text(text.tokens * share, text.length, text.positions * share)
    return replace(amount, steps=steps - first, train=train)


def _count_trainings(
    run: SearchRunConfig, jobs: list[PretrainRunConfig], teacher: Arch, vocab: int, amount: Amount
) -> tuple[list[float], list[float]]:
    """Count the FLOPs of each candidate's n steps, and of every training that there may be.

    By successive halving, these are one to each rung, if all candidates go on to n.
    """

    def count(amount: Amount, held: Text) -> list[float]:
        return [count_candidate_flops(job, teacher, vocab, amount, held) for job in jobs]

    looked = replace(amount, val=expect_look(amount.val, run.data))
    if not run.search.halving:
        complete = count(looked, amount.val)
        return complete, complete
    looked = replace(looked, validations=0)
    legs = [_shorten(looked, *leg) for leg in list_legs(run.optim, run.search.n)]
    return count(looked, amount.val), [flops for leg in legs for flops in count(leg, amount.val)]


def show(run: SearchRunConfig, folder: Path) -> None:
    """Print the plan of a search: candidates, their bounds, and at most how much it all costs.

    Raises BortError for what the search itself would refuse before its first training.
    """
    check_trainer(run)
    RunFolder(folder).check_settings(run)
    check_latency(run, folder)
    run = foresee_precision(run, RunFolder(folder).precision)
    if run.fits_task:
        _show_task(run)
        return
    outlook = look_ahead(run)
    run = run.settle(outlook.has_head)
    search, data = run.search, run.data
    teacher, V = outlook.teacher, outlook.vocab
    if teacher is None:
        raise BortError(
            f"dry_run=true: the size of teacher.name={run.teacher.name} is not known without a "
            f"download; known are {', '.join(HUB_TEACHERS)} and local folders"
        )
    chosen = _select_candidates(run, teacher, V)
    held = count_held_sequences(data)
    jobs = [make_candidate_settings(replace(run, arch=xi), held) for xi in chosen.order]
    amount = measure_amount(jobs[0], outlook.corpus)
    complete, training = _count_trainings(run, jobs, teacher, V, amount)
    again = sorted(complete)[-search.finalists :] * (search.seeds - 1 + len(search.lrs))
    read = repeat_amount(amount, *count_student_readings(jobs[0].distill))
    passes = count_states_flops(teacher, read.train) * search.seeds
    passes += count_logits_flops(teacher, V, read.val)
    parts = [("trainings", sum(training)), ("finalists", sum(again)), ("teacher's passes", passes)]
    parts += list_teacher_parts(run, outlook)
    p = count_parameters(teacher, V, max(data.length, 512))
    logger.info(f"  T           {teacher}, {p:,} parameters (vocabulary {V:,})")
    _show_candidates(run, chosen, amount.train.tokens, [job.optim.lr for job in jobs])
    logger.info(f"  FLOPs       at most {format_flops(parts)}")
    unit = "tokens" if run.compares_states else "positions"
    states = getattr(amount.train, unit) * search.seeds + getattr(amount.val, unit)
    logger.info(
        f"  cache       {data_size(2 * states * teacher.hidden)} of teacher states in {folder}"
    )
    _show_costs(run, chosen, parts)
    show_missing(outlook, run)
    logger.info("dry_run=true: nothing was started")


def _show_task(run: TaskSearchConfig) -> None:
    """Print the plan of a search on a task; T answers nothing, and its passes are not counted."""
    examples = read_examples(run)
    shape = read_shape(hub.fetch_model(run.teacher.name))
    chosen = _select_candidates(run, shape.arch, shape.vocab_size)
    text, held = measure_training(run, examples), measure_text(make_batches(examples, "val"))
    flops = [count_task_flops(run, xi, text, held) for xi in chosen.order]
    search = run.search
    again = sorted(flops)[-search.finalists :] * (search.seeds - 1 + len(search.lrs))
    parts = [("trainings", sum(flops)), ("finalists", sum(again))]
    rates = [width_lr(xi.hidden, run.optim.lr, search.kappa) for xi in chosen.order]
    logger.info(f"  T           {shape.arch}, {run.teacher.name}")
    _show_candidates(run, chosen, text.tokens, rates)
    logger.info(f"  FLOPs       at most {format_flops(parts)}, without T's pass")
    _show_costs(run, chosen, parts)
    logger.info("dry_run=true: nothing was started")


def _show_candidates(
    run: SearchRunConfig, chosen: Selection, tokens: float, rates: list[float]
) -> None:
    """Print which candidates there are, and how each is trained: on so many tokens, at its rate."""
    valid, invalid = run.grid.points()
    logger.info(
        f"  candidates  {len(chosen.order)} of {len(valid) + len(invalid)} points: {len(invalid)} "
        f"without a whole head size, {len(chosen.excluded)} over the budget or not smaller than T"
    )
    for line in _describe_budget(run):
        logger.info(f"  budget      {line}")
    logger.info(f"  bounds      {_describe_bounds(run, chosen)}")
    logger.info(f"  n           {run.search.n:,} steps, {tokens:,.0f} tokens a candidate")
    logger.info(f"  precision   {describe_precision(run)}")
    logger.info(f"  rate        {min(rates):.3g} to {max(rates):.3g} at its peak, by width")


def _show_costs(run: SearchRunConfig, chosen: Selection, parts: list[tuple[str, float]]) -> None:
    """Print the disk, the timings and the hours of a search; parts: of its FLOPs, by name."""
    sizes = [chosen.points[xi][0] for xi in chosen.order]
    logger.info(f"  disk        at most {data_size(4 * sum(sizes))} of models")
    if run.latency.source not in ("analytic", "table"):
        shapes = run.latency.shapes
        count = shapes if run.latency.source == "fitted" else len(run.grid.points()[0]) + 1
        lengths = listed(map(str, run.latency.length_shares), 40)
        logger.info(
            f"  latency     {count} shapes timed at {lengths} tokens, in {run.latency.rounds} "
            "rounds first"
        )
    needed = describe_time(sum(work for _, work in parts), run)
    logger.info(f"  time        at most {needed}")
