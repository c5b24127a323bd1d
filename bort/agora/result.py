"""What a run of Agora found: how good S is, what each arm reached, and what the rounds took."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from bort.config.trainer import FLOAT32

ARMS = {
    "default": "plain, default θ",
    "plain": "plain, all of Θ",
    "random": "plain, with random rows",
    "agora": "Agora",
}
_MORE = ("balanced_accuracy", "confidence")  # what S has on E besides the task's metrics


@dataclass(frozen=True)
class JudgeScores:
    """How good S is on E and on the validation sets.

    on_e: the task's metrics; dev: the same by the name of the validation set. A score that is not
    defined is None. balanced_accuracy: on E; confidence: what S exceeds on most rows of E. Both are
    None of a regression.
    """

    on_e: dict[str, float | None]
    dev: dict[str, dict[str, float | None]]
    balanced_accuracy: float | None = None
    confidence: float | None = None

    def list_on_e(self) -> dict[str, float | None]:
        """List all that was measured on E, by name."""
        more = {key: getattr(self, key) for key in _MORE if getattr(self, key) is not None}
        return self.on_e | more

    def to_json(self) -> dict[str, float | None]:
        """Give its part of the flat summary: `teacher/SPLIT/METRIC`, where E is `eval`."""
        splits = {"eval": self.list_on_e(), **self.dev}
        flat: dict[str, float | None] = {}
        for split, scores in splits.items():
            flat |= {f"teacher/{split}/{metric}": value for metric, value in scores.items()}
        return flat

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read it out of the flat summary."""
        splits: dict[str, dict[str, float | None]] = {"eval": {}}
        for key, value in content.items():
            start, _, name = key.partition("/")
            if start == "teacher":
                split, _, metric = name.partition("/")
                splits.setdefault(split, {})[metric] = value
        on_e = splits.pop("eval")
        return cls(dev=splits, **{key: on_e.pop(key, None) for key in _MORE}, on_e=on_e)


@dataclass(frozen=True)
class ArmResult:
    """What the best model of an arm reached.

    scores: `SPLIT/METRIC`, `rows/SPLIT` and `doubt`, as `Scores.to_json` has them. on_e: its score
    on E by the task's first metric. steps: the optimizer steps of all trainings of the arm.
    """

    scores: dict[str, Any]
    on_e: float
    steps: int


@dataclass(frozen=True)
class AgoraResult:
    """The summary of a run of Agora.

    arms: by arm, all of ARMS. parameters, tokens, tokens_per_s, lr: of the model that Agora chose;
    seconds: of all trainings; steps: of those of the rounds, which are `trainings` in `rounds`
    rounds. generated: rows that were made; pruned: how many θ were dropped; theta: the best θ, in
    words. metric: the key of the score by which arms are compared.
    """

    judge: JudgeScores
    arms: dict[str, ArmResult]
    parameters: int
    tokens: int
    tokens_per_s: float
    lr: float
    seconds: float
    steps: int
    rounds: int
    trainings: int
    generated: int
    pruned: int
    theta: str
    metric: str
    task: str
    seed: int
    precision: str = FLOAT32  # of the trainings; older summaries do not name it

    def to_json(self) -> dict[str, Any]:
        """Give the content of summary.json, which is flat; Agora's own scores have no prefix."""
        flat: dict[str, Any] = self.judge.to_json()
        for arm, result in self.arms.items():
            prefix = _prefix(arm)
            flat |= {f"{prefix}{key}": value for key, value in result.scores.items()}
            flat |= {f"{prefix}{_name_on_e(self.metric)}": result.on_e}
            flat[f"{arm}/steps"] = result.steps
        plain = asdict(self)
        del plain["judge"], plain["arms"]
        return flat | plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read a summary.json of Agora; raises KeyError for one that lacks a value."""
        names = [item.name for item in fields(cls) if item.name not in ("judge", "arms")]
        stated = {"precision": FLOAT32, **content}
        plain = {name: stated[name] for name in names}
        name_on_e, arms = _name_on_e(plain["metric"]), {}
        for arm in ARMS:
            prefix = _prefix(arm)
            of_arm = {k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)}
            scores = {
                key: of_arm[key] for key in of_arm if re.match(r"(val|test)\w*/|rows/|doubt$", key)
            }
            arms[arm] = ArmResult(scores, content[prefix + name_on_e], content[f"{arm}/steps"])
        return cls(JudgeScores.from_json(content), arms, **plain)


def _prefix(arm: str) -> str:
    return "" if arm == "agora" else f"{arm}/"


def _name_on_e(metric: str) -> str:
    """Name the score on E that belongs to a score on dev: `eval/f1` of `val/f1`."""
    return f"eval/{metric.split('/')[1]}"
