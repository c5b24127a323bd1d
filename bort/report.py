"""Runs as a self-contained HTML page: each run's own, and `python -m bort.report` of several."""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from bort import console, html, shell
from bort.agora import report as agora_page
from bort.config.command_line import FREE
from bort.config.compose import CONF
from bort.console import counted
from bort.errors import BortError
from bort.files.ownership import is_own_page
from bort.finetuning.report import build_parts
from bort.models.arch import Arch
from bort.runs import commands
from bort.runs.folder import RunFolder
from bort.runs.loaded import LOSSES, Curve, LoadedRun, load_run, load_runs
from bort.runs.names import rate_folder

logger = logging.getLogger("bort.report")

MOST_POINTS = 400  # of a curve; more become the means of as many stretches
PARTS = ("train/kd_loss", "train/mlm_loss")
KD, MLM = "KL to the teacher (nats per masked word)", "Cross-entropy (nats per masked word)"
PANELS = {  # losses of a pre-training, by what they are: the two kinds share no scale
    MLM: ("train/mlm_loss", "val/loss"),
    KD: ("train/kd_loss", "val/kd_loss"),
    "Weighted sum of both losses (nats per masked word)": ("train/loss",),
}
PROGRESS = {
    "Learning rate": "train/lr",
    "Gradient norm": "train/grad_norm",
    "Tokens per second": "perf/tokens_per_s",
}

# ------------------------------------------------------------------------------------ one run


def write(folder: Path) -> None:
    """Write report.html of the run, or of the comparison, in a folder."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    run = load_run(folder)
    html.write(folder / "report.html", f"bort {run.name}", parts(run))


def parts(run: LoadedRun, with_doubt: bool = True) -> Iterator[Any]:
    """HTML and figures about one run; only such as have something to show.

    with_doubt: False where the page says above what to doubt.
    """
    yield f"<h1>{escape(run.name)}</h1><p>{escape(describe(run))}</p>"
    if not run.summary:
        yield "<p class=doubt>This run is not finished.</p>"
    known = {"unigram_ce", "val/loss"} <= {k for k, v in run.summary.items() if v is not None}
    if with_doubt and (known or "task" in run.summary) and (warning := run.summary.find_doubt()):
        yield f"<p class=doubt>{escape(warning)}</p>"
    yield html.big(numbers(run))
    if run.settings["job"] == "compare" and run.summary:
        yield from comparison(run)
    if run.settings["job"] == "agora":
        yield from agora_page.build_parts(run.folder, run.summary)
    if panels := list(curves(run)):
        yield from ["<h2>Curves</h2><div class=grid>", *panels, "</div>"]
    for path in sorted((run.folder / "predictions").glob("val*.jsonl")):
        yield from build_parts(path)
    if (path := run.folder / "samples.txt").is_file():
        samples = path.read_text(encoding="utf-8", errors="replace")
        yield f"<h2>Samples of the last validation</h2><pre>{escape(samples)}</pre>"
    if rows := list(cost(run)):
        yield f"<h2>Cost</h2>{html.table(rows)}"
    yield configuration(run)
    if again := commands.command(run.folder, "train.py", run.folder.name):
        yield f"<h2>Again</h2><pre>{escape(again)}</pre>"


def describe(run: LoadedRun) -> str:
    """What was trained, from what, on what."""
    s = run.settings
    if s["task"]:
        data = s["data.train"] if s["task"] == "custom" else s["task"]
        return f"{s['model'] or 'an encoder of its own'} on {data}"
    arch = Arch.from_table(s, "arch.").check()
    teacher = (
        s["teacher.name"] or run.summary.get("teacher") or "a teacher trained on the same text"
    )
    how = f"distilled from {teacher}" if s["distill.w_kd"] else "by plain MLM"
    compared = s["job"] == "compare"
    if compared:
        how += " and, beside it, trained by plain MLM"
    text = s["data.path"] if s["data.source"] == "text" else "the embedded docstrings"
    more = "; the first numbers are those of the distillation" if compared else ""
    return f"{arch} {how}, on {text}{more}"


def numbers(run: LoadedRun) -> Iterator[tuple[str, str]]:
    """Results at a glance; of a comparison those of the student with a teacher."""
    found = run.summary
    for key, value in found.items():
        if key.startswith(("val", "test")) and isinstance(value, float):
            yield f"{value:.4g}", key
    for key in ("rows/val", "parameters", "steps", "tokens"):
        if key in found:
            yield f"{found[key]:,}", "rows of val" if key == "rows/val" else key
    if "seconds" in found:
        yield console.clock(found["seconds"]), "of training"
    if "tokens_per_s" in found:
        yield f"{found['tokens_per_s']:,.0f}", "tokens per second"


def curves(run: LoadedRun) -> Iterator[Any]:
    """Panels of one run over its steps; a single point is no curve."""
    drawn = {key for key, (steps, _) in run.curves.items() if len(steps) > 1}
    losses = {title: [k for k in keys if k in drawn] for title, keys in loss_panels(run).items()}
    scores = [key for key in run.scores if key in drawn]
    errors = [key for key in scores if key.split("/")[1] in ("rmse", "mae")]  # in the labels' unit
    groups = losses | {"Score on held-out data": [k for k in scores if k not in errors]}
    groups |= {"Error on held-out data": errors}
    groups |= {title: [key] for title, key in PROGRESS.items() if key in drawn}
    for title, keys in groups.items():
        if not keys:
            continue
        plot = html.figure("step", "")
        for number, key in enumerate(keys):
            _line(plot, key, run.curves[key], number)
        if title == MLM and run.summary.get("unigram_ce"):
            level = run.summary["unigram_ce"]
            plot.add_hline(y=level, line_dash="dot", annotation_text="word frequencies alone")
        plot.update_layout(showlegend=len(keys) > 1)
        yield from html.panel(title if len(keys) > 1 else f"{title} ({keys[0]})", plot)


def loss_panels(run: LoadedRun) -> dict[str, list[str]]:
    """Title → the columns with losses of that kind, each curve once; those of a task are alike."""
    if run.settings["task"]:
        return {"Loss": [key for key in LOSSES if key in run.curves]}
    shown = [key for key in LOSSES if key in run.curves]
    whole = run.curves.get("train/loss")
    if whole and any(_same(run.curves[part], whole) for part in PARTS if part in shown):
        shown.remove("train/loss")  # its only part says what it is
    return {title: [key for key in keys if key in shown] for title, keys in PANELS.items()}


def _same(one: Curve, other: Curve) -> bool:
    return np.array_equal(one[0], other[0]) and np.allclose(one[1], other[1])


def _line(plot: Any, name: str, curve: Curve, number: int, scale: float = 1.0) -> None:
    """Line `number`, with marks where there are few points."""
    color, dashes = html.stroke(number)
    steps, values = curve
    if len(steps) > MOST_POINTS:
        steps = [part[-1] for part in np.array_split(steps, MOST_POINTS)]
        values = [part.mean() for part in np.array_split(values, MOST_POINTS)]
    plot.add_scatter(
        x=[float(step) * scale for step in steps],
        y=[float(value) for value in values],
        name=escape(name),
        mode="lines+markers" if len(steps) < 20 else "lines",
        line={"color": color, "dash": dashes, "width": 1.5},
    )


def comparison(run: LoadedRun) -> Iterator[Any]:
    """KD beside its controls by plain MLM: the table, what it says, the curves."""
    from bort.pretraining.kd_vs_mlm import ARMS, compare_accuracies

    found = run.summary
    head = ("", "steps", "time", "val loss", "MLM accuracy", "lr")
    rows = [
        (
            title,
            f"{found[f'{arm}/steps']:,}",
            console.clock(found[f"{arm}/seconds"]),
            f"{found[f'{arm}/val/loss']:.3f}",
            f"{found[f'{arm}/val/mlm_accuracy']:.1%}",
            f"{found[f'{arm}/lr']:g}",
        )
        for arm, title in ARMS.items()
    ]
    unigram = (f"{found['unigram_ce']:.3f}", f"{found['unigram_accuracy']:.1%}", "")
    accuracy = {arm: found[f"{arm}/val/mlm_accuracy"] for arm in ARMS}
    said = "".join(f"<p>{escape(line)}</p>" for line in compare_accuracies(accuracy))
    yield "<h2>Was the teacher worth it?</h2>"
    yield html.table([*rows, ("word frequencies alone", "", "", *unigram)], head) + said
    yield html.legend((title, "") for title in ARMS.values())
    yield from ["<div class=grid>", *overlaid(best_of_arms(run), list(ARMS.values())), "</div>"]


def best_of_arms(run: LoadedRun) -> list[LoadedRun]:
    """The runs that a comparison reports: of each arm the one with the best rate."""
    from bort.pretraining.kd_vs_mlm import ARMS

    rates = {arm: run.summary[f"{arm}/lr"] for arm in ARMS}
    return [load_run(rate_folder(run.folder, arm, rate)) for arm, rate in rates.items()]


# ------------------------------------------------------------------------------------ its costs


def cost(run: LoadedRun) -> Iterator[tuple[str, str]]:
    """Time, tokens and operations, as (what, how much)."""
    found = run.summary
    if "seconds" in found:
        yield "seconds of training", f"{found['seconds']:,.0f}"
    if found.get("teacher_seconds"):
        yield "seconds of the teacher's own training, once", f"{found['teacher_seconds']:,.0f}"
    if "tokens" in found:
        yield "tokens", f"{found['tokens']:,}"
        runs = best_of_arms(run) if run.settings["job"] == "compare" else [run]
        for one in runs:
            arm = f" ({one.folder.parent.name})" if len(runs) > 1 else ""
            for what, flops in operations(one):
                yield f"FLOPs of {what}{arm}", f"{flops:.2e}"
    for key in ("threads", "torch"):
        if key in found:
            yield key, str(found[key])
    size = sum(p.stat().st_size for p in (run.folder / "model").rglob("*") if p.is_file())
    if size:
        yield "size of model/", f"{size / 1e6:,.1f} MB"


def operations(run: LoadedRun) -> Iterator[tuple[str, float]]:
    """FLOPs by bort.pretraining.flops, as (of what, how many).

    Of a fine-tuning at most, at its full length. Validations are not part of them.
    """
    from bort.models.huggingface import read_model_config
    from bort.pretraining.flops import (  # loads torch
        Text,
        count_logits_flops,
        count_training_flops,
        expect_text,
    )

    s, found = run.settings, run.summary
    if not (run.folder / "model" / "config.json").is_file() or not found.get("steps"):
        return
    config = read_model_config(run.folder / "model")
    arch, length = config.arch, s["data.length"]
    vocab, work = config.vocab_size, (found["steps"], s["optim.name"])
    if s["task"]:
        text = Text(found["tokens"], length, 0)
        yield "training, at most", count_training_flops(arch, vocab, text, *work)
        return
    text = expect_text(found["tokens"] / length, length, s["data.mask_rate"])
    yield "training", count_training_flops(arch, vocab, text, *work)
    if s["distill.w_kd"] and found.get("teacher_depth"):
        teacher = Arch.from_table(found, "teacher_").check()
        yield "the teacher's passes", count_logits_flops(teacher, vocab, text)


def configuration(run: LoadedRun) -> str:
    """The settings that are not those of the same experiment by default, and all folded away."""
    usual = defaults(run.folder)
    settings = {key: value for key, value in run.settings.items() if key != "bort"}  # a version
    own = {k: v for k, v in settings.items() if k not in usual or usual[k] != v}
    rows = [(k, _shown(v), _shown(usual.get(k, "–"))) for k, v in own.items() if v is not None]
    everything = html.table(
        ((key, _shown(value)) for key, value in settings.items()), kind="settings"
    )
    return (
        "<h2>Configuration</h2>"
        + html.table(rows, ("setting", "here", "default"), kind="settings")
        + html.details("all settings", everything)
    )


def defaults(folder: Path) -> dict[str, Any]:
    """Flat `key: value` of all settings of a run's experiment that have a default.

    That is what conf/train.yaml and conf/experiment/ make of no other word on the command line. A
    run whose experiment is not recorded, or is gone, is held against train.py without any.
    """
    overrides = RunFolder(folder).read_overrides() or []
    words = [word for word in overrides if word.startswith("experiment=")]
    name = words[-1].partition("=")[2] if words else ""
    known = (CONF / "experiment" / f"{name}.yaml").is_file()
    return _composed(name if known else None)


@functools.cache
def _composed(experiment: str | None) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = [f"experiment={experiment}"] if experiment else []
    running = GlobalHydra.instance().hydra  # of train.py, at the end of a run
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            values = OmegaConf.to_container(compose("train", words))
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)
    return {key: value for key, value in _flat("", values) if value != "???"}


def _flat(prefix: str, values: dict) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


# ------------------------------------------------------------------------------------ several


def side_by_side(runs: list[LoadedRun]) -> Iterator[Any]:
    """HTML and figures about several runs."""
    names = distinct([run.folder.absolute() for run in runs])
    yield f"<h1>{len(runs)} runs</h1>"
    scores = dict.fromkeys(key for run in runs for key in run.summary if _is_result(run, key))
    head = ["", "parameters", "steps", "time", "tokens/s", *scores]
    rows = []
    for run, name in zip(runs, names, strict=True):
        found = run.summary
        cells = [name if found else f"{name} (not finished)"]
        cells += [f"{found[key]:,}" if key in found else "" for key in ("parameters", "steps")]
        cells.append(console.clock(found["seconds"]) if "seconds" in found else "")
        cells.append(f"{found['tokens_per_s']:,.0f}" if "tokens_per_s" in found else "")
        rows.append([*cells, *(_number(found.get(key)) for key in scores)])
    yield html.table(rows, head)
    if panels := list(overlaid(runs, names)):
        legend = html.legend(zip(names, map(describe, runs), strict=True))
        yield from [f"<h2>Curves</h2>{legend}<div class=grid>", *panels, "</div>"]
    differing = [
        key
        for key in dict.fromkeys(key for run in runs for key in run.settings)
        if len({_shown(run.settings.get(key)) for run in runs}) > 1
    ]
    if differing:
        table = [
            (name, *(_shown(run.settings.get(key)) for key in differing))
            for run, name in zip(runs, names, strict=True)
        ]
        yield f"<h2>Settings that differ</h2>{html.table(table, ['', *differing])}"
    again = [commands.command(run.folder, "train.py", run.folder.name) for run in runs]
    if lines := [line for line in again if line]:
        yield f"<h2>Again</h2><pre>{escape(chr(10).join(lines))}</pre>"


def overlaid(runs: list[LoadedRun], names: list[str]) -> Iterator[Any]:
    """A panel per column that any of the runs has, a line per run; see `page.legend`."""
    losses = {
        (title, key) for run in runs for title, keys in loss_panels(run).items() for key in keys
    }
    scores = dict.fromkeys(key for run in runs for key in run.scores)
    others = [("", key) for key in (*scores, *PROGRESS.values())]
    for kind, key in (*sorted(losses), *others):
        having = [k for k, run in enumerate(runs) if len(run.curves.get(key, ((),))[0]) > 1]
        if kind:  # a run of another kind has another loss under this name
            having = [k for k in having if key in loss_panels(runs[k]).get(kind, ())]
        if not having:
            continue
        title = f"{kind}: {key}" if kind else key
        axes = ["step"]
        if key in scores and all(runs[k].summary.get("seconds") for k in having):
            axes.append("seconds of training")
        for axis in axes:
            plot = html.figure(axis, "")
            for k in having:
                found = runs[k].summary
                scale = 1.0 if axis == "step" else found["seconds"] / max(found["steps"], 1)
                _line(plot, names[k], runs[k].curves[key], k, scale)
            plot.update_layout(showlegend=False)
            yield from html.panel(title if axis == "step" else f"{title} over time", plot)


def distinct(folders: list[Path]) -> list[str]:
    """Names of folders without what all of them have in front."""
    if len(folders) == 1:
        return [folders[0].name]
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]


def _is_result(run: LoadedRun, key: str) -> bool:
    return key.startswith(("val", "test", "eval")) and isinstance(run.summary[key], float)


def _number(value: float | None) -> str:
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
        return Path(self.out or "report.html")


def main(settings: ReportConfig) -> None:
    """Write the page of the runs in the folders."""
    folders = map(Path, settings.folders)
    runs = list({run.folder.resolve(): run for f in folders for run in load_runs(f)}.values())
    if len(runs) == 1:
        html.write(settings.page, f"bort {runs[0].name}", parts(runs[0]))
    else:
        html.write(settings.page, f"bort: {len(runs)} runs", side_by_side(runs))
    logger.info(f"report: {counted(len(runs), 'run')} → {settings.page}")


if __name__ == "__main__":
    shell.run_command(ReportConfig, main, "bort.report")
