"""The inference latency î of many architectures: counted, timed, predicted or read from a table."""

import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from bort.config.search import LatencyConfig
from bort.console import Progress, counted
from bort.errors import BortError
from bort.files.ownership import name_temporary
from bort.models import onnx
from bort.models.arch import Arch
from bort.objectives.latency_table import read_latency_table
from bort.objectives.parameters import count_encoder_operations, count_parameters
from bort.objectives.regression import fit_latency, spread_out
from bort.objectives.timing import Timing, make_pytorch_call, time_interleaved

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latencies:
    """The latencies of architectures, each with an interval: [value, low, high].

    unit: `ms` or `operations`. note: what was measured, and how.
    """

    unit: str
    note: str
    points: dict[Arch, list[float]]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` returned."""
        points = {Arch.from_text(name): point for name, point in content["points"].items()}
        return cls(content["unit"], content["note"], points)

    def to_json(self) -> dict[str, Any]:
        """Return the content of latency.json."""
        points = {str(arch): point for arch, point in self.points.items()}
        return {"unit": self.unit, "note": self.note, "points": points}


def check_device(latency: LatencyConfig) -> None:
    """Raise BortError, before any work, for a device that is not here."""
    if latency.device == "cuda" and not torch.cuda.is_available():
        raise BortError("latency.device=cuda: torch finds no GPU here; leave it out")


def measure_latencies(
    latency: LatencyConfig,
    archs: list[Arch],
    teacher: Arch | None,
    vocab: int,
    folder: Path,
) -> Latencies:
    """Find out î of these architectures by `latency.source`.

    teacher: it is timed for `fitted` too, whatever the rank of its size. vocab: tokens of the
    vocabulary. folder: where files of ONNX lie while they are timed. Raises BortError for a device
    that is not here, a table that cannot be used, too little room and a fit that fails.
    """
    check_device(latency)
    if latency.source == "table":
        table = read_latency_table(Path(latency.path), archs)
        return Latencies("ms", latency.path, {arch: [ms, ms, ms] for arch, ms in table.items()})
    shares = latency.length_shares
    measured = [_measure_length(latency, n, archs, teacher, vocab, folder) for n in shares]
    if len(measured) == 1:
        return measured[0]
    return _average(measured, list(shares.values()))


def _average(measured: list[Latencies], shares: list[float]) -> Latencies:
    """Average the latencies of several lengths by how often a text has each of them.

    An interval's ends are the means of the ends, which is rather too wide than too narrow.
    """
    points = {}
    for arch in measured[0].points:
        rows = np.array([latencies.points[arch] for latencies in measured])  # (lengths, 3)
        points[arch] = (np.array(shares) @ rows).tolist()
    parts = zip(shares, measured, strict=True)
    note = " + ".join(f"{share:.0%} of ({latencies.note})" for share, latencies in parts)
    return Latencies(measured[0].unit, note, points)


def _measure_length(
    latency: LatencyConfig,
    length: int,
    archs: list[Arch],
    teacher: Arch | None,
    vocab: int,
    folder: Path,
) -> Latencies:
    """Count, time or predict the latencies of texts of one length; see `measure_latencies`."""
    size = f"batch {latency.batch} × {length} tokens"
    if latency.source == "analytic":
        counts = {a: count_encoder_operations(a, latency.batch, length) for a in archs}
        return Latencies("operations", size, {arch: [n, n, n] for arch, n in counts.items()})
    is_fitted = latency.source == "fitted"
    engine = latency.engine if is_fitted else latency.source
    threads = latency.threads or torch.get_num_threads()
    note = f"{engine}, {size}, {counted(threads, 'thread')}"
    if engine != "measured":
        note += f", {onnx.describe_graph()}"
    if not is_fitted:
        timings = _time_shapes(latency, length, engine, archs, vocab, threads, folder)
        points = {arch: [timing.ms, timing.low, timing.high] for arch, timing in timings.items()}
        return Latencies("ms", note, points)
    shapes = spread_out(archs, latency.shapes, length)
    shapes = list(dict.fromkeys([*shapes, *([teacher] if teacher else [])]))
    timings = _time_shapes(latency, length, engine, shapes, vocab, threads, folder)
    return _fit(timings, archs, length, note)


def _fit(timings: dict[Arch, Timing], archs: list[Arch], length: int, note: str) -> Latencies:
    """Predict the latencies of architectures from the timings of some shapes."""
    times = {arch: timing.ms for arch, timing in timings.items()}
    predict, error = fit_latency(times, length)
    percent = f"{math.ceil(100 * error)}%"
    logger.info(
        f"latency: fitted on {len(times)} shapes; a shape left out is missed by up to {percent}"
    )
    predictions = {arch: predict(arch) for arch in archs}
    factor = 1 + error
    points = {arch: [ms, ms / factor, ms * factor] for arch, ms in predictions.items()}
    return Latencies("ms", f"fitted: {note}, missed by up to {percent}", points)


def _time_shapes(
    latency: LatencyConfig,
    length: int,
    engine: str,
    archs: list[Arch],
    vocab: int,
    threads: int,
    folder: Path,
) -> dict[Arch, Timing]:
    """Time each shape in every round; files of ONNX lie in `folder` while it lasts."""
    before = torch.get_num_threads()
    size = (vocab, latency.batch, length)
    files, make = [], {}
    if engine != "measured":
        _check_room(archs, vocab, folder)
    tick = Progress(logger, "latency: ONNX export").update
    for number, arch in enumerate(archs):
        if engine == "measured":
            make[arch] = lambda arch=arch: make_pytorch_call(arch, *size, latency.device)
        else:
            files.append(name_temporary(folder / f"latency_{number}.onnx", "part"))
            int8 = engine == "onnx_int8"
            make[arch] = onnx.make_encoder_call(arch, *size, threads, files[-1], int8)
            tick(number + 1, len(archs))
    try:
        torch.set_num_threads(threads)
        return time_interleaved(
            make, latency.rounds, tick=Progress(logger, "latency: timing").update
        )
    finally:
        torch.set_num_threads(before)
        for file in files:
            file.unlink(missing_ok=True)


def _check_room(archs: list[Arch], vocab: int, folder: Path) -> None:
    """Raise BortError when files of ONNX would take more than half of the room in `folder`."""
    needed = sum(4 * count_parameters(arch, vocab, 512) for arch in archs)
    if needed > (free := shutil.disk_usage(folder).free) / 2:
        raise BortError(
            f"ONNX files of {len(archs)} shapes need {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB "
            f"are free in {folder}; latency=fitted latency.engine=onnx_int8 needs a few of them"
        )
