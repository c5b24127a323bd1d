"""The result of a comparison of KD with plain MLM: its arms, side by side."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from bort.console import clock
from bort.errors import BortError
from bort.runs.summary import RESTORE, RunSummary

ARMS = {
    "kd": "KD",
    "mlm": "MLM, equal steps",
    "mlm_equal_time": "MLM, equal time",
    "mlm_fresh": "MLM, fresh start",
}
FRESH = "mlm_fresh"  # an arm for as many steps, where the others start from their teacher
HEAD = ("", "steps", "time", "val loss", "MLM accuracy", "lr")  # of the table of the arms
_KEYS = {"loss": "val/loss", "accuracy": "val/mlm_accuracy"}  # what summary.json calls them


@dataclass(frozen=True)
class ArmResult:
    """What an arm has reached with the best of its learning rates.

    loss, accuracy: on held-out text, in nats per masked word and as a share of the masked words.
    seconds: of its steps, at the speed that was measured in turns; wall_seconds: what its training
    took. folder: that of its run.
    """

    loss: float
    accuracy: float
    steps: int
    tokens: int
    seconds: float
    wall_seconds: float
    lr: float
    folder: str

    def to_json(self, arm: str) -> dict[str, Any]:
        """Give its part of the flat summary."""
        return {f"{arm}/{_KEYS.get(key, key)}": value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: RunSummary, arm: str) -> Self:
        """Read it out of the flat summary; raises BortError for one that lacks a value."""
        values = {}
        for item in fields(cls):
            key = f"{arm}/{_KEYS.get(item.name, item.name)}"
            if not isinstance(content.get(key), str if item.name == "folder" else int | float):
                raise BortError(f"the comparison's summary.json has no {key}; {RESTORE}")
            values[item.name] = content[key]
        return cls(**values)


@dataclass(frozen=True)
class Comparison:
    """The summary of a comparison.

    arms: the results by arm, all of ARMS, but FRESH only where the others start from their teacher.
    distilled: the summary of the distillation's training. teacher_seconds: how long the teacher's
    own training took; None of a teacher with a name.
    """

    arms: dict[str, ArmResult]
    distilled: RunSummary
    teacher_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Give the content of summary.json, which is flat; KD's numbers have no prefix too."""
        flat: dict[str, Any] = {}
        for arm, result in self.arms.items():
            flat |= result.to_json(arm)
        shared = {**self.distilled, "seconds": self.arms["kd"].seconds}
        return {**flat, **shared, "teacher_seconds": self.teacher_seconds}

    @classmethod
    def from_json(cls, content: RunSummary) -> Self:
        """Read a comparison's summary.json; raises BortError for one that lacks a value."""
        has_fresh = any(key.startswith(FRESH) for key in content)
        names = [arm for arm in ARMS if has_fresh or arm != FRESH]
        arms = {arm: ArmResult.from_json(content, arm) for arm in names}
        of_arms = {"teacher_seconds"}.union(*(result.to_json(arm) for arm, result in arms.items()))
        shared = {key: value for key, value in content.items() if key not in of_arms}
        shared["seconds"] = arms["kd"].wall_seconds
        return cls(arms, RunSummary(shared), content.get("teacher_seconds"))

    def list_rows(self, baseline: str) -> Iterator[tuple[str, ...]]:
        """List the cells below HEAD: of the arms, of word frequencies alone, and of the teacher.

        baseline: what the row of word frequencies is called.
        """
        for arm, result in self.arms.items():
            scores = (f"{result.loss:.3f}", f"{result.accuracy:.1%}", f"{result.lr:g}")
            yield (ARMS[arm], f"{result.steps:,}", clock(result.seconds), *scores)
        loss, accuracy = self.distilled.unigram_loss, self.distilled.unigram_accuracy
        yield (baseline, "", "", f"{loss:.3f}", f"{accuracy:.1%}", "")
        loss, accuracy = self.distilled.teacher_loss, self.distilled.teacher_accuracy
        if loss is not None and accuracy is not None:
            yield ("teacher", "", "", f"{loss:.3f}", f"{accuracy:.1%}", "")

    def compare_accuracies(self) -> Iterator[str]:
        """Yield sentences that compare the accuracies of the arms."""
        kd, start = self.arms["kd"], " from the same start" if FRESH in self.arms else ""
        rivals = {
            "mlm": f"{start} for the same steps",
            "mlm_equal_time": f"{start} for the same wall clock",
            FRESH: " from a fresh start for the same steps",
        }
        for arm, budget in rivals.items():
            if arm not in self.arms:
                continue
            ratio = kd.accuracy / max(self.arms[arm].accuracy, 1e-9)
            word = "better than" if ratio > 1 else "not better than"
            yield f"KD is {word} plain MLM{budget}: {ratio:.2f} × its accuracy"

    def find_doubt(self) -> str | None:
        """Return a warning when even the best arm knows little more than word frequencies."""
        best = min(result.loss for result in self.arms.values())
        return RunSummary({**self.distilled, "val/loss": best}).find_doubt()
