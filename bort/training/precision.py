"""`trainer.precision=auto`: bf16-mixed on a processor that is faster with it, otherwise 32-true.

The choice is made once, before a run begins, and is one of its settings from then on.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig
from bort.config.trainer import AUTO, BF16, FLOAT32
from bort.models import hub
from bort.models.arch import Arch
from bort.models.huggingface import read_model_config
from bort.models.identity import find_local_model
from bort.teachers.opening import read_shape
from bort.training.products import ProductSize, ProductSpeed, measure_speeds, read_speeds

logger = logging.getLogger(__name__)

LEAST_FACTOR = 1.3  # from which on bf16 is chosen: a step has more than products
# Of the widest model. Narrower ones spend on casts what their products save: with AMX, a step of
# ⟨2,2,64,256⟩ took a third longer in bf16, and one of ⟨2,4,128,512⟩ about as long.
LEAST_HIDDEN = 256
BF16_NAMES = (BF16, "bf16")
MOST_SIZES = 5  # that are timed: those with most of the operations
# The choice of the first process of a distributed training, for those that it starts.
VARIABLE = "BORT_PRECISION"


def settle_precision(run: TrainConfig, recorded: str | None) -> TrainConfig:
    """Return the settings with a precision, which is chosen here where it is `auto`.

    recorded: the precision of the run in its folder, which stays if that is resumed; None where
    there is no run. Warns of a bf16 that is slower than float32 on this processor.
    """
    precision = run.trainer_config.precision
    if os.environ.get("LOCAL_RANK", "0") != "0":  # all processes need the same
        chosen = os.environ.get(VARIABLE, FLOAT32)
        return run.with_precision(chosen) if precision == AUTO else run
    if precision != AUTO:
        if precision in BF16_NAMES and is_trained_on_cpu(run):
            _warn_if_slower(run)
        return run
    chosen, reason = FLOAT32, None
    if run.resume and recorded is not None:
        chosen, reason = recorded, ", as when this run was started"
    elif is_trained_on_cpu(run) and is_narrow(run):
        reason = f"; models narrower than {LEAST_HIDDEN} gain nothing by bf16"
    elif is_trained_on_cpu(run):
        factor = measure_factor(run)
        chosen, reason = choose_by_factor(factor), f"; {_describe_factor(factor)}"
    if reason:
        logger.info(f"precision: {chosen}{reason}")
    os.environ[VARIABLE] = chosen
    return run.with_precision(chosen)


def foresee_precision(run: TrainConfig, recorded: str | None) -> TrainConfig:
    """Return the settings as `settle_precision` would, but time nothing.

    The precision stays `auto` where this machine has not timed products of these sizes yet.
    """
    if run.trainer_config.precision != AUTO:
        return run
    if run.resume and recorded is not None:
        return run.with_precision(recorded)
    if not is_trained_on_cpu(run) or is_narrow(run, fetches=False):
        return run.with_precision(FLOAT32)
    factor = recall_factor(run)
    return run if factor is None else run.with_precision(choose_by_factor(factor))


def recall_factor(run: TrainConfig) -> float | None:
    """Return what `measure_factor` would, by earlier timings alone.

    None where this machine has not timed products of these sizes yet.
    """
    work, speeds = count_work(run, fetches=False), read_speeds()
    return compute_factor(work, speeds) if all(size in speeds for size in work) else None


def autocast_training(run: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context of a training step of this run, for passes outside of its steps.

    Only bf16 counts: in float16, passes outside of the steps are float32.
    """
    is_bf16 = run.trainer_config.precision in BF16_NAMES
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)


def describe_precision(run: TrainConfig) -> str:
    """Describe the precision of a plan."""
    precision = run.trainer_config.precision
    return "auto: chosen by a timing when the run starts" if precision == AUTO else str(precision)


def is_trained_on_cpu(run: TrainConfig) -> bool:
    """Return whether a training with these settings takes the processor, not a GPU."""
    accelerator = str(run.trainer_config.accelerator)
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not has_gpu)


def is_narrow(run: TrainConfig, fetches: bool = True) -> bool:
    """Return whether all models of a run are too narrow for bf16 to save time."""
    return all(arch.hidden < LEAST_HIDDEN for arch, _, _ in list_models(run, fetches))


def choose_by_factor(factor: float) -> str:
    """Choose the precision where bf16 products are so many times as fast as float32's."""
    return BF16 if factor >= LEAST_FACTOR else FLOAT32


def measure_factor(run: TrainConfig) -> float:
    """Measure how many times as fast as in float32 the products of a run are in bf16."""
    work = count_work(run)
    return compute_factor(work, measure_speeds(work))


def _describe_factor(factor: float) -> str:
    return f"bf16 products of this model's sizes are {factor:.2g} × as fast as float32's here"


def _warn_if_slower(run: TrainConfig) -> None:
    """Warn where the bf16 that the user wants takes longer than float32."""
    precision, factor = run.trainer_config.precision, measure_factor(run)
    if factor < 1:
        logger.warning(
            f"trainer.precision={precision} makes this slower: {_describe_factor(factor)}"
        )


# ------------------------------------------------------------------------------ what is computed

Work = dict[ProductSize, float]  # the operations of all products of a size


def compute_factor(work: Work, speeds: dict[ProductSize, ProductSpeed]) -> float:
    """Compute the time of all products in float32 over that in bf16."""
    float32 = sum(flops / speeds[size].float32 for size, flops in work.items())
    return float32 / sum(flops / speeds[size].bf16 for size, flops in work.items())


def count_work(run: TrainConfig, fetches: bool = True) -> Work:
    """Count the operations of a run's linear layers by the size of their products.

    It has the MOST_SIZES sizes with most of them; what is large is counted as the part of it that
    is timed. fetches: whether to look into models that only the hub has.
    """
    work: Counter[ProductSize] = Counter()
    rows = run.data.batch_size * run.data.length
    masked = 0 if run.fits_task else max(1, round(rows * run.data.mask_rate))
    for arch, vocab, passes in list_models(run, fetches):
        for size, count in list_products(arch, rows, vocab, masked):
            work[size.shrink()] += passes * count * size.flops
    return dict(work.most_common(MOST_SIZES))


def list_models(run: TrainConfig, fetches: bool) -> Iterator[tuple[Arch, int, float]]:
    """List the models that a run passes text through, each with its vocabulary and its passes.

    The passes are relative: a step has a pass forward, and where a model is trained two backward.
    """
    is_search = isinstance(run, SearchRunConfig)
    if run.fits_task and not is_search:
        folder = _find_folder(run.model, fetches)
        yield (read_model_config(folder).arch if folder else run.arch), 0, 3
        return
    folder = _find_folder(run.teacher.name, fetches)
    teacher = read_shape(folder) if folder else None
    vocab = teacher.vocab_size if teacher else run.data.bpe_size
    if run.data.vocab_size is not None:  # which takes some of an existing tokenizer's words
        vocab = min(vocab, run.data.vocab_size)
    archs, steps = [run.arch], 1
    if is_search:
        archs, steps = run.grid.points()[0], run.search.n
        if run.teacher.name is None:
            yield run.teacher.arch, vocab, 3 * run.teacher.max_steps
    yield from ((arch, vocab, 3 * steps) for arch in archs)
    if run.needs_teacher and (is_search or run.distill.asks_teacher):
        # In a search, all candidates share one pass.
        yield (teacher.arch if teacher else run.teacher.arch), vocab, steps


def _find_folder(name: str | None, fetches: bool) -> Path | None:
    """Find the folder of a named model; None where it has no name, or is not here."""
    folder = find_local_model(name)
    if name and folder is None and fetches:
        folder = hub.fetch_folder(hub.find_model(name), ["*.json"], ("config.json",))
    return folder


def list_products(
    arch: Arch, rows: int, vocab: int, masked: int
) -> Iterator[tuple[ProductSize, int]]:
    """List the products of a pass through a model's linear layers: their sizes and numbers.

    rows: the tokens of a batch, of which `masked` are compared with the vocabulary.
    """
    H, I = arch.hidden, arch.intermediate  # noqa: E741
    yield ProductSize(rows, H, H), 4 * arch.depth
    # the way back has the same products in another order
    yield ProductSize(rows, *sorted((H, I))), 2 * arch.depth
    if masked:
        yield ProductSize(masked, H, H), 1
        yield ProductSize(masked, H, vocab), 1
