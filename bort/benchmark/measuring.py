"""Time and memory of models: every one in turns, and each in a process of its own."""

import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from bort.benchmark.contenders import Calls, Contender, load_calls
from bort.benchmark.rows import BenchmarkRow
from bort.console import Progress
from bort.errors import BortError

logger = logging.getLogger(__name__)

STATUS = Path("/proc/self/status")  # of Linux, where the kernel keeps the high-water mark


def measure(
    contenders: list[Contender],
    sizes: list[tuple[int, int]],
    threads: int,
    rounds: int,
    with_memory: bool,
) -> list[BenchmarkRow]:
    """Time every contender at every (batch, length), in turns; one row for each.

    In a round every contender is loaded once, alone, and answers at all sizes. A row's `ratio`
    says how many times faster it is than the first contender at the same size.
    """
    import torch

    from bort.objectives.timing import time_interleaved

    peaks = measure_memory(contenders, sizes, threads) if with_memory else {}
    loaded: dict[Contender, Calls] = {}

    def make_call(contender: Contender, batch: int, length: int) -> Callable[[], object]:
        if contender not in loaded:
            loaded.clear()
            loaded[contender] = load_calls(contender, threads)
        return loaded[contender](batch, length)

    pairs = [(contender, *size) for contender in contenders for size in sizes]
    calls = {pair: partial(make_call, *pair) for pair in pairs}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        times = time_interleaved(calls, rounds, tick=Progress(logger, "benchmark: timing").update)
    finally:
        torch.set_num_threads(before)
    rows = []
    for batch, length in sizes:
        first = times[contenders[0], batch, length].ms
        for contender in contenders:
            time = times[contender, batch, length]
            rows.append(
                BenchmarkRow(
                    name=contender.name,
                    measures=contender.measures,
                    engine=contender.engine,
                    batch=batch,
                    length=length,
                    threads=threads,
                    parameters=contender.parameters,
                    disk_bytes=contender.disk,
                    median_ms=time.ms,
                    low_ms=time.low,
                    high_ms=time.high,
                    sequences_per_s=1e3 * batch / time.ms,
                    peak_bytes=peaks.get((contender, batch, length)),
                    ratio=first / time.ms,
                    arch=contender.arch,
                    vocabulary=contender.vocab,
                )
            )
    return rows


def measure_memory(
    contenders: list[Contender], sizes: list[tuple[int, int]], threads: int
) -> dict[tuple[Contender, int, int], int]:
    """Return `measure_peaks` of each in a fresh process; nothing where the system has no /proc."""
    peaks: dict[tuple[Contender, int, int], int] = {}
    if not STATUS.exists():
        return peaks
    progress = Progress(logger, "benchmark: memory")
    rising = sorted(sizes, key=lambda size: size[0] * size[1])
    for number, contender in enumerate(contenders, start=1):
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                values = pool.submit(measure_peaks, contender, rising, threads).result()
        except BrokenProcessPool:
            raise BortError(
                f"a process with {contender.name} ({contender.engine}) alone was killed, as for "
                "want of memory; leave the largest of batches= and lengths= out"
            ) from None
        peaks |= {(contender, *size): value for size, value in zip(rising, values, strict=True)}
        progress.update(number, len(contenders))
    return peaks


def measure_peaks(contender: Contender, sizes: list[tuple[int, int]], threads: int) -> list[int]:
    """Return the most bytes resident so far, after loading and one inference at each size.

    They are those of the process that calls it, everything included: it must do nothing else. It
    is the kernel's own high-water mark; getrusage's would start at the parent's.
    """
    if not contender.file:
        import torch

        torch.set_num_threads(threads)
    make_call, peaks = load_calls(contender, threads), []
    for batch, length in sizes:
        make_call(batch, length)()
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        peaks.append(1024 * int(peak.split()[1]))
    return peaks
