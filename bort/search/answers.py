"""Three answers from the records of one search: within a budget, the knee, the paper's W."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from bort.config.search import DEFAULT_SHARE, STATES, TASK, SearchConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import COSINE, format_upper
from bort.search.fptas import (
    BY_ERROR,
    IF_CURVES,
    IF_MONOTONE,
    PROVEN,
    UNDECIDED,
    Selection,
    pareto,
)

WITHIN_BUDGET, KNEE, BY_W = "within_budget", "knee", "w_optimum"
TITLES = {
    WITHIN_BUDGET: "best within the budget",
    KNEE: "knee of the Pareto front",
    BY_W: "the paper's W",
}
FEW_POINTS = "the front of e against i has fewer than three points"
NO_BEND = "no point of the front of e against i lies below its chord"
NO_W = {  # by proxy
    STATES: "errors of final states have no W: T's own is 0, so that e(T)/e would be 0 for all",
    TASK: "errors on a task have no W, which weighs those at masked words",
}


@dataclass(frozen=True)
class Answer:
    """What is chosen by one aim: the best of the records, and how certain it is.

    key: `within_budget`, `knee` or `w_optimum`. xi: None where there is none, for the reason in
    `note`, which otherwise names the budget. certainty: `PROVEN`, `IF_MONOTONE`, `IF_CURVES` or
    `UNDECIDED`.
    parameters: p; latency: i, in the search's unit; mb: megabytes of the int8 file of embeddings
    and layers, None where the vocabulary is not known; error: e, nats per token; w: W by the
    weights of the search. regret: no candidate within the budget has an error lower by more than
    this, in nats; or none has a W larger by more; None for the knee. unit: of an error, behind its
    number.
    """

    key: str
    xi: Arch | None = None
    certainty: str = UNDECIDED
    parameters: float | None = None
    latency: float | None = None
    mb: float | None = None
    error: float | None = None
    w: float | None = None
    regret: float | None = None
    note: str = ""
    unit: str = " nats"

    NUMBERS = ("parameters", "latency", "mb", "error", "w", "regret")

    @property
    def title(self) -> str:
        """What the answer is called on the screen and on pages."""
        return TITLES[self.key]

    @property
    def doubt(self) -> str:
        """How certain the answer is, and by how much another candidate could be better."""
        if self.xi is None:
            return ""
        if self.certainty == PROVEN or self.regret is None:
            return self.certainty
        regret = format_upper(self.regret)
        if self.key == BY_W:
            return f"{self.certainty}; proven: no W is larger by more than {regret}"
        return f"{self.certainty}; proven: no error is lower by more than {regret}{self.unit}"

    @classmethod
    def from_json(cls, content: Mapping[str, Any], key: str) -> Self | None:
        """Read it out of the flat summary; None where an older search has not written it."""
        if f"{key}_certainty" not in content:
            return None
        numbers = {name: content[f"{key}_{name}"] for name in cls.NUMBERS}
        xi = None if content[key] is None else Arch.from_json(content[key])
        words = {"note": content[f"{key}_note"], "unit": name_unit(content.get("proxy"))}
        return cls(key, xi, content[f"{key}_certainty"], **numbers, **words)

    def to_json(self) -> dict[str, Any]:
        """Give its part of the flat summary."""
        names = {"certainty": self.certainty, "note": self.note}
        names["name"] = None if self.xi is None else str(self.xi)
        names |= {name: getattr(self, name) for name in self.NUMBERS}
        content = {f"{self.key}_{name}": value for name, value in names.items()}
        return {self.key: None if self.xi is None else self.xi.to_json()} | content


def name_unit(proxy: str | None) -> str:
    """Name the unit of an error, behind its number: nats, or none of final states."""
    return "" if proxy == STATES else " nats"


def choose_answers(
    chosen: Selection,
    by_error: Selection | None,
    by_w: Selection | None,
    budget: str,
    no_w: str = "",
) -> list[Answer]:
    """Choose by all three aims from the same errors.

    chosen: the candidates of the search, whose front has the knee. by_error: those within the
    budget, by error alone; None where no point of the grid is within it. by_w: those among which W
    chooses; None where errors have no W, for the reason `no_w`. budget: the budget in words.
    """
    if by_error is None:
        best = Answer(WITHIN_BUDGET, note=f"no candidate is within {budget}")
    elif by_error.best is None:
        best = Answer(WITHIN_BUDGET, note=f"no candidate within {budget} has an error")
    else:
        best = _describe_best(WITHIN_BUDGET, by_error, by_w, f"within {budget}")
    last = Answer(BY_W, note=no_w) if by_w is None else _describe_best(BY_W, by_w, by_w, "")
    return [best, _choose_knee(chosen, by_w), last]


def answer_by_all_aims(
    selection: Selection, share: float = DEFAULT_SHARE, unit: str = ""
) -> list[Answer]:
    """Choose by all three aims from the errors of a selection: within a budget, the knee, by W.

    share: the budget, a share of T's latency. unit: of latency, `ms` or `operations`. W has the
    exponents of the selection, those of the paper where it weighs the error alone.
    """
    by_w = selection
    if selection.scale.exponents == BY_ERROR:
        by_w = selection.weigh_by(replace(selection.scale, exponents=(1.0, 1.0, 1.0)))
    by_error = seek_lowest_error(selection, share)
    return choose_answers(selection, by_error, by_w, describe_share(share, unit))


def seek_lowest_error(selection: Selection, share: float) -> Selection | None:
    """Select by error alone what has at most this share of T's latency, from the same errors.

    None where no candidate has.
    """
    share = min(share, selection.max_share or 1.0)
    scale, empty = replace(selection.scale, exponents=BY_ERROR), {"errors": {}, "violations": []}
    empty |= {"failed": {}, "diverged": {}}
    try:
        narrowed = replace(selection, scale=scale, epsilon=1, max_share=share, **empty)
    except BortError:
        return None
    for xi in narrowed.order:
        if xi in selection.errors:
            narrowed.tell(xi, selection.errors[xi])
        elif xi in selection.failed or xi in selection.diverged:
            reasons = selection.failed | selection.diverged
            narrowed.fail(xi, reasons[xi], diverged=xi in selection.diverged)
    return narrowed


def _describe_best(key: str, selection: Selection, by_w: Selection | None, note: str) -> Answer:
    """Describe the best candidate of a selection by its own aim."""
    numbers = _list_numbers(selection.best, selection, by_w)
    if key == BY_W:
        regret = selection.certify().regret_proven
    else:  # a candidate of unknown error can have T's entropy
        regret = max(0.0, numbers["error"] - selection.scale.e) if selection.rivals else 0.0
    unit = name_unit(STATES if selection.scale.error == COSINE else None)
    words = {"note": note, "unit": unit}
    return Answer(key, selection.best, selection.certainty, **numbers, regret=regret, **words)


def _list_numbers(
    xi: Arch, selection: Selection, by_w: Selection | None
) -> dict[str, float | None]:
    """List the numbers of a trained candidate, as fields of an `Answer`."""
    p, i = selection.points[xi]
    w = by_w.w_coefficient(xi) if by_w is not None and xi in by_w.errors else None
    mb = selection.megabytes.get(xi)
    return {"parameters": p, "latency": i, "mb": mb, "error": selection.errors[xi], "w": w}


def _choose_knee(chosen: Selection, by_w: Selection | None) -> Answer:
    """Choose the knee of the trained candidates' front of e against i."""
    errors = chosen.errors
    trained = {xi: (chosen.points[xi][1], e) for xi, e in errors.items()}
    front = find_front_points(chosen, trained)
    knee = find_knee({xi: trained[xi] for xi in front})
    if knee is None:
        return Answer(KNEE, note=FEW_POINTS if len(front) < 3 else NO_BEND)
    certainty = _judge_front(chosen, trained)
    return Answer(KNEE, knee, certainty, **_list_numbers(knee, chosen, by_w))


def find_front_points(chosen: Selection, trained: Mapping[Arch, tuple[float, float]]) -> list[Arch]:
    """Find the front of these numbers; of equal points the first in order of (p, i, ξ) stays."""
    first = {}
    for xi in sorted(pareto(trained), key=lambda xi: (*chosen.points[xi], xi)):
        first.setdefault(trained[xi], xi)
    return list(first.values())


def _judge_front(chosen: Selection, trained: Mapping[Arch, tuple[float, float]]) -> str:
    """Say how certain it is that no candidate of unknown error would change the front.

    Each can have T's entropy, or if errors are monotone the largest error of the trained ones that
    it is a shrunk form of, or if curves do not cross, of those that it was far behind of.
    """

    def is_open(xi: Arch, least: float) -> bool:
        i = chosen.points[xi][1]
        return not any(x <= i and e <= least for x, e in trained.values())

    if not any(is_open(xi, chosen.scale.e) for xi in chosen.unknown):
        return PROVEN
    if not chosen.violations and not any(
        is_open(xi, chosen.find_least_error(xi)) for xi in chosen.unknown
    ):
        return IF_MONOTONE
    least = {} if chosen.curves is None else chosen.curves.find_least_errors()
    is_decided = not any(
        is_open(xi, max(least.get(xi, 0.0), chosen.scale.e)) for xi in chosen.unknown
    )
    return IF_CURVES if is_decided else UNDECIDED


def find_knee(front: Mapping[Arch, tuple[float, float]]) -> Arch | None:
    """Find the knee of a front ξ → (i, e): the point that lies farthest below its chord.

    Both axes are scaled to 0 … 1 over the front, and the chord joins its ends, (0, 1) and (1, 0).
    None where there are fewer than three points, or where none lies below the chord. Of equal
    distances the smaller latency wins.
    """
    if len(front) < 3:
        return None
    latencies, errors = zip(*front.values(), strict=True)
    low, high = (min(latencies), min(errors)), (max(latencies), max(errors))

    def measure_distance(xi: Arch) -> float:
        """Measure how far ξ lies below the chord, times √2."""
        scaled = [(x - a) / (b - a) for x, a, b in zip(front[xi], low, high, strict=True)]
        return 1 - sum(scaled)

    knee = min(front, key=lambda xi: (-round(measure_distance(xi), 12), *front[xi], xi))
    return knee if measure_distance(knee) > 1e-9 else None


# ------------------------------------------------------------------------------------ in words


def describe_budget(search: SearchConfig, unit: str) -> str:
    """Write the budget of a search in words, also the one that counts where none was given.

    unit: of latency, `ms` or operations.
    """
    share = search.max_latency_share if search.has_budget else DEFAULT_SHARE
    parts = []
    if search.max_params is not None:
        parts.append(f"{search.max_params:,} parameters")
    if search.max_latency_ms is not None:
        parts.append(f"{search.max_latency_ms:g} ms")
    if search.max_mb is not None:
        parts.append(f"{search.max_mb:g} MB in int8")
    if share is not None:
        parts.append(describe_share(share, unit))
    return " and ".join(parts)


def describe_share(share: float, unit: str) -> str:
    """Write a share of T's latency in words."""
    return f"{100 * share:g}% of T's {'operations' if unit == 'operations' else 'latency'}"


def describe_default_budget(search: SearchConfig, unit: str) -> str | None:
    """Say which budget counts because none was given; None where one was, or where none counts."""
    if search.has_budget or search.latency_share is None:
        return None
    return (
        f"no budget was given: candidates have at most {describe_share(DEFAULT_SHARE, unit)} "
        f"(search.max_latency_share={DEFAULT_SHARE:g})"
    )


def describe_answers(answers: list[Answer], unit: str) -> Iterator[str]:
    """Write the three answers, a line each."""
    yield "three answers from the same records"
    width = max(map(len, TITLES.values()))
    for answer in answers:
        if answer.xi is None:
            yield f"  {answer.title:<{width}}  none: {answer.note}"
            continue
        numbers = "  ".join(format_numbers(answer, unit))
        note = f" ({answer.note})" if answer.note else ""
        yield f"  {answer.title:<{width}}  {answer.xi}  {numbers}  {answer.doubt}{note}"


def format_numbers(answer: Answer, unit: str) -> list[str]:
    """Write e, W, parameters, size and latency of an answer with a ξ."""
    cells = [f"e {answer.error:.3f}"]
    cells.append("W –" if answer.w is None else f"W {answer.w:.4f}")
    cells.append(f"{answer.parameters:,.0f} parameters")
    if answer.mb is not None:
        cells.append(f"{answer.mb:.3g} MB")
    cells.append(describe_latency(answer.latency, unit))
    return cells


def describe_latency(value: float, unit: str) -> str:
    """Write a latency in milliseconds, operations in millions, or a number of unknown unit."""
    if unit == "operations":
        return f"{value / 1e6:,.1f} MFLOP"
    return f"{value:.2f} ms" if unit == "ms" else f"latency {value:,.4g}"
