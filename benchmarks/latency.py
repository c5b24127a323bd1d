"""Measure the latency of Bort's shape in int8 against BERT-large and BERT-base, factor by factor.

    python benchmarks/latency.py          # about ten minutes on 2 quiet cores, 6 GB of disk
    python benchmarks/latency.py smoke    # the same with tiny shapes, without memory; only prints

A call has batch 1, 128 tokens and 2 threads; Bort and two smaller shapes also answer at batch 8.
Each is timed as `bort.export` writes it and by a plain export of the same module, which shows what
the graph of `bort.models.onnx_graph` brings with the installed ONNX Runtime. The models are
encoders alone, with random weights (the values of weights do not change the time) and with BERT's
vocabulary (30,522) or Bort's (50,265). One process times all contenders in turns, in alternating
order, and writes medians and quartiles to benchmarks/results/latency.md.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from parts import RESULTS, read_arguments

from bort.benchmark.contenders import Contender, describe_encoders
from bort.benchmark.measuring import measure
from bort.benchmark.rows import ENGINE_NAMES, BenchmarkRow
from bort.benchmark.run import find_int8_instructions
from bort.benchmark.settings import ENGINES
from bort.console import show_log
from bort.errors import BortError
from bort.machine import describe_machine
from bort.models import onnx
from bort.models.arch import Arch
from bort.models.bert import Encoder, ModelConfig

RESULT = RESULTS / "latency.md"
BATCH, LENGTH, THREADS, ROUNDS = 1, 128, 2, 5
PLAIN = ", plain export"  # behind the name of an encoder that was exported without our graph
PLAIN_GOALS = {"BERT-large": 11, "BERT-base": 4}  # times that Bort is to be faster than their int8
SHAPES = {  # architecture, vocabulary, also as Hugging Face's own, times that Bort is to be faster
    "BERT-large": (Arch(24, 16, 1024, 4096), 30_522, True, 46),
    "BERT-base": (Arch(12, 12, 768, 3072), 30_522, True, 13),
    "Bort": (Arch(4, 8, 1024, 768), 50_265, False, None),
}
SMOKE = {
    "BERT-large": (Arch(2, 2, 32, 64), 500, True, 46),
    "BERT-base": (Arch(1, 2, 32, 64), 500, True, 13),
    "Bort": (Arch(1, 2, 32, 32), 800, False, None),
}
SMALL = {"⟨3,12,384,1536⟩": Arch(3, 12, 384, 1536), "⟨2,2,128,512⟩": Arch(2, 2, 128, 512)}
SMALL_SMOKE = {"⟨1,2,16,32⟩": Arch(1, 2, 16, 32)}


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


def compare_graphs(rows: list[BenchmarkRow]) -> list[str]:
    """Compare the graph that bort exports with a plain export, in float32 and in int8."""
    ms = {(row.name, row.engine, row.size): row.median_ms for row in rows}
    lines = [
        "| encoder | tokens | engine | plain export, ms | as bort exports it, ms | times faster "
        "| plain export against Bort int8 | to reach |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, engine, size), plain in ms.items():
        if not name.endswith(PLAIN):
            continue
        name = name.removesuffix(PLAIN)
        ours, bort = ms[name, engine, size], ms["Bort", "onnx_int8", size]
        goal = PLAIN_GOALS.get(name, "–") if engine == "onnx_int8" else "–"
        lines.append(
            f"| {name} | {size[0]} × {size[1]} | {ENGINE_NAMES[engine]} | {plain:.2f} | {ours:.2f} "
            f"| {plain / ours:.2f} | {plain / bort:.1f} | {goal} |"
        )
    return lines


def export_plainly(encoder: Contender, folder: Path) -> list[Contender]:
    """Export an encoder as PyTorch does by itself, and quantize the file as bort does."""
    sizes = ModelConfig(**vars(encoder.arch), vocab_size=encoder.vocab, positions=encoder.limit)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=encoder.limit)
    files = {engine: folder / f"{encoder.name}.{engine}.plain.onnx" for engine in ENGINES[1:]}
    torch.onnx.export(
        Encoder(sizes).eval(),
        (),
        files["onnx"],
        kwargs={"input_ids": torch.randint(2, encoder.vocab, (2, 16))},
        dynamo=True,
        external_data=False,
        opset_version=onnx.OPSET,
        dynamic_shapes={"input_ids": {0: batch, 1: length}},
        verbose=False,
    )
    onnx.quantize(files["onnx"], files["onnx_int8"])
    return [
        replace(
            encoder,
            name=f"{encoder.name}{PLAIN}",
            engine=engine,
            file=file,
            disk=file.stat().st_size,
        )
        for engine, file in files.items()
    ]


def write_contenders(shapes: dict, small: dict[str, Arch], folder: Path) -> list[list[Contender]]:
    """Return what is measured at one sequence, and what is measured at eight: their files exist."""
    single, many = [], []
    for name, (arch, vocab, huggingface, goal) in shapes.items():
        encoder = Contender.of_random_encoder(arch, name, vocab, 512)
        forms = [*describe_encoders(encoder, list(ENGINES), folder, huggingface)]
        plain = export_plainly(encoder, folder)
        single += forms + plain
        if not goal:
            many += [form for form in forms if form.file] + plain
        print(f"benchmark: {name} written as ONNX")
    for name, arch in small.items():
        encoder = Contender.of_random_encoder(arch, name, 30_522, 512)
        forms = [*describe_encoders(encoder, list(ENGINES[1:]), folder)]
        forms += export_plainly(encoder, folder)
        single, many = single + forms, many + forms
    return [single, many]


def format_report(rows: list[BenchmarkRow], shapes: dict, threads: int, rounds: int) -> list[str]:
    """Return the lines of the file of results, from the rows of all sizes."""
    single = [row for row in rows if row.size == (BATCH, LENGTH)]
    return [
        f"{describe_machine()}; ONNX Runtime {onnxruntime.__version__}; int8 products: "
        f"{find_int8_instructions()}",
        "",
        f"Each call has {BATCH} × {LENGTH} tokens, where no other number is given, and {threads} "
        f"threads, in {rounds} rounds in turns. Models are encoders alone, without vocabulary "
        "matrix, with random weights. PyTorch is this project's module in float32, Hugging Face is "
        "its `BertModel` in float32, and int8 is dynamic quantization for onnxruntime. Peak memory "
        "is that of a process which loads this model alone, everything included.",
        "",
        *split_ratios(single, shapes),
        "",
        "The graph that bort exports, beside a plain export of the same module:",
        "",
        *compare_graphs(rows),
        "",
        *format_table(single),
    ]


def main(smoke: bool) -> None:
    """Time all contenders, and print or write the tables."""
    shapes, threads, rounds = (SMOKE, 1, 1) if smoke else (SHAPES, THREADS, ROUNDS)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        small = SMALL_SMOKE if smoke else SMALL
        single, many = write_contenders(shapes, small, Path(folder))
        rows = measure(single, [(BATCH, LENGTH)], threads, rounds, with_memory=not smoke)
        rows += measure(many, [(8, LENGTH)], threads, rounds, with_memory=False)
    lines = format_report(rows, shapes, threads, rounds)
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
