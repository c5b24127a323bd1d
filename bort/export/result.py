"""What the checks of an export found: the content of export.json beside the names of its files."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class ExportResult:
    """How an exported folder differs from the model that it was made of."""

    format: str
    largest_difference: float  # of a logit
    agreement: float | None = None  # of int8: the share of the compared answers that are equal
    error: float | None = None  # of numbers instead: root mean square difference / their spread
    spread: float | None = None  # of numbers: the standard deviation of the float32 answers
    compared: int | None = None  # how many answers of int8 were compared
    answers: str | None = None  # what they are answers to
    float32: list[str] | None = None  # the matrices that int8 leaves as they are
    scores: dict[str, float | None] | None = None  # `before/METRIC`, `after/METRIC` of the task
    parameters: int | None = None  # of the model in PyTorch, biases, norms and head included
    cosine: float | None = None  # of embeddings instead: the mean cosine with those in float32
    task: str | None = None  # what the model was fine-tuned on
    columns: list[str] | None = None  # of a table, which hold the texts of that task
    labels: list[str] | None = None  # and which hold its labels

    def to_json(self) -> dict[str, Any]:
        """The result as export.json holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Make a result of what export.json holds, which says more than this."""
        return cls(**{item.name: record.get(item.name) for item in fields(cls)})

    def describe_agreement(self) -> str:
        """Say what int8 leaves of the answers."""
        if self.cosine is not None:
            return f"embeddings with a mean cosine of {self.cosine:.4f} to those in float32"
        if self.error is None:
            return f"{self.agreement:.1%} of {self.compared:,} top answers equal"
        return f"{self.error:.1%} of the answers' spread, {self.spread:.3g}, off"

    def paired_scores(self) -> Iterator[tuple[str, float | None, float | None]]:
        """Yield each metric of the task with its values before and after."""
        scores = self.scores or {}
        for key, before in scores.items():
            when, _, metric = key.partition("/")
            if when == "before":
                yield metric, before, scores[f"after/{metric}"]
