"""What a search has found, as summary.json and candidates.csv hold it, and in words."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from bort.config.search import STATES, TASK, WORDS, SearchRunConfig
from bort.config.trainer import FLOAT32
from bort.console import clock
from bort.models.arch import Arch
from bort.objectives.coefficient import format_upper
from bort.runs.summary import NEAR
from bort.search.answers import BY_W, KNEE, WITHIN_BUDGET, Answer, name_unit
from bort.search.fptas import IF_CURVES, IF_MONOTONE
from bort.trials.plan import SearchPlan

NEAR_CONSTANT = 0.25  # as a share of what T's own error is below that of a constant
FAITHFUL = 0.8  # Kendall's τ from which on an earlier step ranks much as the last one does
# What has the error `unigram_error` without reading a text, and what the errors are at, by proxy.
BASELINES = {
    WORDS: "word frequencies",
    STATES: "one constant state",
    TASK: "one constant answer",
}
MEASURED_AT = {WORDS: "masked positions", STATES: "tokens", TASK: "held-out rows"}


@dataclass(frozen=True)
class CandidateRow:
    """A row of candidates.csv: a point of the grid, or T. Intervals are of 95%.

    status: as in `Certificate`, or `teacher`, or `invalid` for a point without a whole head size,
    of which nothing else is known. w_bound: W⁺, which no W of it can exceed. mb: megabytes of its
    int8 file. lr: the peak rate of the training that counts, and seconds its duration.
    """

    xi: Arch
    parameters: int | None = None
    latency: float | None = None
    error: float | None = None
    status: str = ""
    w: float | None = None
    w_low: float | None = None
    w_high: float | None = None
    w_bound: float | None = None
    mb: float | None = None
    lr: float | None = None
    seconds: float | None = None
    reason: str | None = ""

    def to_table(self) -> dict[str, Any]:
        """Give the cells of the row by their columns."""
        cells = asdict(self)
        del cells["xi"]
        return self.xi.to_table() | cells


@dataclass(frozen=True)
class Horizon:
    """What a search would know after a part of its n steps, from the errors at an earlier one.

    label: `quarter` or `half`; ahead: which of the trained candidates is ahead by W; winner: which
    wins when what was not trained could not; tau: Kendall's τ between the rankings by error then
    and at n, None where it is not defined. positions: at how many masked positions the errors then
    were measured, None where at all that decide the error.
    """

    label: str
    step: int
    ahead: str
    winner: str
    tau: float | None
    positions: int | None = None

    @classmethod
    def from_json(cls, content: dict[str, Any], label: str) -> Self | None:
        """Read it out of the flat summary; None where this part of the steps was not compared."""
        if f"step_at_{label}" not in content:
            return None
        names = ("step", "ahead", "winner", "tau", "positions")
        return cls(label, *(content.get(f"{name}_at_{label}") for name in names))

    def to_json(self) -> dict[str, Any]:
        """Give its part of the flat summary."""
        values = {"step": self.step, "ahead": self.ahead, "winner": self.winner}
        further = {"tau": self.tau, "positions": self.positions}
        values |= {key: value for key, value in further.items() if value is not None}
        return {f"{name}_at_{self.label}": value for name, value in values.items()}


@dataclass(frozen=True)
class SearchResult:
    """The summary of a search; the certificate counts in W at this n, seed and data.

    optimum: the trained candidate with the largest W, with w_interval from a paired bootstrap over
    documents. regret_bound: no candidate left out is better by more than this;
    regret_bound_monotone: the same if errors are monotone in size, None when trained pairs
    contradict it; regret_bound_curves: the same if later curves do not cross by more than δ, None
    where that was not measured; crossings: δ at each of `rungs`, in nats; dropped: candidates that
    were trained to one of these alone, and shortened: how many trainings ended there.
    ties: candidates that
    another sample of text, other seeds or noise in the latencies could put first; seed_spread: the
    standard deviation of W over seeds. by_error, by_ratio, by_perplexity: what other aims would
    choose, None where there is no W; control_bound, control_size: what would be chosen without
    training most of them. pareto: trained candidates that none beats in p, i and e. train_flops: of
    the whole search, beside exhaustive_flops, of training them all; finalist_flops: of the further
    trainings of finalists.
    budget: the one of `within_budget` in words; answers: the best by each of three aims, empty
    where an older search has not written them.
    """

    optimum: Arch
    objective: str
    quality: str
    w: float
    w_interval: list[float]
    candidates: int
    invalid: int
    trained: int
    pruned: int
    assumed: int
    skipped: int
    excluded: int
    failed: int
    diverged: int
    regret_bound: float
    regret_bound_monotone: float | None
    contradictions: int
    error: float
    teacher_error: float
    unigram_error: float
    on_border: list[str]
    smallest: bool
    ties: list[str]
    seed_spread: float | None
    further_trainings: int
    further_failed: int
    by_error: str
    by_ratio: str | None
    by_perplexity: str | None
    control_bound: str | None
    control_size: str | None
    pareto: list[str]
    pareto_undecided: list[str]
    n: int
    parameters: int
    latency: float
    latency_unit: str
    latency_note: str
    positions: int
    documents: int
    trainings: int
    teacher_batches: int
    train_flops: float
    exhaustive_flops: float
    finalist_flops: float
    seconds: float
    seed: int
    precision: str = FLOAT32  # of the trainings; older summaries do not name it
    dropped: int = 0  # here and below: what a search by halving has, and older ones have not
    regret_bound_curves: float | None = None
    rungs: list[int] = field(default_factory=list)
    crossings: list[float | None] = field(default_factory=list)
    shortened: int = 0
    budget: str = ""
    proxy: str = WORDS  # what the errors are of; older summaries do not name it
    horizons: list[Horizon] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def criterion(self) -> str:
        """What the winner has most of: W, or the quality of its error alone."""
        return "W" if self.objective == "w" else self.quality

    @property
    def optimum_name(self) -> str:
        """The optimum as ⟨D,A,H,I⟩."""
        return str(self.optimum)

    @property
    def baseline(self) -> str:
        """What has the error `unigram_error`, without reading the text."""
        return BASELINES[self.proxy]

    @property
    def has_w(self) -> bool:
        """Whether W can weigh the errors."""
        return self.proxy == WORDS

    @property
    def error_name(self) -> str:
        """What an error is, in words."""
        return "error, 1 − cosine of states" if self.proxy == STATES else "error in nats"

    @property
    def near(self) -> float:
        """How far below that of the baseline an error has to be, or n was too short."""
        reach = self.unigram_error - self.teacher_error
        return NEAR if self.has_w else NEAR_CONSTANT * reach

    @property
    def below_unigram(self) -> float:
        """By how much the error of the optimum is lower than that of the baseline."""
        return self.unigram_error - self.error

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a search's summary.json; raises KeyError for one that lacks a value."""
        horizons = [Horizon.from_json(content, label) for label in ("quarter", "half")]
        plain = {item.name: content[item.name] for item in fields(cls) if item.name in content}
        later = {"horizons", "precision", "budget", "proxy", "answers"}
        later |= {"dropped", "regret_bound_curves", "rungs", "crossings", "shortened"}
        missing = {item.name for item in fields(cls)} - plain.keys() - later
        if missing:
            raise KeyError(*sorted(missing))
        plain["optimum"] = Arch.from_json(content["optimum"])
        answers = [Answer.from_json(content, key) for key in (WITHIN_BUDGET, KNEE, BY_W)]
        further = {"horizons": horizons, "answers": answers}
        return cls(**plain, **{key: list(filter(None, items)) for key, items in further.items()})

    def to_json(self) -> dict[str, Any]:
        """Give the content of summary.json, which is flat."""
        content = asdict(self) | {"optimum": self.optimum.to_json()}
        content |= {"optimum_name": self.optimum_name, "below_unigram": self.below_unigram}
        for part in ("horizons", "answers"):
            del content[part]
        for item in (*self.horizons, *self.answers):
            content |= item.to_json()
        return content


@dataclass(frozen=True)
class Conclusion:
    """All that a page or a logger shows of a search.

    rows: those of candidates.csv; plots: title → plotly figure.
    """

    run: SearchRunConfig
    plan: SearchPlan
    rows: list[CandidateRow]
    result: SearchResult
    plots: dict[str, Any]


# ------------------------------------------------------------------------------- in words


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
