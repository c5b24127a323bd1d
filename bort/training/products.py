"""How fast this machine multiplies matrices in float32 and in bf16, at the sizes of a model.

The speeds are kept in the cache, for the machine that they were measured on.
"""

import os
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bort.config.fingerprint import fingerprint
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.files.untrusted import read_json
from bort.files.writing import write_json
from bort.machine import describe_cpu

SECONDS = 0.2  # of measuring, all sizes of a model together; about as much is for warming up
LARGEST = 2**27  # multiply-adds of a product that is timed; larger ones are about as fast
ROUNDS = 15  # of a size at most
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
# A processor that computes bf16 by emulation is told by a small product; large ones take seconds.
EMULATED = 0.15  # times as fast as float32


@dataclass(frozen=True, order=True)
class ProductSize:
    """The size of a linear layer's products: (rows, inputs) · (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.inputs}x{self.outputs}"

    @classmethod
    def parse(cls, text: str) -> "ProductSize":
        """Read what `str` gives; raises ValueError or TypeError for anything else."""
        return cls(*map(int, text.split("x")))

    @property
    def flops(self) -> int:
        """The operations of one product, two for each multiply-add."""
        return 2 * self.rows * self.inputs * self.outputs

    def shrink(self) -> "ProductSize":
        """Return a size of at most LARGEST multiply-adds, by halving the longest side."""
        sides = [self.rows, self.inputs, self.outputs]
        while sides[0] * sides[1] * sides[2] > LARGEST:
            longest = sides.index(max(sides))
            sides[longest] //= 2
        return ProductSize(*sides)


@dataclass(frozen=True)
class ProductSpeed:
    """GFLOP/s of a linear layer's three products in a training step, by precision.

    Raises ValueError for a speed that is not above 0.
    """

    float32: float
    bf16: float

    def __post_init__(self) -> None:
        if not (self.float32 > 0 and self.bf16 > 0):
            raise ValueError("a speed must be above 0")

    @property
    def factor(self) -> float:
        """How many times as fast as float32 bf16 is."""
        return self.bf16 / self.float32


SMALL = ProductSize(64, 128, 128)


def make_step(size: ProductSize, dtype: torch.dtype) -> Callable[[], object]:
    """Build a call that computes the three products of a linear layer in a training step.

    In bf16 it makes the casts of mixed precision too: of the float32 input and weights, and of the
    gradients back.
    """
    random = torch.Generator()  # of its own: a measurement changes no training
    x = torch.randn(size.rows, size.inputs, generator=random)
    weight = torch.randn(size.outputs, size.inputs, generator=random)
    gradient = torch.randn(size.rows, size.outputs, generator=random).to(dtype)

    def step() -> tuple[Tensor, Tensor, Tensor]:
        rows, matrix = x.to(dtype), weight.to(dtype)
        y = F.linear(rows, matrix)
        return y, (gradient @ matrix).float(), (gradient.mT @ rows).float()

    return step


@torch.no_grad()
def measure_speed(size: ProductSize, seconds: float) -> ProductSpeed:
    """Measure the speed at a size, float32 and bf16 in turns, for about so many seconds.

    The median of at least two rounds counts.
    """
    steps = {name: make_step(size, dtype) for name, dtype in DTYPES.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    for number in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
        if number and time.perf_counter() > end:
            break
    work = 3 * size.flops / 1e9
    return ProductSpeed(**{name: work / statistics.median(taken) for name, taken in times.items()})


def measure_all(sizes: Collection[ProductSize]) -> dict[ProductSize, ProductSpeed]:
    """Measure the speed at each size; where bf16 is emulated, all have the speed of a small one."""
    small = measure_speed(SMALL, 0.0)
    if small.factor < EMULATED:
        return dict.fromkeys(sizes, small)
    return {size: measure_speed(size, SECONDS / len(sizes)) for size in sizes}


def measure_speeds(sizes: Collection[ProductSize]) -> dict[ProductSize, ProductSpeed]:
    """Return the speeds at these sizes, at least; those that the cache lacks are measured now."""
    speeds = read_speeds()
    if missing := [size for size in sizes if size not in speeds]:
        speeds |= measure_all(missing)
        keep_speeds(speeds)
    return speeds


# ---------------------------------------------------------------------------------- in the cache


def describe_processor() -> dict[str, object]:
    """Describe what decides the speed of products: processor, instructions, threads, torch."""
    model, flags = describe_cpu()
    return {
        "processor": model,
        "flags": flags,
        "limit": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def locate_speeds() -> Path:
    """Return the file of the cache with the speeds of this machine."""
    return locate_cache() / "products" / f"{fingerprint(describe_processor())}.json"


def read_speeds() -> dict[ProductSize, ProductSpeed]:
    """Read the speeds that were measured on this machine before; none where the file is damaged."""
    try:
        table = read_json(locate_speeds())["speeds"]
        return {ProductSize.parse(size): ProductSpeed(**speed) for size, speed in table.items()}
    except (BortError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def keep_speeds(speeds: dict[ProductSize, ProductSpeed]) -> None:
    """Keep the speeds of this machine in the cache, where that can be written."""
    table = {str(size): asdict(speed) for size, speed in sorted(speeds.items())}
    try:
        write_json(locate_speeds(), {"machine": describe_processor(), "speeds": table})
    except BortError:
        return
