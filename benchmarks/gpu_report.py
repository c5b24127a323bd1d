"""The tables of benchmarks/gpu.py, made of what its stages have written so far."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deadlines import Record, Stage, locate_log

from bort.files.writing import replace_file, write_json

# What is expected of the pre-trained model and of random weights, in points.
EXPECTED = {
    ("glue/sst2", "accuracy"): ("86–89", "80"),
    ("glue/cola", "matthews"): ("–", "0"),
    ("glue/stsb", "pearson"): ("72–81", "15"),
    ("glue/stsb", "spearman"): ("–", "–"),
    ("glue/mrpc", "f1"): ("82–85", "81"),
    ("glue/mrpc", "accuracy"): ("–", "–"),
    ("glue/rte", "accuracy"): ("–", "–"),
}
STARTS = ("pre-trained", "random weights")
TAIL = 20_000  # bytes of each log


def write_report(work: Path, out: Path, stages: Sequence[Stage]) -> None:
    """Write gpu.json, gpu.md and logs.txt of what there is in a folder of work."""
    results = {
        path.stem: json.loads(path.read_text())
        for path in sorted((work / "results").glob("*.json"))
    }
    names = [name for stage in stages for name in (stage.name, stage.beside) if name]
    records = {name: Record.read(work, name) for name in names}
    ended = {name: record.to_json() for name, record in records.items() if record}
    write_json(out / "gpu.json", {"stages": ended, "results": results})
    with replace_file(out / "gpu.md") as file:
        file.write("\n".join([*format_report(results, records), ""]).encode())
    with replace_file(out / "logs.txt") as file:
        for name in names:
            log = locate_log(work, name)
            if log.exists():
                file.write(f"==== {name}\n".encode() + log.read_bytes()[-TAIL:] + b"\n")


def format_report(results: dict[str, Any], records: dict[str, Record | None]) -> Iterator[str]:
    """Format the machine, how the stages ended, and a table of each."""
    yield results.get("unpack", {}).get("machine", "What machine this is has not been found out.")
    yield from ("", "| stage | ended | seconds | message |", "|---|---|---|---|")
    for name, record in records.items():
        if record is not None:
            message = record.message.replace("|", "/")
            yield f"| {name} | {record.state} | {record.seconds:.0f} | {message} |"
    tables: dict[str, Callable[[Any, dict], Iterator[str]]] = {
        "mlm": format_pretraining,
        "finetune": format_scores,
        "blimp": format_blimp,
        "speed": format_speed,
    }
    for name, table in tables.items():
        if name in results:
            yield ""
            yield from table(results[name], results)


def format_pretraining(values: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    """Make the table of the pre-training, with word frequencies beside it."""
    text = results.get("unpack", {})
    rows = {
        "model": f"{values['arch']}, {values['parameters']:,} parameters, "
        f"{'compiled' if values['compiled'] else 'not compiled'}, {values['precision']}",
        "text": f"{text.get('train_tokens', 0):,} tokens, V = {text.get('vocab_size', 0):,}, "
        f"read {values['epochs']:.1f} times",
        "steps": f"{values['steps']:,} of {values['batch']} tokens, lr {values['lr']:.2g}",
        "seconds of training": f"{values['seconds']:.0f}",
        "tokens/s": f"{values['tokens_per_s']:,.0f}",
    }
    if values.get("val/loss") is not None:
        rows["validation"] = f"{values['val/loss']:.3f} nats, {values['val/mlm_accuracy']:.1%}"
    if values.get("unigram_ce") is not None:
        frequencies = f"{values['unigram_ce']:.3f} nats, {values['unigram_accuracy']:.1%}"
        rows["word frequencies alone"] = frequencies
    points = [
        f"{step:,.0f}: {loss:.3f} ({accuracy:.1%})"
        for step, _, loss, accuracy in values["curve"]
        if loss is not None
    ]
    rows["validations by step"] = "; ".join(points)
    yield from ("| pre-training | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in rows.items())


def format_scores(values: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    """Make the table of the fine-tunings: each seed, their mean and spread, of both starts."""
    yield "Validation sets, each looked at once, after the last epoch; in points."
    yield ""
    yield (
        "| task | metric | pre-trained, by seed | mean ± spread | expected | "
        "random weights, by seed | mean ± spread | expected | margin |"
    )
    yield "|---" * 9 + "|"
    for (task, metric), expected in EXPECTED.items():
        scores = [list_values(values["scores"], f"{task} {start}", metric) for start in STARTS]
        cells = [
            f"{format_numbers(numbers)} | {expectation}"
            for numbers, expectation in zip(scores, expected, strict=True)
        ]
        margin = "–"
        if all(scores):
            margin = f"{statistics.mean(scores[0]) - statistics.mean(scores[1]):+.1f}"
        yield f"| {task} | {metric} | {' | '.join(cells)} | {margin} |"
    if values["failures"]:
        yield ""
        yield from (f"- failed: {line}" for line in values["failures"])


def list_values(scores: dict[str, list[dict]], key: str, metric: str) -> list[float]:
    """List the values of a metric, in points, of the fine-tunings of one task and start."""
    values = [record[f"val/{metric}"] for record in scores.get(key, [])]
    return [100 * value for value in values if value is not None]


def format_numbers(numbers: list[float]) -> str:
    """Make two cells: the numbers, and their mean with the standard deviation."""
    if not numbers:
        return "– | –"
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    shown = ", ".join(f"{number:.1f}" for number in numbers)
    return f"{shown} | {statistics.mean(numbers):.1f}{spread}"


def format_blimp(values: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    """Make the table of BLiMP: all pairs, and each field."""
    scores = values["scores"]
    shown = values["shown"]
    yield f"| BLiMP, points | pairs | {' | '.join(shown)} |"
    yield "|---" * (2 + len(shown)) + "|"
    for start, score in scores.items():
        cells = [f"{100 * score[key]:.1f} ± {100 * score[f'{key}_error']:.1f}" for key in shown]
        yield f"| {start} | {score['blimp_pairs']:,} | {' | '.join(cells)} |"


def format_speed(values: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    """Make the table of tokens/s and of shares of the peak."""
    peaks = [peak / 1e12 for peak in values["peaks"]]
    peak = statistics.median(peaks)
    sides = list(dict.fromkeys(side for row in values["rows"] for side in row["tokens_per_s"]))
    yield (
        f"Steps of {values['tokens']:,} tokens in bf16, 15% masked, AdamW; tokens/s. The peak is "
        f"the median of {len(peaks)} measurements: {peak:,.1f} TFLOP/s ({min(peaks):,.1f} to "
        f"{max(peaks):,.1f})."
    )
    ratio = "our compiled ÷ Hugging Face | ÷ its compiled"
    yield from (
        "",
        f"| model | tokens | {' | '.join(sides)} | {ratio} | share of the peak | reach |",
    )
    yield "|---" * (6 + len(sides)) + "|"
    failures = []
    for row in values["rows"]:
        speeds = row["tokens_per_s"]
        failures += [
            f"{row['name']}, {row['length']}, {k}: {v}" for k, v in row["failures"].items()
        ]
        best = max(
            (speeds[side] for side in ("ours", "ours, compiled") if side in speeds), default=0
        )
        ratios = [
            f"{speeds['ours, compiled'] / speeds[side]:.2f}"
            if {side, "ours, compiled"} <= set(speeds)
            else "–"
            for side in ("Hugging Face", "Hugging Face, compiled")
        ]
        share = best * row["flops_per_token"] / (1e12 * peak)
        cells = [f"{speeds[side]:,.0f}" if side in speeds else "–" for side in sides]
        reach = "–" if row["reach"] is None else f"{row['reach']:.0%}"
        yield (
            f"| {row['arch']}, V = {row['vocab_size']:,} | {row['length']} | {' | '.join(cells)} | "
            f"{' | '.join(ratios)} | {share:.0%} | {reach} |"
        )
    if failures:
        yield ""
        yield from (f"- failed: {line}" for line in failures)
