"""Typed settings of bort.benchmark, beside those of a grid and of a latency."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from bort.config.arch import GridConfig
from bort.config.search import LatencyConfig
from bort.errors import BortError, check_at_least, check_choice

ENGINES = ("measured", "onnx", "onnx_int8")  # `measured` is PyTorch in float32


@dataclass
class BenchmarkConfig:
    """Latency, size and memory on this machine, side by side.

    python -m bort.benchmark                                  # the named architectures
    python -m bort.benchmark archs=[bert_base,bort] latency=onnx_int8 latency.length=512
    python -m bort.benchmark models=[runs/finetune/a,exported] archs=[bert_base] \\
        engines=[measured,onnx,onnx_int8] batches=[1,8] lengths=[32,128,512] out=compared.csv
    python -m bort.benchmark archs=[bert_base,bort] huggingface=true  # beside Hugging Face's own
    python -m bort.benchmark grid=tiny out=table.csv          # for latency=table elsewhere
    python -m bort.benchmark grid=paper latency.device=cuda out=gpu.csv

    models= takes run folders, Hugging Face folders, hub names and exported ONNX folders, and
    measures the whole model, head included; archs= are encoders of these shapes with random
    weights. `measured` is PyTorch in float32. Beside out=NAME.csv there is a picture, NAME.html.
    """

    SCHEMA: ClassVar[str] = "benchmark_schema"  # its name in conf/benchmark.yaml
    archs: list[str] = field(
        default_factory=lambda: ["bert_large", "bert_base", "distilbert", "bort", "tinybert4"]
    )  # names in conf/arch; the first one is what the others are compared with
    models: list[str] = field(default_factory=list)  # runs, model folders, exported ONNX folders
    engines: list[str] | None = None  # some of ENGINES; null: the one that `latency` names
    batches: list[int] | None = None  # null: latency.batch
    lengths: list[int] | None = None  # null: latency.length
    huggingface: bool = False  # beside each of the archs its shape as Hugging Face's BertModel
    memory: bool = True  # also the peak memory of a process with one model alone
    grid: GridConfig = MISSING  # instead, unless it is `none`: every point of it
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    vocab_size: int = 30522  # of the archs and the grid
    out: str | None = None  # a CSV, and a picture beside it

    def __post_init__(self) -> None:
        check_at_least("vocab_size", self.vocab_size, 8)
        if self.latency.source == "table":
            raise BortError("latency=table is what this writes; use latency=measured or onnx_int8")
        points = self.grid.points()[0]
        if not self.archs and not self.models and not points:
            raise BortError("archs=[] leaves nothing to measure; name some, or set grid=, models=")
        if self.out and (Path(self.out).suffix == ".html" or Path(self.out).is_dir()):
            raise BortError(f"out={self.out} must name a table, as in out=table.csv")
        if self.compares:
            self._check_comparison(bool(points))

    def _check_comparison(self, grid: bool) -> None:
        if grid:
            raise BortError(
                "grid= makes a table for latency=table, of one engine and size; leave models=, "
                "engines=, batches=, lengths= and huggingface= out, or set grid=none"
            )
        for key, least in (("batches", 1), ("lengths", 4), ("engines", None)):
            values = getattr(self, key)
            if values is not None and not values:
                raise BortError(f"{key}=[] leaves nothing to measure; give it values")
            for value in values or ():
                if least:
                    check_at_least(key, value, least)
                else:
                    check_choice(key, value, ENGINES)
        if self.engines is None and self.latency.source not in ENGINES:
            raise BortError(
                f"latency={self.latency.source} is for the archs and a grid alone; "
                "use engines=[measured,onnx,onnx_int8]"
            )
        if self.latency.device != "cpu":
            raise BortError(
                f"latency.device={self.latency.device} is for the archs and a grid alone"
            )
        if self.huggingface and not (self.archs and "measured" in self.chosen_engines):
            raise BortError("huggingface=true needs archs=[…] and measured among the engines")

    @property
    def compares(self) -> bool:
        """Whether there is more to it than one engine and size of named architectures."""
        return (
            bool(self.models)
            or self.huggingface
            or any(x is not None for x in (self.engines, self.batches, self.lengths))
        )

    @property
    def chosen_engines(self) -> list[str]:
        return list(dict.fromkeys(self.engines or [self.latency.source]))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Batches × lengths, in the order given."""
        batches = self.batches or [self.latency.batch]
        lengths = self.lengths or [self.latency.length]
        return list(dict.fromkeys((batch, length) for batch in batches for length in lengths))
