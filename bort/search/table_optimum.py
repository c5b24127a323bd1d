"""`python -m bort.search candidates.csv`: the optimum of a table, with numbers of your own."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from bort.config.command_line import FREE, explained
from bort.config.search import check_exponents
from bort.errors import BortError
from bort.search.candidate_table import CandidateTable, read_candidates
from bort.search.coefficient import ERRORS, Scale, format_upper
from bort.search.fptas import BY_ERROR, OBJECTIVES, UNDECIDED, Selection

NO_NUMBER = "is no whole number; exponents= and epsilon= take numbers"


@dataclass
class TableConfig:
    """The optimum of a table of candidates, by other exponents, another ε or another error.

    python -m bort.search candidates.csv exponents=1,2,1 epsilon=4

    The table has the columns of the candidates.csv that a search leaves: depth, heads, hidden,
    intermediate, parameters, latency, error and status.
    """

    table: str | None = field(default=None, metadata=FREE)  # a CSV file
    exponents: str | None = None  # α,β,γ: the weights of the factors of W; 1,1,1 if not given
    # every ε-th candidate of the order by parameters and latency is looked at; 1 is all of them
    epsilon: int = field(default=1, metadata=explained(NO_NUMBER))
    error: str = "ratio"  # e(T) / e, or perplexity: exp(-KL) in its place
    objective: str = "w"  # the W-coefficient, or error: the lowest error alone

    def __post_init__(self) -> None:
        if self.table is None:
            raise BortError(
                "usage: python -m bort.search candidates.csv [exponents=1,1,1] [epsilon=1]"
            )
        check_exponents("exponents", self.weights)
        if self.error not in ERRORS:
            raise BortError(f"error={self.error} is unknown; use {' or '.join(ERRORS)}")
        if self.objective not in OBJECTIVES:
            raise BortError(f"objective={self.objective} is unknown; use w or error")
        if self.objective == "error" and self.exponents is not None:
            raise BortError("objective=error has no exponents; leave exponents= or objective= out")

    @property
    def weights(self) -> tuple[float, ...]:
        """The exponents α, β and γ of W."""
        if self.objective == "error" and self.exponents is None:
            return BY_ERROR
        try:
            return tuple(float(text) for text in (self.exponents or "1,1,1").split(","))
        except ValueError as error:
            raise BortError(f"exponents= and epsilon= take numbers: {error}") from None


def main(settings: TableConfig) -> None:
    """Print the optimum of the table."""
    table = read_candidates(Path(settings.table))
    scale = replace(table.scale, exponents=settings.weights, error=settings.error)
    show(search_table(table, scale, settings.epsilon), table)


def search_table(table: CandidateTable, scale: Scale, epsilon: int) -> Selection:
    """Search through the table, which answers what a search would train; all else stays unknown."""
    search = Selection(table.points, scale, epsilon)
    while batch := search.ask():
        for xi in batch:
            if xi in table.errors:
                search.tell(xi, table.errors[xi])
            else:
                search.fail(xi, "no error in the table", diverged=xi in table.diverged)
    if search.best is None:
        raise BortError(f"none of the {len(search.failed)} candidates tried has an error there")
    search.failed.clear()  # nobody has tried them: they count as skipped
    return search


def show(search: Selection, table: CandidateTable) -> None:
    """Print the best ten, the counts, and what is proven."""
    certificate = search.certify()
    for xi in sorted(search.errors, key=search.rank)[:10]:
        p, i = search.points[xi]
        e = search.errors[xi]
        print(f"{xi:>20}  W {search.w_coefficient(xi):.4f}  p {p:,.0f}  i {i:,.4g}  e {e:.4f}")
    counts = {
        status: certificate.count(status) for status in sorted({*certificate.status.values()})
    }
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    regret = f"regret at most {format_upper(certificate.regret_proven)} (proven)"
    if missing := [xi for xi in search.rivals if xi not in table.errors]:
        print(f"{len(missing)} that could still win have no error in the table")
        print(f"{UNDECIDED}; the best of them {search.best}, {regret}")
    else:
        print(f"optimum {search.best}, {regret}")
