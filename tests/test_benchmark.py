"""`python -m bort.benchmark` by the command line; its table is what latency=table reads."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bort import cost
from bort.config import Arch


def by_hand(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bort.benchmark", *arguments],
        **dict(cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL),
        **dict(capture_output=True, text=True, timeout=200),
    )


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
    assert int(rows[0]["parameters"]) == cost.parameters(arch, 500, 512)
    lines = result.stdout.splitlines()
    assert "measured, batch 1 × 16 tokens, 1 threads" in result.stdout
    assert lines[-1] == "table: table.csv" and lines[-3].endswith("1.00 ×")
    read = cost.read_table(tmp_path / "table.csv", [arch])
    assert read[arch] == float(rows[0]["latency_ms"])


def test_grid(tmp_path):
    result = by_hand(
        *("grid={depth: [1], hidden: [16], heads: [1], intermediate: [16, 32]}", "out=t.csv"),
        *("latency=fitted", "latency.rounds=1", "latency.shapes=6", "latency.length=8"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    archs = [Arch(1, 1, 16, 16), Arch(1, 1, 16, 32)]
    assert len(cost.read_table(tmp_path / "t.csv", archs)) == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["archs=[bert_bas]"],
            "archs=bert_bas is unknown; did you mean 'bert_base'?; see conf/arch",
        ),
        (["archs=[]"], "archs=[] leaves nothing to measure"),
        (["latency=table", "latency.path=x"], "latency=table is what this writes"),
        (["latncy=measured"], "latncy is not a setting"),
        (["vocab_size=2"], "vocab_size=2 must be at least 8"),
    ],
)
def test_mistakes(tmp_path, arguments, line):
    result = by_hand(*arguments, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(f"bort.benchmark: {line}") and result.stderr.count("\n") == 1
