"""Typed settings of search.py, beside those of a training."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from bort.config.agora import AgoraConfig
from bort.config.arch import GridConfig
from bort.config.distill import CompareConfig
from bort.config.optim import BASE_LR, BASE_WIDTH, KAPPA, finetuning_lr
from bort.config.train import PretrainRunConfig, TaskDistillationConfig, TrainConfig
from bort.errors import BortError, check_at_least, check_choice

SOURCES = ("analytic", "measured", "fitted", "onnx", "onnx_int8", "table")


@dataclass
class LatencyConfig:
    """î, the inference latency of a candidate's embeddings and layers."""

    # analytic (operations in closed form, the paper's), or milliseconds: measured, fitted, onnx,
    # onnx_int8 or table
    source: str = "analytic"
    batch: int = 1  # texts that are answered at once
    length: int = 128  # tokens of a text
    # instead of latency.length: several, the latency being the mean over them; [32,128]
    lengths: list[int] | None = None
    weights: list[float] | None = None  # how often texts have each of latency.lengths; null: alike
    threads: int | None = None  # threads of a measurement; null: one for each core
    rounds: int = 7  # rounds of a measurement, in each of which every shape is timed
    shapes: int = 12  # how many shapes latency=fitted measures
    engine: str = "measured"  # how latency=fitted measures them: measured, onnx or onnx_int8
    device: str = "cpu"  # where PyTorch is measured: cpu or cuda
    path: str | None = None  # the CSV of latency=table, which bort benchmark writes

    def __post_init__(self) -> None:
        check_choice("latency", self.source, SOURCES)
        check_choice("latency.engine", self.engine, ("measured", "onnx", "onnx_int8"))
        for key in ("batch", "rounds"):
            check_at_least(f"latency.{key}", getattr(self, key), 1)
        check_at_least("latency.length", self.length, 4)
        self._check_lengths()
        check_at_least("latency.shapes", self.shapes, 6)
        if self.threads is not None:
            check_at_least("latency.threads", self.threads, 1)
        if self.source == "table" and not self.path:
            raise BortError("latency=table needs latency.path=FILE, which bort.benchmark writes")
        check_choice("latency.device", self.device, ("cpu", "cuda"))

    def _check_lengths(self) -> None:
        if self.lengths is None:
            if self.weights is not None:
                raise BortError("latency.weights are of latency.lengths; give both, or neither")
            return
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise BortError(f"latency.lengths={self.lengths} must be one or more different lengths")
        for length in self.lengths:
            check_at_least("latency.lengths", length, 4)
        if self.weights is None:
            return
        if len(self.weights) != len(self.lengths):
            raise BortError(
                f"latency.weights={self.weights} must be one number for each of "
                f"latency.lengths={self.lengths}"
            )
        if not all(0 < weight < math.inf for weight in self.weights):
            raise BortError(f"latency.weights={self.weights} must all be above 0")

    @property
    def length_shares(self) -> dict[int, float]:
        """How often a text has each length, as shares that sum to 1."""
        lengths = self.lengths or [self.length]
        weights = self.weights or [1.0] * len(lengths)
        return {n: w / sum(weights) for n, w in zip(lengths, weights, strict=True)}


WORDS, STATES, TASK = "words", "states", "task"
PROXIES = (WORDS, STATES, TASK)
BUDGETS = ("max_params", "max_latency_ms", "max_mb", "max_latency_share")
DEFAULT_SHARE = 0.25  # of T's latency, where the lowest error is sought and no budget is given


@dataclass
class SearchConfig:
    """The FPTAS of arXiv 2010.08512 on the W-coefficient, and what is decided beyond it."""

    n: int = 300  # training steps of a candidate
    # what e is measured on: words, T's probabilities of masked words, states, the direction of its
    # final states, or task, the answers of a fine-tuned T to held-out rows of task=; null: words,
    # or states where T has no masked-LM head
    proxy: str | None = None
    epsilon: int = 1  # every ε-th candidate in order of cost is trained; 1: each that can win
    refine: bool = True  # then also train what can still win between the neighbours of the best
    # train all candidates to n/8, and the best thirds on to n/4, n/2 and n (optim.schedule=wsd)
    halving: bool = False
    assume: str = "none"  # monotone: also skip what cannot win if larger candidates are never worse
    # what is chosen: error, the lowest one within the budget, or w, the largest W (the paper's)
    objective: str = "error"
    error: str = "ratio"  # the quality in W: ratio, e(T) / e, or perplexity, exp(e(T) - e)
    exponents: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])  # α, β and γ of W
    max_params: int | None = None  # a budget: the most parameters
    max_latency_ms: float | None = None  # a budget: the most milliseconds
    max_mb: float | None = None  # a budget: the most megabytes of the int8 file on disk
    # a budget: the largest share of T's latency; null: 0.25 where error has no other budget
    max_latency_share: float | None = None
    finalists: int = 3  # how many of the best are trained again, with other seeds and rates
    seeds: int = 3  # seeds that a finalist is trained with
    lrs: list[float] = field(default_factory=list)  # further rates that the finalists try
    kappa: float = KAPPA  # the rate of a candidate is optim.lr · (H / 128)^-kappa
    parallel: int = 1  # candidates that hydra/launcher gets at once

    def __post_init__(self) -> None:
        for key in ("n", "epsilon", "finalists", "seeds", "parallel"):
            check_at_least(f"search.{key}", getattr(self, key), 1)
        if self.n < 4:
            raise BortError(f"search.n={self.n} must be at least 4: its quarters are compared")
        if self.proxy is not None:
            check_choice("search.proxy", self.proxy, PROXIES)
        check_choice("search.assume", self.assume, ("none", "monotone"))
        check_choice("search.objective", self.objective, ("w", "error"))
        self._check_halving()
        check_choice("search.error", self.error, ("ratio", "perplexity"))
        check_exponents("search.exponents", self.exponents)
        if self.proxy in (STATES, TASK):
            self._refuse_w()
        for key in ("max_params", "max_latency_ms", "max_mb"):
            if getattr(self, key) is not None and not getattr(self, key) > 0:
                raise BortError(f"search.{key}={getattr(self, key)} must be above 0")
        if (share := self.max_latency_share) is not None and not 0 < share <= 1:
            raise BortError(f"search.max_latency_share={share} must be above 0 and at most 1")
        if any(not lr > 0 for lr in self.lrs):
            raise BortError(f"search.lrs={self.lrs} must be above 0")

    def _refuse_w(self) -> None:
        """Raise BortError for a setting of W, which only errors of masked words have."""
        reason = "T's own error is 0; leave search.{} out, or name a teacher with a masked-LM head"
        if self.proxy == TASK:
            reason = "it weighs masked words; leave search.{} out"
        for key, default in (("objective", "error"), ("error", "ratio"), ("exponents", [1.0] * 3)):
            if (value := getattr(self, key)) != default:
                raise BortError(
                    f"search.{key}={value} is for W, and search.proxy={self.proxy} has none: "
                    + reason.format(key)
                )

    def _check_halving(self) -> None:
        """Raise BortError for what successive halving cannot be combined with."""
        if not self.halving:
            return
        if self.proxy == TASK:
            raise BortError(
                "search.halving continues trainings on text, and search.proxy=task trains on the "
                "rows of a task; use search.halving=false"
            )
        if self.n < 8:
            raise BortError(
                f"search.halving trains to n/8 first; search.n={self.n} must be at least 8"
            )
        if self.epsilon > 1:
            raise BortError(
                f"search.epsilon={self.epsilon}: search.halving begins with every candidate; use "
                "search.epsilon=1"
            )
        if self.assume == "monotone":
            raise BortError(
                "search.assume=monotone and search.halving leave out candidates under assumptions "
                "of their own; use one of them"
            )

    @property
    def has_budget(self) -> bool:
        """Whether any budget was given."""
        return any(getattr(self, key) is not None for key in BUDGETS)

    @property
    def latency_share(self) -> float | None:
        """The largest share of T's latency that a candidate may have; None for any.

        By error alone the largest candidate nearly always wins, so that there is always a budget.
        """
        if self.objective == "error" and not self.has_budget:
            return DEFAULT_SHARE
        return self.max_latency_share


@dataclass
class SearchRunConfig(PretrainRunConfig):
    """All settings of `search.py`: those of a candidate's training, and how to choose."""

    JOBS: ClassVar[tuple[str, ...]] = ("search",)
    SCHEMA: ClassVar[str] = "search_schema"  # its name in conf/search.yaml
    job: str = "search"  # nothing else here
    grid: GridConfig = MISSING
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def _settle_start_and_losses(self) -> None:
        """Fill in the losses of the proxy; without one they stay open until T is."""
        if self.search.proxy is None and not self.teacher.name:  # T is trained here, with a head
            self.search = replace(self.search, proxy=WORDS)
        if self.search.proxy == WORDS:
            super()._settle_start_and_losses()
        elif self.search.proxy == STATES:
            self._learn_states()

    def _learn_states(self) -> None:
        """Have candidates learn T's final states alone.

        Raises BortError for a loss on masked words.
        """
        distill = self.distill
        for key, idle in (("w_kd", (None, 0.0)), ("w_mlm", (0.0,)), ("temperature", (1.0,))):
            if (value := getattr(distill, key)) not in idle:
                raise BortError(
                    f"distill.{key}={value:g} is for search.proxy=words; search.proxy=states "
                    "learns the teacher's final states alone"
                )
        self.distill = replace(distill, w_kd=0.0, w_hidden=1.0)

    @property
    def compares_states(self) -> bool:
        """Whether an error is one of final states, in which case there is no W."""
        return self.search.proxy == STATES

    @property
    def has_w(self) -> bool:
        """Whether W can weigh the errors: only those at masked words."""
        return self.search.proxy in (None, WORDS)

    def settle(self, has_head: bool = True) -> Self:
        """Return these settings with their proxy and their start.

        has_head: whether T has a masked-LM head.
        """
        proxy = self.search.proxy or (WORDS if has_head else STATES)
        start = self.init or "teacher"
        return replace(self, init=start, search=replace(self.search, proxy=proxy))

    def settle_as(self, record: dict[str, Any]) -> Self:
        """Return these settings with what they leave open as in the flat settings of a search."""
        begun = replace(self, init=self.init or record.get("init"))
        return begun.settle(has_head=record.get("search.proxy") != STATES)

    def _fill_and_check(self) -> None:
        """Give the rate of width 128, from which that of every candidate follows."""
        if self.optim.lr is None:
            self.optim = replace(self.optim, lr=BASE_LR)
        super()._fill_and_check()

    def __post_init__(self) -> None:
        if self.init_layers:
            raise BortError(
                f"init_layers={self.init_layers} cannot be used in a search, whose candidates have "
                "different depths; null spreads the teacher's layers evenly, and [] copies none"
            )
        super().__post_init__()
        self._check_rungs()
        self._check_lesson()
        self._check_vocabularies()
        table = self.latency.path
        if self.latency.source == "table" and not Path(table).is_file():
            raise BortError(
                f"latency.path={table} does not exist; python -m bort.benchmark writes one"
            )
        points, _ = self.grid.points()
        if not points:
            raise BortError("search.py needs candidates; use grid=tiny, grid=paper or grid.depth=…")
        if self.search.epsilon > len(points):
            raise BortError(
                f"search.epsilon={self.search.epsilon} must be at most the {len(points)} "
                "candidates of the grid"
            )
        if self.search.max_latency_ms is not None and self.latency.source == "analytic":
            raise BortError(
                "search.max_latency_ms needs milliseconds; use latency=measured (PyTorch), "
                "latency=onnx_int8 (as it is deployed) or search.max_latency_share"
            )
        if not self.trainer_config.is_one_device:
            raise BortError(
                "search.py trains a candidate on one device (trainer.devices=1); several at once: "
                "hydra/launcher=joblib search.parallel=4"
            )

    def _check_lesson(self) -> None:
        """Raise BortError for losses, or a text, that candidates cannot learn from."""
        if self.distill.w_kd == 0 and not self.compares_states:
            raise BortError("search.py needs distill.w_kd above 0: e is measured against a teacher")
        if not self.data.packing:
            raise BortError("search.py packs its text; data.packing=false is for pre-training")
        if self.distill.w_relation or (self.distill.w_hidden and not self.compares_states):
            raise BortError(
                "search.py trains candidates on masked words, or by search.proxy=states on final "
                "states; distill.w_hidden and w_relation are for experiment=kd_pretrain"
            )

    def _check_vocabularies(self) -> None:
        """Raise BortError for vocabularies whose errors cannot be compared."""
        if self.grid.vocab_size is None:
            return
        if not self.teacher.name:
            raise BortError(
                "grid.vocab_size takes parts of a teacher's vocabulary; name one by teacher.name="
            )
        if self.data.vocab_size is not None:
            raise BortError("grid.vocab_size and data.vocab_size both name vocabularies; use one")
        if self.search.objective == "w":
            raise BortError(
                "search.objective=w compares candidates of one vocabulary; use data.vocab_size= "
                "in place of grid.vocab_size"
            )
        if self.search.proxy not in (None, WORDS):
            raise BortError(
                f"grid.vocab_size compares errors at masked words; search.proxy={self.search.proxy}"
                " has none"
            )

    def _check_rungs(self) -> None:
        """Raise BortError where the first rung ends before the rate has been at its peak."""
        if not self.search.halving:
            return
        n, first, optim = self.search.n, max(self.search.n // 8, 4), self.optim
        if optim.warmup * (n + 1) > (1 - optim.decay) * (first + 1):
            raise BortError(
                f"search.halving stops after {first} of {n} steps first, before the rate of "
                f"optim.warmup={optim.warmup:g} is at its peak; lower optim.warmup or optim.decay"
            )


@dataclass
class TaskSearchConfig(SearchRunConfig):
    """A search on a task: candidates learn the answers of a fine-tuned T to its rows."""

    fits_task: ClassVar[bool] = True
    teaches_task: ClassVar[bool] = True

    def _settle_start_and_losses(self) -> None:
        """Have candidates start from T, and learn its answers where nothing else is given."""
        self.init = self.init or "teacher"
        self.distill = self.distill.settle()

    def settle(self, has_head: bool = True) -> Self:
        """Return these settings, in which a teacher leaves nothing open."""
        return self

    def settle_as(self, record: dict[str, Any]) -> Self:
        """Return these settings, in which nothing is left open."""
        return self

    def _fill_and_check(self) -> None:
        """Give the rate of width 128 of a fine-tuning; raise BortError for a task without T."""
        if not self.task:
            raise BortError(
                "search.proxy=task needs a task, as in task=glue/sst2 data.root=FOLDER, or "
                "task=custom data.train=FILE"
            )
        if not self.teacher.name:
            raise BortError(
                "search.proxy=task needs teacher.name=FOLDER, a model that is fine-tuned on the "
                "task; train.py experiment=finetune makes one"
            )
        if self.optim.lr is None:
            self.optim = replace(self.optim, lr=finetuning_lr(BASE_WIDTH))
        self.to_task_distillation()

    def _check_lesson(self) -> None:
        """Leave this to the settings of a candidate's training."""

    def to_task_distillation(self, **changes: Any) -> TaskDistillationConfig:
        """Return the settings of a candidate's training with these changes.

        Its tokenizer and its start are T's. Raises BortError for what no such training can have.
        """
        values = {item.name: getattr(self, item.name) for item in fields(TrainConfig)}
        values |= {
            "job": "kd_finetune",
            "model": self.teacher.name,
            "trainer": {**self.trainer, "max_steps": self.search.n, "max_epochs": -1},
            "compare": CompareConfig(),
            "agora": AgoraConfig(),
        }
        return TaskDistillationConfig(**values | changes)


def register(*schemas: type) -> None:
    """Let conf/search.yaml and conf/benchmark.yaml find their schemas.

    By the commands that need them: `--help` copies all that is stored for each group it lists.
    """
    for schema in schemas:
        ConfigStore.instance().store(name=schema.SCHEMA, node=schema)


def check_exponents(key: str, exponents: Iterable[float]) -> None:
    """Raises BortError for what cannot be α, β and γ."""
    values = list(exponents)
    if len(values) != 3 or not all(0 <= x < math.inf for x in values) or not any(values):
        raise BortError(f"{key}={values} must be three numbers, at least 0, not all 0")
