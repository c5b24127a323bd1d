"""`python -m bort.doctor`: what a bug report needs to say about a machine, as text.

It also runs where the installation is broken: nothing that needs another package is imported at the
top, and whatever is missing or does not load is a line of the report.
"""

import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from bort.machine import cpu_quota, usable_cores, user_cache

PACKAGES = (
    "torch lightning hydra-core omegaconf transformers tokenizers datasets torchmetrics "
    "safetensors wandb numpy scipy pyarrow pandas plotly rich"
).split()
SETTINGS = (
    "BORT_CACHE XDG_CACHE_HOME OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_CORETYPE "
    "CUDA_VISIBLE_DEVICES HF_HOME HF_HUB_OFFLINE WANDB_MODE"
).split()
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
NETWORK_SECONDS = 3.0
SIZE = 1024  # rows and columns of the matrices multiplied
GIB = 2**30


def row(name: str, value: object) -> None:
    print(f"  {name:<14}{value}", flush=True)


def version(package: str) -> str:
    import importlib.metadata  # such imports stand where they are needed: training loads this, too

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def load_torch() -> ModuleType | str:
    """torch, or why it cannot be imported: the wrong build fails in more ways than ImportError."""
    try:
        import torch
    except Exception as e:
        return f"not usable: {type(e).__name__}: {e}"
    return torch


def software() -> None:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    row("bort", f"{version('bort')} as a package, runs from {Path(__file__).parent}")
    row("python", platform.python_version() + ("" if supported else "; bort needs 3.11 to 3.13"))
    row("executable", sys.executable)
    row("platform", platform.platform())
    for package in PACKAGES:
        row(package, version(package))
    settings = ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)
    row("environment", settings or "-")


def cpu() -> tuple[str, str]:
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


def memory() -> str:
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


def hardware(torch: ModuleType | str) -> None:
    model, flags = cpu()
    quota = cpu_quota()
    limit = "" if quota is None else f", a quota of {quota:g} processors' time"
    row("cpu", model)
    row("cpu flags", flags)
    row("cores", f"{os.cpu_count()}, {usable_cores()} usable{limit}")
    row("memory", memory())
    if isinstance(torch, str):
        row("torch", torch)
        return
    row("torch threads", f"{torch.get_num_threads()}, {torch.get_num_interop_threads()} interop")
    row("cuda", cuda(torch))
    row("mps", "available" if torch.backends.mps.is_available() else "none")


def cuda(torch: ModuleType) -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return f"none, though torch is built for CUDA {built}" if built else "none"
    devices = []
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        bf16 = "bfloat16" if device.major >= 8 else "no bfloat16: use trainer.precision=16-mixed"
        devices.append(f"{device.name}, {device.total_memory / GIB:.0f} GiB, {bf16}")
    return f"{torch.version.cuda}; " + "; ".join(devices)


def reachable(url: str, seconds: float = NETWORK_SECONDS) -> str:
    """One attempt, in a thread: no timeout of a socket limits the look-up of a name."""
    import urllib.error
    import urllib.request

    answer: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()
            answer.append("reachable")
        except urllib.error.HTTPError:
            answer.append("reachable")  # any answer is one
        except (OSError, ValueError) as e:
            answer.append(f"not reachable: {getattr(e, 'reason', e)}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else f"not reachable: no answer within {seconds:g} s"


def hub_address() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def hub_state() -> str:
    """`reachable`, or why not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    return reachable(hub_address())


@cache
def hub_reachable() -> bool:
    """Whether the hub answers within 3 s, asked once; its own client retries for 23 s per file."""
    return hub_state() == "reachable"


def wandb_key(host: str) -> str:
    """Where wandb finds a key, never the key itself."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return "in WANDB_API_KEY"
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in (Path(os.path.expanduser(name)) for name in files if name):
        try:
            if netrc.netrc(file).authenticators(host):
                return f"in {file}"
        except (OSError, netrc.NetrcParseError):
            continue
    return "none: logger=wandb stays offline"


def network() -> None:
    row("hub", f"{urlsplit(hub_address()).hostname}, {hub_state()}")
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    mode = os.environ.get("WANDB_MODE", "online")
    state = reachable(server) if mode == "online" else f"WANDB_MODE is {mode}"
    row("wandb", f"{urlsplit(server).hostname}, {state}")
    row("wandb key", wandb_key(urlsplit(server).hostname or ""))


def free_space(folder: Path) -> str:
    """Free space where `folder` is or would be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    return f"{shutil.disk_usage(existing).free / GIB:.1f} GiB free{writable} at {folder}"


def disk() -> None:
    cache = user_cache()
    row("here", free_space(Path.cwd()))
    if cache is None:
        row("cache", "none: this user has no home folder; set BORT_CACHE=FOLDER")
    else:
        row("cache", free_space(cache.absolute()))


def gflops(
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


def speed(torch: ModuleType | str) -> None:
    if isinstance(torch, str):
        row("matmul", "not measured: torch is not usable")
        return
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, SIZE, SIZE).to(dtype)
        rate = gflops(lambda a=a, b=b: a @ b)
        row(str(dtype).removeprefix("torch."), f"{rate:.0f} GFLOP/s on the CPU at {SIZE} x {SIZE}")


def machine_line() -> str:
    """One line that dates a benchmark and names its machine."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{cpu()[0]}, {os.cpu_count()} cores, {memory().split(',')[0]}, "
        f"Python {platform.python_version()}, {packages}, {time.strftime('%Y-%m-%d')}"
    )


def main(arguments: list[str]) -> None:
    if arguments:
        raise SystemExit(f"bort.doctor: takes no arguments, got {arguments[0]!r}; leave it out")
    print("bort doctor: text for a bug report; takes up to 15 s, changes nothing", flush=True)
    print("software")
    software()
    print("hardware", flush=True)
    torch = load_torch()
    hardware(torch)
    print("network", flush=True)
    network()
    print("disk")
    disk()
    print("speed", flush=True)
    speed(torch)


if __name__ == "__main__":
    main(sys.argv[1:])
