"""Measure the latency of Bort's shape in int8 against BERT-large and BERT-base, factor by factor.

    python benchmarks/latency.py          # about five minutes on 2 quiet cores, 4 GB of disk
    python benchmarks/latency.py smoke    # the same with tiny shapes, without memory; only prints

Each call has batch 1, 128 tokens and 2 threads. The models are encoders alone, with random weights
(the values of weights do not change the time) and with BERT's vocabulary (30,522) or Bort's
(50,265). One process times all contenders in turns, in alternating order, and writes medians and
quartiles to benchmarks/results/latency.md.
"""

import sys
import tempfile
from pathlib import Path

from parts import RESULTS, read_arguments

from bort.benchmark.contenders import Contender, describe_encoders
from bort.benchmark.measuring import measure
from bort.benchmark.rows import ENGINE_NAMES, BenchmarkRow
from bort.benchmark.run import find_int8_instructions
from bort.config.search import ENGINES
from bort.console import show_log
from bort.errors import BortError
from bort.machine import describe_machine
from bort.models.arch import Arch

RESULT = RESULTS / "latency.md"
BATCH, LENGTH, THREADS, ROUNDS = 1, 128, 2, 5
SHAPES = {  # architecture, vocabulary, also as Hugging Face's own, times that Bort is to be faster
    "BERT-large": (Arch(24, 16, 1024, 4096), 30_522, True, 25),
    "BERT-base": (Arch(12, 12, 768, 3072), 30_522, True, 6),
    "Bort": (Arch(4, 8, 1024, 768), 50_265, False, None),
}
SMOKE = {
    "BERT-large": (Arch(2, 2, 32, 64), 500, True, 25),
    "BERT-base": (Arch(1, 2, 32, 64), 500, True, 6),
    "Bort": (Arch(1, 2, 32, 32), 800, False, None),
}


def format_table(rows: list[BenchmarkRow]) -> list[str]:
    lines = [
        "| encoder | ⟨D,A,H,I⟩, vocabulary | engine | parameters | disk | latency ms [quartiles] "
        "| sequences/s | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB"
        lines.append(
            f"| {row.name} | {row.arch}, {row.vocabulary:,} | {row.engine_name} "
            f"| {row.parameters / 1e6:.1f} M | {row.disk_bytes / 1e6:,.0f} MB "
            f"| {row.median_ms:.2f} [{row.low_ms:.2f}, {row.high_ms:.2f}] "
            f"| {row.sequences_per_s:.1f} | {peak} |"
        )
    return lines


def split_ratios(rows: list[BenchmarkRow], shapes: dict) -> list[str]:
    """Compare Bort in int8 with each contender, and split the ratio into a product of three."""
    ms = {(row.name, row.engine): row.median_ms for row in rows}
    bort = [ms["Bort", engine] for engine in ENGINES]
    lines = [
        "| Bort int8 against | times faster | to reach | = shape (both PyTorch) | × engine (ONNX "
        "for PyTorch, Bort) | × int8 (for float32 in ONNX, Bort) |",
        "|---|---|---|---|---|---|",
    ]
    for name, (*_, goal) in shapes.items():
        if goal:
            total, shape = ms[name, "measured"] / bort[2], ms[name, "measured"] / bort[0]
            lines.append(
                f"| {name}, PyTorch | {total:.1f} | {goal} | {shape:.2f} | {bort[0] / bort[1]:.2f} "
                f"| {bort[1] / bort[2]:.2f} |"
            )
    for engine in ("huggingface", "onnx", "onnx_int8"):
        for name, (*_, goal) in shapes.items():
            if goal:
                total = ms[name, engine] / bort[2]
                lines.append(f"| {name}, {ENGINE_NAMES[engine]} | {total:.1f} | – | – | – | – |")
    return lines


def main(smoke: bool) -> None:
    """Time all contenders, and print or write the tables."""
    shapes, threads, rounds = (SMOKE, 1, 1) if smoke else (SHAPES, THREADS, ROUNDS)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for name, (arch, vocab, huggingface, _) in shapes.items():
            encoder = Contender.of_random_encoder(arch, name, vocab, 512)
            contenders += describe_encoders(encoder, list(ENGINES), Path(folder), huggingface)
            print(f"benchmark: {name} written as ONNX")
        rows = measure(contenders, [(BATCH, LENGTH)], threads, rounds, with_memory=not smoke)
    lines = [
        f"{describe_machine()}; int8 products: {find_int8_instructions()}",
        "",
        f"Each call has {BATCH} × {LENGTH} tokens and {threads} threads, in {rounds} rounds in "
        "turns. Models are encoders alone, without vocabulary matrix, with random weights. "
        "PyTorch is this project's module in float32, Hugging Face is its `BertModel` in "
        "float32, and int8 is dynamic quantization for onnxruntime. Peak memory is that of a "
        "process which loads this model alone, everything included.",
        "",
        *split_ratios(rows, shapes),
        "",
        *format_table(rows),
    ]
    print("\n".join(lines))
    if not smoke:
        RESULT.write_text("\n".join(lines) + "\n")
        print(f"table: {RESULT}")


if __name__ == "__main__":
    show_log()
    try:
        main(read_arguments(sys.argv[1:], ())[-1])
    except BortError as error:
        raise SystemExit(f"benchmarks/latency.py: {error}") from None
