"""Measure where the seconds go before the first step of `train.py`.

    python benchmarks/start.py steps       # stage by stage; medians of five processes
    python benchmarks/start.py imports     # which packages the time of imports is spent in
    python benchmarks/start.py smoke       # both with tiny models; only prints

Corpus and teacher are in the cache then: a process that is not timed comes first, and takes minutes
where they are not there yet. Tables go to benchmarks/results/start_<part>.md.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise

from parts import ROOT, TINY, TINY_TEXT, Bench, run_parts

from bort.errors import BortError

IMPORTED = "import bort.pretraining.recipe, bort.pretraining.dry_run, bort.report"
LEAST = 0.02  # the share of the time from which on a package has a row of its own


def steps(bench: Bench) -> list[str]:
    """Time the stages between the start of a process and the end of its first step."""
    words = ["experiment=kd_pretrain", "name=start"]
    if bench.smoke:
        words += [*TINY, *TINY_TEXT, f"data.path={bench.text}"]
    seconds = defaultdict(list)
    for timed in (False, *[True] * bench.choose(5, 1)):
        with tempfile.TemporaryDirectory() as folder:
            ends = start_training([*words, f"output_dir={folder}/run"])
        for (_, start), (stage, end) in pairwise(ends.items()):
            seconds[stage] += [end - start] if timed else []
    rows = [(stage, statistics.median(values)) for stage, values in seconds.items()]
    rows.append(("all", statistics.median(map(sum, zip(*seconds.values(), strict=True)))))
    lines = [f"| {stage} | {value:.2f} |" for stage, value in rows]
    return ["| `train.py experiment=kd_pretrain` | seconds |", "|---|---|", *lines]


def start_training(words: list[str]) -> dict[str, float]:
    """Start a process that ends after its first step; return when each stage ended."""
    script = [sys.executable, "benchmarks/watched.py", str(time.time()), *words]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BortError(f"watched.py failed: {done.stderr.strip()[-150:]}")
    return json.loads(done.stdout.splitlines()[-1])


def imports(bench: Bench) -> list[str]:
    """Sum what the modules of each package take by themselves when a training is imported."""
    command = [sys.executable, "-X", "importtime", "-c", IMPORTED]
    log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    seconds: dict[str, float] = defaultdict(float)
    for line in log.splitlines():  # "import time: self [us] | cumulative | imported package"
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdecimal():
            seconds[name.strip().split(".")[0]] += int(own) / 1e6
    whole = sum(seconds.values())
    large = {name: own for name, own in seconds.items() if own >= LEAST * whole}
    rows = sorted(large.items(), key=lambda row: -row[1])
    rows += [("others", whole - sum(large.values())), ("all", whole)]
    lines = [f"| {name} | {own:.2f} |" for name, own in rows]
    return ["| package | seconds |", "|---|---|", *lines]


PARTS = {"steps": steps, "imports": imports}

if __name__ == "__main__":
    run_parts("start", PARTS)
