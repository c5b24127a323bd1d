"""The report comes at once, on any machine."""

import importlib.metadata
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bort import doctor, machine
from bort.files.cache import locate_cache

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


def command(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "bort.doctor", *arguments]


def run(*arguments: str, python: tuple[str, ...] = (), **settings: str):
    outer = {k: v for k, v in os.environ.items() if k not in ("WANDB_API_KEY", "BORT_CACHE")}
    return subprocess.run(
        command(*arguments, python=python),
        cwd=ROOT,
        env=outer | OFFLINE | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def sections(report: str) -> dict[str, dict[str, str]]:
    """{section: {name: value}} of a report."""
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in report.splitlines()[1:]:
        if line.startswith("  "):
            section[line[2:16].strip()] = line[16:]
        else:
            section = found[line] = {}
    return found


def test_report(tmp_path):
    key = "0123456789" * 4
    cache = tmp_path / "not" / "there"
    start = time.monotonic()
    result = run(BORT_CACHE=str(cache), WANDB_API_KEY=key)
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - start < 30  # of which no more than 10 s are the network's
    report = sections(result.stdout)
    assert list(report) == ["software", "hardware", "network", "disk", "speed"]
    for package in ("torch", "lightning", "hydra-core", "transformers", "datasets", "wandb"):
        version = importlib.metadata.version(package)
        shown = doctor.describe_version(package, version, doctor.read_tested_versions())
        assert report["software"][package] == shown
    assert f"BORT_CACHE={cache}" in report["software"]["environment"]
    assert report["hardware"]["cores"].startswith(f"{os.cpu_count()}, ")
    assert "GiB" in report["hardware"]["memory"]
    assert {"cpu", "cpu flags", "torch threads", "cuda", "mps"} <= report["hardware"].keys()
    assert report["network"]["hub"].endswith("HF_HUB_OFFLINE is set")
    assert report["network"]["wandb"].endswith("WANDB_MODE is offline")
    assert report["network"]["wandb key"] == "in WANDB_API_KEY"
    assert key not in result.stdout
    assert report["disk"]["cache"].endswith(f"GiB free at {cache}")
    assert not cache.parent.exists()
    for dtype in ("float32", "bfloat16"):
        assert float(report["speed"][dtype].split()[0]) > 0
    for inputs, outputs in doctor.LAYERS:  # what trainer.precision=auto is decided by
        float32, bf16, factor, _ = report["speed"][f"{inputs} → {outputs}"].split()
        ratio = float(bf16.replace(",", "")) / float(float32.replace(",", ""))
        assert float(factor) == pytest.approx(ratio, rel=0.2)


def test_report_without_any_package(monkeypatch):
    monkeypatch.delenv("BORT_CACHE", raising=False)
    result = run(python=("-S",))  # no site-packages
    assert (result.returncode, result.stderr) == (0, "")
    report = sections(result.stdout)
    assert {report["software"][package] for package in doctor.PACKAGES} == {"missing"}
    assert "No module named 'torch'" in report["hardware"]["torch"]
    assert "GiB" in report["hardware"]["memory"]
    # The doctor cannot import config, which needs Hydra; both must name the same folder.
    assert report["disk"]["cache"].endswith(f" at {locate_cache()}")
    assert report["speed"] == {"matmul": "not measured: torch is not usable"}


def test_first_line_comes_before_the_work():
    env = os.environ | OFFLINE
    pipe = subprocess.PIPE
    with subprocess.Popen(command(), cwd=ROOT, env=env, stdout=pipe, text=True) as process:
        first = process.stdout.readline()
        at_work = process.poll() is None
        process.stdout.read()
    assert first.startswith("bort doctor: ") and at_work and process.returncode == 0


def test_arguments_are_refused_in_one_line():
    result = run("foo")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "bort.doctor: takes no arguments, got 'foo'; leave it out\n"


def test_gflops_is_the_median_product_after_warm_up():
    now = 0.0
    durations = itertools.chain([9.0, 0.1, 0.4, 0.2], itertools.repeat(1.0))  # warm-up first

    def product():
        nonlocal now
        now += next(durations)

    # 0.1, 0.4 and 0.2 s fill the 0.6 s; 0.2 is their median.
    assert machine.measure_gflops(product, lambda: now, seconds=0.6) == pytest.approx(
        2 * 1024**3 / 0.2 / 1e9
    )


def test_a_user_without_a_home(monkeypatch, capsys):
    """As in a container that runs under a number that it has no name for."""
    monkeypatch.delenv("BORT_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    doctor.print_disk()
    assert "none: this user has no home folder; set BORT_CACHE=FOLDER" in capsys.readouterr().out


def test_the_cache_is_the_one_that_training_uses(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("BORT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    doctor.print_disk()
    assert locate_cache() == tmp_path / "other" / "bort"
    assert capsys.readouterr().out.endswith(f"GiB free at {locate_cache()}\n")


def test_a_quota_of_processor_time_is_named(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "read_cpu_quota", lambda: 0.5)
    doctor.print_hardware("torch is not loaded here")
    assert "usable, a quota of 0.5 processors' time" in capsys.readouterr().out


def test_a_version_that_was_not_tested_is_named():
    tested = doctor.read_tested_versions()
    for package in ("torch", "transformers", "onnxruntime"):
        assert tested[package] in (ROOT / "requirements.txt").read_text()
    assert doctor.describe_version("torch", "2.13.0+cpu", {"torch": "2.13.0"}) == "2.13.0+cpu"
    line = doctor.describe_version("torch", "2.9.0", {"torch": "2.13.0"})
    assert line == "2.9.0; bort is tested with 2.13.0"
    assert doctor.describe_version("torch", "missing", {"torch": "2.13.0"}) == "missing"
    assert doctor.describe_version("torch", "2.9.0", {}) == "2.9.0"


def test_a_wheel_tells_the_tested_versions(monkeypatch, tmp_path):
    """Where no checkout has the file, the metadata of the installed package has it."""
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "bort" / "doctor.py"))
    folder = tmp_path / "bort-9.dist-info"
    (folder / "extra_metadata").mkdir(parents=True)
    (folder / "METADATA").write_text("Name: bort\nVersion: 9\n")
    (folder / "extra_metadata" / "requirements.txt").write_text("# pins\ntorch==2.13.0\n")
    package = importlib.metadata.PathDistribution(folder)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)
    assert doctor.read_tested_versions() == {"torch": "2.13.0"}
