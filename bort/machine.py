"""What this process may use of its machine. Only the standard library, so that the doctor can ask.

A container limits processor time by a quota, which `os.cpu_count` does not know.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cpu_quota(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The processors' worth of time that the control group of this process allows; None: no limit.

    Reads both versions of Linux's control groups; of nested groups the smallest quota counts.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return min((quota for line in lines for quota in _quotas(root, line)), default=None)


def _quotas(root: Path, line: str) -> Iterator[float]:
    """The quotas of one line of /proc/self/cgroup, `number:controllers:path`, and of its parents.

    Inside of a container the path may be the host's, which is not there: then the root counts.
    """
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    base = root / controllers if controllers else root
    group = base / path.strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(base):
            return
        try:
            if controllers:
                quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
                period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
            else:
                quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            if quota.strip() != "max" and float(quota) > 0:
                yield float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def user_cache() -> Path | None:
    """$BORT_CACHE, or bort in the user's cache; None for a user whom this machine does not know."""
    try:
        if folder := os.environ.get("BORT_CACHE"):
            return Path(folder).expanduser()
        if folder := os.environ.get("XDG_CACHE_HOME"):
            return Path(folder, "bort").expanduser()
        return Path.home() / ".cache" / "bort"
    except RuntimeError:  # as in many containers
        return None


def is_busy() -> bool:
    """Whether more processes have wanted to run lately than this one has processors."""
    try:
        return os.getloadavg()[0] > usable_cores()
    except (OSError, AttributeError):  # Windows
        return False


def usable_cores() -> int:
    """The processors that this process may run on, at least 1, a container's quota included."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))
