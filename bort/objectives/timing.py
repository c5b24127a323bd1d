"""How long calls take on this machine, measured side by side."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from bort.models.arch import Arch
from bort.models.bert import Encoder, ModelConfig

K = TypeVar("K")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median over rounds, and their quartiles."""

    ms: float
    low: float
    high: float


def time_interleaved(
    make: dict[K, Callable[[], Callable[[], object]]],
    rounds: int = 7,
    seconds: float = 0.05,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[K, Timing]:
    """Time calls side by side: each round times all of them, every second one in reverse order.

    make: key → a function that builds the call anew, so that only one model is in memory at a time.
    A round's figure is the median of at least three calls and `seconds`, after a warm-up; what
    disturbs the machine for a while then touches one round of many keys, not many of one.
    """
    medians: dict[K, list[float]] = {key: [] for key in make}
    for number in range(rounds):
        for key in list(make)[:: 1 if number % 2 == 0 else -1]:
            call = make[key]()
            call(), call()
            times, start = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - start < seconds:
                before = time.perf_counter()
                call()
                times.append(1e3 * (time.perf_counter() - before))
            medians[key].append(statistics.median(times))
            tick(sum(map(len, medians.values())), rounds * len(make))
    return {key: _summarize(times) for key, times in medians.items()}


def _summarize(times: list[float]) -> Timing:
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return Timing(float(middle), float(low), float(high))


def make_pytorch_call(
    arch: Arch, vocab_size: int, batch: int, length: int, device: str = "cpu"
) -> Callable[[], object]:
    """Build a call: one inference of a PyTorch encoder with arbitrary weights, in float32.

    vocab_size: tokens of the vocabulary; the input has `batch` sequences of `length` tokens.
    """
    sizes = ModelConfig(**arch.to_table(), vocab_size=vocab_size, positions=max(512, length))
    with torch.device("meta"):
        encoder = Encoder(sizes)
    encoder = encoder.to_empty(device=device).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.fill_(0.01)  # written to, or its pages would all be the same one
    ids = torch.randint(2, vocab_size, (batch, length), device=device)

    def call() -> None:
        with torch.inference_mode():
            encoder(ids)
        if device != "cpu":
            torch.cuda.synchronize()

    return call
