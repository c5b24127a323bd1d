"""The dry run of a fine-tuning: it prints the cost and refuses whatever the run would refuse."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from bort.config.train import TrainConfig
from bort.console import counted, data_size
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.finetuning.datamodule import measure_inputs
from bort.finetuning.heads import arrange_texts, find_overlap, match_outputs
from bort.finetuning.rates import plan_trials
from bort.finetuning.recipe import check_length, check_settings_of_task
from bort.models import hub
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.objectives.parameters import count_parameters, count_training_flops
from bort.pretraining.corpus import find_corpus
from bort.pretraining.dry_run import describe_time
from bort.pretraining.flops import count_optimizer_flops, count_student_flops, measure_amount
from bort.pretraining.teacher import OWN_STEPS, build_encoder_run, locate_encoder
from bort.runs.folder import RunFolder
from bort.tasks.encoding import encode_rows
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.precision import describe_precision, foresee_precision
from bort.training.trainer import check_trainer

logger = logging.getLogger(__name__)


def show(
    run: TrainConfig,
    folder: Path,
    count_steps: Callable | None = None,
    pool: Sequence[Row] = (),
) -> None:
    """Print the plan of a fine-tuning: rows, steps, FLOPs, memory, disk, hours.

    count_steps: of Agora, its steps by run, task and training rows. pool: rows without labels that
    are learnt, too. Raises BortError for what the run itself would refuse.
    """
    check_trainer(run)
    RunFolder(folder).check_settings(run)
    run = foresee_precision(run, RunFolder(folder).precision)
    if run.model:
        hub.find_model(run.model)  # a wrong name, before rows are read
    task, rows = load_task(run.task, run.data)
    if task.parent:
        _check_diagnosis(run, task)
        logger.info(
            f"  rows        {len(rows['test']):,}, answered by {run.model}; nothing is trained"
        )
        logger.info("dry_run=true: nothing was started")
        return
    task = arrange_texts(task, run.head, run.data.overlap)
    check_settings_of_task(run, task, rows)
    rows["train"] = [*rows["train"], *pool]
    arch, vocab = run.arch, run.data.bpe_size
    longest, tokens = run.data.batch_size * run.data.length, len(rows["train"]) * run.data.length
    if run.model:
        config = _open(run)
        arch, vocab = config.arch, config.vocab_size
        inputs = encode_rows(task, rows["train"], load_tokenizer(run.model), run.data.length)
        tokens, longest = measure_inputs(inputs)
        longest *= run.data.batch_size
    steps, per_epoch = count_own_steps(run, len(rows["train"]))
    trials, rate = plan_trials(run, task, rows["train"], arch.hidden)
    steps = count_steps(run, task, rows["train"]) if count_steps else steps
    steps += math.ceil(trials * steps)
    read = tokens * steps / per_epoch
    work = count_training_flops(arch, 0, run.data.length, 0.0) * read
    work += steps * count_optimizer_flops(arch, run.optim.name)
    size = count_parameters(arch, vocab, 512)
    counts = ", ".join(f"{name} {len(part):,}" for name, part in rows.items())
    activations = longest * arch.depth * 4 * (14 * arch.hidden + 3 * arch.intermediate)
    logger.info(f"  rows        {counts}")
    for note in task.notes:
        logger.info(f"  labels      {note}")
    arms = " in all arms together, S and replays not counted" if count_steps else ""
    size_of_step = counted(run.data.batch_size * run.trainer_config.accumulate_grad_batches, "row")
    logger.info(f"  steps       {steps:,} of {size_of_step}, {per_epoch:,} an epoch{arms}")
    logger.info(f"  rate        {rate}")
    logger.info(f"  tokens      about {read:,.0f}")
    logger.info(f"  FLOPs       {work:.2e} without validations, {arch} with {size:,} parameters")
    logger.info(f"  precision   {describe_precision(run)}")
    logger.info(f"  memory      about {data_size(16 * size + activations)}")
    logger.info(f"  disk        {data_size((2 * 12 + 4) * size)} in {folder}")
    needed = describe_time(work + (0.0 if run.model else _say_encoder(run)), run)
    logger.info(f"  time        about {needed}")
    logger.info("dry_run=true: nothing was started")


def count_own_steps(run: TrainConfig, rows: int) -> tuple[int, int]:
    """Count the steps of a fine-tuning, and those of an epoch."""
    trainer = run.trainer_config
    batches = -(-rows // run.data.batch_size)
    # what an epoch leaves of a step is a step
    per_epoch = -(-batches // trainer.accumulate_grad_batches)
    steps, epochs = trainer.max_steps, trainer.max_epochs or -1
    if steps < 0 or 0 < epochs * per_epoch < steps:
        steps = per_epoch * max(epochs, 1)
    return steps, per_epoch


def _open(run: TrainConfig) -> ModelConfig:
    """The shape of the model that is fine-tuned, opened as the run opens it."""
    if not isinstance(hub.find_model(run.model), Path):
        raise BortError(f"dry_run=true: {run.model} is no local folder, so its size is not known")
    config = load_masked_lm(run.model, head_required=False).config
    check_length(run, config.positions)
    return config


def _check_diagnosis(run: TrainConfig, task: Task) -> None:
    if not isinstance(hub.find_model(run.model), Path):
        return
    model, labels = load_classifier(run.model)
    check_length(run, model.config.positions)
    match_outputs(task, model, labels, f"model={run.model}")
    arrange_texts(task, model.head, find_overlap(run.model, run.data))


def _say_encoder(run: TrainConfig) -> float:
    """What the encoder costs that stands in for a model; nothing when it is kept already."""
    encoder_run = build_encoder_run(run)
    corpus = find_corpus(encoder_run.data, locate_cache())
    if corpus is not None and RunFolder(locate_encoder(run, corpus)).find_summary():
        logger.info(f"  before it   nothing: an encoder {run.arch} is kept from before")
        return 0.0
    work = count_student_flops(
        encoder_run, encoder_run.data.bpe_size, measure_amount(encoder_run, corpus)
    )
    logger.info(f"  before it   {OWN_STEPS:,} steps of pre-training, {work:.1e} FLOPs")
    return work
