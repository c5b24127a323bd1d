"""The HTML page of a run, and the page of several runs that `python -m bort.report` writes."""

import itertools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bort import console, html, shell
from bort.agora.report import build_parts as build_agora_parts
from bort.config.command_line import FREE
from bort.config.distill import DistillConfig
from bort.config.train import EMBED
from bort.console import counted
from bort.errors import BortError
from bort.files.ownership import is_own_page
from bort.files.run_files import REPORT
from bort.finetuning.report import build_baselines, build_task_parts
from bort.models.arch import Arch
from bort.pretraining.comparison import ARMS, HEAD, Comparison
from bort.runs import commands
from bort.runs.defaults import read_defaults
from bort.runs.loaded import LOSSES, TRAINING_PARTS, Curve, LoadedRun, load_run, load_runs
from bort.runs.names import locate_rate_folder, shorten_names
from bort.task_distillation import report as distillation

logger = logging.getLogger("bort.report")

# Settings whose default is settled when a run starts.
SETTLED = ("init", "distill.w_kd", "distill.w_hidden")
# Settings of a teacher that a run trains first; a named one, or none, does not read them.
OWN_TEACHER = ("teacher.arch.", "teacher.max_steps", "teacher.batch_size", "teacher.lr")
KD, MLM = "KL to the teacher (nats per masked word)", "Cross-entropy (nats per masked word)"
BESIDE = {  # what stands beside the results of a pre-training, at the same masked words
    "unigram_ce": "loss of word frequencies alone",
    "unigram_accuracy": "accuracy of the most frequent word",
    "teacher_loss": "loss of the teacher",
    "teacher_accuracy": "accuracy of the teacher",
}
PANELS = {  # the losses of a pre-training by their kind, since two kinds share no scale
    MLM: ("train/mlm_loss", "val/loss"),
    KD: ("train/kd_loss", "val/kd_loss"),
    "Distance from the teacher's final states (0 to 4)": ("train/hidden_loss", "val/hidden_loss"),
    "KL to the teacher's relations (nats per token)": ("train/relation_loss", "val/relation_loss"),
    "Weighted sum of the losses": ("train/loss",),
}
PROGRESS = {
    "Learning rate": "train/lr",
    "Gradient norm": "train/grad_norm",
    "Tokens per second": "perf/tokens_per_s",
}

# ------------------------------------------------------------------------------------ one run


def write_page(folder: Path) -> None:
    """Write report.html of the run, or of the comparison, in a folder."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    run = load_run(folder)
    html.write_page(run.folder.report, f"bort {run.name}", build_parts(run))


def build_parts(run: LoadedRun, with_doubt: bool = True) -> Iterator[Any]:
    """Build the HTML and the figures about one run, but none that would be empty.

    with_doubt: whether to warn of weak results; False where the page has done so already.
    """
    yield f"<h1>{escape(run.name)}</h1><p>{escape(describe(run))}</p>"
    if not run.summary:
        yield "<p class=doubt>This run is not finished.</p>"
    losses = (run.summary.unigram_loss, run.summary.loss)
    is_comparable = "task" in run.summary or None not in losses
    if with_doubt and is_comparable and (warning := run.summary.find_doubt()):
        yield f"<p class=doubt>{escape(warning)}</p>"
    yield html.format_numbers(list_results(run))
    if run.settings["job"] == "kd_finetune" and run.settings["task"] != EMBED:
        yield from distillation.build_recommendation(run.summary)
    yield from build_baselines(run.summary)
    if run.settings["job"] == "compare" and run.summary:
        yield from build_comparison(run)
    if run.settings["job"] == "agora":
        yield from build_agora_parts(run.folder, run.summary)
    yield from build_task_parts(run.folder.predictions, run.summary)
    if panels := list(plot_curves(run)):
        yield from ["<h2>Curves</h2><div class=grid>", *panels, "</div>"]
    if (path := run.folder.samples).is_file():
        samples = path.read_text(encoding="utf-8", errors="replace")
        yield f"<h2>Samples of the last validation</h2><pre>{escape(samples)}</pre>"
    if rows := list(list_costs(run)):
        yield f"<h2>Cost</h2>{html.format_table(rows)}"
    yield build_settings(run)
    if again := commands.compose_command(run.folder, "train.py", run.folder.name):
        yield f"<h2>Again</h2><pre>{escape(again)}</pre>"


def describe(run: LoadedRun) -> str:
    """Say what was trained, from what, and on what."""
    s = run.settings
    if s["task"]:
        data = s["data.train"] if s["task"] == "custom" else s["task"]
        lesson = distillation.describe_lesson(s) if s["job"] == "kd_finetune" else ""
        return f"{s['model'] or 'an encoder of its own'} on {data}{lesson}"
    arch = Arch.from_table(s, "arch.").check()
    teacher = (
        s["teacher.name"] or run.summary.get("teacher") or "a teacher trained on the same text"
    )
    how = f"distilled from {teacher}" if is_distilled(s) else "by plain MLM"
    compared = s["job"] == "compare"
    if compared:
        how += " and, beside it, trained by plain MLM"
    text = s["data.path"] if s["data.source"] == "text" else "the embedded docstrings"
    more = "; the first numbers are those of the distillation" if compared else ""
    student = f"{s['model']}, {arch}," if s["model"] else arch
    return f"{student} {how}, on {text}{more}"


def is_distilled(settings: dict[str, Any]) -> bool:
    """Return whether a loss of these flat settings compares a student with its teacher."""
    weights = ("distill.w_kd", "distill.w_hidden", "distill.w_relation")
    return any(settings.get(key) for key in weights)


def list_results(run: LoadedRun) -> Iterator[tuple[str, str]]:
    """List the main results as (value, name); a comparison gives those of its distilled student."""
    summary = run.summary
    for key, value in summary.items():
        if key.startswith(("val", "test")) and isinstance(value, float):
            yield f"{value:.4g}", key
    if run.settings["job"] == "kd_finetune":
        yield from distillation.list_results(summary)
    for key, name in BESIDE.items() if summary.loss is not None else ():
        if isinstance(summary.get(key), float):
            yield f"{summary[key]:.4g}", name
    if summary.length:
        is_longer = summary.length > run.settings["data.length"]
        source = "the model it continues" if run.settings["model"] else "its teacher"
        reason = f"it takes, as {source} does" if is_longer else "it was trained at"
        yield f"{summary.length:,}", f"tokens of the longest input {reason}"
    for key in ("rows/val", "parameters", "steps", "tokens"):
        if key in summary:
            yield f"{summary[key]:,}", "rows of val" if key == "rows/val" else key
    if "seconds" in summary:
        yield console.clock(summary["seconds"]), "of training"
    if "tokens_per_s" in summary:
        yield f"{summary['tokens_per_s']:,.0f}", "tokens per second"


def plot_curves(run: LoadedRun) -> Iterator[Any]:
    """Plot what one run logged over its steps, in panels; a single point is no curve."""
    drawn = {key for key, (steps, _) in run.curves.items() if len(steps) > 1}
    scores = [key for key in run.scores if key in drawn]
    errors = [key for key in scores if key.split("/")[1] in ("rmse", "mae")]  # in the labels' unit
    groups = group_losses(run)
    groups |= {"Score on held-out data": [key for key in scores if key not in errors]}
    groups |= {"Error on held-out data": errors}
    groups |= {title: [key] for title, key in PROGRESS.items()}
    for title, columns in groups.items():
        keys = [key for key in columns if key in drawn]
        if not keys:
            continue
        plot = html.create_figure("step", "")
        for number, key in enumerate(keys):
            html.draw_curve(plot, key, run.curves[key], number)
        if title == MLM and run.summary.get("unigram_ce"):
            level = run.summary["unigram_ce"]
            plot.add_hline(y=level, line_dash="dot", annotation_text="word frequencies alone")
        if title == MLM and run.summary.get("teacher_loss"):
            level = run.summary["teacher_loss"]
            plot.add_hline(y=level, line_dash="dot", annotation_text="teacher")
        plot.update_layout(showlegend=len(keys) > 1)
        yield from html.build_panel(title if len(keys) > 1 else f"{title} ({keys[0]})", plot)


def group_losses(run: LoadedRun) -> dict[str, list[str]]:
    """Group the columns with losses by title; of two equal curves only one stays.

    The losses of a task are all of one kind.
    """
    if run.settings["task"]:
        return {"Loss": [key for key in LOSSES if key in run.curves]}
    shown = [key for key in LOSSES if key in run.curves]
    total = run.curves.get("train/loss")
    parts = [key for key in TRAINING_PARTS if key in shown]
    if total and any(_is_same_curve(run.curves[part], total) for part in parts):
        shown.remove("train/loss")  # The name of its only part says more.
    return {title: _pick(keys, shown) for title, keys in PANELS.items()}


def _pick(keys: tuple[str, ...], shown: list[str]) -> list[str]:
    return [key for key in keys if key in shown]


def _is_same_curve(left: Curve, right: Curve) -> bool:
    return np.array_equal(left[0], right[0]) and np.allclose(left[1], right[1])


def build_comparison(run: LoadedRun) -> Iterator[Any]:
    """Show distillation beside its controls by plain MLM: a table, a verdict, the curves."""
    comparison = Comparison.from_json(run.summary)
    verdict = "".join(f"<p>{escape(line)}</p>" for line in comparison.compare_accuracies())
    yield "<h2>Was the teacher worth it?</h2>"
    yield html.format_table(comparison.list_rows("word frequencies alone"), HEAD) + verdict
    titles = [ARMS[arm] for arm in comparison.arms]
    yield html.format_legend((title, "") for title in titles)
    panels = overlay_curves(load_best_runs(run), titles)
    yield from ["<div class=grid>", *panels, "</div>"]


def load_best_runs(run: LoadedRun) -> list[LoadedRun]:
    """Load the runs that a comparison reports: of each arm the one with the best rate."""
    arms = Comparison.from_json(run.summary).arms
    return [load_run(locate_rate_folder(run.folder, arm, arms[arm].lr)) for arm in arms]


# ------------------------------------------------------------------------------------ its costs


def list_costs(run: LoadedRun) -> Iterator[tuple[str, str]]:
    """List time, tokens, operations and space as (name, amount)."""
    summary = run.summary
    if "seconds" in summary:
        yield "seconds of training", f"{summary['seconds']:,.0f}"
    if summary.get("teacher_seconds"):
        yield "seconds of the teacher's own training, once", f"{summary['teacher_seconds']:,.0f}"
    if "tokens" in summary:
        yield "tokens", f"{summary['tokens']:,}"
        runs = load_best_runs(run) if run.settings["job"] == "compare" else [run]
        for training in runs:
            arm = f" ({training.folder.path.parent.name})" if len(runs) > 1 else ""
            for purpose, flops in count_operations(training):
                yield f"FLOPs of {purpose}{arm}, without validations", f"{flops:.2e}"
    for key in ("threads", "torch", "precision"):
        if key in summary:
            yield key, str(summary[key])
    size = sum(p.stat().st_size for p in run.folder.model.rglob("*") if p.is_file())
    if size:
        yield "size of model/", f"{size / 1e6:,.1f} MB"


def count_operations(run: LoadedRun) -> Iterator[tuple[str, float]]:
    """Count FLOPs by bort.pretraining.flops, as (purpose, number).

    Those of a fine-tuning are an upper bound, as if every input had the full length. Validations
    are not counted.
    """
    from bort.models.huggingface import read_model_config
    from bort.pretraining.flops import (  # loads torch
        Text,
        count_logits_flops,
        count_student_readings,
        count_teacher_readings,
        count_training_flops,
        expect_text,
        repeat_readings,
    )

    s, summary = run.settings, run.summary
    if not (run.folder.model / "config.json").is_file() or not summary.get("steps"):
        return
    config = read_model_config(run.folder.model)
    arch, length = config.arch, s["data.length"]
    vocab, work = config.vocab_size, (summary["steps"], s["optim.name"])
    if s["task"]:
        text = Text(summary["tokens"], length, 0)
        yield "training, at most", count_training_flops(arch, vocab, text, *work)
        return
    text = expect_text(summary["tokens"] / length, length, s["data.mask_rate"])
    names = ("w_kd", "w_mlm", "w_hidden", "w_relation")
    distill = DistillConfig(**{name: s.get(f"distill.{name}", 0.0) for name in names})
    read = repeat_readings(text, *count_student_readings(distill))
    yield "training", count_training_flops(arch, vocab, read, *work)
    if is_distilled(s) and (teacher := summary.teacher_arch) is not None:
        read = repeat_readings(text, *count_teacher_readings(distill))
        yield "the teacher's passes", count_logits_flops(teacher, vocab, read)


def build_settings(run: LoadedRun) -> str:
    """Build the table of settings that are not their experiment's defaults; all of them follow."""
    usual = read_defaults(run.folder)
    settings = {key: value for key, value in run.settings.items() if key != "bort"}  # a version
    is_taught = is_distilled(settings) or settings.get("init") == "teacher"
    trains_teacher = settings["job"] == "agora" or (is_taught and not settings["teacher.name"])
    rows = [
        (key, _show_setting(value), _show_setting(usual.get(key, "–")))
        for key, value in settings.items()
        if value is not None
        and (key not in usual or usual[key] != value)
        and not (key in SETTLED and usual.get(key) is None)
        and not (key.startswith(OWN_TEACHER) and not trains_teacher)
    ]
    everything = html.format_table(
        ((key, _show_setting(value)) for key, value in settings.items()), kind="settings"
    )
    return (
        "<h2>Configuration</h2>"
        + html.format_table(rows, ("setting", "here", "default"), kind="settings")
        + html.fold("all settings", everything)
    )


def _show_setting(value: Any) -> str:
    return "null" if value is None else str(value)


# ------------------------------------------------------------------------------------ several


def compare_runs(runs: list[LoadedRun]) -> Iterator[Any]:
    """Build the HTML and the figures about several runs, side by side."""
    names = shorten_names([run.folder.path.absolute() for run in runs])
    yield f"<h1>{len(runs)} runs</h1>"
    scores = dict.fromkeys(key for run in runs for key in run.summary if _is_result(run, key))
    head = ["", "parameters", "steps", "time", "tokens/s", *scores]
    rows = []
    for run, name in zip(runs, names, strict=True):
        summary = run.summary
        cells = [name if summary else f"{name} (not finished)"]
        cells += [f"{summary[key]:,}" if key in summary else "" for key in ("parameters", "steps")]
        cells.append(console.clock(summary["seconds"]) if "seconds" in summary else "")
        cells.append(f"{summary['tokens_per_s']:,.0f}" if "tokens_per_s" in summary else "")
        rows.append([*cells, *(_format_score(summary.get(key)) for key in scores)])
    yield html.format_table(rows, head)
    if panels := list(overlay_curves(runs, names)):
        legend = html.format_legend(zip(names, map(describe, runs), strict=True))
        yield from [f"<h2>Curves</h2>{legend}<div class=grid>", *panels, "</div>"]
    differing = list_differing(runs)
    if differing:
        table = []
        for run, name in zip(runs, names, strict=True):
            table.append((name, *(_show_setting(run.settings.get(key)) for key in differing)))
        yield f"<h2>Settings that differ</h2>{html.format_table(table, ['', *differing])}"
    again = [commands.compose_command(run.folder, "train.py", run.folder.name) for run in runs]
    if lines := [line for line in again if line]:
        yield f"<h2>Again</h2><pre>{escape(chr(10).join(lines))}</pre>"


def list_differing(runs: list[LoadedRun]) -> list[str]:
    """List the settings that are not the same in all runs."""
    values: dict[str, set[str]] = {}
    for key in itertools.chain.from_iterable(run.settings for run in runs):
        values[key] = {_show_setting(run.settings.get(key)) for run in runs}
    return [key for key, shown in values.items() if len(shown) > 1]


def overlay_curves(runs: list[LoadedRun], names: list[str]) -> Iterator[Any]:
    """Plot each column that any of the runs has in a panel with a line per run.

    The lines have the colors and dashes of `html.format_legend`.
    """
    losses = set()
    for run in runs:
        for title, keys in group_losses(run).items():
            losses.update((title, key) for key in keys)
    scores = dict.fromkeys(key for run in runs for key in run.scores)
    further = [("", key) for key in (*scores, *PROGRESS.values())]
    for kind, key in (*sorted(losses), *further):
        having = [k for k, run in enumerate(runs) if len(run.curves.get(key, ((),))[0]) > 1]
        if kind:  # A run of another kind has another loss under this name.
            having = [k for k in having if key in group_losses(runs[k]).get(kind, ())]
        if not having:
            continue
        title = f"{kind}: {key}" if kind else key
        axes = ["step"]
        if key in scores and all(runs[k].summary.get("seconds") for k in having):
            axes.append("seconds of training")
        for axis in axes:
            plot = html.create_figure(axis, "")
            for k in having:
                summary = runs[k].summary
                scale = 1.0 if axis == "step" else summary["seconds"] / max(summary["steps"], 1)
                html.draw_curve(plot, names[k], runs[k].curves[key], k, scale)
            plot.update_layout(showlegend=False)
            yield from html.build_panel(title if axis == "step" else f"{title} over time", plot)


def _is_result(run: LoadedRun, key: str) -> bool:
    return key.startswith(("val", "test", "eval")) and isinstance(run.summary[key], float)


def _format_score(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@dataclass
class ReportConfig:
    """Runs side by side, as one self-contained HTML page.

    python -m bort.report runs/kd_pretrain/first runs/mlm_pretrain/first
    python -m bort.report runs/kd_vs_mlm/demo runs/kd_pretrain/0 out=all.html

    A comparison, a sweep, a search or any folder of runs stands for the runs in it. A run that is
    not finished is shown as far as it is.
    """

    folders: list[str] = field(default_factory=list, metadata=FREE)  # the folders of the runs
    # the page to write; report.html in the current folder unless another one is given
    out: str | None = None

    def __post_init__(self) -> None:
        out = self.page
        if not self.folders:
            raise BortError(
                "give one or more run folders, as in runs/kd_pretrain/first; --help shows"
            )
        if out.suffix != ".html" or out.is_dir():
            raise BortError(f"out={out} must name a page, as in out=report.html")
        if self.out is None and out.exists() and not is_own_page(out):
            raise BortError(f"{out} is here and no page of bort; give out=FILE.html for the report")

    @property
    def page(self) -> Path:
        """The page to write."""
        return Path(self.out or REPORT)


def main(settings: ReportConfig) -> None:
    """Write the page of the runs in the folders."""
    folders = map(Path, settings.folders)
    runs = list({run.folder.path.resolve(): run for f in folders for run in load_runs(f)}.values())
    if len(runs) == 1:
        title, parts = f"bort {runs[0].name}", build_parts(runs[0])
    else:
        title, parts = f"bort: {len(runs)} runs", compare_runs(runs)
    if html.write_page(settings.page, title, parts):
        logger.info(f"report: {counted(len(runs), 'run')} → {settings.page}")


if __name__ == "__main__":
    shell.run_command(ReportConfig, main, "bort.report")
