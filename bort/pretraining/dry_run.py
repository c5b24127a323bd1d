"""The dry run of a pre-training: it prints the cost and refuses whatever the run would refuse."""

import itertools
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bort.config.train import TrainConfig
from bort.config.trainer import AUTO
from bort.console import counted, data_size, duration
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.machine import SIZE, count_usable_cores, measure_gflops
from bort.models import hub
from bort.models.arch import Arch
from bort.objectives.parameters import count_parameters
from bort.pretraining.comparison import ARMS
from bort.pretraining.corpus import Corpus, find_corpus
from bort.pretraining.flops import (
    Amount,
    count_looks,
    count_optimizer_share,
    count_student_flops,
    count_student_readings,
    count_teacher_flops,
    count_teacher_readings,
    estimate_states_bytes,
    expect_text,
    measure_amount,
    repeat_amount,
)
from bort.pretraining.kd_vs_mlm import build_arm_run, check_arms, list_arms
from bort.pretraining.module import list_scores
from bort.pretraining.teacher import (
    build_teacher_run,
    check_shapes,
    is_teacher_cached,
    open_sources,
)
from bort.runs.folder import RunFolder
from bort.text.tokenizer import mark_special_ids
from bort.training.precision import (
    BF16_NAMES,
    describe_precision,
    foresee_precision,
    is_trained_on_cpu,
    recall_factor,
)
from bort.training.trainer import check_monitors, check_trainer

logger = logging.getLogger(__name__)

# The architecture and vocabulary size of well-known teachers, so that a plan needs no download.
HUB_TEACHERS = {
    "roberta-large": (Arch(24, 16, 1024, 4096), 50_265),
    "roberta-base": (Arch(12, 12, 768, 3072), 50_265),
    "bert-large-uncased": (Arch(24, 16, 1024, 4096), 30_522),
    "bert-base-uncased": (Arch(12, 12, 768, 3072), 30_522),
    "bert-base-cased": (Arch(12, 12, 768, 3072), 28_996),
}


@dataclass(frozen=True)
class Outlook:
    """What is known about the inputs of a pre-training before any work is done.

    teacher: its architecture; None if no teacher is needed or it is not known. vocab: the size of
    the student's vocabulary. has_head: whether the teacher has a masked-LM head. corpus: the one in
    the cache; None if it is not built yet. missing: the inputs that are not there yet.
    teacher_parameters: of the teacher; 0 where there is none, or it is not known.
    """

    teacher: Arch | None
    vocab: int
    corpus: Corpus | None
    missing: list[str]
    has_head: bool = True
    teacher_parameters: int = 0


def look_ahead(run: TrainConfig) -> Outlook:
    """Open the teacher, tokenizer and text as far as they are there, with the checks of the run.

    Raises BortError for whatever the run would refuse before its first step. A teacher that has yet
    to be fetched, or text that has yet to be named, is not an error.
    """
    missing: list[str] = []
    has_head, opened = True, None
    if away := run.teacher.name and not _is_here(run.teacher.name):
        missing.append(f"teacher.name={run.teacher.name}, which is fetched from the hub")
        sizes = HUB_TEACHERS.get(run.teacher.name.split("/")[-1], (None, None))
        teacher, vocab = (sizes[0] if run.needs_teacher else None), sizes[1]
        tokenizer = None
        if teacher is not None:
            check_shapes(run, teacher)
    else:
        sources = open_sources(run)
        opened, tokenizer = sources.teacher, sources.tokenizer
        has_head = opened is None or "logits" in opened.gives
        teacher = opened.arch if opened else run.teacher.arch if run.needs_teacher else None
        vocab = opened.vocab_size if opened else tokenizer and len(mark_special_ids(tokenizer))
    corpus = None
    if run.data.source == "text" and not run.data.path:
        missing.append("data.path, the text")
    elif not away:
        corpus = find_corpus(run.data, locate_cache(), tokenizer)
    if vocab is None or (away and run.data.tokenizer != "auto"):
        vocab = corpus.info.vocab_size if corpus else run.data.bpe_size
    size = 0
    if teacher is not None:
        positions = max(run.data.length, 512)
        size = opened.parameter_count if opened else count_parameters(teacher, vocab, positions)
    if run.data.vocab_size is not None:  # which takes some of an existing tokenizer's words
        vocab = min(vocab, run.data.vocab_size)
    return Outlook(teacher, vocab, corpus, missing, has_head, size)


def _is_here(name: str) -> bool:
    """Return whether a model is on this disk; raise BortError for a folder that holds none."""
    try:
        return isinstance(hub.find_model(name), Path)
    except BortError:
        if name.split("/")[-1] in HUB_TEACHERS and not Path(name).exists():
            return False
        raise


def list_pretraining_parts(run: TrainConfig, outlook: Outlook) -> Iterator[tuple[str, float]]:
    """List the name and the FLOPs of each part of a pre-training or a comparison."""
    vocab, teacher, run = outlook.vocab, outlook.teacher, run.settle(outlook.has_head)
    amount = measure_amount(run, outlook.corpus)
    if run.job == "compare":
        amount = count_looks(amount)
        for arm, rate in itertools.product(list_arms(run), run.compare.lrs):
            # in the time of KD, plain training computes about as many FLOPs as KD and its teacher
            arm_run = build_arm_run(run, "kd" if arm == "kd" else "mlm", rate)
            work = count_student_flops(arm_run, vocab, amount)
            taught = arm in ("kd", "mlm_equal_time") and teacher is not None
            passes = count_teacher_flops(teacher, vocab, amount) if taught else 0.0
            yield f"{ARMS[arm]}, lr {rate:.3g}", work + passes
    else:
        yield "student", count_student_flops(run, vocab, amount)
        if run.distill.asks_teacher and teacher is not None:
            yield "teacher's passes", count_run_passes(run, outlook, amount)
    yield from list_teacher_parts(run, outlook)


def count_run_passes(run: TrainConfig, outlook: Outlook, amount: Amount) -> float:
    """Count the FLOPs of the teacher's passes in a run; states that are kept are computed once."""
    count = outlook.corpus.count_sequences("train", run.data) if outlook.corpus else 0
    sizes = estimate_states_bytes(run, outlook.teacher.hidden, amount, count)
    if "train" in sizes:
        amount = replace(amount, train=expect_text(count, run.data.length, run.data.mask_rate))
    if "val" in sizes:
        amount = replace(amount, validations=1)
    read = repeat_amount(amount, *count_teacher_readings(run.distill))
    return count_teacher_flops(outlook.teacher, outlook.vocab, read)


def list_teacher_parts(run: TrainConfig, outlook: Outlook) -> Iterator[tuple[str, float]]:
    """List the training of an unnamed teacher, which costs nothing if it is in the cache."""
    if run.teacher.name or not run.needs_teacher:
        return
    is_cached = outlook.corpus is not None and is_teacher_cached(run, outlook.corpus)
    teacher_run = build_teacher_run(run)
    amount = count_looks(measure_amount(teacher_run, outlook.corpus))
    work = count_student_flops(teacher_run, outlook.vocab, amount)
    yield ("teacher, kept from before", 0.0) if is_cached else ("teacher's training, once", work)


def describe_time(work: float, run: TrainConfig) -> str:
    """Describe how long this many FLOPs take on this machine, in the precision of the run.

    Large models reach half of the speed of its float32 products, and small ones less. bf16 is
    faster by the factor that was timed at the sizes of the run; before that it counts as float32.
    """
    a = torch.randn(SIZE, SIZE)
    hours = work / (0.5e9 * measure_gflops(lambda: a @ a)) / 3600
    precision, speed, factor = run.trainer_config.precision, "in float32", None
    if precision in BF16_NAMES and is_trained_on_cpu(run):
        factor = recall_factor(run)
        speed += ", as bf16 is not timed yet"
    elif precision == AUTO:
        speed += ", less if bf16 is chosen"
    if factor is not None:
        hours /= factor
        speed = f"in bf16, {factor:.2g} × as fast as float32"
    cores = counted(count_usable_cores(), "core")
    return f"{duration(3600 * hours)} on {cores} here, without a GPU, {speed}"


def format_flops(parts: list[tuple[str, float]]) -> str:
    """Describe the sum of all parts, validations included, followed by each part."""
    listed = ", ".join(f"{name} {flops:.1e}" for name, flops in parts)
    return f"{sum(flops for _, flops in parts):.2e} with validations ({listed})"


def show_missing(outlook: Outlook, run: TrainConfig) -> None:
    """Print the inputs of the run that are not there yet."""
    for need in outlook.missing:
        logger.info(f"  missing     {need}")
    if outlook.teacher is None and run.needs_teacher:
        logger.info(
            f"  the passes of {run.teacher.name} are not counted: its size is not known yet"
        )


def count_student_parameters(run: TrainConfig, vocab: int) -> int:
    """Count the parameters that a pre-training trains and saves."""
    size = count_parameters(run.arch, vocab, max(run.data.length, 512))
    if not run.distill.reads_masked:  # the head is neither trained nor saved
        size -= run.arch.hidden**2 + 3 * run.arch.hidden + vocab
    return size


def estimate_training_bytes(run: TrainConfig, vocab: int) -> float:
    """Estimate the memory of a training without its teacher: weights, activations and logits."""
    data, arch = run.data, run.arch
    tokens = data.batch_size * data.length
    activations = 4 * tokens * arch.depth * (14 * arch.hidden + 3 * arch.intermediate)
    activations *= sum(count_student_readings(run.distill))
    logits = 3 * 4 * tokens * data.mask_rate * vocab * run.distill.reads_masked
    return 16 * count_student_parameters(run, vocab) + activations + logits


def estimate_teacher_bytes(run: TrainConfig, outlook: Outlook) -> float:
    """Estimate the memory of the teacher: its weights, and a copy of them for steps in bf16."""
    is_bf16 = run.trainer_config.precision in BF16_NAMES
    return (6 if is_bf16 else 4) * outlook.teacher_parameters


def estimate_bytes(run: TrainConfig, outlook: Outlook) -> float:
    """Estimate the memory of a run, or that of its teacher's own training where it is more."""
    most = estimate_training_bytes(run, outlook.vocab) + estimate_teacher_bytes(run, outlook)
    if run.needs_teacher and run.teacher.name is None:
        most = max(most, estimate_training_bytes(build_teacher_run(run), outlook.vocab))
    return most


def show_optimizer_share(share: float) -> None:
    """Print which share of a step's FLOPs is Muon's, and what lowers a share above a third."""
    if share > 0:
        hint = "; optim=adamw or a larger data.batch_size lowers it" if share > 1 / 3 else ""
        logger.info(f"  Muon        {share:.0%} of the FLOPs of a step{hint}")


def show_readings(run: TrainConfig, outlook: Outlook, amount: Amount) -> None:
    """Print what losses on unmasked text cost: a second reading, and the teacher's states."""
    distill = run.distill
    if distill.reads_masked and distill.reads_unmasked:
        logger.info("  text        is read twice, with and without masks: a step takes about twice")
    if outlook.teacher is None or not distill.w_hidden:
        return
    count = outlook.corpus.count_sequences("train", run.data) if outlook.corpus else 0
    sizes = estimate_states_bytes(run, outlook.teacher.hidden, amount, count)
    logger.info(
        f"              {data_size(sum(sizes.values()))} there for states of the teacher that "
        f"are read again, at most distill.states_gb={distill.states_gb:g}"
    )


def show(run: TrainConfig, folder: Path) -> None:
    """Print the plan of a run: parameters, tokens, FLOPs, memory, disk, hours.

    Raises BortError for whatever the run would refuse before its first step.
    """
    check_trainer(run)
    RunFolder(folder).check_settings(run)
    run = foresee_precision(run, RunFolder(folder).precision)
    if run.job == "compare":
        check_arms(run)
    outlook = look_ahead(run)
    run = run.settle(outlook.has_head)
    if run.job == "pretrain":
        check_monitors(run, list_scores(run.distill))
    V = outlook.vocab
    amount = measure_amount(run, outlook.corpus)
    parts = list(list_pretraining_parts(run, outlook))
    size = count_student_parameters(run, V)
    logger.info(f"  parameters  {size:,} (vocabulary {V:,})")
    logger.info(f"  precision   {describe_precision(run)}")
    rates = ", ".join(map("{:.3g}".format, run.rates))
    logger.info(f"  rate        {rates} at its peak")
    if amount.steps:
        padded = amount.train.tokens - amount.tokens
        more = f", and {padded:,.0f} of padding" if padded else ""
        logger.info(f"  tokens      {amount.tokens:,.0f} in {counted(amount.steps, 'step')}{more}")
    else:
        logger.info("  tokens      not known: no number of steps ends this run")
    logger.info(f"  FLOPs       {format_flops(parts)}")
    show_optimizer_share(count_optimizer_share(run, V, amount))
    its_teacher = ", its teacher included" if outlook.teacher_parameters else ""
    logger.info(f"  memory      about {data_size(estimate_bytes(run, outlook))}{its_teacher}")
    corpus = "built" if outlook.corpus else "to be built"
    logger.info(f"  disk        {data_size((2 * 12 + 4) * size)} in {folder}")
    logger.info(f"              corpus ({corpus}) in {locate_cache()}")
    show_readings(run, outlook, amount)
    free = shutil.disk_usage(Path.cwd()).free
    logger.info(f"              {data_size(free)} are free here")
    needed = describe_time(sum(work for _, work in parts), run)
    logger.info(f"  time        about {needed}")
    show_missing(outlook, run)
    logger.info("dry_run=true: nothing was started")
