"""Compare the speed of pre-training with Hugging Face's: steps, and our data path and its collator.

    python benchmarks/pretrain.py            # about ten minutes on 2 cores
    python benchmarks/pretrain.py mlm data   # some of the parts mlm, kd, muon, run, data
    python benchmarks/pretrain.py gpu        # on a GPU in bf16, a minute; a table of its own
    python benchmarks/pretrain.py smoke      # tiny shapes, also of gpu (on the CPU); only prints

One process times the contenders in turns, in alternating order, and writes medians to
benchmarks/results/pretrain.md (pretrain_gpu.md). Both sides have the same shapes, batches, mask
rate (0.15) and optimizer (AdamW), in float32 and under bf16 autocast; benchmarks/steps.py has the
steps. On a GPU the batches of both sides are made in advance, as a loader's workers make them
beside the steps. Set OMP_WAIT_POLICY=PASSIVE and THP_MEM_ALLOC_ENABLE=1, as bort's commands do.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from parts import RUNS, Bench, open_bench, read_arguments, write_table
from steps import (
    LENGTH,
    RATE,
    Texts,
    build_ours,
    build_theirs,
    make_collated,
    make_our_step,
    make_their_step,
    make_tokenizer,
    synchronize,
    take_turns,
    time_interleaved,
)
from transformers import DataCollatorForLanguageModeling

from bort.config.data import DataConfig
from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.console import show_log
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.machine import SIZE, describe_machine, keep_freed_memory, measure_gflops
from bort.models.arch import Arch
from bort.models.in_bf16 import copy_in_bf16
from bort.objectives.parameters import count_forward_flops, count_training_flops
from bort.pretraining.corpus import Corpus, build_corpus
from bort.pretraining.datamodule import TrainBatches
from bort.pretraining.masking import mask_tokens
from bort.pretraining.recipe import build_student, train
from bort.training.optim import build_optimizer

SHAPES = [  # architecture, vocabulary, batch, rounds, ratios to reach (float32 and bf16 of theirs)
    (Arch(4, 8, 1024, 768), 50_265, 8, 5, 6.5, 3.2),
    (Arch(4, 4, 256, 512), 8_192, 32, 7, 5, 2.8),
    (Arch(2, 4, 128, 256), 8_192, 32, 11, 4, 3.5),
]
KD = [  # teacher, student, vocabulary, batch, rounds, ratios to reach
    (Arch(2, 4, 128, 512), Arch(2, 2, 64, 256), 8_192, 32, 9, "–", "–"),
    (Arch(4, 4, 256, 1024), Arch(2, 4, 128, 256), 8_192, 32, 7, "–", "–"),
    (Arch(24, 16, 1024, 4096), Arch(4, 8, 1024, 768), 50_265, 4, 3, 5, "–"),
]
TINY = Arch(1, 2, 16, 32)
TINY_SHAPES = [(TINY, 320, 4, 1, "–", "–")]
TINY_KD = [(Arch(1, 2, 32, 64), TINY, 320, 4, 1, "–", "–")]


def measure_matmul_gflops(precision: torch.dtype) -> float:
    a, b = torch.randn(2, SIZE, SIZE).to(precision)
    return measure_gflops(lambda: a @ b)


CONTENDERS = [  # precision, side
    ("float32", "Hugging Face"),
    ("bf16", "Hugging Face"),
    ("float32", "ours"),
    ("bf16", "ours"),
]


def time_contenders(
    arch: Arch, teacher: Arch | None, vocab: int, batch: int, rounds: int
) -> list[float]:
    """Return the seconds of a step of each of CONTENDERS, timed in turns."""
    texts = Texts(vocab, batch)
    collated = make_collated(texts)
    steps = {}
    for precision, side in CONTENDERS:
        build, make, batches = (
            (build_ours, make_our_step, texts.masked)
            if side == "ours"
            else (build_theirs, make_their_step, collated)
        )
        bf16 = precision == "bf16"
        taught = build(teacher, vocab).eval() if teacher else None
        if teacher and bf16 and side == "ours":
            taught = copy_in_bf16(taught)  # once, as a training does
        steps[precision, side] = make(build(arch, vocab), batches, taught, bf16=bf16)
    times = time_interleaved(steps, rounds)
    return [times[contender] for contender in CONTENDERS]


def format_speeds(times: list[float], tokens: int, reach: tuple) -> str:
    """Format tokens/s of CONTENDERS, and our bf16 against both of Hugging Face's."""
    ratios = [f"{times[k] / times[3]:.2f} (to reach: {reach[k]})" for k in (0, 1)]
    return " | ".join([*(f"{tokens / time:,.0f}" for time in times), *ratios])


SIDES = " | ".join(f"{side}, {precision}" for precision, side in CONTENDERS)
RATIOS = "our bf16 ÷ Hugging Face's float32 | ÷ its bf16"


def mlm(bench: Bench) -> list[str]:
    """Time MLM steps of both sides, in float32 and under bf16 autocast."""
    shares = "our share of the speed of float32 products | of bf16 products"
    lines = [
        f"| MLM step, 128 tokens; tokens/s | batch | {SIDES} | {RATIOS} | "
        f"ceiling in one precision, by operations | {shares} |",
        "|---" * 11 + "|",
    ]
    for arch, vocab, batch, rounds, *reach in bench.choose(SHAPES, TINY_SHAPES):
        tokens, kinds = batch * LENGTH, (torch.float32, torch.bfloat16)
        before = [measure_matmul_gflops(kind) for kind in kinds]
        times = time_contenders(arch, None, vocab, batch, rounds)
        speeds = [
            (a + measure_matmul_gflops(kind)) / 2 for a, kind in zip(before, kinds, strict=True)
        ]
        flops = count_training_flops(arch, vocab, LENGTH, RATE)
        ceiling = count_training_flops(arch, vocab, LENGTH, 1.0) / flops
        shares = [
            f"{flops * tokens / time / (1e9 * speed):.0%} of {speed:,.0f} GFLOP/s"
            for time, speed in zip(times[2:], speeds, strict=True)
        ]
        lines.append(
            f"| {arch}, V = {vocab:,} | {batch} | {format_speeds(times, tokens, reach)} | "
            f"{ceiling:.2f} | {' | '.join(shares)} |"
        )
        print(lines[-1], flush=True)
    return lines


def kd(bench: Bench) -> list[str]:
    """Time distillation steps of both sides, in float32 and under bf16 autocast."""
    lines = [
        f"| KD step, 128 tokens; tokens/s | batch | {SIDES} | {RATIOS} | "
        "ceiling in one precision, by operations |",
        "|---" * 9 + "|",
    ]
    for teacher, arch, vocab, batch, rounds, *reach in bench.choose(KD, TINY_KD):
        times = time_contenders(arch, teacher, vocab, batch, rounds)
        both = [
            count_training_flops(arch, vocab, LENGTH, rate)
            + count_forward_flops(teacher, vocab, LENGTH, rate)
            for rate in (1.0, RATE)
        ]
        lines.append(
            f"| {teacher} → {arch}, V = {vocab:,} | {batch} | "
            f"{format_speeds(times, batch * LENGTH, reach)} | {both[0] / both[1]:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


MUON = Arch(4, 8, 1024, 768), 8_192, {8: 0.65, 64: 0.30}  # batch → share of a step to reach


def muon(bench: Bench) -> list[str]:
    """Time the share of Muon in a step of Bort's shape, in float32 and under bf16 autocast."""
    lines = [
        "| MLM step with Muon, 128 tokens | batch | precision | step, s | optimizer, s | share | "
        "to reach in bf16 |",
        "|---" * 7 + "|",
    ]
    arch, vocab, reach = bench.choose(MUON, (TINY, 320, {4: "–"}))
    for batch, most in reach.items():
        texts = Texts(vocab, batch)
        for precision in (torch.float32, torch.bfloat16):
            student, seconds = build_ours(arch, vocab), []
            optimizer = build_optimizer(
                student, OptimConfig(name="muon", lr=1e-4), precision=precision
            )
            step = make_our_step(
                student, texts.masked, bf16=precision == torch.bfloat16, optimizer=optimizer
            )
            take = optimizer.step

            def timed(take: Callable = take, seconds: list = seconds) -> None:
                start = time.perf_counter()
                take()
                seconds.append(time.perf_counter() - start)

            optimizer.step = timed
            whole = time_interleaved({"step": step}, bench.choose(5, 1))["step"]
            share = statistics.median(seconds) / whole
            lines.append(
                f"| {arch}, V = {vocab:,} | {batch} | {str(precision).removeprefix('torch.')} | "
                f"{whole:.2f} | {statistics.median(seconds):.2f} | {share:.0%} | {most} |"
            )
            print(lines[-1], flush=True)
    return lines


RUN_ARCH, RUN_STEPS, RUN_ROUNDS = Arch(4, 4, 256, 512), 40, 3


def run(bench: Bench) -> list[str]:
    """Compare a whole run, with its data, masks, clipping, Lightning and logging, with bare steps.

    Both sides train the same model on the same batches in the precision of the run.
    """
    arch, steps, rounds = bench.choose((RUN_ARCH, RUN_STEPS, RUN_ROUNDS), (TINY, 2, 1))
    shape = ", ".join(f"{name}: {size}" for name, size in vars(arch).items())
    settings = bench.compose_pretraining(
        "experiment=mlm_pretrain",
        f"arch={{{shape}}}",
        *(f"trainer.max_steps={steps}", "trainer.limit_val_batches=0", "optim.name=adamw"),
        *(
            "data.batch_size=32",
            "data.length=128",
            "trainer.precision=bf16-mixed",
            "callbacks=none",
        ),
    )
    corpus = build_corpus(settings.data, locate_cache())
    rates: dict[str, list[float]] = {"run": [], "bare": []}
    for number in range(rounds):
        for side in ("run", "bare") if number % 2 == 0 else ("bare", "run"):
            with tempfile.TemporaryDirectory() as folder:
                rates[side].append(
                    time_run(settings, corpus, Path(folder))
                    if side == "run"
                    else time_bare_steps(settings, corpus)
                )
    whole, bare = (statistics.median(rates[side]) for side in ("run", "bare"))
    return [
        f"| MLM, {arch}, bf16 autocast, {steps} steps, medians of {rounds} | tokens/s |",
        "|---|---|",
        f"| a run: data, masks, clipping, Lightning, logging | {whole:,.0f} |",
        f"| bare steps on the same batches | {bare:,.0f} |",
        f"| share (to reach: 92%) | {whole / bare:.0%} |",
    ]


def time_run(settings: TrainConfig, corpus: Corpus, folder: Path) -> float:
    """Return the tokens/s of a training as `train.py` runs it."""
    return train(settings, folder, corpus, None).tokens_per_s


def time_bare_steps(settings: TrainConfig, corpus: Corpus) -> float:
    """Return the tokens/s of the same steps in a plain loop; masking is a part of them."""
    batches = TrainBatches(corpus, settings.data, settings.seed)
    tokens, turn = 0, itertools.count()

    def take() -> tuple[torch.Tensor, ...]:
        nonlocal tokens
        batch = batches[next(turn)]
        tokens += batch["input_ids"].numel()
        return batch["input_ids"], batch["positions"], batch["labels"]

    step = make_our_step(build_student(settings, corpus, None).train(), take)
    start = time.perf_counter()
    for _ in range(settings.trainer_config.max_steps):
        step()
    return tokens / (time.perf_counter() - start)


def data(bench: Bench) -> list[str]:
    texts = Texts(8_192, 32, 512)
    collate = DataCollatorForLanguageModeling(make_tokenizer(8_192), mlm_probability=RATE)
    ids = texts()
    rows = ids.tolist()
    times = time_interleaved(
        {
            "ours": lambda: mask_tokens(ids, RATE, texts.special, 4, 8_192, texts.keys()),
            "hf": lambda: collate([{"input_ids": row} for row in rows]),
        },
        bench.choose(101, 1),
    )
    tiny = DataConfig("text", str(bench.text), vocab_size=280, val_fraction=0.2)
    source = bench.choose(DataConfig(), tiny)
    built = build_corpus(source, locate_cache())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        sample = built.tokenizer.decode(built.train[:2_000_000].tolist())
        path.write_text(sample.replace("</s>", "\n"))
        start = time.perf_counter()
        again = build_corpus(
            replace(source, source="text", path=str(path)),
            Path(folder),
            built.tokenizer,
        )
        seconds = time.perf_counter() - start
    tokens = again.info.train_tokens + again.info.val_tokens
    return [
        "| data | |",
        "|---|---|",
        f"| masking 32 × 512 tokens, ours | {1e3 * times['ours']:.2f} ms |",
        f"| Hugging Face's collator | {1e3 * times['hf']:.2f} ms |",
        f"| ratio (to reach: 10) | {times['hf'] / times['ours']:.0f} |",
        f"| corpus building, de-duplicated and split | {tokens / seconds:,.0f} tokens/s |",
    ]


GPU_KD = Arch(24, 16, 1024, 4096), Arch(4, 8, 1024, 768), 50_265  # as published: teacher, Bort
GPU_BATCH, GPU_LENGTH, GPU_ROUNDS, PREPARED = 64, 512, 15, 8


def gpu(bench: Bench) -> list[str]:
    """Time MLM and KD of Bort in bf16: Hugging Face's step, ours, and ours compiled."""
    if not torch.cuda.is_available() and not bench.smoke:
        raise BortError("gpu: there is no GPU here")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, arch, vocab = bench.choose(GPU_KD, (TINY, TINY, 320))
    rounds, batch, length = bench.choose((GPU_ROUNDS, GPU_BATCH, GPU_LENGTH), (1, 4, 16))
    texts, tokens = Texts(vocab, batch, length), batch * length
    make = make_collated(texts)
    masked = [[x.to(device) for x in texts.masked()] for _ in range(PREPARED)]
    batches = [{k: v.to(device) for k, v in make().items()} for _ in range(PREPARED)]
    name = torch.cuda.get_device_name() if device == "cuda" else device
    lines = [
        f"{name}, bf16 autocast, {batch} × {length} tokens, "
        f"V = {vocab:,}, {RATE:.0%} masked, random weights; tokens/s, medians of {rounds}",
        "",
        "| step | Hugging Face | ours | ours, compiled | ratio | ratio compiled |",
        "|---|---|---|---|---|---|",
    ]
    for name, large in ((f"MLM, {arch}", None), (f"KD, {teacher} → {arch}", teacher)):
        teachers = [
            build(large, vocab).eval().to(device) if large else None
            for build in (build_theirs, build_ours)
        ]
        student = build_theirs(arch, vocab).to(device)
        of_ours = [build_ours(arch, vocab).to(device) for _ in range(2)]
        compiled = torch.compile(of_ours[1], backend=bench.choose("inductor", "eager"))
        contenders = {
            "hf": make_their_step(student, take_turns(batches), teachers[0], device),
            "ours": make_our_step(of_ours[0], take_turns(masked), teachers[1], device),
            "compiled": make_our_step(compiled, take_turns(masked), teachers[1], device),
        }
        contenders = {key: synchronize(step, device) for key, step in contenders.items()}
        contenders["compiled"]()  # a second warm-up: the number of masked places varies
        times = time_interleaved(contenders, rounds)
        speeds = {key: tokens / value for key, value in times.items()}
        ratios = [speeds[key] / speeds["hf"] for key in ("ours", "compiled")]
        cells = [*(f"{value:,.0f}" for value in speeds.values()), *(f"{r:.2f}" for r in ratios)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1])
    return lines


PARTS = {"mlm": mlm, "kd": kd, "muon": muon, "run": run, "data": data, "gpu": gpu}


def main() -> None:
    """Run the parts of the command line; a table is written of all but gpu, or of gpu alone."""
    chosen, _, smoke = read_arguments(sys.argv[1:], PARTS)
    keep_freed_memory()  # as a training does; it helps both sides
    with open_bench(RUNS, smoke) as bench:
        report = [describe_machine()]
        for part in chosen or (PARTS if smoke else ("mlm", "kd", "muon", "run", "data")):
            report += ["", *PARTS[part](bench)]
        if chosen in ([], ["gpu"]):
            write_table("pretrain_gpu" if chosen else "pretrain", report, bench)
        else:
            print("\n".join(report))


if __name__ == "__main__":
    show_log()
    try:
        main()
    except BortError as error:
        raise SystemExit(f"benchmarks/pretrain.py: {error}") from None
