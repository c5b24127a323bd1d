"""What a run will cost, before it starts."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from bort import cost, hf, hub
from bort.agora import planned_steps
from bort.casting import cast
from bort.config import SIZES, Arch, Train, cache_folder
from bort.doctor import SIZE, gflops
from bort.errors import BortError
from bort.finetune import load_task
from bort.machine import usable_cores
from bort.pretrain import OWN_STEPS
from bort.search_config import SearchRun
from bort.wording import counted

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
    return _local(name) if isinstance(hub.find(name), Path) else (None, None)


def _local(name: str) -> tuple[Arch, int]:
    """Architecture and vocabulary that the config.json of a model folder tells."""
    folder = hub.find(name)
    if not isinstance(folder, Path):
        raise BortError(f"dry_run=true: {name} is no local folder, so its size is not known")
    config = hf.model_config(folder)
    return Arch(*(getattr(config, key) for key in SIZES)), config.vocab_size


def _hours(flops: float) -> float:
    """On this machine: half of its matrix-product speed is what large shapes reach; small less."""
    a = torch.randn(SIZE, SIZE)
    return flops / (0.5e9 * gflops(lambda: a @ a)) / 3600


def show(run: Train, folder: Path, say: Callable[[str], None]) -> None:
    """Print the plan of a pre-training run: parameters, tokens, FLOPs, memory, disk, hours."""
    if run.fits_task:
        show_task(run, folder, say)
        return
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
    hours = _hours(total)
    size = cost.parameters(run.arch, V, max(data.length, 512))
    activations = data.batch_size * data.length * run.arch.depth * 4
    activations *= 14 * run.arch.hidden + 3 * run.arch.intermediate
    logits = 3 * 4 * data.batch_size * data.length * data.mask_rate * V
    say(f"  parameters  {size:,} (vocabulary {V:,})")
    say(f"  tokens      {tokens:,} in {counted(steps, 'step')}")
    say(f"  FLOPs       {total:.2e} (" + ", ".join(f"{n} {f:.1e}" for n, f in parts) + ")")
    say(f"  memory      about {(16 * size + activations + logits) / 1e9:.1f} GB")
    say(f"  disk        {(2 * 12 + 4) * size / 1e9:.2f} GB in {folder}, corpus in {cache_folder()}")
    free = shutil.disk_usage(Path.cwd()).free
    say(f"              {free / 1e9:.0f} GB are free here")
    say(f"  hours       about {hours:,.2f} on {usable_cores()} cores here, without a GPU")
    if run.needs_teacher and not teacher:
        say(f"  the passes of {run.teacher.name} are not counted: its size is not known yet")
    say("dry_run=true: nothing was started")


def show_task(run: Train, folder: Path, say: Callable[[str], None]) -> None:
    """Print the plan of a fine-tuning, or of Agora: rows, steps, FLOPs, memory, disk, hours."""
    task, rows = load_task(run.task, run.data)
    if task.parent:
        say(f"  rows        {len(rows['test']):,}, answered by {run.model}; nothing is trained")
        say("dry_run=true: nothing was started")
        return
    arch, vocab = run.arch, run.data.vocab_size
    longest = run.data.batch_size * run.data.length
    tokens = len(rows["train"]) * run.data.length
    if run.model:
        arch, vocab = _local(run.model)
        inputs = cast(task, rows["train"], hf.load_tokenizer(run.model), run.data.length)
        tokens = sum(len(ids) for choices in inputs.input_ids for ids in choices)
        longest = max(len(ids) * len(choices) for choices in inputs.input_ids for ids in choices)
        longest *= run.data.batch_size
    trainer = run.trainer or {}
    batches = -(-len(rows["train"]) // run.data.batch_size)
    steps, epochs = trainer.get("max_steps") or -1, trainer.get("max_epochs") or -1
    if steps < 0 or 0 < epochs * batches < steps:
        steps = batches * max(epochs, 1)
    if run.job == "agora":
        held = round(run.agora.eval_fraction * len(rows["train"]))
        say(f"  E           about {held:,} of the training rows; D has the others")
        steps = 3 * planned_steps(run, len(rows["train"]) - held)
    flops = cost.training_flops(arch, 0, run.data.length, 0.0) * tokens * steps / batches
    size = cost.parameters(arch, vocab, 512)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in rows.items())
    activations = longest * arch.depth * 4 * (14 * arch.hidden + 3 * arch.intermediate)
    say(f"  rows        {counts}")
    for note in task.notes:
        say(f"  labels      {note}")
    arms = " in all arms together, S and replays not counted" if run.job == "agora" else ""
    size_of_step = counted(run.data.batch_size, "row")
    say(f"  steps       {steps:,} of {size_of_step}, {batches:,} an epoch{arms}")
    say(f"  tokens      about {tokens * steps // batches:,}")
    say(f"  FLOPs       {flops:.2e}, {arch} with {size:,} parameters")
    say(f"  memory      about {(16 * size + activations) / 1e9:.1f} GB")
    say(f"  disk        {(2 * 12 + 4) * size / 1e9:.2f} GB in {folder}")
    say(f"  hours       about {_hours(flops):,.2f} on {usable_cores()} cores here, without a GPU")
    if not run.model:
        say(f"  before it   {OWN_STEPS:,} steps of pre-training, unless they are in the cache")
    say("dry_run=true: nothing was started")


def show_search(run: SearchRun, folder: Path, say: Callable[[str], None]) -> None:
    """Print the plan of a search: candidates, their bounds, and at most how much it all costs."""
    search, data = run.search, run.data
    teacher, vocab = _teacher(run)
    if teacher is None:
        raise BortError(
            f"dry_run=true: the size of teacher.name={run.teacher.name} is not known without a "
            f"download; known are {', '.join(HUB_TEACHERS)} and local folders"
        )
    V = vocab if data.tokenizer == "auto" and vocab else data.vocab_size
    valid, invalid = run.grid.points()
    positions = max(data.length, 512)
    p, i = cost.parameters(teacher, V, positions), cost.encoder_operations(teacher, 1, data.length)
    numbers = {
        a: (cost.parameters(a, V, positions), cost.encoder_operations(a, 1, data.length))
        for a in valid
    }
    smaller = {a: x for a, x in numbers.items() if x[0] < p and x[1] < i}
    if not smaller:
        raise BortError(f"none of {len(valid)} candidates is smaller than T = {teacher}")
    most = search.max_params or math.inf
    kept = {a: x for a, x in smaller.items() if x[0] <= most}
    if not kept:
        least = min(smaller, key=lambda arch: smaller[arch][0])
        raise BortError(
            f"search.max_params={most:,} leaves none of {len(valid)} candidates; the smallest is "
            f"{least} with {smaller[least][0]:,} parameters"
        )
    bounds = sorted((1 - x / p) * (1 - y / i) for x, y in kept.values())
    accumulate = (run.trainer or {}).get("accumulate_grad_batches") or 1
    tokens = search.n * data.batch_size * data.length * accumulate
    training = [cost.training_flops(a, V, data.length, data.mask_rate) * tokens for a in kept]
    rest = sorted(training)[-search.finalists :] * (search.seeds - 1 + len(search.lrs))
    passes = cost.forward_flops(teacher, V, data.length, data.mask_rate) * tokens * search.seeds
    parts = [("trainings", sum(training)), ("finalists", sum(rest)), ("teacher's passes", passes)]
    if run.teacher.name is None:
        seen = run.teacher.max_steps * run.teacher.batch_size * data.length
        per_token = cost.training_flops(run.teacher.arch, V, data.length, data.mask_rate)
        parts.append(("teacher's training, once", per_token * seen))
    total = sum(flops for _, flops in parts)
    hours, cache = _hours(total), tokens * data.mask_rate * search.seeds * 2 * teacher.hidden
    say(f"  T           {teacher}, {p:,} parameters (vocabulary {V:,})")
    say(
        f"  candidates  {len(kept)} of {len(valid) + len(invalid)} points: {len(invalid)} without "
        f"a whole head size, {len(valid) - len(kept)} over the budget or not smaller than T"
    )
    say(f"  bounds      W⁺ from {bounds[0]:.3f} to {bounds[-1]:.3f}; the proven worse are skipped")
    say(f"  n           {search.n:,} steps, {tokens:,} tokens a candidate")
    say(f"  FLOPs       at most {total:.2e} (" + ", ".join(f"{n} {f:.1e}" for n, f in parts) + ")")
    say(f"  cache       {cache / 1e9:.2f} GB of teacher states in {folder}")
    say(f"  disk        at most {sum(4e-9 * x for x, _ in kept.values()):.1f} GB of models")
    if run.latency.source not in ("analytic", "table"):
        count = run.latency.shapes if run.latency.source == "fitted" else len(valid) + 1
        say(f"  latency     {count} shapes timed in {run.latency.rounds} rounds first")
    say(f"  hours       at most {hours:,.2f} on {usable_cores()} cores here, without a GPU")
    say("dry_run=true: nothing was started")
