"""The pipeline: its stages' commands, one line for a mistake, stops, and the same command again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import pytest
from pipeline_data import write_data
from report_helpers import read_figures

from bort.errors import BortError
from bort.files.run_files import make_run_record
from bort.pipeline import run as pipeline
from bort.pipeline.plan import Stage


def stage(key: str, code: str, *reads: str) -> Stage:
    """Writes the file named like it, after appending its name to `log`."""
    code = f"open('log', 'a').write('{key} '); {code}"
    return Stage(key, ["-c", code], Path(key), Path(key), tuple(map(Path, reads)))


def did(*stages: Stage) -> tuple[int, str]:
    """Exit code and which stages ran."""
    Path("log").write_text("")
    code = pipeline.run(list(stages), Path("runs/pipeline/x"), "again")
    return code, Path("log").read_text().strip()


@pytest.fixture
def no_report(monkeypatch):
    def write(stages, folder, *rest):
        (folder / "report.html").write_text("page")

    monkeypatch.setattr(pipeline, "write_report", write)


def test_what_is_finished_stays(place, no_report, capfd):
    one = stage("one", "open('one', 'w').write('1')")
    two = stage("two", "open('two', 'w').write('2')", "one")
    bad = stage("export", "raise SystemExit(3)", "two")
    good = stage("export", "open('export', 'w').write('3')", "two")
    assert did(one, two, bad) == (3, "one two export")
    assert (
        "pipeline 3 of 3: export ended with 3; once that is fixed, the same"
        in capfd.readouterr().err
    )
    assert not Path("runs/pipeline/x/report.html").exists()
    assert did(one, two, good) == (0, "export")
    assert did(one, two, good) == (0, "")
    Path("one").write_text("another")
    assert did(one, two, good) == (0, "two")  # whose result is the same
    Path("two").unlink()
    other = stage("two", "open('two', 'w').write('other')", "one")
    assert did(one, other, good) == (0, "two export")
    Path("runs/pipeline/x/report.html").unlink()
    assert did(one, other, good) == (0, "")
    assert Path("runs/pipeline/x/report.html").exists()


def test_training_on_what_has_changed_starts_anew(place, no_report):
    """What the run made goes, since its checkpoints are another model's; notes of the user stay."""
    one = stage("one", "open('one', 'w').write('1')")
    make = "import os; os.makedirs('s', exist_ok=True); open('s/metrics.csv', 'a').write('row ')"
    record = json.dumps(make_run_record({"job": "pretrain"}))
    make += f"; open('s/settings.json', 'w').write({record!r})"
    result = Path("s/metrics.csv")
    student = Stage("pretrain", ["-c", make], Path("s"), result, (Path("one"),))
    last = stage("export", "open('export', 'w')")
    assert did(one, student, last)[0] == 0
    Path("s/notes.txt").write_text("of the user")
    Path("one").write_text("another")
    assert did(one, student, last)[0] == 0
    assert result.read_text() == "row " and Path("s/notes.txt").exists()


def test_a_folder_without_a_pipeline_is_left_alone(place, no_report):
    folder = Path("runs/pipeline/x")
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("mine")
    with pytest.raises(BortError, match="x holds files but no pipeline of bort"):
        did(stage("export", "open('export', 'w')"))
    assert (folder / "report.html").read_text() == "mine" and not Path("export").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_stage_once(place, no_report, number, capfd):
    """Sent by the stage to its parent, as soon as it is ready to count them."""
    code = f"""
import os, signal, sys, time
got = []
signal.signal({int(number)}, lambda *_: got.append(1))
os.kill(os.getppid(), {int(number)})
time.sleep(0.3)
open('got', 'w').write(str(len(got)))
"""
    assert did(stage("one", code))[0] == 128 + number
    assert Path("got").read_text() == "1"
    assert "pipeline 1 of 1: stopped in one; the same command resumes" in capfd.readouterr().err


def test_first_stage_that_fails_leaves_nothing(place, no_report):
    before = sorted(place.rglob("*"))
    assert did(stage("one", "raise SystemExit(1)"))[0] == 1
    Path("log").unlink()
    assert sorted(place.rglob("*")) == before


TINY = "data.length=16 trainer=cpu"


SMALL = f"{TINY} data.vocab_size=280 data.val_fraction=0.2 teacher.max_steps=5 "


SMALL += "'teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}'"


GRID = "'grid={depth: [1, 2], hidden: [16], head_size: 16, intermediate: [32], ratio: null}'"


STEPS = 300


WHOLE = [
    *("data.path=texts.txt", "data.train=stars.csv", "name=run"),
    f"search={SMALL} {GRID} latency=analytic search.n=4 search.seeds=1",
    f"pretrain={SMALL} trainer.max_steps={STEPS} checkpoint_every=50",
    f"finetune={TINY} trainer.max_epochs=1",
    "export=agreement=0.5 drop=1",
    "benchmark=archs=[bert_l2_h128] memory=false latency.rounds=1 batches=[1]",
]


def start(cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "bort.pipeline", *WHOLE],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(cwd: Path) -> list[int]:
    path = cwd / "runs/kd_pretrain/run/metrics.csv"
    lines = path.read_text().split("\n")[1:-1] if path.exists() else []
    return [int(line.split(",")[0]) for line in lines]


def stop(cwd: Path, number: int) -> tuple[int, str, str]:
    """Run until pre-training has done some steps more, then send it this signal."""
    process, before = start(cwd), len(steps(cwd))
    deadline = time.monotonic() + 200
    try:
        while len(steps(cwd)) < before + 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "too slow"
            time.sleep(0.02)
        process.send_signal(number)
        # After SIGKILL the training still holds the pipes, for the step in progress.
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()  # its stage ends with it
    return process.returncode, out, err


@pytest.mark.timeout(600)
def test_stopped_and_repeated(tmp_path):
    write_data(tmp_path)
    code, out, err = stop(tmp_path, signal.SIGTERM)
    assert code == 143, err
    assert "pipeline 2 of 5: stopped in pretrain; the same command resumes from there" in err
    assert "stopping: saving a checkpoint after this step…" in err  # the stage's own
    assert "pipeline 1 of 5: " in out and "search.py data=text" in out

    searched = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/search").rglob("*")}
    code, out, err = stop(tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "pipeline 1 of 5: search is finished" in out and "resumes after step" in out
    assert len(steps(tmp_path)) < STEPS, "the kill came too late to show anything"

    process = start(tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert "search is finished" in out and "resumes after step" in out
    assert "pipeline 5 of 5: " in out and "report    runs/pipeline/run/report.html" in out
    assert searched == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/search").rglob("*")}
    assert steps(tmp_path) == list(range(1, STEPS + 1))
    check_page(tmp_path)

    made = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()
    }
    process = start(tmp_path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and len(re.findall(r"\d of 5: \w+ is finished \(", out)) == 5
    assert made == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}


def check_page(cwd: Path) -> None:
    """All sections are there, plotly once, nothing from a network, and figures as in the files."""
    text = (cwd / "runs/pipeline/run/report.html").read_text()
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]*(?:src|href)=", text)
    assert text.count("<script type=text/plain id=plotly>") == 1
    figures = read_figures(text)
    assert len(figures) == text.count("<div class=figure") > 8
    assert all(figure["data"] for figure in figures)
    words = unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", text, flags=re.DOTALL))
    for title in ("The optimal BERT on texts.txt", "kd_pretrain/run", "finetune/run"):
        assert title in words
    for title in ("Certificate", "Pareto front", "int8 for onnxruntime", "model.onnx", "Latency"):
        assert title in words
    search = json.loads((cwd / "runs/search/run/summary.json").read_text())
    tuned = json.loads((cwd / "runs/finetune/run/summary.json").read_text())
    shipped = json.loads((cwd / "runs/export/run/export.json").read_text())
    for figure in (search["optimum_name"], f"{search['w']:.4f}"):
        assert figure in words
    assert f"val/accuracy {tuned['val/accuracy']:.4f}" in words
    before, after = (shipped["scores"][f"{when}/accuracy"] for when in ("before", "after"))
    assert before == pytest.approx(tuned["val/accuracy"])
    assert f"{after:.4f}, in float32 {before:.4f}" in words
    assert "against bert_l2_h128" in words and "× as fast" in words
