"""Processors and the quota of a container, read from files as Linux writes them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from bort import machine, shell

GROUPS = {
    "version 1": ("3:cpu,cpuacct:/box/inner\n1:name=systemd:/", "cpu,cpuacct"),
    "version 2": ("0::/box/inner\n", ""),
}


def write_quota(group: Path, controllers: str, quota: int | None) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if controllers:
        (group / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
    else:
        (group / "cpu.max").write_text(f"{'max' if quota is None else quota} 100000\n")


@pytest.mark.parametrize("version", GROUPS)
@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [(None, None, None), (None, 50_000, 0.5), (150_000, None, 1.5), (150_000, 250_000, 1.5)],
)
def test_the_smallest_quota_of_nested_groups_counts(tmp_path, version, outer, inner, expected):
    lines, controllers = GROUPS[version]
    (tmp_path / "membership").write_text(lines)
    root = tmp_path / "cgroup"
    write_quota(root / controllers / "box", controllers, outer)
    write_quota(root / controllers / "box" / "inner", controllers, inner)
    assert machine.read_cpu_quota(root, tmp_path / "membership") == expected


def test_a_group_of_the_host_counts_by_its_root(tmp_path):
    """Inside of a container the named path may not be there."""
    (tmp_path / "membership").write_text("4:cpu:/docker/0123\n")
    write_quota(tmp_path / "cgroup" / "cpu", "cpu", 200_000)
    assert machine.read_cpu_quota(tmp_path / "cgroup", tmp_path / "membership") == 2.0


def test_no_control_groups(tmp_path):
    assert machine.read_cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.2, 2), (1000.0, None)])
def test_no_more_cores_than_a_quota_pays_for(monkeypatch, quota, expected):
    monkeypatch.setattr(machine, "read_cpu_quota", lambda: None)
    cores = machine.count_usable_cores()
    monkeypatch.setattr(machine, "read_cpu_quota", lambda: quota)
    assert machine.count_usable_cores() == min(cores, expected or cores)


@pytest.mark.parametrize(("chosen", "expected"), [(None, "1"), ("7", "7")])
def test_threads_follow_the_quota_unless_the_user_chose(monkeypatch, chosen, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen or "")
    if chosen is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(shell, "read_cpu_quota", lambda: 0.5)
    monkeypatch.setattr(shell, "count_usable_cores", lambda: 1)
    shell.prepare_process()
    assert os.environ["OMP_NUM_THREADS"] == expected


@pytest.mark.parametrize("chosen", [None, "0"])
def test_large_pages_unless_the_user_chose(monkeypatch, chosen):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", chosen or "")
    if chosen is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    shell.prepare_process()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (chosen or "1")


KEPT = """
import resource
from bort.machine import keep_freed_memory

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

count_faults()
before = count_faults()
keep_freed_memory()
count_faults()
print(before, count_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_MMAP_MAX_": "65536"}])
def test_freed_memory_is_kept_unless_the_user_has_chosen(variables):
    """Twenty blocks of 64 MB have 16,384 pages each, which come once or every time."""
    clean = {k: v for k, v in os.environ.items() if k not in machine.ALLOCATOR_VARIABLES}
    shown = subprocess.run(
        [sys.executable, "-c", KEPT],
        env={**clean, **variables, "PYTHONPATH": str(Path(machine.__file__).parent.parent)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    before, after = map(int, shown)
    assert before > 100
    assert (after < 20) == (not variables), (before, after)
