"""`python -m bort.benchmark` by the command line; its table is what latency=table reads."""

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bort.benchmark import run as benchmark
from bort.benchmark.rows import BenchmarkRow, warn_of_wide_quartiles
from bort.benchmark.settings import BenchmarkConfig
from bort.config.compose import CONF, parse_settings
from bort.config.search import register
from bort.errors import BortError
from bort.export import run as export
from bort.models.arch import Arch
from bort.objectives.latency_table import read_latency_table
from bort.objectives.parameters import count_parameters

register(BenchmarkConfig)


ENGINES = ["measured", "onnx", "onnx_int8"]


SMALL = Arch(2, 2, 32, 64)


ROW = BenchmarkRow(
    **dict(name="x", measures="encoder", engine="onnx_int8", batch=1, length=128, threads=1),
    **dict(parameters=4369152, disk_bytes=17476608, median_ms=10.24, low_ms=8.23, high_ms=12.26),
    **dict(sequences_per_s=97.6, ratio=1.0, arch=SMALL, vocabulary=30522),
)


def by_hand(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bort.benchmark", *arguments],
        **dict(cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL),
        **dict(capture_output=True, text=True, timeout=200),
    )


def settings(*arguments: str) -> BenchmarkConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_settings(compose("benchmark", [*arguments]), BenchmarkConfig)


def assert_self_contained(page: Path, *words: str) -> None:
    """No element of the page asks the network for anything, and the words are in it."""
    text = page.read_text()
    outside = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<script[^>]*\ssrc=", text) and "<link" not in outside
    assert "http" not in outside and "url(" not in outside
    assert len(outside) < len(text) / 10  # plotly itself is inside
    for word in words:
        assert word in text


ONE_SIZE = "batch 2 \\u00d7 8 tokens"  # as plotly writes it


def test_comparison(folders, tmp_path):
    """Models beside archs, by the command line; table and picture."""
    export.export(str(folders / "classifier"), "onnx", tmp_path / "exported")
    result = by_hand(
        *("archs=[bert_l2_h128]", "models=[exported]", "batches=[1,2]", "lengths=[8]"),
        *("latency.rounds=1", "latency.threads=1", "vocab_size=100"),
        "out=some/compared.csv",
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    with (tmp_path / "some" / "compared.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows] == 2 * ["measured", "onnx"]
    assert [row["measures"] for row in rows] == 2 * ["encoder", "classifier"]
    assert [row["batch"] for row in rows] == 2 * ["1"] + 2 * ["2"]
    assert all(float(row["peak_bytes"]) > 1e7 for row in rows)
    assert "1 thread," in result.stdout and "vocabulary 100" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("table: some/compared.csv, picture: some/")
    assert_self_contained(tmp_path / "some" / "compared.html", "exported", ONE_SIZE)
    # The table of several engines and sizes is none that latency=table could take for one.
    with pytest.raises(BortError, match="no column latency_ms"):
        read_latency_table(tmp_path / "some" / "compared.csv", [])


def test_a_busy_machine_and_wide_quartiles_are_told(monkeypatch, tmp_path):
    """Of a model whose calls take 10.24 ms between 8.23 and 12.26, beside a calm one."""
    calm = replace(ROW, name="small", median_ms=0.2, low_ms=0.19, high_ms=0.21)
    wide = replace(ROW, name="base", engine="measured")
    note = warn_of_wide_quartiles([calm, wide])
    assert note.startswith("warning: quartiles more than 25% of the median apart (base PyTorch)")
    assert warn_of_wide_quartiles([calm]) is None and "\n" not in note
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 0.0, 0.0))
    assert "load 999.0" in benchmark.warn_of_other_work()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert benchmark.warn_of_other_work() is None


MISTAKES = {
    "engines=[]": "engines=[] leaves nothing to measure",
    "engines=[onx]": "engines=onx is unknown; use measured, onnx, onnx_int8; did you mean 'onnx'?",
    "batches=[]": "batches=[] leaves nothing to measure",
    "lengths=[]": "lengths=[] leaves nothing to measure",
    "batches=[0]": "batches=0 must be at least 1",
    "lengths=[8,2]": "lengths=2 must be at least 4",
    "models=[x] grid=tiny": "grid= makes a table for latency=table",
    "models=[x] latency=analytic": "latency=analytic is for the archs and a grid alone",
    "models=[x] latency.device=cuda": "latency.device=cuda is for the archs and a grid alone",
    "huggingface=true engines=[onnx]": "huggingface=true needs archs",
    "huggingface=true archs=[] models=[x]": "huggingface=true needs archs",
    "latency=table latency.path=x": "latency=table is what this writes",
    "vocab_size=2": "vocab_size=2 must be at least 8",
    "archs=[]": "archs=[] leaves nothing to measure",
    "archs=[] models=[]": "archs=[] leaves nothing to measure",
    "out=x.html": "out=x.html must name a table",
    "out=.": "out=. must name a table",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_in_settings(arguments):
    with pytest.raises(BortError) as caught:
        settings(*arguments.split())
    assert str(caught.value).startswith(MISTAKES[arguments])
    assert "\n" not in str(caught.value)


def stopped(capsys, *arguments: str) -> str:
    """The one line of a run that stops before it says or measures anything."""
    with pytest.raises(BortError) as caught:
        benchmark.run(settings(*arguments))
    assert capsys.readouterr().out == "" and "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_in_models(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    assert stopped(capsys, "archs=[bert_bas]") == (
        "archs=bert_bas is unknown; did you mean 'bert_base'?; see conf/arch"
    )
    assert stopped(capsys, "archs=[]", "models=[./classifer]") == (
        "./classifer does not exist; did you mean 'classifier'?"
    )
    monkeypatch.chdir(tmp_path)
    for path in ("empty", "onnx"):
        (tmp_path / path).mkdir()
    assert "empty is an empty folder" in stopped(capsys, "archs=[]", "models=[./empty]")
    mlm = folders / "classifier"
    line = stopped(capsys, "archs=[]", f"models=[{mlm}]", "lengths=[8,65,64]")
    assert line == f"lengths=65 is beyond the 64 tokens that {mlm} takes"
    for file in mlm.iterdir():
        if file.suffix == ".json":
            (tmp_path / "onnx" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"none")
    assert "model.onnx is no ONNX model that runs here" in stopped(
        capsys, "archs=[]", "models=[./onnx]"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = stopped(capsys, "archs=[]", f"models=[{mlm}]", "engines=[measured,onnx]", "lengths=[8]")
    assert line.startswith("ONNX needs the package onnxruntime; pip install")


def test_pickled_weights_are_not_run(shared, tmp_path, monkeypatch, capsys):
    """Case R4."""
    monkeypatch.chdir(tmp_path)
    model = shared / "cases" / "R4-pickled-weights" / "model"
    line = stopped(capsys, "archs=[]", f"models=[{model}]", "engines=[onnx]")
    assert "weights must be safetensors" in line
    assert not list(tmp_path.iterdir())


def test_table_of_named_architectures(tmp_path):
    result = by_hand(
        *("archs=[bert_l4_h256,bert_l2_h128]", "latency.rounds=2", "latency.length=16"),
        *("latency.threads=1", "out=table.csv", "vocab_size=500"),
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["bert_l4_h256", "bert_l2_h128"]
    assert float(rows[1]["latency_ms"]) < float(rows[0]["latency_ms"])
    arch = Arch(4, 4, 256, 1024)
    assert int(rows[0]["parameters"]) == count_parameters(arch, 500, 512)
    lines = result.stdout.splitlines()
    assert "measured, batch 1 × 16 tokens, 1 thread," in result.stdout
    assert lines[-2:] == ["table: table.csv", "picture: table.html"]
    assert lines[-4].endswith("1.00 ×")
    assert_self_contained(tmp_path / "table.html", "bert_l4_h256")
    read = read_latency_table(tmp_path / "table.csv", [arch])
    assert read[arch] == float(rows[0]["latency_ms"])


def test_grid(tmp_path):
    rows = benchmark.run(
        settings(
            *("grid={depth: [1], hidden: [16], heads: [1], intermediate: [16, 32], ratio: null}",),
            *(f"out={tmp_path}/t.csv", "latency=fitted", "latency.rounds=1", "latency.shapes=6"),
            "latency.length=8",
        )
    )
    assert len(rows) == 2
    archs = [Arch(1, 1, 16, 16), Arch(1, 1, 16, 32)]
    assert len(read_latency_table(tmp_path / "t.csv", archs)) == 2
    assert not (tmp_path / "t.html").exists()


def test_mistake_by_the_command_line(tmp_path):
    result = by_hand("latncy=measured", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    line = "bort.benchmark: latncy is not a setting; did you mean 'latency'?"
    assert result.stderr.startswith(line) and result.stderr.count("\n") == 1
    (tmp_path / "file").write_text("mine")
    result = by_hand("out=file/t.csv", cwd=tmp_path)  # not after minutes of timing
    assert (result.returncode, result.stdout) == (1, "")
    line = f"bort.benchmark: file/t.csv cannot be written: {tmp_path}/file is a file\n"
    assert result.stderr == line
