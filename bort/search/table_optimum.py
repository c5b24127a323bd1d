"""`python -m bort.search candidates.csv`: the optimum of a table, with numbers of your own."""

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bort.config.command_line import FREE, explained
from bort.config.search import DEFAULT_SHARE, check_exponents
from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import ERRORS, Scale, format_upper
from bort.search.answers import Answer, answer_by_all_aims, describe_answers
from bort.search.fptas import BY_ERROR, OBJECTIVES, UNDECIDED, Selection

NUMBERS = ("parameters", "latency", "error")  # columns of a table
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
    # the budget of the first of the three answers: the largest share of T's latency
    max_latency_share: float = field(
        default=DEFAULT_SHARE, metadata=explained("is no number; 0.25 is a quarter of T's latency")
    )

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
        if not 0 < self.max_latency_share <= 1:
            raise BortError(
                f"max_latency_share={self.max_latency_share} must be above 0 and at most 1"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """The exponents α, β and γ of W."""
        if self.objective == "error" and self.exponents is None:
            return BY_ERROR
        try:
            return tuple(float(text) for text in (self.exponents or "1,1,1").split(","))
        except ValueError as error:
            raise BortError(f"exponents= and epsilon= take numbers: {error}") from None


# ---------------------------------------------------------------------------------- the table


@dataclass
class CandidateTable:
    """Candidates of a CSV, what is known of their errors, and T's numbers."""

    points: dict[Arch, tuple[float, float]] = field(default_factory=dict)
    errors: dict[Arch, float] = field(default_factory=dict)
    diverged: set[Arch] = field(default_factory=set)
    scale: Scale | None = None


def read_candidates(path: Path) -> CandidateTable:
    """Read the table of a CSV file. Raises BortError with the line's number.

    Columns depth, heads, hidden, intermediate, parameters, latency, error, status; the row of T has
    the status `teacher`. A search's candidates.csv is one. An error may be missing: it is unknown,
    but for a candidate with the status `diverged`.
    """
    if not path.is_file():
        raise BortError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    table, lines = CandidateTable(), {}
    rows = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    try:
        columns = rows.fieldnames or []
        if missing := [c for c in (*Arch.KEYS, *NUMBERS, "status") if c not in columns]:
            header = ", ".join(columns)[:60] or "nothing"
            raise BortError(f"{path} has no column {missing[0]}; found {header}")
        for row in rows:
            if row["status"] != "invalid":  # heads that do not divide the width: no numbers
                with _name_line(path, rows.line_num):
                    lines[_add_row(table, row)] = rows.line_num
    except csv.Error as error:
        raise BortError(f"{path} is no table: {error}") from None
    if table.scale is None:
        raise BortError(f"{path} has no row with the status teacher, the maximum point")
    if not table.points:
        raise BortError(f"{path} has no candidates, only the row of the teacher")
    for xi, e in table.errors.items():
        with _name_line(path, lines[xi]):
            table.scale.compute_quality(e)  # it raises for an error that no candidate can have
    return table


def _read_text(path: Path) -> str:
    """Read a text file; raises BortError for one that is no text."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BortError(f"{path} is no text in UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise BortError(f"{path} is no text: it holds a zero byte")
    return text


@contextmanager
def _name_line(path: Path, number: int) -> Iterator[None]:
    """Put the line's number in front of what a BortError says."""
    try:
        yield
    except BortError as error:
        raise BortError(f"{path} line {number}: {error}") from None


def _add_row(table: CandidateTable, row: dict[str, str | None]) -> Arch | None:
    """Put a row into the table; returns its ξ, None for T's."""
    try:
        xi = Arch.from_table(row)
    except ValueError:
        sizes = ",".join(str(row[column]) for column in Arch.KEYS)
        raise BortError(f"{sizes} are not four whole numbers") from None
    if min(xi.to_json()) < 1:
        raise BortError(f"{xi} has a size below 1")
    cell = (row["error"] or "").strip()
    if row["status"] == "teacher" and cell in ("0", "0.0"):
        raise BortError(
            f"error={cell} must be a number above 0; a search by final states or on labels has no "
            "W, and its answers are in its summary.json"
        )
    p, i, e = (_parse_positive(row, column) for column in NUMBERS)
    if p is None or i is None:
        raise BortError(f"{xi} needs parameters and latency")
    if row["status"] == "teacher":
        if table.scale is not None:
            raise BortError("a second row has the status teacher")
        if e is None:
            raise BortError("the teacher needs an error, the entropy of its own output")
        table.scale = Scale(p, i, e)
        return None
    if xi in table.points:
        raise BortError(f"{xi} stands in the table twice")
    table.points[xi] = (p, i)
    if row["status"] == "diverged":
        table.diverged.add(xi)
    elif e is not None:
        table.errors[xi] = e
    return xi


def _parse_positive(row: dict[str, str | None], column: str) -> float | None:
    """Parse the number of a cell, None for an empty one; raises BortError for one not above 0."""
    if not (cell := (row[column] or "").strip()):
        return None
    try:
        value = float(cell)
    except ValueError as error:
        raise BortError(f"{str(error)[:80]} ({column})") from None
    if not 0 < value < math.inf:
        raise BortError(f"{column}={cell[:40]} must be a number above 0")
    return value


# ---------------------------------------------------------------------------------- its optimum


def main(settings: TableConfig) -> None:
    """Print the optimum of the table."""
    table = read_candidates(Path(settings.table))
    scale = replace(table.scale, exponents=settings.weights, error=settings.error)
    search = search_table(table, scale, settings.epsilon)
    answers = answer_by_all_aims(take_all_errors(table, scale), settings.max_latency_share)
    show(search, table, answers)


def take_all_errors(table: CandidateTable, scale: Scale) -> Selection:
    """Select with all errors of the table, also those that a search would not look at."""
    selection = Selection(table.points, scale)
    for xi in selection.order:
        if xi in table.errors:
            selection.tell(xi, table.errors[xi])
        elif xi in table.diverged:
            selection.fail(xi, "diverged", diverged=True)
    return selection


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


def show(search: Selection, table: CandidateTable, answers: list[Answer]) -> None:
    """Print the best ten, the three answers, the counts, and what is proven."""
    certificate = search.certify()
    for xi in sorted(search.errors, key=search.rank)[:10]:
        p, i = search.points[xi]
        e = search.errors[xi]
        print(f"{xi:>20}  W {search.w_coefficient(xi):.4f}  p {p:,.0f}  i {i:,.4g}  e {e:.4f}")
    for line in describe_answers(answers, unit=""):
        print(line)
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
