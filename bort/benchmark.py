"""Latency of architectures on this machine, side by side: `python -m bort.benchmark`.

python -m bort.benchmark                                  # the named architectures
python -m bort.benchmark archs=[bert_base,bort] latency=onnx_int8 latency.length=512
python -m bort.benchmark grid=tiny out=table.csv          # for latency=table elsewhere
python -m bort.benchmark grid=paper latency.device=cuda out=gpu.csv
"""

import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bort import cli
from bort.config import CONF, Arch, Benchmark, parse, register
from bort.errors import BortError, nearest
from bort.files import write_csv


def named(names: list[str]) -> dict[Arch, str]:
    """Architectures of conf/arch by their names."""
    known = {path.stem: path for path in (CONF / "arch").glob("*.yaml")}
    for name in names:
        if name not in known:
            raise BortError(f"archs={name} is unknown{nearest(name, known)}; see conf/arch")
    return {Arch(**OmegaConf.load(known[name])): name for name in names}


def run(settings: Benchmark) -> list[dict]:
    """Measure, print the table, write `out`; returns its rows."""
    from bort import cost, latency  # torch is loaded only now
    from bort.doctor import machine_line

    points = settings.grid.points()[0]
    archs = {arch: "" for arch in points} if points else named(settings.archs)
    cli.say(machine_line())
    with tempfile.TemporaryDirectory() as folder:
        found = latency.latencies(
            settings.latency, list(archs), None, settings.vocab_size, Path(folder), cli.say
        )
    rows, first = [], next(iter(found["points"].values()))[0]
    for arch, name in archs.items():
        value, low, high = found["points"][str(arch)]
        numbers = {"latency_ms": value, "low": low, "high": high}
        if found["unit"] != "ms":
            numbers = {"operations": value}
        size = cost.parameters(arch, settings.vocab_size, 512)
        rows.append(
            {"name": name, **vars(arch), **numbers, "parameters": size, "ratio": first / value}
        )
    cli.say(f"{found['note']}, vocabulary {settings.vocab_size:,}; the ratio is to the first row")
    for row, arch in zip(rows, archs, strict=True):
        if found["unit"] == "ms":
            value = f"{row['latency_ms']:9.2f} ms [{row['low']:.2f}, {row['high']:.2f}]"
        else:
            value = f"{row['operations'] / 1e9:9.3f} GFLOP"
        cli.say(
            f"{row['name']:>14} {str(arch):>18} {row['parameters']:>13,} parameters "
            f"{value}  {row['ratio']:.2f} ×"
        )
    if settings.out:
        columns = [key for key in rows[0] if key != "ratio"]
        write_csv(Path(settings.out), columns, rows)
        cli.say(f"table: {settings.out}")
    return rows


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    register(Benchmark)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("benchmark", sys.argv[1:])
    run(parse(cfg, Benchmark))


if __name__ == "__main__":
    cli.run(main, "bort.benchmark")
