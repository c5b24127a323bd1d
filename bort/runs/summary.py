"""RunSummary: what a finished run tells, by name, in words, and what to doubt in it."""

import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bort.errors import BortError, shorten
from bort.files.untrusted import read_json
from bort.models.arch import Arch

RESTORE = "restore it or remove the run"
NUMBERS = ("parameters", "steps", "tokens", "seconds", "tokens_per_s", "length", "lr", "w")
NUMBERS += ("unigram_ce", "unigram_accuracy", "teacher_loss", "teacher_accuracy")
NEAR = 0.3  # nats below the unigram model from which on a model has learnt of the context


@dataclass(frozen=True, eq=False)
class RunSummary(Mapping):
    """The results of a finished run: the flat table of its summary.json.

    What most runs have is read by name, `summary.steps`, and is None where a run lacks it. What
    depends on the task is read by its key, `summary["val/accuracy"]`: scores have the name of
    their split in front. As a mapping, a summary has the keys and the order of the file.
    """

    table: Mapping[str, Any]

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Path) -> "RunSummary":
        """Take the content of a summary.json; unknown keys are kept.

        path: the file, for the error. Raises BortError for a result that is neither a number nor
        null.
        """
        for key, value in values.items():
            is_score = re.match(r"(val|test|eval)\w*/", key) is not None
            is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
            if (key in NUMBERS or is_score) and value is not None and not is_number:
                shown = shorten(repr(value), 40)
                raise BortError(f"{path}: {key} is {shown}, no number; {RESTORE}")
        return cls(values)

    @classmethod
    def read(cls, path: Path) -> "RunSummary":
        """Read a summary.json; raises BortError where it is missing or damaged."""
        return cls.from_json(read_json(path, RESTORE), path)

    def to_json(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        return dict(self.table)

    def __getitem__(self, key: str) -> Any:
        return self.table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    # ------------------------------------------------------------------------------- the training

    @property
    def parameters(self) -> int | None:
        """The parameters of the model."""
        return self.get("parameters")

    @property
    def steps(self) -> int | None:
        """The optimizer steps that were taken."""
        return self.get("steps")

    @property
    def tokens(self) -> int | None:
        """The tokens that were read in training."""
        return self.get("tokens")

    @property
    def seconds(self) -> float | None:
        """The seconds of training, without validation."""
        return self.get("seconds")

    @property
    def tokens_per_s(self) -> float | None:
        """The tokens that were read in each second of training."""
        return self.get("tokens_per_s")

    @property
    def teacher(self) -> str | None:
        """The name or the folder of the teacher."""
        return self.get("teacher")

    @property
    def teacher_arch(self) -> Arch | None:
        """The architecture of the teacher; None for a run without a teacher."""
        if not self.get("teacher_depth"):
            return None
        return Arch.from_table(self, "teacher_").check()

    # ------------------------------------------------------------------------------- the results

    @property
    def loss(self) -> float | None:
        """The cross-entropy on held-out text, in nats per masked word."""
        return self.get("val/loss")

    @property
    def accuracy(self) -> float | None:
        """The share of masked words of held-out text that the model guesses."""
        return self.get("val/mlm_accuracy")

    @property
    def hidden_loss(self) -> float | None:
        """How far the states of held-out text are from the teacher's: 0 is none, 4 opposite."""
        return self.get("val/hidden_loss")

    @property
    def relation_loss(self) -> float | None:
        """How far the relations of tokens of held-out text are from the teacher's, in nats."""
        return self.get("val/relation_loss")

    @property
    def unigram_loss(self) -> float | None:
        """The cross-entropy of word frequencies on the same text, in nats per masked word."""
        return self.get("unigram_ce")

    @property
    def unigram_accuracy(self) -> float | None:
        """The share of masked words that the most frequent word would be right for."""
        return self.get("unigram_accuracy")

    @property
    def teacher_loss(self) -> float | None:
        """The teacher's cross-entropy at the same positions, where it was asked there."""
        return self.get("teacher_loss")

    @property
    def teacher_accuracy(self) -> float | None:
        """The share of the same masked words that the teacher guesses."""
        return self.get("teacher_accuracy")

    @property
    def length(self) -> int | None:
        """The longest input in tokens that a pre-trained model takes.

        It was trained at that length, or has the trained positions of a teacher or of the model
        that it continues.
        """
        return self.get("length")

    @property
    def task(self) -> str | None:
        """The task of a fine-tuning."""
        return self.get("task")

    @property
    def metric(self) -> str | None:
        """The key of the score that has chosen the model of a fine-tuning."""
        return self.get("metric")

    @property
    def scores(self) -> dict[str, float | None]:
        """Losses and scores of validation and test sets; None for one that is not defined."""
        return {k: v for k, v in self.items() if re.match(r"(val|test)\w*/", k)}

    @property
    def row_counts(self) -> dict[str, int]:
        """The number of rows behind the scores of each split."""
        counts = {k: v for k, v in self.items() if k.startswith("rows/") and isinstance(v, int)}
        return {key.removeprefix("rows/"): count for key, count in counts.items()}

    # ------------------------------------------------------------------------------- in words

    def describe_validation(self) -> str:
        """Say `val 3.80 nats (38.4% of masked words; unigram 6.79, 5.9%; teacher 3.12, 46.0%)`.

        Of a model without a masked-LM head, say how far it is from its teacher.
        """
        if self.loss is None and self.hidden_loss is not None:
            return f"val hidden loss {self.hidden_loss:.3f} (0 is the teacher's states)"
        if self.loss is None and self.relation_loss is not None:
            return f"val relation loss {self.relation_loss:.3f} nats (0 is the teacher's relations)"
        if self.loss is None:
            reason = self.get("no_validation")
            return "no validation" + (f" ({reason})" if reason else "")
        teacher = ""
        if self.teacher_loss is not None and self.teacher_accuracy is not None:
            teacher = f"; teacher {self.teacher_loss:.2f}, {self.teacher_accuracy:.1%}"
        return (
            f"val {self.loss:.2f} nats ({self.accuracy:.1%} of masked words; "
            f"unigram {self.unigram_loss:.2f}, {self.unigram_accuracy:.1%}{teacher})"
        )

    def find_doubt(self) -> str | None:
        """Return a warning when a model knows little more than how frequent words are.

        Of a task it is what its scores leave in doubt (`bort.tasks.metrics.doubt`).
        """
        if "task" in self:
            line = self.get("doubt")
            return line if isinstance(line, str) else None
        below = (self.unigram_loss or 0) - (self.loss or -math.inf)
        if below >= NEAR:
            return None
        distance = f"{below:.2f} nats better than" if below > 0 else "no better than"
        advice = "more steps, another optim.lr or more text is needed"
        return f"{distance} word frequencies alone: {advice}"
