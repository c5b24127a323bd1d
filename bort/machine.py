"""What this process may use of its machine. Only the standard library, so that the doctor can ask.

A container limits processor time by a quota, which `os.cpu_count` does not know.
"""

import ctypes
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# Of the GNU C library: mallopt's numbers, and the variables by which users choose the same.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
ALLOCATOR_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def read_cpu_quota(
    root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")
) -> float | None:
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


def find_user_cache() -> Path | None:
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
        return os.getloadavg()[0] > count_usable_cores()
    except (OSError, AttributeError):  # Windows
        return False


def count_usable_cores() -> int:
    """The processors that this process may run on, at least 1, a container's quota included."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quota = read_cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


QUOTA_THREADS = "BORT_QUOTA_THREADS"  # the OMP_NUM_THREADS that bort itself has set, by a quota


def is_thread_number_set() -> bool:
    """Whether the user, or a launcher of several processes, has set how many threads there are."""
    by_quota = os.environ.get(QUOTA_THREADS)
    numbers = (os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    return any(number not in (None, by_quota) for number in numbers)


def count_default_threads() -> set[int]:
    """Return the numbers of threads that torch may take by itself: one for each core.

    Of cores with two threads each, it takes one, or both.
    """
    cores, counts = count_usable_cores(), {"siblings": 1, "cpu cores": 1}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key in counts and value.isdigit():
                counts[key] = max(1, int(value))
    return {cores, max(1, cores * counts["cpu cores"] // counts["siblings"])}


CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
SIZE = 1024  # rows and columns of the matrices multiplied
GIB = 2**30


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next allocations.

    The GNU C library returns large blocks to the system, which clears their pages before they are
    used again. A training frees and allocates the same sizes in every step: with kept memory, one
    of ⟨4,8,1024,768⟩ takes 5 to 10% less time at the same peak. Other C libraries are left as they
    are, and so is what the user has chosen by one of ALLOCATOR_VARIABLES.
    """
    if any(name in os.environ for name in ALLOCATOR_VARIABLES) or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def find_version(package: str) -> str:
    """Return the version of an installed package, or `missing`."""
    import importlib.metadata  # such imports stand where they are needed: training loads this, too

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def describe_cpu() -> tuple[str, str]:
    """Model name and the instruction sets that decide the speed of matrix products."""
    model, flags = platform.processor() or platform.machine(), []
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                model = value
            elif key in ("flags", "Features"):
                flags = value.split()
    return model, " ".join(flag for flag in CPU_FLAGS if flag in flags) or "unknown"


def describe_memory() -> str:
    """Return the memory of the machine, what of it is free, and a container's limit."""
    if not hasattr(os, "sysconf"):  # Windows
        return "unknown"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{total / GIB:.1f} GiB"
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        text += f", {kib * 1024 / GIB:.1f} GiB available"
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and (value := limit.read_text(encoding="utf-8").strip()) != "max":
        text += f", limited to {int(value) / GIB:.1f} GiB"
    return text


def measure_gflops(
    product: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    seconds: float = 0.5,
) -> float:
    """Median GFLOP/s of a SIZE³ `product`, which runs once for warming up, then for `seconds`."""
    import statistics

    product()
    times, end = [], clock() + seconds
    while not times or clock() < end:
        start = clock()
        product()
        times.append(clock() - start)
    return 2 * SIZE**3 / statistics.median(times) / 1e9


def describe_machine() -> str:
    """One line that dates a benchmark and names its machine."""
    packages = ", ".join(f"{name} {find_version(name)}" for name in ("torch", "transformers"))
    return (
        f"{describe_cpu()[0]}, {os.cpu_count()} cores, {describe_memory().split(',')[0]}, "
        f"Python {platform.python_version()}, {packages}, {time.strftime('%Y-%m-%d')}"
    )
