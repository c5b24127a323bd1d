"""`python -m bort.doctor`: what a bug report needs to say about a machine, as text.

It also runs where the installation is broken: nothing that needs another package is imported at the
top, and whatever is missing or does not load is a line of the report.
"""

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from bort import shell
from bort.machine import (
    GIB,
    SIZE,
    count_usable_cores,
    describe_cpu,
    describe_memory,
    find_user_cache,
    find_version,
    measure_gflops,
    read_cpu_quota,
)
from bort.network import check_hub, check_reachable, find_hub_address, find_wandb_key

PACKAGES = (
    "torch lightning hydra-core omegaconf transformers tokenizers datasets torchmetrics "
    "safetensors wandb numpy scipy pyarrow pandas plotly rich"
).split()
SETTINGS = (
    "BORT_CACHE XDG_CACHE_HOME OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_CORETYPE "
    "CUDA_VISIBLE_DEVICES HF_HOME HF_HUB_OFFLINE WANDB_MODE"
).split()

# Linear layers of BERTs, as inputs and outputs, at the tokens of a batch of 8 × 128.
LAYERS = ((64, 256), (128, 512), (256, 1024), (384, 1536), (768, 3072), (1024, 8192))
ROWS = 1024


def print_row(name: str, value: object) -> None:
    """Print a line of a section."""
    print(f"  {name:<14}{value}", flush=True)


def load_torch() -> ModuleType | str:
    """Return torch, or why it cannot be imported: a wrong build raises more than ImportError."""
    try:
        import torch
    except Exception as e:
        return f"not usable: {type(e).__name__}: {e}"
    return torch


def print_software() -> None:
    """Print bort, Python, the packages and the environment."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    print_row("bort", f"{find_version('bort')} as a package, runs from {Path(__file__).parent}")
    version = platform.python_version()
    print_row("python", version if supported else f"{version}; bort needs 3.11 to 3.13")
    print_row("executable", sys.executable)
    print_row("platform", platform.platform())
    tested = read_tested_versions()
    for package in PACKAGES:
        print_row(package, describe_version(package, find_version(package), tested))
    settings = ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)
    print_row("environment", settings or "-")


def read_tested_versions() -> dict[str, str]:
    """Read the versions that bort is tested with from requirements.txt, by package.

    The file lies in the checkout, or in what a wheel tells of itself. Returns nothing without it.
    """
    import importlib.metadata

    path = Path(__file__).parents[1] / "requirements.txt"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        try:
            package = importlib.metadata.distribution("bort")
        except importlib.metadata.PackageNotFoundError:
            return {}
        text = package.read_text("extra_metadata/requirements.txt") or ""
    lines = text.splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and line[0] != "#")


def describe_version(package: str, version: str, tested: Mapping[str, str]) -> str:
    """Return a version, and which one bort is tested with where it is another."""
    expected = tested.get(package)
    # a build of torch names its device behind a plus
    if version == "missing" or expected in (None, version.partition("+")[0]):
        return version
    return f"{version}; bort is tested with {expected}"


def print_hardware(torch: ModuleType | str) -> None:
    """Print the processor, the memory and the devices; torch: as `load_torch` returns it."""
    model, flags = describe_cpu()
    quota = read_cpu_quota()
    limit = "" if quota is None else f", a quota of {quota:g} processors' time"
    print_row("cpu", model)
    print_row("cpu flags", flags)
    print_row("cores", f"{os.cpu_count()}, {count_usable_cores()} usable{limit}")
    print_row("memory", describe_memory())
    if isinstance(torch, str):
        print_row("torch", torch)
        return
    threads = f"{torch.get_num_threads()}, {torch.get_num_interop_threads()} interop"
    print_row("torch threads", threads)
    print_row("cuda", describe_cuda(torch))
    print_row("mps", "available" if torch.backends.mps.is_available() else "none")


def describe_cuda(torch: ModuleType) -> str:
    """Return CUDA's version and its devices, or why there are none."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return f"none, though torch is built for CUDA {built}" if built else "none"
    devices = []
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        bf16 = "bfloat16" if device.major >= 8 else "no bfloat16: use trainer.precision=16-mixed"
        devices.append(f"{device.name}, {device.total_memory / GIB:.0f} GiB, {bf16}")
    return f"{torch.version.cuda}; " + "; ".join(devices)


def print_network() -> None:
    """Print whether the hub and wandb answer."""
    print_row("hub", f"{urlsplit(find_hub_address()).hostname}, {check_hub()}")
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    mode = os.environ.get("WANDB_MODE", "online")
    state = check_reachable(server) if mode == "online" else f"WANDB_MODE is {mode}"
    print_row("wandb", f"{urlsplit(server).hostname}, {state}")
    print_row("wandb key", find_wandb_key(urlsplit(server).hostname or ""))


def describe_free_space(folder: Path) -> str:
    """Return the free space where `folder` is or would be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    return f"{shutil.disk_usage(existing).free / GIB:.1f} GiB free{writable} at {folder}"


def print_disk() -> None:
    """Print how much room there is here and in the cache."""
    cache = find_user_cache()
    print_row("here", describe_free_space(Path.cwd()))
    if cache is None:
        print_row("cache", "none: this user has no home folder; set BORT_CACHE=FOLDER")
    else:
        print_row("cache", describe_free_space(cache.absolute()))


def print_speed(torch: ModuleType | str) -> None:
    """Print how fast matrix products are on the processor, large ones and those of small BERTs."""
    if isinstance(torch, str):
        print_row("matmul", "not measured: torch is not usable")
        return
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, SIZE, SIZE).to(dtype)
        rate = measure_gflops(lambda a=a, b=b: a @ b)
        print_row(
            str(dtype).removeprefix("torch."), f"{rate:.0f} GFLOP/s on the CPU at {SIZE} x {SIZE}"
        )
    from bort.training.precision import LEAST_FACTOR  # loads torch
    from bort.training.products import ProductSize, measure_all

    print_row("linear layers", "GFLOP/s of a training step: float32, bfloat16, how much faster")
    sizes = [ProductSize(ROWS, inputs, outputs) for inputs, outputs in LAYERS]
    for size, speed in measure_all(sizes).items():
        numbers = f"{speed.float32:6,.0f} {speed.bf16:6,.0f} {speed.factor:6.2f} ×"
        print_row(f"{size.inputs} → {size.outputs}", numbers)
    print_row("precision", f"trainer.precision=auto takes bfloat16 from {LEAST_FACTOR} × on")


@dataclass
class DoctorConfig:
    """What a bug report needs to say about this machine; it takes no settings."""


def main(_: DoctorConfig) -> None:
    """Print the report, section by section."""
    print("bort doctor: text for a bug report; takes up to 15 s, changes nothing", flush=True)
    print("software")
    print_software()
    print("hardware", flush=True)
    torch = load_torch()
    print_hardware(torch)
    print("network", flush=True)
    print_network()
    print("disk")
    print_disk()
    print("speed", flush=True)
    print_speed(torch)


if __name__ == "__main__":
    shell.run_command(DoctorConfig, main, "bort.doctor", prepares=False)
