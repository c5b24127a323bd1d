"""The page of a whole pipeline: an overview, then each stage's own figures."""

import csv
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from bort import html, report
from bort.benchmark import run as benchmark
from bort.console import clock, counted, decimal
from bort.export.card import kept_answers
from bort.files.untrusted import read_json
from bort.runs import record
from bort.runs.summary import describe_validation, find_doubt
from bort.search import report as search_page
from bort.search.optimum import choose_optimum
from bort.search.result import SearchResult

TITLES = {
    "search": "Search",
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "export": "Export",
    "benchmark": "Latency",
}


def overview(folders: dict[str, Path], seconds: dict[str, float]) -> dict[str, str]:
    """What was found, in a few lines: what → value. folders, seconds: by stage."""
    search, student, tuned = (_json(folders[key] / "summary.json") for key in list(TITLES)[:3])
    teacher = _json(folders["search"] / "search.json")["teacher"]
    shipped = _json(folders["export"] / "export.json")
    low, high = search["w_interval"]
    share = student["parameters"] / teacher["parameters"]
    found = {
        "optimum": f"{search['optimum_name']} of {search['candidates']} candidates",
        "W": f"{search['w']:.4f} [{low:.4f}, {high:.4f}]",
        "parameters": f"{student['parameters']:,}, {share:.0%} of T's {teacher['parameters']:,}",
        "pre-training": describe_validation(student),
        "task": ", ".join([str(tuned["task"]), *_scores(tuned)]),
        "int8": kept_answers(shipped),
    }
    for metric in [k.removeprefix("before/") for k in shipped["scores"] if k.startswith("before/")]:
        before, after = (shipped["scores"][f"{when}/{metric}"] for when in ("before", "after"))
        found[f"int8 val/{metric}"] = f"{decimal(after)}, in float32 {decimal(before)}"
    rows = timings(folders["benchmark"])
    found |= dict(_latencies(rows, folders))
    if warning := benchmark.wide_note(rows):
        found["latency in doubt"] = warning.removeprefix("warning: ")
    spent = ", ".join(f"{key} {clock(value)}" for key, value in seconds.items())
    return found | {"time": f"{clock(sum(seconds.values()))}: {spent}"}


def _scores(summary: dict) -> Iterator[str]:
    for key, value in summary.items():
        if key.startswith(("val", "test")) and not key.endswith("/loss"):
            yield f"{key} {decimal(value)}"


def timings(path: Path) -> list[dict[str, Any]]:
    """The rows of bort.benchmark's table, numbers as numbers."""
    words = ("name", "measures", "engine")
    floats = ("median_ms", "low_ms", "high_ms", "sequences_per_s", "ratio")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for key in row.keys() - set(words):
            row[key] = (float if key in floats else int)(row[key]) if row[key] else None
    return rows


def _latencies(rows: list[dict], folders: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Milliseconds of int8 at the first size and how many times faster it is; sizes on disk."""
    size = (rows[0]["batch"], rows[0]["length"])
    some = [row for row in rows if (row["batch"], row["length"]) == size]
    ours = next(row for row in some if row["name"] == str(folders["export"]))
    yield (
        "latency of int8",
        f"{ours['median_ms']:.2f} ms for {size[0]} × {size[1]} tokens, "
        f"{counted(ours['threads'], 'thread')}",
    )
    for row in some:
        if row is ours:
            continue
        own = row["name"] == str(folders["finetune"])
        yield (
            f"against {'the same model' if own else row['name']}",
            f"{row['median_ms'] / ours['median_ms']:.1f} × as fast "
            f"({benchmark.ENGINE_NAMES[row['engine']]} {row['median_ms']:.2f} ms), "
            f"{ours['disk_bytes'] / row['disk_bytes']:.1%} of {row['disk_bytes'] / 1e6:.1f} MB",
        )
    yield "size of int8 on disk", f"{ours['disk_bytes'] / 1e6:.2f} MB"


def doubts(folders: dict[str, Path]) -> list[str]:
    """What to doubt in the results of the stages, which stands first on the page."""
    search, *trained = (_json(folders[key] / "summary.json") for key in list(TITLES)[:3])
    found = search_page.find_doubts(SearchResult.from_json(search))
    lines = [line for line in found if line.startswith("doubt")]
    for key, summary in zip(("pretrain", "finetune"), trained, strict=True):
        if line := find_doubt(summary):
            lines.append(f"{TITLES[key]}: {line}")
    return lines


def parts(
    name: str, found: dict[str, str], folders: dict[str, Path], commands: list[str]
) -> Iterator[Any]:
    """HTML and figures; found: see `overview`, folders: by stage, commands: of the stages."""
    yield f"<h1>bort pipeline {escape(name)}</h1>"
    yield "".join(f"<p class=doubt>{escape(line)}</p>" for line in doubts(folders))
    yield html.table(found.items(), kind="settings")
    links = (f'<a href="#{key}">{title}</a>' for key, title in TITLES.items())
    yield f"<p>{' · '.join(links)}</p><h2>Again</h2><pre>{escape(chr(10).join(commands))}</pre>"
    own = {  # their doubts stand above
        "search": lambda: search_page.build_parts(
            folders["search"], choose_optimum(folders["search"]), with_doubts=False
        ),
        "pretrain": lambda: report.parts(record.read(folders["pretrain"]), with_doubt=False),
        "finetune": lambda: report.parts(record.read(folders["finetune"]), with_doubt=False),
        "export": lambda: export_parts(folders["export"]),
        "benchmark": lambda: benchmark.page_parts(
            timings(folders["benchmark"]),
            ["medians [quartiles] of rounds in alternating order; archs: the encoder alone with "
             "random weights; models: whole, head included"],
        ),
    }  # fmt: skip
    for key, title in TITLES.items():
        yield f"<hr id={key}><p>{title}: {escape(str(folders[key]))}</p>"
        yield from own[key]()


def export_parts(folder: Path) -> Iterator[str]:
    """What the export's checks found, and the files that it left."""
    found = _json(folder / "export.json")
    kept = found["float32"]
    rows = [
        ("format", found["format"]),
        ("largest difference of a logit", f"{found['largest_difference']:.2e}"),
        ("int8 beside float32", kept_answers(found)),
        ("matrices that stay float32", ", ".join(kept) if kept else "none"),
    ]
    rows += [(f"{key.replace('/', ': val/', 1)}", decimal(v)) for key, v in found["scores"].items()]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sizes = [(path.name, f"{path.stat().st_size / 1e3:,.1f} kB") for path in files]
    yield f"<h1>export/{escape(folder.name)}, int8 for onnxruntime</h1>{html.table(rows)}"
    yield f"<h2>Files</h2>{html.table(sizes)}"


def _json(path: Path) -> dict:
    return read_json(path, "repeat the stage that wrote it")
