"""What a run will cost, before it starts."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from bort import cost, hf
from bort.config import Arch, Train, cache_folder
from bort.doctor import SIZE, gflops

# Teachers by hub name, so that a plan needs no download: architecture, vocabulary.
HUB_TEACHERS = {
    "roberta-large": (Arch(24, 16, 1024, 4096), 50_265),
    "roberta-base": (Arch(12, 12, 768, 3072), 50_265),
    "bert-large-uncased": (Arch(24, 16, 1024, 4096), 30_522),
    "bert-base-uncased": (Arch(12, 12, 768, 3072), 30_522),
    "bert-base-cased": (Arch(12, 12, 768, 3072), 28_996),
}


def _teacher(run: Train) -> tuple[Arch | None, int | None]:
    """Architecture and vocabulary of the teacher, as far as they are known without a download."""
    name = run.teacher.name
    if name is None:
        return run.teacher.arch, run.data.vocab_size
    if (known := HUB_TEACHERS.get(name.split("/")[-1])) is not None:
        return known
    if not isinstance(folder := hf.find(name), Path):
        return None, None
    found = json.loads((folder / "config.json").read_text())
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    return Arch(*(found[key] for key in keys)), found["vocab_size"]


def show(run: Train, folder: Path, say: Callable[[str], None]) -> None:
    """Print the plan of a run: parameters, tokens, FLOPs, memory, disk, hours."""
    trainer, data = run.trainer or {}, run.data
    teacher, teacher_vocab = _teacher(run)
    V = teacher_vocab if data.tokenizer == "auto" and teacher_vocab else data.vocab_size
    steps = max(trainer.get("max_steps") or 0, 0)
    tokens = steps * data.batch_size * data.length * (trainer.get("accumulate_grad_batches") or 1)
    train = cost.training_flops(run.arch, V, data.length, data.mask_rate) * tokens
    parts = [("student", train)]
    if run.needs_teacher and not run.teacher.name:
        seen = run.teacher.max_steps * run.teacher.batch_size * data.length
        per_token = cost.training_flops(run.teacher.arch, V, data.length, data.mask_rate)
        parts.append(("teacher's training, once", per_token * seen))
    if run.needs_teacher and teacher:
        passes = cost.forward_flops(teacher, V, data.length, data.mask_rate)
        parts.append(("teacher's passes", passes * tokens))
    total = sum(flops for _, flops in parts)
    # Half of the matrix-product speed is what training of large shapes reaches; small ones less.
    a = torch.randn(SIZE, SIZE)
    hours = total / (0.5e9 * gflops(lambda: a @ a)) / 3600
    size = cost.parameters(run.arch, V, max(data.length, 512))
    activations = data.batch_size * data.length * run.arch.depth * 4
    activations *= 14 * run.arch.hidden + 3 * run.arch.intermediate
    logits = 3 * 4 * data.batch_size * data.length * data.mask_rate * V
    say(f"  parameters  {size:,} (vocabulary {V:,})")
    say(f"  tokens      {tokens:,} in {steps:,} steps")
    say(f"  FLOPs       {total:.2e} (" + ", ".join(f"{n} {f:.1e}" for n, f in parts) + ")")
    say(f"  memory      about {(16 * size + activations + logits) / 1e9:.1f} GB")
    say(f"  disk        {(2 * 12 + 4) * size / 1e9:.2f} GB in {folder}, corpus in {cache_folder()}")
    free = shutil.disk_usage(Path.cwd()).free
    say(f"              {free / 1e9:.0f} GB are free here")
    cores = os.cpu_count()
    say(f"  hours       about {hours:,.2f} on this machine's {cores} cores, without a GPU")
    if run.needs_teacher and not teacher:
        say(f"  the passes of {run.teacher.name} are not counted: its size is not known yet")
    say("dry_run=true: nothing was started")
