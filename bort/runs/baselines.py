"""Baseline: the scores of simple answers, which stand beside those of a fine-tuned model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bort.console import decimal

TITLES = {  # by the name that stands in front of a baseline's keys in summary.json
    "majority": "the most frequent label",
    "mean": "the mean of the labels",
    "first": "the first entity",
    "tfidf": "TF-IDF and a linear model",
    # of a model that embeds texts
    "start": "the same model before the training",
    "teacher": "the teacher",
    "words": "the cosine of TF-IDF",
}


@dataclass(frozen=True)
class Baseline:
    """What simple answers score on the validation sets of a task.

    name: a key of TITLES. scores: by `SPLIT/METRIC`, None for one that is not defined; there are
    none where the baseline was left out. note: how the answers are found, or why there are none.
    """

    name: str
    scores: dict[str, float | None]
    note: str

    @property
    def title(self) -> str:
        """What answers, in words."""
        return TITLES[self.name]

    def to_json(self) -> dict[str, Any]:
        """Give its part of the flat summary: `NAME/SPLIT/METRIC` and `NAME/note`."""
        flat: dict[str, Any] = {f"{self.name}/{key}": value for key, value in self.scores.items()}
        return flat | {f"{self.name}/note": self.note}

    def describe(self) -> str:
        """Say `val/accuracy 0.5200, val/macro_f1 0.3421 ('yes' for every row)`."""
        scores = ", ".join(f"{key} {decimal(value)}" for key, value in self.scores.items())
        return f"{scores} ({self.note})" if scores else self.note


def read_baselines(summary: Mapping[str, Any]) -> list[Baseline]:
    """Read the baselines out of a flat summary; runs of older versions have none."""
    baselines = []
    for name in TITLES:
        note = summary.get(f"{name}/note")
        scores = {
            key.removeprefix(f"{name}/"): value
            for key, value in summary.items()
            if key.startswith(f"{name}/") and (value is None or type(value) in (int, float))
        }
        if isinstance(note, str):
            baselines.append(Baseline(name, scores, note))
    return baselines
