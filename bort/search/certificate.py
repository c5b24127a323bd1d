"""The certificate of a search in words: what is proven, what is assumed, and what to doubt."""

from collections.abc import Iterator

from bort.config.search import STATES, TASK
from bort.console import clock
from bort.objectives.coefficient import format_upper
from bort.runs.summary import NEAR
from bort.search.answers import name_unit
from bort.search.fptas import IF_CURVES, IF_MONOTONE
from bort.search.result import Horizon, SearchResult

FAITHFUL = 0.8  # Kendall's τ from which on an earlier step ranks much as the last one does


def describe_certificate(result: SearchResult) -> Iterator[str]:
    """What is proven, what is assumed, and what to doubt; a sentence each."""
    counts = [f"{result.trained} trained", f"{result.pruned} pruned by proof"]
    for count, words in (
        (result.assumed, f"left out {IF_MONOTONE}"),
        (result.dropped, f"dropped {IF_CURVES}"),
        (result.skipped, "skipped by ε"),
        (result.failed - result.diverged, "failed"),
        (result.diverged, "diverged (no model, so W = 0)"),
        (result.excluded, "excluded (budgets, or not smaller than T)"),
        (result.invalid, "without a whole head size"),
    ):
        if count:
            counts.append(f"{count} {words}")
    yield f"search: of {result.candidates + result.invalid} points: {', '.join(counts)}"
    yield from describe_proof(result)
    if result.ties:
        yield f"ties with the winner within noise: {', '.join(result.ties)}"
    if result.further_failed:
        yield (
            f"note: {result.further_failed} trainings of finalists with other seeds or rates "
            f"failed; {result.further_trainings} ended well"
        )
    share = result.train_flops / result.exhaustive_flops
    passes = f"ran over {result.teacher_batches:,} batches"
    if result.proxy == TASK:
        passes = "answered each row once"
    yield (
        f"cost: {result.train_flops:.2e} FLOPs, {share:.0%} of an exhaustive search's; T {passes}; "
        f"{clock(result.seconds)} if done one by one"
    )
    yield from find_doubts(result)


def describe_proof(result: SearchResult) -> Iterator[str]:
    """How much better a candidate could be that was left out: not trained, or failed."""
    by_error = result.objective == "error"
    aim = f"an {result.quality} larger" if by_error else "a W larger"
    if result.proxy == STATES:  # 1 − e falls by as much as e rises
        aim = "an error lower"
    regret, weaker = result.regret_bound, result.regret_bound_monotone
    timed = " and with these latencies" if result.latency_unit == "ms" else ""
    if regret == 0:
        better = "a lower error" if by_error else "a larger W"
        yield f"proven: no candidate left out has {better} at this n, seed and data{timed}"
        return
    failed = "; what failed counts with its bound" if result.failed else ""
    bound = format_upper(regret)
    yield f"proven: no candidate left out has {aim} by more than {bound}{timed}{failed}"
    if weaker is None:
        yield (
            f"errors are not monotone here ({result.contradictions} trained pairs "
            "contradict it beyond chance)"
        )
    else:
        yield f"{IF_MONOTONE}: by no more than {format_upper(weaker)}"
    yield from describe_crossings(result)


def describe_crossings(result: SearchResult) -> Iterator[str]:
    """How much better a candidate could be that was dropped, if curves cross as they did."""
    if not result.rungs:
        return
    if result.regret_bound_curves is None:
        yield f"too few candidates were trained to n to measure δ: not decided {IF_CURVES}"
        return
    yield f"{IF_CURVES}: by no more than {format_upper(result.regret_bound_curves)}"
    unit = name_unit(result.proxy)
    measured = [
        f"{delta:.3f}{unit} after {steps:,} steps"
        for steps, delta in zip(result.rungs, result.crossings, strict=True)
        if delta is not None
    ]
    yield f"δ, measured on the {result.trained} trained to n: {', '.join(measured)}"


def find_doubts(result: SearchResult) -> Iterator[str]:
    """Reasons not to trust the choice: near the unigram model, on the border, a short n."""
    best, by_error = result.optimum_name, result.objective == "error"
    yield from _doubt_baseline(result)
    reach = result.unigram_error - result.teacher_error
    if reach < NEAR and result.has_w:
        yield (
            f"doubt: T's own output is {reach:.2f} nats from word frequencies: no candidate can "
            "show more; train T longer"
        )
    if result.smallest:
        weigh = result.quality == "e(T)/e" and not by_error
        hint = "; search.error=perplexity weighs errors more" if weigh else ""
        yield (
            "doubt: the winner is the smallest candidate: the grid has nothing below it, or "
            f"search.n is too short{hint}"
        )
    if result.on_border:
        sides = " and ".join(result.on_border)
        yield f"doubt: the grid may be too narrow: the winner has its {sides}"
    yield from _doubt_horizons(result)
    if result.control_bound == best:
        yield "note: arg max W⁺, without any training, chooses the same"
    if result.control_size == best:
        yield "note: an error fitted on the number of parameters leads to the same choice"


def _doubt_baseline(result: SearchResult) -> Iterator[str]:
    """Say when the winner is hardly better than what does not read the text."""
    below, unit = result.below_unigram, name_unit(result.proxy)
    if below < result.near:
        where = f"only {below:.2f}{unit} below" if below >= 0 else f"{-below:.2f}{unit} above"
        only = "" if result.objective == "error" else ", and W can only choose the smallest"
        yield (
            f"doubt: the winner is {where} {result.baseline}: n is too short{only}; raise search.n"
        )


def describe_look(horizon: Horizon, result: SearchResult) -> str:
    """Say at how many positions the errors of an earlier step were measured, if not at all."""
    if horizon.positions is None:
        return ""
    return f" (at {horizon.positions:,} of {result.positions:,} positions)"


def _doubt_horizons(result: SearchResult) -> Iterator[str]:
    """Say when the errors at an earlier step would have led to another choice or ranking."""
    for horizon in result.horizons:
        if horizon.label == "half" and horizon.ahead != result.optimum_name:
            step = f"{horizon.step:,} of {result.n:,} steps{describe_look(horizon, result)}"
            yield f"doubt: after {step} {horizon.ahead} was ahead of the winner"
    for horizon in reversed(result.horizons):  # one line is enough, of the later step
        if horizon.tau is not None and horizon.tau < FAITHFUL:
            look = describe_look(horizon, result)
            yield (
                f"doubt: after {horizon.step:,} of {result.n:,} steps{look} the errors ranked the "
                f"candidates otherwise than at the end (Kendall's τ {horizon.tau:.2f}): the "
                "ranking may change with a larger search.n"
            )
            return
