"""What an architecture costs: parameters, operations, latency (arXiv 2010.10499, §3.1).

Parameters and operations are closed forms, equal to the module's own count; latency is measured
with the shapes side by side, predicted from some that were, or read from another machine's table.
"""

import csv
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import nnls

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import Encoder, ModelConfig

K = TypeVar("K")


def parameters(arch: Arch, vocab_size: int, positions: int) -> int:
    """Weights of a student: embeddings without token types, encoder, tied masked-LM head."""
    V, P, D, H, I = vocab_size, positions, arch.depth, arch.hidden, arch.intermediate  # noqa: E741
    embeddings = V * H + P * H + 2 * H
    attention = 4 * (H * H + H) + 2 * H
    feed_forward = 2 * H * I + I + H + 2 * H
    head = H * H + H + 2 * H + V
    return embeddings + D * (attention + feed_forward) + head


def forward_flops(arch: Arch, vocab_size: int, length: int, mask_rate: float) -> float:
    """Operations (2 per multiply-add) of matrix products, per input token of a forward pass.

    The head counts only for the masked tokens: mask_rate = 0 for the encoder alone.
    """
    H, I = arch.hidden, arch.intermediate  # noqa: E741
    layer = 2 * (4 * H * H + 2 * H * I) + 4 * length * H
    return arch.depth * layer + mask_rate * (2 * H * H + 2 * H * vocab_size)


def training_flops(arch: Arch, vocab_size: int, length: int, mask_rate: float) -> float:
    """Operations per input token of a training step: the backward pass costs two forward passes."""
    return 3 * forward_flops(arch, vocab_size, length, mask_rate)


def encoder_operations(arch: Arch, batch: int, length: int) -> float:
    """Operations of one inference of embeddings and D layers, without the vocabulary matrix.

    The paper's latency surrogate: exact, the same on every machine, blind to what a machine does
    badly (short products, many layers).
    """
    return forward_flops(arch, 0, length, mask_rate=0.0) * batch * length


# ------------------------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median over rounds, and their quartiles."""

    ms: float
    low: float
    high: float


def interleaved(
    make: dict[K, Callable[[], Callable[[], object]]],
    rounds: int = 7,
    seconds: float = 0.05,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[K, Timing]:
    """Time calls side by side: each round times every one, in turned order.

    make: key → a function that builds the call anew, so that only one model is in memory at a time.
    A round's figure is the median of at least three calls and `seconds`, after a warm-up; what
    disturbs the machine for a while then touches one round of many keys, not many of one.
    """
    found: dict[K, list[float]] = {key: [] for key in make}
    for number in range(rounds):
        for key in list(make)[:: 1 if number % 2 == 0 else -1]:
            call = make[key]()
            call(), call()
            times, start = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - start < seconds:
                before = time.perf_counter()
                call()
                times.append(1e3 * (time.perf_counter() - before))
            found[key].append(statistics.median(times))
            tick(sum(map(len, found.values())), rounds * len(make))
    return {key: _timing(times) for key, times in found.items()}


def _timing(times: list[float]) -> Timing:
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return Timing(float(middle), float(low), float(high))


def encoder_call(
    arch: Arch, vocab_size: int, batch: int, length: int, device: str = "cpu"
) -> Callable[[], object]:
    """One inference of a PyTorch encoder with arbitrary weights, in float32."""
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


# --------------------------------------------------------------------------------------- fitted


def fit_latency(measured: dict[Arch, float], length: int) -> tuple[Callable[[Arch], float], float]:
    """ms(ξ) = D (a H² + b H I + c H s + d A s²) + e, all ≥ 0, from some measured shapes.

    Non-negative least squares of the relative error. Returns the function and by how much a shape
    is missed at most when it is predicted from the others: with an error of 0.25, each time lies
    within a factor of 1.25 of its prediction, on either side. Raises BortError for a fit that
    predicts no time at all for one of them.
    """
    archs = list(measured)
    rows = np.array([_terms(arch, length) for arch in archs])
    times = np.array([measured[arch] for arch in archs])

    def solve(keep: np.ndarray) -> np.ndarray:
        return nnls(rows[keep] / times[keep, None], np.ones(len(keep)))[0]

    everything = np.arange(len(archs))
    ratios = np.array([rows[k] @ solve(np.delete(everything, k)) / times[k] for k in everything])
    if min(ratios) <= 0:
        raise BortError(
            f"latency=fitted predicts nothing for {archs[ratios.argmin()]} from the other "
            f"{len(archs) - 1} shapes; raise latency.shapes"
        )
    weights = solve(everything)
    error = float(np.maximum(ratios, 1 / ratios).max()) - 1
    return lambda arch: float(_terms(arch, length) @ weights), error


def _terms(arch: Arch, length: int) -> np.ndarray:
    D, A, H, I = arch.depth, arch.heads, arch.hidden, arch.intermediate  # noqa: E741
    s = length
    return np.array([D * H * H, D * H * I, D * H * s, D * A * s * s, 1.0], dtype=float)


def spread_out(archs: list[Arch], count: int, length: int) -> list[Arch]:
    """`count` of these from the cheapest to the most expensive, evenly by rank."""
    ranked = sorted(archs, key=lambda a: (encoder_operations(a, 1, length), str(a)))
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [ranked[place] for place in places]


# ---------------------------------------------------------------------------------------- table


def read_table(path: Path, archs: list[Arch]) -> dict[Arch, float]:
    """Read the milliseconds of these from a CSV as `bort.benchmark` writes it.

    Its columns are the four sizes and latency_ms. Raises BortError for a wrong file, a shape with
    two latencies, and points that it lacks.
    """
    if not path.is_file():
        raise BortError(f"latency.path={path} does not exist; python -m bort.benchmark writes one")
    found: dict[Arch, float] = {}
    for line, row in _table_rows(path):
        try:
            arch, ms = Arch.from_table(row), float(row["latency_ms"])
        except (TypeError, ValueError) as error:
            raise BortError(f"{path} line {line}: {error}") from None
        if not 0 < ms < math.inf:
            raise BortError(f"{path} line {line}: latency_ms={ms:g} must be above 0")
        if found.setdefault(arch, ms) != ms:
            raise BortError(
                f"{path} line {line}: {arch} has {ms:g} ms here and "
                f"{found[arch]:g} ms further up; leave one of them out"
            )
    if missing := [arch for arch in archs if arch not in found]:
        names = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise BortError(f"{path} lacks {len(missing)} of the points: {names}")
    return {arch: found[arch] for arch in archs}


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV that has the columns of a latency table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            for column in (*Arch.KEYS, "latency_ms"):
                if column not in (rows.fieldnames or ()):
                    raise BortError(f"{path} has no column {column}")
            for row in rows:
                yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error):
        raise BortError(f"{path} is no CSV; python -m bort.benchmark writes one") from None
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
