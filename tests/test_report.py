"""Pages of runs: their figures against the files, escaped, whole, without the network."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_helpers import read_figures, words
from sklearn.metrics import confusion_matrix

import bort
from bort import console, html, report
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.finetuning import recipe as finetune
from bort.finetuning.report import (
    build_parts,
    list_errors,
    plot_confusion,
    plot_numbers,
    read_answers,
)
from bort.pretraining import kd_vs_mlm as compare
from bort.pretraining.comparison import ARMS
from bort.pretraining.recipe import pretrain
from bort.runs.loaded import load_run, load_runs

ROOT = Path(__file__).resolve().parents[1]
NASTY = "</script><script>alert(1)</script>"
PANEL_KEYS = ("train/kd_loss", "train/mlm_loss", "val/loss")
OVERRIDES = {"overrides.yaml": "- experiment=kd_pretrain\n- data.path=my text.txt\n"}


def written(folder: Path) -> str:
    report.write_page(folder)
    return (folder / "report.html").read_text()


def check_alone(text: str, plots: int) -> None:
    """One file, so many figures, none of them empty, nothing loaded from elsewhere."""
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]*(?:src|href)=", text)
    figures = read_figures(text)
    assert text.count("<div class=figure") == len(figures) == plots
    assert all(figure["data"] for figure in figures)


@pytest.fixture(scope="module")
def kd(settings_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "kd_pretrain" / "first"
    run = settings_of(
        *("trainer.max_steps=6", "trainer.val_check_interval=2", "distill.w_mlm=0.5", "seed=7"),
        experiment="kd_pretrain",
    )
    pretrain(run, folder, OVERRIDES)
    return folder


@pytest.fixture(scope="module")
def compared(settings_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "kd_vs_mlm" / "demo"
    run = settings_of(
        *("trainer.max_steps=6", "trainer.val_check_interval=3", "compare.lrs=[4e-3,1e-5]"),
        experiment="kd_vs_mlm",
    )
    return folder, compare.compare(run, folder)


def tuned(settings_of, model: Path, folder: Path, rows: list[tuple]) -> Path:
    """A fine-tuning on rows (text, label); the last 40 are for validation."""
    for name, some in (("train", rows[:-40]), ("val", rows[-40:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *some])
    given = ["task=custom", f"model={model}", f"data.train={folder}/train.csv", "data.length=128"]
    given += [f"data.val={folder}/val.csv", "data.label=label", "trainer.max_steps=8"]
    given += ["data.batch_size=8", "data=docstrings", "trainer.max_epochs=2"]
    given += ["trainer.check_val_every_n_epoch=1"]
    run = settings_of(*given, experiment="finetune")
    finetune.finetune(run, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def classes(settings_of, kd, tmp_path_factory):
    labels = ["good", NASTY, "x" * 30]
    rows = [(f"{'word ' * (k % 9)}{NASTY} number {k}", labels[k % 7 % 3]) for k in range(90)]
    return tuned(settings_of, kd, tmp_path_factory.mktemp("classes"), rows)


def answers(folder: Path) -> list[dict]:
    with (folder / "predictions" / "val.jsonl").open() as file:
        return [json.loads(line) for line in file]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------ one run


def test_page_of_a_pre_training(kd):
    text = written(kd)
    check_alone(text, plots=6)  # three kinds of loss, score, rate, norm; perf.csv has one row only
    seen = words(text)
    summary = json.loads((kd / "summary.json").read_text())
    assert f"{summary['val/loss']:.4g}" in seen and f"{summary['parameters']:,}" in seen
    assert "⟨1,2,16,32⟩ distilled from" in seen
    assert (kd / "samples.txt").read_text().split("\n")[0] in seen
    start = f"{console.python()} train.py experiment=kd_pretrain"
    assert f"{start} 'data.path=my text.txt' name=first" in seen
    assert "not finished" not in seen


def test_curves_are_those_of_the_files(kd):
    run = load_run(kd)
    plots = [part for part in report.plot_curves(run) if not isinstance(part, str)]
    lines = {line.name: line for plot in plots for line in plot.data}
    rows = table(kd)
    names = ("train/loss", "train/kd_loss", "train/mlm_loss", "val/loss", "val/mlm_accuracy")
    for name in (*names, "train/lr", "train/grad_norm"):
        own = [row for row in rows if row[name]]
        assert list(lines[name].x) == [int(row["step"]) for row in own]
        assert list(lines[name].y) == [float(row[name]) for row in own]


def test_only_part_of_a_loss_is_not_shown_twice(compared):
    run = load_run(compared[0] / "mlm" / "lr_0.004")
    lines = [
        line.name for p in report.plot_curves(run) if not isinstance(p, str) for line in p.data
    ]
    assert "train/mlm_loss" in lines and "train/loss" not in lines  # the name that says what


def test_losses_of_two_kinds_share_no_panel(kd, compared):
    """The line of word frequencies is a cross-entropy: it stands beside such losses only."""
    plots = list(report.plot_curves(load_run(kd)))
    titles = [part for part in plots if isinstance(part, str) and "<h3>" in part]
    figures = [part for part in plots if not isinstance(part, str)]
    leveled = [bool(figure.layout.shapes) for figure in figures]
    assert [report.MLM in title for title in titles] == leveled and sum(leveled) == 1
    names = {frozenset(line.name for line in figure.data) for figure in figures}
    assert {frozenset(report.PANELS[kind]) for kind in (report.MLM, report.KD)} <= names
    arms = [load_run(compared[0] / arm / "lr_0.004") for arm in ("kd", "mlm")]
    parts = list(report.overlay_curves(arms, ["kd", "mlm"]))
    lines = {
        title: [line.name for line in figure.data]
        for title, figure in zip(parts[::3], parts[1::3], strict=True)
    }
    kinds = {name: lines for title, lines in lines.items() for name in PANEL_KEYS if name in title}
    assert kinds == {"train/kd_loss": ["kd"], "train/mlm_loss": ["mlm"], "val/loss": ["kd", "mlm"]}
    assert not any("train/loss" in title for title in lines)


def test_a_long_curve_becomes_means():
    plot = html.create_figure("x", "y")
    steps = np.arange(1, 4 * html.MOST_POINTS + 1)
    html.draw_curve(plot, "a", (steps, steps % 2 * 1.0), 0)
    (line,) = plot.data
    assert len(line.x) == html.MOST_POINTS and line.x[-1] == steps[-1]
    assert set(line.y) == {0.5}


def test_settings_that_are_not_the_default(kd):
    seen = words(report.build_settings(load_run(kd)).split("<details>")[0])
    assert re.search(r"distill\.w_mlm\s+0\.5\s+0\.0", seen)
    assert re.search(r"trainer\.max_steps\s+6\s+1200", seen)
    assert re.search(r"teacher\.lr\s+\S+\s+null", seen)  # of the one that is trained first
    assert "seed" in seen and "distill.w_kd" not in seen and "optim.beta1" not in seen
    assert re.search(r"arch\.hidden\s+16\s+64", seen)  # the group's, as --help shows it
    assert re.search(r"data\.tokenizer\s+\S+\s+bpe", seen) and "bort" not in seen


def test_operations(kd):
    """By hand: 6 steps of 8 × 16 tokens; matrices, attention, the masked of them in the head, Muon.

    Of a row's 14 places 30% are masked, or one where it would have been none.
    """
    found = dict(report.count_operations(load_run(kd)))
    tokens, V, S = 6 * 8 * 16, 280, 16
    masked = (0.3 * 14 + 0.7**14) / S
    student = (4 * 16**2 + 2 * 16 * 32) * 2 + 4 * S * 16 + masked * 2 * (16 * 16 + 16 * V)
    teacher = (4 * 32**2 + 2 * 32 * 64) * 2 + 4 * S * 32 + masked * 2 * (32 * 32 + 32 * V)
    muon = 5 * (4 * 6 * 16**3 + 2 * (4 * 16**2 * 32 + 2 * 16**3))
    assert found["training"] == pytest.approx(3 * student * tokens + 6 * muon)
    assert found["the teacher's passes"] == pytest.approx(teacher * tokens)


def test_a_run_that_goes_on(kd, tmp_path):
    for name in ("settings.json", "metrics.csv"):
        text = (kd / name).read_text()
        (tmp_path / name).write_text(text + "7,0,1.2" if name == "metrics.csv" else text)
    check_alone(text := written(tmp_path), plots=6)
    assert "This run is not finished" in text and "Cost" not in words(text)
    assert load_run(tmp_path).curves["train/loss"][0][-1] == 6  # not the half-written row


def test_comparison(compared):
    folder, summary = compared
    text = written(folder)
    check_alone(text, plots=8)  # three losses, KL, accuracy over steps and time, rate, norm
    seen = re.sub(r"\s+", " ", words(text))
    for arm, title in ARMS.items():
        assert f"{title} {summary[f'{arm}/steps']:,}" in seen
        assert f"{summary[f'{arm}/val/loss']:.3f} {summary[f'{arm}/val/mlm_accuracy']:.1%}" in seen
        assert f"FLOPs of training ({arm}), without validations" in seen
    ratio = summary["kd/val/mlm_accuracy"] / max(summary["mlm/val/mlm_accuracy"], 1e-9)
    way = "plain MLM from the same start for the same steps"
    assert f"{way}: {ratio:.2f} × its accuracy" in seen


# ------------------------------------------------------------------------------------ a task


def test_answers_are_those_of_predict(classes):
    with (classes.parent / "val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = bort.load(classes).predict([row["text"] for row in rows])
    given = answers(classes)
    for row, one, other in zip(rows, found, given, strict=True):
        assert (other["true"], other["label"]) == (row["label"], one["label"])
        assert other["scores"] == pytest.approx(one["scores"], abs=2e-6)
        assert ("texts" in other) == (other["true"] != other["label"])


def test_confusion(classes):
    rows = answers(classes)
    labels = list(rows[0]["scores"])
    (heat,) = plot_confusion(read_answers(classes / "predictions" / "val.jsonl")).data
    expected = confusion_matrix(
        [row["true"] for row in rows], [row["label"] for row in rows], labels=labels
    )
    assert np.array_equal(heat.customdata, expected)
    assert np.allclose(heat.z, expected / np.maximum(expected.sum(1, keepdims=True), 1))


def test_page_of_a_task(classes):
    text = written(classes)
    panels = [part for part in build_parts(classes / "predictions" / "val.jsonl")]
    of_answers = sum(not isinstance(part, str) for part in panels)
    assert of_answers == 2
    check_alone(text, plots=4 + of_answers)
    assert text.count("<script") == text.count("</script>") and "alert(1)</script>" not in text
    assert NASTY in words(text)  # as text
    rows = answers(classes)
    right = sum(row["true"] == row["label"] for row in rows)
    assert f"40 rows, {right} answered correctly" in words(text)


def test_numbers_have_a_scatter(settings_of, kd, tmp_path):
    rows = [(f"{'word ' * (k % 9)} number {k}", k % 11 + 0.5) for k in range(90)]
    folder = tuned(settings_of, kd, tmp_path, rows)
    seen = words(written(folder))
    assert "Answers and true values" in seen and "Confusion" not in seen
    given = answers(folder)
    dots, line = plot_numbers(read_answers(folder / "predictions" / "val.jsonl")).data
    assert list(dots.x) == [float(label) for _, label in rows[-40:]]
    found = bort.load(folder).predict([text for text, _ in rows[-40:]])
    assert list(dots.y) == pytest.approx([one["score"] for one in found], abs=1e-5)
    errors = [abs(row["true"] - row["score"]) for row in given]
    first = words(
        list_errors(read_answers(folder / "predictions" / "val.jsonl"), classes=False)
    ).split()[5]
    assert float(first) == given[int(np.argmax(errors))]["true"]


# ------------------------------------------------------------------------------------ several


def test_any_runs_side_by_side(kd, compared, classes, tmp_path):
    runs = [*load_runs(kd), *load_runs(classes), *load_runs(compared[0])]
    assert len(runs) == 10  # two rates of four arms
    html.write_page(tmp_path / "all.html", "all", report.compare_runs(runs))
    text = (tmp_path / "all.html").read_text()
    seen = words(text)
    for name in ("kd_pretrain/first", "kd_vs_mlm/demo/mlm_equal_time/lr_1e-05"):
        assert name in seen
    assert "val/macro_f1" in seen and "Settings that differ" in seen
    plots = [
        p
        for p in report.overlay_curves(runs, [str(k) for k in range(10)])
        if not isinstance(p, str)
    ]
    check_alone(text, plots=len(plots))
    names = {line.name for plot in plots for line in plot.data}
    assert names == {str(k) for k in range(10)}
    marks = {(line.name, line.line.color, line.line.dash) for plot in plots for line in plot.data}
    assert len(marks) == 10 and len({mark[1:] for mark in marks}) == 10


def test_jobs_of_a_sweep_in_their_order(kd, tmp_path):
    for number in (10, 2, 0):
        (tmp_path / str(number)).mkdir()
        for name in ("settings.json", "metrics.csv"):
            (tmp_path / str(number) / name).write_text((kd / name).read_text())
    assert [run.folder.name for run in load_runs(tmp_path)] == ["0", "2", "10"]


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "bort.report", *map(str, arguments)]
    options = {"cwd": cwd, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(words, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, **options)


def test_command(kd, compared, tmp_path):
    result = command(kd, compared[0], cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "report: 9 runs → report.html\n"
    result = command(kd, kd, "out=one.html", cwd=tmp_path)  # the same twice is one
    assert result.stdout == "report: 1 run → one.html\n"
    assert "Samples of the last validation" in (tmp_path / "one.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give one or more run folders"),
        (["nowhere"], "nowhere does not exist"),
        (["runs/frist"], "runs/frist does not exist; did you mean 'runs/first'?"),
        (["runs/first"], "runs/first holds no run of bort: it has no settings.json"),
        (["runs/bad"], "runs/bad/settings.json is not valid JSON"),
        (["runs/odd"], "runs/odd/settings.json lacks data.length"),
        (["runs/first", "ot=a.html"], "ot=a.html is not a setting; did you mean 'out'?"),
        (["runs/first", "out=runs"], "out=runs must name a page"),
    ],
)
def test_mistakes_are_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    for name in ("first", "bad", "odd"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "bad" / "settings.json").write_text("{")
    (tmp_path / "runs" / "odd" / "settings.json").write_text('{"job": "pretrain"}')
    (tmp_path / "runs" / "odd" / "metrics.csv").write_text("a,b\n1,x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BortError, match=re.escape(line)) as error:
        report.main(parse_command(report.ReportConfig, arguments))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.html"))


def test_import_is_light():
    code = "import sys, bort.report; print({'torch', 'plotly', 'lightning'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "set()", result.stderr
