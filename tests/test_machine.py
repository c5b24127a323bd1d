"""Processors and the quota of a container, read from files as Linux writes them."""

import os
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


@pytest.mark.parametrize(
    ("alone", "quota", "chosen", "expected"),
    [
        (True, None, {}, ("PASSIVE", str(shell.SPINS))),
        (False, None, {}, ("PASSIVE", None)),  # a spinning thread would take the neighbour's core
        (True, 2.0, {}, ("PASSIVE", None)),  # the quota pays for every turn
        (True, None, {"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        (True, None, {"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
    ],
)
def test_threads_spin_for_a_moment_where_nothing_else_runs(
    monkeypatch, alone, quota, chosen, expected
):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in (*names, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is restored after the test
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shell, "is_alone", lambda: alone)
    monkeypatch.setattr(shell, "read_cpu_quota", lambda: quota)
    shell.prepare_process()
    assert tuple(os.environ.get(name) for name in names) == expected


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (["1/130"] * 3, True),
        (["3/130", "1/130", "2/130"], True),  # neighbours that only wake up now and then
        (["2/130"] * 3, False),
        (["what"] * 3, False),
    ],
)
def test_alone_is_who_runs_alone_in_one_of_the_looks(tmp_path, monkeypatch, looks, expected):
    path, waiting = tmp_path / "loadavg", list(looks)

    def turn(seconds: float = 0.0) -> None:
        path.write_text(f"0.10 0.20 0.30 {waiting.pop(0)} 4711\n")

    turn()
    monkeypatch.setattr(machine.time, "sleep", turn)
    assert machine.is_alone(path, looks=3) is expected


def test_not_alone_where_the_system_does_not_tell(tmp_path):
    assert machine.is_alone(tmp_path / "missing") is False
