"""Pre-train, fine-tune, score and time on one GPU within a budget of time, with what one brings.

    python benchmarks/gpu.py pack data=FOLDER out=PACK     # where the data are; some minutes
    python benchmarks/gpu.py run in=PACK out=FOLDER budget=15m        # on the GPU
    python benchmarks/gpu.py run unpack mlm finetune in=PACK out=FOLDER budget=9m   # in two calls
    python benchmarks/gpu.py run blimp speed out=FOLDER budget=4m                   # the second
    python benchmarks/gpu.py smoke data=FOLDER             # all of it, tiny, on the CPU; prints

`pack` makes a folder of at most 60 MiB: 55 M token ids of text, rows of five GLUE tasks, pairs of
BLiMP. Never put it into the project: some of the text is for research only. data= has the layout of
BORT_DATA, with text/*.jsonl.xz, glue/ and blimp/.

`run` needs nothing else and no network. Its stages are
  unpack    opens the pack,
  mlm       pre-trains ⟨6,6,384,1536⟩ in bf16, compiled, for as long as its share of the budget,
  finetune  fine-tunes it and random weights, three seeds of each task, in parallel processes,
  blimp     scores the pre-trained model and random weights on minimal pairs,
  speed     times our steps beside Hugging Face's, and their share of the peak.
Each has a deadline, and writes what it has at once: out= holds gpu.json, gpu.md and logs.txt, also
after SIGTERM. A stage that fails leaves its message, and the next one starts. What a call has done
is kept in work=FOLDER (by default in /tmp), so that a second call resumes with the other stages.
Without a GPU, `run` rehearses the same with small models: budget=1m is enough for that.

It needs the packages of requirements.txt except datasets, wandb, plotly and ONNX's. Where they
cannot be installed, add theirs to PYTHONPATH; that of this checkout is added here.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # bort may not be installed where the GPU is

from deadlines import Stage, Stages, read_duration  # noqa: E402
from gpu_report import write_report  # noqa: E402
from parts import read_arguments  # noqa: E402

from bort.console import show_log  # noqa: E402
from bort.errors import BortError  # noqa: E402

STAGES = [  # the seconds of a budget of 15 minutes
    Stage("unpack", 30, least=120),  # all of it is needed; imports may be slow the first time
    Stage("mlm", 365, fallback="eager"),
    Stage("finetune", 290, beside="compile"),
    Stage("blimp", 60),
    Stage("speed", 155),
]
HELPERS = ("compile", "worker")  # processes beside the stages
OPTIONS = ("data", "text", "tokens", "in", "out", "work", "budget", "seconds")
WORK = Path(tempfile.gettempdir()) / "bort_gpu"


def main(words: list[str]) -> None:
    """Do what the words say; see the top of this file. Raises BortError for wrong ones."""
    stages = [*(stage.name for stage in STAGES), *HELPERS]
    names, options, is_smoke = read_arguments(words, ["pack", "run", "eager", *stages], OPTIONS)
    verb = names[0] if names else ""
    if verb == "pack":
        pack(options)
    elif verb == "run":
        run(names[1:], options)
    elif is_smoke:
        smoke(options)
    elif verb in stages:
        run_stage(verb, names[1:], options)
    else:
        raise BortError("give pack, run or smoke first; `run` takes names of stages, too")


def read_path(options: dict[str, str], name: str) -> Path:
    """Return the path of an option. Raises BortError where it is not given."""
    if name not in options:
        raise BortError(f"{name}= is missing; it names a folder")
    return Path(options[name]).expanduser().absolute()


def pack(options: dict[str, str]) -> None:
    """Make a pack of text, tasks and pairs."""
    import packing

    sizes = packing.PackSizes()
    if "tokens" in options:
        sizes = packing.PackSizes(tokens=int(options["tokens"]))
    data, out = read_path(options, "data"), read_path(options, "out")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(options.get("work", folder))
        packing.write_pack(data, out, work, sizes, options.get("text", packing.TEXTS))


def run(names: list[str], options: dict[str, str]) -> None:
    """Run the stages that are named, or all, within the budget."""
    work = Path(options.get("work", WORK)).expanduser().absolute()
    is_open = "in" not in options and (work / "data").is_dir()  # by an earlier call
    pack_folder = work if is_open else read_path(options, "in")
    out = read_path(options, "out")
    seconds = read_duration(options.get("budget", "15m"))
    if not is_open and not (pack_folder / "pack.json").is_file():
        raise BortError(f"in={pack_folder} is no pack; make one by `gpu.py pack`")
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in STAGES if not names or stage.name in names]

    def call_stage(name: str, left: float) -> list[str]:
        where = [f"in={pack_folder}", f"work={work}", f"seconds={left:.1f}"]
        return [sys.executable, str(Path(__file__).resolve()), name, *where]

    stages = Stages(
        chosen, work, call_stage, set_environment(work), lambda: write_report(work, out, STAGES)
    )
    stages.run(seconds)
    print((out / "gpu.md").read_text())


def set_environment(work: Path) -> dict[str, str]:
    """Return the environment of the stages; what the compiler makes is shared by all of them."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "compiled"),
        "TRITON_CACHE_DIR": str(work / "compiled" / "triton"),
        "BORT_CACHE": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        **dict(OMP_WAIT_POLICY="PASSIVE", THP_MEM_ALLOC_ENABLE="1"),
    }


def list_stages() -> dict[str, Callable]:
    """List what a process of a stage does, by its name."""
    import gpu_speed
    import gpu_training as training

    return {
        "unpack": training.describe_pack,
        "mlm": training.mlm,
        "finetune": training.fine_tune,
        "blimp": training.blimp,
        "speed": gpu_speed.speed,
        "compile": gpu_speed.compile_beside,
        "worker": training.work_off,
    }


def run_stage(name: str, words: list[str], options: dict[str, str]) -> None:
    """Do the work of one stage, in a process of its own."""
    end = time.monotonic() + float(options.get("seconds", "60"))
    pack_folder, work = read_path(options, "in"), read_path(options, "work")
    if name == "unpack":
        import packing  # without torch, whose import may take the rest of the time

        packing.open_pack(pack_folder, work / "data")
    import gpu_training

    desk = gpu_training.open_desk(pack_folder, work, end - time.monotonic())
    list_stages()[name](desk, *(word == "eager" for word in words))


def smoke(options: dict[str, str]) -> None:
    """Do everything with tiny models in this process, in a folder that is removed; only print."""
    import gpu_training
    import packing

    with tempfile.TemporaryDirectory() as folder:
        pack_folder, work, out = (Path(folder) / name for name in ("pack", "work", "out"))
        data = Path(options.get("data", os.environ.get("BORT_DATA", "")))
        sizes = packing.PackSizes(20_000, 400, 40)
        packing.write_pack(data, pack_folder, Path(folder) / "packing", sizes)
        packing.open_pack(pack_folder, work / "data")
        for name, stage in list_stages().items():
            stage(gpu_training.open_desk(pack_folder, work, 60, gpu_training.TINY))
            print(f"{name}: done", flush=True)
        out.mkdir()
        write_report(work, out, STAGES)
        print((out / "gpu.md").read_text())


if __name__ == "__main__":
    show_log()
    try:
        main(sys.argv[1:])
    except BortError as error:
        raise SystemExit(f"benchmarks/gpu.py: {error}") from None
