"""Measuring models and architectures side by side, or a table of architectures for `latency=`."""

import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bort.benchmark.contenders import Contender, describe_encoders, export_forms, open_contender
from bort.benchmark.measuring import measure
from bort.benchmark.report import write_page
from bort.benchmark.rows import BenchmarkRow, TableRow, warn_of_wide_quartiles
from bort.benchmark.settings import BenchmarkConfig
from bort.config.compose import CONF, parse_settings
from bort.config.search import register
from bort.config.unused import BENCHMARK_RULES, LATENCY_RULES, refuse_unused
from bort.console import counted
from bort.errors import BortError, suggest_name
from bort.files.locks import check_unread, lock_output
from bort.files.ownership import is_own_page
from bort.files.writing import check_writable, expand_user_path, write_csv
from bort.machine import count_usable_cores, is_busy
from bort.models.arch import Arch

logger = logging.getLogger(__name__)

INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # of /proc/cpuinfo


def compose_settings(schema: type[BenchmarkConfig], words: list[str]) -> BenchmarkConfig:
    """Return the settings of a command line: groups such as latency=onnx are files of conf/."""
    register(schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = parse_settings(compose("benchmark", words), schema)
    refuse_unused(settings, words, (*LATENCY_RULES, *BENCHMARK_RULES))
    return settings


def run(settings: BenchmarkConfig) -> list[BenchmarkRow] | list[TableRow]:
    """Measure what the settings ask for, print it, write it to out=, and return the rows."""
    measure_rows = compare if settings.compares else make_table
    if not settings.out:
        return measure_rows(settings)
    out = expand_user_path("out", settings.out)
    settings = replace(settings, out=str(out))
    check_writable(out)
    for name in settings.models:
        check_unread(out, {"models": name})
    if has_picture(settings) and (picture := out.with_suffix(".html")).exists():
        if not is_own_page(picture):
            raise BortError(f"{picture}, beside out={out}, is no page of bort; give another out=")
    with lock_output(out):
        return measure_rows(settings)


def has_picture(settings: BenchmarkConfig) -> bool:
    """Say whether a picture goes beside out=; a table of a grid or of operations has none."""
    has_bars = not settings.grid.points()[0] and settings.latency.source != "analytic"
    return settings.compares or has_bars


def name_archs(names: list[str]) -> dict[Arch, str]:
    """Return the architectures of conf/arch with these names; raises BortError for another one."""
    files = {path.stem: path for path in (CONF / "arch").glob("*.yaml")}
    for name in names:
        if name not in files:
            raise BortError(f"archs={name} is unknown{suggest_name(name, files)}; see conf/arch")
    return {Arch.from_table(OmegaConf.load(files[name])).check(): name for name in names}


# ------------------------------------------------------------------------------- a comparison


def compare(settings: BenchmarkConfig) -> list[BenchmarkRow]:
    """Measure models and archs with all engines and sizes, print and write the rows."""
    import torch

    from bort.machine import describe_machine
    from bort.models.onnx import require_onnx

    archs = name_archs(settings.archs)
    models = _open_models(settings)
    if set(settings.chosen_engines) != {"measured"}:
        require_onnx()
    threads = settings.latency.threads or torch.get_num_threads()
    machine = f"{describe_machine()}; int8 products: {find_int8_instructions()}"
    logger.info(machine)
    if busy := warn_of_other_work():
        logger.info(busy)
    with tempfile.TemporaryDirectory() as folder:
        contenders = _list_contenders(settings, archs, models, Path(folder))
        rounds, sizes = settings.latency.rounds, settings.sizes
        rows = measure(contenders, sizes, threads, rounds, settings.memory)
    warnings = [line for line in (busy, warn_of_wide_quartiles(rows)) if line]
    notes = _describe_method(settings, threads, warnings)
    _print_rows(rows, notes, sizes)
    if settings.out:
        out = Path(settings.out)
        table = [row.to_json() for row in rows]
        write_csv(out, list(table[0]), table)
        write_page(out.with_suffix(".html"), rows, [machine, *notes])
        logger.info(f"table: {out}, picture: {out.with_suffix('.html')}")
    return rows


def _open_models(settings: BenchmarkConfig) -> list[Contender]:
    """Open the models; raises BortError for one that does not take the longest input."""
    longest = max(length for _, length in settings.sizes)
    models = [open_contender(name) for name in dict.fromkeys(settings.models)]
    for model in models:
        if longest > model.limit:
            raise BortError(
                f"lengths={longest} is beyond the {model.limit} tokens that {model.name} takes"
            )
    return models


def _list_contenders(
    settings: BenchmarkConfig, archs: dict[Arch, str], models: list[Contender], folder: Path
) -> list[Contender]:
    """Return every architecture and model with every engine; their files are in the folder."""
    contenders: list[Contender] = []
    limit = max(512, *(length for _, length in settings.sizes))
    for arch, name in archs.items():
        encoder = Contender.of_random_encoder(arch, name, settings.vocab_size, limit)
        contenders += describe_encoders(
            encoder, settings.chosen_engines, folder, settings.huggingface
        )
    for model in models:
        contenders += export_forms(model, settings.chosen_engines, folder)
    return contenders


def _describe_method(settings: BenchmarkConfig, threads: int, warnings: list[str]) -> list[str]:
    """Return the lines that say what the numbers mean, and whether they are in doubt."""
    notes = [
        f"{counted(threads, 'thread')}, rows without padding, medians [quartiles] of "
        f"{settings.latency.rounds} rounds in alternating order; the ratio is to the first row of "
        "the same size",
        f"archs: the encoder alone, random weights, vocabulary {settings.vocab_size:,}; models: "
        "whole, head included (a masked LM gives logits at every token)",
        *warnings,
    ]
    if settings.memory:
        notes.append("peak: resident memory of a process that loads this model alone, all included")
    return notes


def _print_rows(rows: list[BenchmarkRow], notes: list[str], sizes: list[tuple[int, int]]) -> None:
    for line in notes:
        logger.info(line)
    width = max(len(row.name) for row in rows)
    for batch, length in sizes:
        logger.info(f"batch {batch} × {length} tokens")
        for row in rows:
            if row.size == (batch, length):
                logger.info(format_line(row, width))


def format_line(row: BenchmarkRow, width: int) -> str:
    """Return a row as a line of the screen; width: of the longest name."""
    peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB"
    return (
        f"  {row.name:<{width}}  {row.measures:<10} {row.engine_name:<12} "
        f"{row.parameters:>11,} parameters {row.disk_bytes / 1e6:8.2f} MB "
        f"{row.median_ms:8.2f} ms [{row.low_ms:.2f}, {row.high_ms:.2f}] "
        f"{row.sequences_per_s:8.1f}/s  peak {peak:>8} {row.ratio:6.2f} ×"
    )


def warn_of_other_work() -> str | None:
    """Return a warning when other work has the processors; ask before anything is measured."""
    if not is_busy():
        return None
    cores = counted(count_usable_cores(), "core")
    return (
        f"warning: other work runs on this machine (load {os.getloadavg()[0]:.1f}, {cores}): it "
        "slows long calls more than short ones, so ratios are in doubt; measure again when it "
        "is idle"
    )


def find_int8_instructions() -> str:
    """Say what the processor has for products of int8; without any of it int8 gains little."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    if not flags:
        return "unknown"
    return ", ".join(flag for flag in INT8_FLAGS if flag in flags) or "no VNNI"


# ------------------------------------------------------------------------ a table for latency=


def make_table(settings: BenchmarkConfig) -> list[TableRow]:
    """Measure architectures with the one engine and size of `latency`, for latency=table."""
    from bort.machine import describe_machine
    from bort.objectives.latency import measure_latencies  # torch is loaded only now

    points, source = settings.grid.points()[0], settings.latency.source
    archs = dict.fromkeys(points, "") if points else name_archs(settings.archs)
    logger.info(describe_machine())
    busy = warn_of_other_work() if source != "analytic" else None
    if busy:
        logger.info(busy)
    with tempfile.TemporaryDirectory() as folder:
        record = measure_latencies(
            settings.latency, list(archs), None, settings.vocab_size, Path(folder)
        )
    in_ms, note = record.unit == "ms", record.note
    rows = _table_rows(archs, record.points, in_ms, settings.vocab_size)
    engine = settings.latency.engine if source == "fitted" else source
    size = (settings.latency.batch, settings.latency.length)
    bars = [row.to_benchmark_row(engine, *size) for row in rows]
    timed = source not in ("analytic", "fitted")
    if (wide := warn_of_wide_quartiles(bars) if timed else None) is not None:
        logger.info(wide)
    logger.info(f"{note}, vocabulary {settings.vocab_size:,}; the ratio is to the first row")
    for row in rows:
        logger.info(format_table_line(row))
    if settings.out:
        table = [row.to_json() for row in rows]
        write_csv(Path(settings.out), list(table[0]), table)
        logger.info(f"table: {settings.out}")
    if settings.out and in_ms and not points:
        path = Path(settings.out).with_suffix(".html")
        write_page(path, bars, [describe_machine(), note, *filter(None, (busy, wide))])
        logger.info(f"picture: {path}")
    return rows


def _table_rows(
    archs: dict[Arch, str], points: dict[Arch, list[float]], in_ms: bool, vocabulary: int
) -> list[TableRow]:
    """Return the rows of architectures from their latencies, [value, low, high]."""
    from bort.objectives.parameters import count_parameters

    first = next(iter(points.values()))[0]
    rows = []
    for arch, name in archs.items():
        value, low, high = points[arch]
        count = count_parameters(arch, vocabulary, 512)
        rows.append(TableRow(name, arch, value, low, high, in_ms, count, first / value))
    return rows


def format_table_line(row: TableRow) -> str:
    """Return a row of a table as a line of the screen."""
    value = f"{row.value / 1e9:9.3f} GFLOP"
    if row.in_ms:
        value = f"{row.value:9.2f} ms [{row.low:.2f}, {row.high:.2f}]"
    return (
        f"{row.name:>14} {row.arch:>18} {row.parameters:>13,} parameters {value}  {row.ratio:.2f} ×"
    )
