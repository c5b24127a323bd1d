"""The stage of benchmarks/gpu.py that times steps of pre-training, ours beside Hugging Face's.

Steps are timed in bf16 on random text, alone on the device, some in a row without a
synchronization between them. The share of the peak is that of our compiled step: its operations,
of matrix products alone, over the speed of one large bf16 product measured here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpu_training import Desk
from steps import (
    RATE,
    Texts,
    build_ours,
    build_theirs,
    make_collated,
    make_our_step,
    make_their_step,
    synchronize,
    take_turns,
    time_interleaved,
)

from bort.errors import shorten
from bort.models.arch import Arch
from bort.objectives.parameters import count_training_flops

OURS, COMPILED = "ours", "ours, compiled"
THEIRS, THEIRS_COMPILED = "Hugging Face", "Hugging Face, compiled"


@dataclass(frozen=True)
class Shape:
    """A shape that is timed; reach: the share of the peak to reach; theirs: beside what."""

    name: str
    arch: Arch
    vocab_size: int
    length: int
    reach: float | None = None
    theirs: tuple[str, ...] = ()


BERT_BASE, BORT, NARROW = Arch(12, 12, 768, 3072), Arch(4, 8, 1024, 768), Arch(6, 6, 384, 1536)
BOTH = (THEIRS, THEIRS_COMPILED)
SHAPES = [  # the most wanted first
    Shape("BERT-base", BERT_BASE, 30_522, 128, 0.45, BOTH),
    Shape("narrow", NARROW, 16_384, 128, None, BOTH),
    Shape("Bort", BORT, 50_265, 128, 0.45, (THEIRS,)),
    Shape("BERT-base", BERT_BASE, 30_522, 512, 0.45),
    Shape("Bort", BORT, 50_265, 512, 0.45),
    Shape("narrow", NARROW, 16_384, 512),
]
REHEARSED = [Shape("tiny", Arch(1, 2, 16, 32), 320, 16, None, BOTH)]
TOKENS, IN_A_ROW, ROUNDS, PREPARED = 32_768, 5, 7, 8
PEAK = 8192  # rows and columns of the product that measures the peak


@dataclass(frozen=True)
class Timing:
    """How steps are timed here: tokens of a step, steps in a row, rounds, and the compiler."""

    tokens: int
    in_a_row: int
    rounds: int
    backend: str
    peak: int


def choose_timing(desk: Desk) -> Timing:
    """Choose how steps are timed: in small without a GPU."""
    if desk.device == "cuda":
        return Timing(TOKENS, IN_A_ROW, ROUNDS, "inductor", PEAK)
    return Timing(64, 1, 1, "eager", 64)


def measure_peak(desk: Desk, size: int) -> float:
    """Measure the operations per second of a large product in bf16, on random numbers."""
    left, right = torch.randn(2, size, size, device=desk.device).bfloat16()
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(10):
            left @ right
        if desk.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 10 * 2 * size**3 / min(seconds[1:])


def make_contender(desk: Desk, shape: Shape, side: str, timing: Timing) -> Callable[[], None]:
    """Make the steps of one side, which end when the device has done them."""
    texts = Texts(shape.vocab_size, timing.tokens // shape.length, shape.length)
    compiles = side in (COMPILED, THEIRS_COMPILED)
    is_ours = side in (OURS, COMPILED)
    build = build_ours if is_ours else build_theirs
    model = build(shape.arch, shape.vocab_size).to(desk.device)
    if is_ours:
        batches: list = [[x.to(desk.device) for x in texts.masked()] for _ in range(PREPARED)]
        for _, positions, _ in batches:  # their number differs; see DistillationModule.forward
            if compiles:
                torch._dynamo.maybe_mark_dynamic(positions, 0)
    else:
        collate = make_collated(texts)
        batches = [{k: v.to(desk.device) for k, v in collate().items()} for _ in range(PREPARED)]
    trained = torch.compile(model, backend=timing.backend) if compiles else model
    make = make_our_step if is_ours else make_their_step
    step = make(trained, take_turns(batches), None, desk.device)

    def take_steps() -> None:
        for _ in range(timing.in_a_row):
            step()

    return synchronize(take_steps, desk.device)


def list_sides(shape: Shape) -> list[str]:
    """List what is timed of a shape."""
    return [OURS, COMPILED, *shape.theirs]


def compile_beside(desk: Desk) -> None:
    """Compile what `speed` times, while other stages work: the compiler keeps its results."""
    timing, seconds = choose_timing(desk), {}
    for shape in SHAPES if desk.device == "cuda" else REHEARSED:
        for side in list_sides(shape):
            if side in (COMPILED, THEIRS_COMPILED):
                start = time.monotonic()
                values = try_steps(desk, shape, side, timing)
                took = time.monotonic() - start
                seconds[f"{shape.arch}, {shape.length} tokens, {side}"] = values or took
                desk.write("compile", {"seconds": seconds})
                torch._dynamo.reset()
                if desk.device == "cuda":
                    torch.cuda.empty_cache()


def try_steps(desk: Desk, shape: Shape, side: str, timing: Timing) -> str | None:
    """Take the first steps of a side; return the reason where they fail."""
    try:
        make_contender(desk, shape, side, timing)()
    except Exception as error:  # of memory, or of the compiler: the next one may work
        return shorten(f"{type(error).__name__}: {error}", 120)
    return None


def speed(desk: Desk) -> None:
    """Time the steps of all shapes, and write each as soon as it is measured."""
    timing = choose_timing(desk)
    rows: list[dict[str, Any]] = []
    peaks = [measure_peak(desk, timing.peak)]
    for shape in SHAPES if desk.device == "cuda" else REHEARSED:
        rows.append(time_shape(desk, shape, timing))
        peaks.append(measure_peak(desk, timing.peak))
        desk.write("speed", {"peaks": peaks, "tokens": timing.tokens, "rows": rows})
        print(f"{shape.name}, {shape.length} tokens: {rows[-1]['tokens_per_s']}", flush=True)
        torch._dynamo.reset()
        if desk.device == "cuda":
            torch.cuda.empty_cache()


def time_shape(desk: Desk, shape: Shape, timing: Timing) -> dict[str, Any]:
    """Time the sides of a shape in turns; a side that fails leaves its reason."""
    steps, failures = {}, {}
    for side in list_sides(shape):
        try:
            steps[side] = make_contender(desk, shape, side, timing)
            steps[side]()
        except Exception as error:  # of memory, or of the compiler: the other sides count
            failures[side] = shorten(f"{type(error).__name__}: {error}", 120)
            steps.pop(side, None)
    count = timing.in_a_row * (timing.tokens // shape.length) * shape.length
    speeds = {side: count / time for side, time in time_interleaved(steps, timing.rounds).items()}
    return {
        "name": shape.name,
        "arch": str(shape.arch),
        "vocab_size": shape.vocab_size,
        "length": shape.length,
        "reach": shape.reach,
        "flops_per_token": count_training_flops(shape.arch, shape.vocab_size, shape.length, RATE),
        "tokens_per_s": speeds,
        "failures": failures,
    }
