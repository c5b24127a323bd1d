"""Measure what a trimmed vocabulary gives and costs: size, latency, tokens of a text, accuracy.

    python benchmarks/vocabulary.py trim       # parameters, disk, tokens, SST-2; ten minutes
    python benchmarks/vocabulary.py latency    # milliseconds of the same encoders in int8
    python benchmarks/vocabulary.py smoke      # the same with tiny models; only prints

The teacher is that of benchmarks/glue.py, and the text is of BORT_DATA/text, in equal numbers of
documents from each file. Tokens are counted on documents that are not among those. SST-2 is trained
on 2,000 rows, from a student whose embeddings are the teacher's by truncated SVD (init=teacher) and
that was not pre-trained: what it loses, it loses by the vocabulary alone. `latency` keeps the
encoders that it exports, and should have the machine to itself.
"""

import json
import lzma
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from glue import find_encoder, sample_task
from parts import ROOT, RUNS, Bench, run_parts

from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.finetuning.recipe import finetune
from bort.models.arch import Arch
from bort.models.bert import Encoder, ModelConfig
from bort.models.huggingface import load_tokenizer, save_model
from bort.models.onnx import describe_graph, export_encoder, open_session
from bort.objectives.parameters import count_parameters
from bort.objectives.timing import Timing, time_interleaved
from bort.pretraining.corpus import Corpus
from bort.pretraining.recipe import build_student, prepare

SIZES = [None, 16_384, 8_192, 4_096]  # of the vocabulary; None: the teacher's whole one
TINY_SIZES = [None, 280]
ARCHS = {"Bort": Arch(4, 8, 1024, 768), "⟨2,2,128,512⟩": Arch(2, 2, 128, 512)}
TINY_ARCHS = {"⟨1,2,16,32⟩": Arch(1, 2, 16, 32)}
STUDENT = "arch={depth: 2, heads: 2, hidden: 128, intermediate: 512}"
SOURCES = ["imdb", "wiki", "news"]
DOCUMENTS, HELD_OUT = 1_500, 200  # of each source
SEEDS, ROWS, EPOCHS, RATE = [0, 1, 2], 2_000, 3, 1e-3
LENGTH, THREADS, ROUNDS = 128, 2, 5


def read_documents(bench: Bench) -> Iterator[tuple[str, bool]]:
    """Yield documents, and whether each is held out, from all sources in turn."""
    if bench.smoke:
        yield from ((line, k % 5 == 0) for k, line in enumerate(bench.text.read_text().split("\n")))
        return
    folder = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data")) / "text"
    for name in SOURCES:
        path = folder / f"{name}.jsonl.xz"
        if not path.is_file():
            raise BortError(f"{path} is missing; set BORT_DATA to a folder that holds text/")
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(islice(file, DOCUMENTS + HELD_OUT)):
                yield json.loads(line)["text"], number >= DOCUMENTS


def write_text(bench: Bench) -> tuple[Path, list[str]]:
    """Write the text that vocabularies are trimmed by; return its file and the held-out texts."""
    path, held = bench.runs / "vocabulary" / "text.jsonl", []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text, is_held_out in read_documents(bench):
            if is_held_out:
                held.append(text)
            else:
                file.write(json.dumps({"text": text}) + "\n")
    return path, held


def compose_student(bench: Bench, text: Path, size: int | None) -> TrainConfig:
    """Compose the settings of a student of the teacher with a vocabulary of this size."""
    words = [f"teacher.name={find_encoder(bench)}", "init=teacher", "data=text", STUDENT]
    words += ["experiment=mlm_pretrain", f"data.path={text}", "data.val_fraction=0.01"]
    run = bench.compose_pretraining(*words)
    return replace(run, data=replace(run.data, path=str(text), vocab_size=size))


def count_tokens_per_word(tokenizer: Any, texts: list[str]) -> tuple[float, float]:
    """Count the tokens of texts for each of their words, and the share of unknown ones."""
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    tokens = sum(map(len, ids))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids)
    return tokens / sum(len(text.split()) for text in texts), unknown / tokens


def score_student(bench: Bench, run: TrainConfig, corpus: Corpus, teacher: Any) -> list[float]:
    """Train the student of a vocabulary on SST-2 from its start; return the accuracy by seed."""
    root = sample_task(bench, "glue/sst2", ROWS)
    folder = bench.runs / "vocabulary" / f"student_{run.data.vocab_size}"
    save_model(build_student(run, corpus, teacher), corpus.tokenizer, folder)
    scores = []
    for seed in bench.shorten(SEEDS):
        words = ["experiment=finetune", "task=glue/sst2", f"model={folder}", f"data.root={root}"]
        words += [f"seed={seed}", f"optim.lr={RATE}", f"trainer.max_epochs={EPOCHS}"]
        words += ["resume=false", "data.batch_size=16", "data.length=64"]
        summary = finetune(bench.compose_task(*words), folder / f"sst2_{seed}")
        scores.append(summary["val/accuracy"])
    return scores


def measure_disk(bench: Bench, arch: Arch, size: int, int8: bool) -> tuple[Path, float]:
    """Export an encoder with random weights once; return its file and MB."""
    name = f"{arch.hidden}x{arch.depth}_{size}{'_int8' if int8 else ''}.onnx"
    path = bench.runs / "vocabulary" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = ModelConfig(**vars(arch), vocab_size=size, positions=512)
        export_encoder(Encoder(sizes), path, int8)
    return path, path.stat().st_size / 1e6


def trim(bench: Bench) -> list[str]:
    """Tabulate parameters, disk, tokens and accuracy by the size of the vocabulary."""
    archs = bench.choose(ARCHS, TINY_ARCHS)
    text, held = write_text(bench)
    full = load_tokenizer(find_encoder(bench))
    lines = [
        f"The teacher's vocabulary has {len(full):,} tokens. p counts the masked LM with 512 "
        "positions; MB are those of the ONNX file of the encoder alone, in float32 and in int8. "
        f"SST-2: accuracy on the validation set after {EPOCHS} epochs of {ROWS:,} rows at rate "
        f"{RATE:g}, from a student {Arch(2, 2, 128, 512)} with the teacher's embeddings by SVD, "
        f"which is not pre-trained; seeds {SEEDS} and their mean ± standard deviation.",
        "",
        "| vocabulary | tokens a word, held out | unknown | "
        + " | ".join(f"{name}: p, M | MB | MB, int8" for name in archs)
        + " | SST-2 by seed | mean |",
        "|---" * (5 + 3 * len(archs)) + "|",
    ]
    for size in bench.choose(SIZES, TINY_SIZES):
        run = compose_student(bench, text, size)
        corpus, teacher = prepare(run)
        tokens, unknown = count_tokens_per_word(corpus.tokenizer, held)
        cells = [f"{teacher.vocab_size:,}", f"{tokens:.3f}", f"{unknown:.2%}"]
        for arch in archs.values():
            cells.append(f"{count_parameters(arch, teacher.vocab_size, 512) / 1e6:.2f}")
            for int8 in (False, True):
                cells.append(f"{measure_disk(bench, arch, teacher.vocab_size, int8)[1]:.1f}")
        scores = score_student(bench, run, corpus, teacher)
        cells.append(", ".join(f"{score:.3f}" for score in scores))
        cells.append(f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1])
    return lines


def latency(bench: Bench) -> list[str]:
    """Tabulate the milliseconds of the same encoders in int8."""
    archs, full = bench.choose(ARCHS, TINY_ARCHS), len(load_tokenizer(find_encoder(bench)))
    sizes = [size or full for size in bench.choose(SIZES, TINY_SIZES)]
    calls = {}
    for name, arch in archs.items():
        for size in sizes:
            calls[name, size] = make_call(measure_disk(bench, arch, size, True)[0], size)
    timings: dict[Any, Timing] = time_interleaved(calls, bench.choose(ROUNDS, 1))
    lines = [
        f"Batch 1 × {LENGTH} tokens, {THREADS} threads, int8, {describe_graph()}; medians of "
        f"{ROUNDS} rounds in turns [quartiles].",
        "",
        "| encoder | " + " | ".join(f"V = {size:,}, ms" for size in sizes) + " |",
        "|---" * (1 + len(sizes)) + "|",
    ]
    for name in archs:
        cells = [timings[name, size] for size in sizes]
        shown = (f"{time.ms:.2f} [{time.low:.2f}, {time.high:.2f}]" for time in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def make_call(path: Path, size: int) -> Callable[[], Callable[[], object]]:
    """Return what opens an exported encoder and makes its call with random words."""
    ids = np.random.default_rng(0).integers(2, size, (1, LENGTH))

    def make() -> Callable[[], object]:
        session = open_session(path, THREADS)
        return lambda: session.run(None, {"input_ids": ids})

    return make


if __name__ == "__main__":
    run_parts("vocabulary", {"trim": trim, "latency": latency}, RUNS, ["encoder"])
