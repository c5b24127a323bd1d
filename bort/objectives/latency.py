"""î of many architectures: operations, wall clock, a regression on it, or a table."""

import logging
import math
import shutil
from pathlib import Path

import torch

from bort.config.search import LatencyConfig
from bort.console import Progress, counted
from bort.errors import BortError
from bort.files.ownership import temporary
from bort.models import onnx
from bort.models.arch import Arch
from bort.objectives.latency_table import read_latency_table
from bort.objectives.parameters import count_encoder_operations, count_parameters
from bort.objectives.regression import fit_latency, spread_out
from bort.objectives.timing import Timing, make_pytorch_call, time_interleaved

logger = logging.getLogger(__name__)


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
) -> dict:
    """Flat-keyed record: `unit`, `note`, and `points`: name → [latency, low, high].

    teacher: measured for `fitted` too, whatever the rank of its size.
    """
    check_device(latency)
    size = f"batch {latency.batch} × {latency.length} tokens"
    if latency.source == "analytic":
        points = {a: count_encoder_operations(a, latency.batch, latency.length) for a in archs}
        return _latency_record({a: [x, x, x] for a, x in points.items()}, "operations", size)
    if latency.source == "table":
        points = read_latency_table(Path(latency.path), archs)
        return _latency_record({a: [x, x, x] for a, x in points.items()}, "ms", latency.path)
    chosen = archs
    if latency.source == "fitted":
        chosen = spread_out(archs, latency.shapes, latency.length)
        chosen = list(dict.fromkeys([*chosen, *([teacher] if teacher else [])]))
    engine = latency.engine if latency.source == "fitted" else latency.source
    threads = latency.threads or torch.get_num_threads()
    note = f"{engine}, {size}, {counted(threads, 'thread')}"
    timed = _timed(latency, engine, chosen, vocab, threads, folder)
    if latency.source != "fitted":
        points = {arch: [t.ms, t.low, t.high] for arch, t in timed.items()}
        return _latency_record(points, "ms", note)
    function, error = fit_latency({a: t.ms for a, t in timed.items()}, latency.length)
    most = f"{math.ceil(100 * error)}%"
    logger.info(
        f"latency: fitted on {len(chosen)} shapes; a shape left out is missed by up to {most}"
    )
    points = {a: [function(a), function(a) / (1 + error), function(a) * (1 + error)] for a in archs}
    return _latency_record(points, "ms", f"fitted: {note}, missed by up to {most}")


def _latency_record(points: dict[Arch, list[float]], unit: str, note: str) -> dict:
    return {"unit": unit, "note": note, "points": {str(a): row for a, row in points.items()}}


def _timed(
    latency: LatencyConfig,
    engine: str,
    archs: list[Arch],
    vocab: int,
    threads: int,
    folder: Path,
) -> dict[Arch, Timing]:
    """Each shape timed in every round; ONNX files lie in `folder` while it lasts."""
    before = torch.get_num_threads()
    size = (vocab, latency.batch, latency.length)
    files, make = [], {}
    if engine != "measured":
        _check_room(archs, vocab, folder)
    tick = Progress(logger, "latency: ONNX export").update
    for number, arch in enumerate(archs):
        if engine == "measured":
            make[arch] = lambda arch=arch: make_pytorch_call(arch, *size, latency.device)
        else:
            files.append(temporary(folder / f"latency_{number}.onnx", "part"))
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
    needed = sum(4 * count_parameters(arch, vocab, 512) for arch in archs)
    if needed > (free := shutil.disk_usage(folder).free) / 2:
        raise BortError(
            f"ONNX files of {len(archs)} shapes need {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB "
            f"are free in {folder}; latency=fitted latency.engine=onnx_int8 needs a few of them"
        )
