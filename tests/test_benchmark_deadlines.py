"""What a benchmark on a lent machine does by the clock: its pack, its stages, and how they end."""

import importlib
import json
import os
import signal
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bort.errors import BortError

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def test_a_pack_is_opened_as_it_was_or_refused(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    packing = importlib.import_module("packing")
    monkeypatch.setattr(packing, "PIECE", 1000)
    ids = np.random.default_rng(0).integers(2**16, size=2500, dtype=np.uint16)
    pack, opened = tmp_path / "pack", tmp_path / "opened"
    pack.mkdir()
    pieces = list(packing.write_pieces(ids, "train", pack))
    (tmp_path / "rest" / "corpus").mkdir(parents=True)
    with tarfile.open(pack / "rest.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "rest", ".")
    with pytest.raises(BortError, match="is no whole pack .*; make it again by pack"):
        packing.open_pack(pack, opened)
    (pack / "pack.json").write_text(json.dumps({"pieces": pieces}))
    for _ in range(2):  # a second time, too
        packing.open_pack(pack, opened)
        assert np.array_equal(np.fromfile(opened / "corpus" / "train.bin", "<u2"), ids)
    last = pack / pieces[-1]["file"]
    last.write_bytes(last.read_bytes()[:-5])
    with pytest.raises(BortError, match="train_02.lzma is not whole"):
        packing.open_pack(pack, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.fixture
def deadlines(monkeypatch, tmp_path):
    """benchmarks/deadlines.py, and a function that makes its stages of Python's statements."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("deadlines")
    monkeypatch.setattr(module, "LEAST", 0.05)
    monkeypatch.setattr(module, "GRACE", 0.5)
    reports = []

    def make(codes: dict[str, str], **options: dict) -> object:
        names = [name for name in codes if name != "beside"]
        stages = [module.Stage(name, 1.0, **options.get(name, {})) for name in names]
        return module.Stages(
            *(stages, tmp_path, lambda name, left: [sys.executable, "-c", codes[name]]),
            *({}, lambda: reports.append(1)),
        )

    module.make, module.reports = make, reports
    return module


HANG = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def test_stages_end_in_time(deadlines, tmp_path):
    """One that fails or hangs leaves its message, and the next one starts."""
    codes = {
        "first": "print('good')",
        "second": "import sys; sys.exit(0 if 'eager' in sys.argv else 'no such card')",
        "third": "print('working', flush=True);" + HANG,
        "beside": HANG,
        "fourth": "pass",
    }
    options = {"second": {"fallback": "eager"}, "third": {"beside": "beside"}}
    start = time.monotonic()
    deadlines.make(codes, **options).run(5.0)
    assert time.monotonic() - start < 7
    names = ["first", "second", "third", "beside", "fourth"]
    records = {name: deadlines.Record.read(tmp_path, name) for name in names}
    assert [records[name].state for name in names[:4]] == ["done", "done", "late", "late"]
    assert records["second"].message == "(second try, eager, after: exit code 1: no such card)"
    assert records["third"].message == "stopped at its deadline: working"
    assert records["fourth"].state == "done"
    assert len(deadlines.reports) >= 4
    assert deadlines.read_last_line(tmp_path, "first") == "good"
    codes["first"], codes["third"] = "raise SystemExit(1)", "pass"  # what is done stays done
    deadlines.make(codes).run(4.0)
    assert deadlines.Record.read(tmp_path, "first").state == "done"
    assert deadlines.Record.read(tmp_path, "third").state == "done"


def test_stages_that_are_stopped(deadlines, tmp_path):
    """SIGTERM ends the stage in progress; what there is gets reported."""
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start, before = time.monotonic(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        deadlines.make({"first": HANG, "second": "pass"}).run(30.0)
    assert stopped.value.code == 143 and time.monotonic() - start < 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert deadlines.Record.read(tmp_path, "first").state == "stopped"
    assert deadlines.Record.read(tmp_path, "second") is None and deadlines.reports


def test_durations(deadlines):
    cases = {"15m": 900, "9m30s": 570, "90s": 90, "1h": 3600}
    assert {text: deadlines.read_duration(text) for text in cases} == cases
    for text in ("", "15", "m", "1.5m", "0m", "x"):
        with pytest.raises(BortError, match="must be a duration"):
            deadlines.read_duration(text)
