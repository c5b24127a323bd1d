"""A pre-training run, from its settings to a finished run folder."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import Dataset

from bort.config.train import TrainConfig
from bort.console import clock, counted
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.models import hub
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.huggingface import (
    load_masked_lm_or_encoder,
    load_tokenizer,
    save_model,
)
from bort.models.identity import find_local_model
from bort.models.initialization import build_model
from bort.pretraining.callbacks import SamplePredictions
from bort.pretraining.corpus import Corpus, build_corpus, is_trimmed, measure_unigram
from bort.pretraining.datamodule import LOOK_EVERY, PackedDataModule
from bort.pretraining.module import DistillationModule, list_scores
from bort.pretraining.teacher import (
    Sources,
    build_encoder_run,
    build_teacher_run,
    describe_teacher,
    describe_trimming,
    hash_teacher,
    is_teacher_cached,
    keep_text_states,
    locate_encoder,
    locate_teacher,
    match_vocabulary,
    open_sources,
)
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.teachers.opening import open_teacher
from bort.teachers.teacher import Teacher
from bort.text.tokenizer import hash_tokenizer
from bort.training.checkpoint import Leg
from bort.training.precision import settle_precision
from bort.training.progress import Throughput
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import (
    ALONE,
    check_monitors,
    check_trainer,
    fit,
    hide_lightning_notes,
)

logger = logging.getLogger(__name__)


def pretrain(run: TrainConfig, folder: Path, record: dict | None = None) -> RunSummary:
    """Train what `run` describes and leave it in `folder`; return its summary.

    The same settings in the same folder resume from the newest whole checkpoint, or return at once
    if the run has finished. record: file name → text for the folder's `.hydra`.
    """
    check_trainer(run)
    if not run.distill.is_open:
        check_monitors(run, list_scores(run.distill))
    if (start := find_local_model(run.model)) and Path(folder).resolve() in start.resolve().parents:
        raise BortError(f"model={run.model} lies in the folder of this run; use another name=")
    if (summary := RunFolder(folder).find_result(run)) is not None:
        return summary
    sources = open_sources(run)  # a mistake is told before the precision is timed
    run = settle_precision(run, RunFolder(folder).precision)
    corpus, teacher = prepare(run, folder, sources)
    with use_threads(choose_threads(run, RunFolder(folder).threads)):
        return train(run, folder, corpus, teacher, record=record)


def settle_by_teacher(run: TrainConfig, folder: Path, teacher: Teacher | None) -> TrainConfig:
    """Return the settings with the weights and the start that were left open.

    They depend on what the teacher gives; a run that is resumed keeps those it was started with.
    """
    record = RunFolder(folder).read_settings() if run.resume else None
    if record is not None:
        return run.settle_as(record)
    return run.settle(has_head=teacher is None or "logits" in teacher.gives)


def prepare(
    run: TrainConfig, folder: Path | None = None, sources: Sources | None = None
) -> tuple[Corpus, Teacher | None]:
    """Open the corpus of a run and the teacher it needs; an unnamed teacher is trained first.

    folder: the run folder. If it was started on other text, it is refused before the teacher is
    trained; if its teacher has left the cache, a line says that the teacher is trained again.
    sources: what `open_sources` has opened; it is opened here where it is not given.
    """
    sources = sources or open_sources(run)
    teacher, tokenizer = sources.teacher, sources.tokenizer
    corpus = build_corpus(run.data, locate_cache(), tokenizer)
    goes_on = folder is not None and run.resume
    if goes_on:
        run_folder = RunFolder(folder)
        run_folder.check_data(corpus.info.digest)
    if teacher is None and run.needs_teacher:
        if goes_on and "teacher" in run_folder.read_models() and not is_teacher_cached(run, corpus):
            logger.info(
                f"teacher: the one that {folder} was started with is no longer in the cache; it is "
                "trained again, and only if it comes out the same can this run resume"
            )
        teacher = train_teacher(run, corpus)
    elif teacher is not None and (tokenizer is None or is_trimmed(run.data, tokenizer)):
        words = sources.teacher_tokenizer
        teacher = match_vocabulary(run, corpus.tokenizer, words, teacher)
    return corpus, teacher


def train_teacher(run: TrainConfig, corpus: Corpus) -> Teacher:
    """Open the unnamed teacher of a run; train it by MLM the first time it is needed."""
    folder = locate_teacher(run, corpus)
    run_folder = RunFolder(folder)
    if run_folder.settle_finished() is None:
        steps = counted(run.teacher.max_steps, "step")
        logger.info(
            f"teacher: training {run.teacher.arch} for {steps} first; it is kept in {folder}"
        )
        job = build_teacher_run(run)
        data = make_batches_with_looks(job, corpus)
        with use_threads(choose_threads(job, run_folder.threads)):
            train(job, folder, corpus, None, label="teacher", wait=True, data=data)
    summary = run_folder.find_summary()
    spent = clock(summary.seconds)
    logger.info(f"teacher: {run.teacher.arch}, {summary.describe_validation()}, trained in {spent}")
    return open_teacher(folder)


def pretrain_encoder(run: TrainConfig) -> Path:
    """Return the folder of an encoder of `run.arch`; pre-train it on the first call."""
    encoder_run = build_encoder_run(run)
    corpus = build_corpus(encoder_run.data, locate_cache(), None)
    folder, steps = locate_encoder(run, corpus), encoder_run.trainer_config.max_steps
    if RunFolder(folder).settle_finished() is None:
        logger.info(
            f"model: none given; pre-training {run.arch} for {steps:,} steps, kept in {folder}"
        )
        data = make_batches_with_looks(encoder_run, corpus)
        with use_threads(choose_threads(encoder_run, RunFolder(folder).threads)):
            train(encoder_run, folder, corpus, None, label="encoder", wait=True, data=data)
    return folder


def pretrain_teacher(run: TrainConfig) -> Path:
    """Return the folder of the teacher of a task's run; pre-train it on the first call."""
    encoder_run = build_encoder_run(run)
    corpus = build_corpus(encoder_run.data, locate_cache(), None)
    train_teacher(encoder_run, corpus)
    return locate_teacher(encoder_run, corpus)


# -------------------------------------------------------------------------------- one training


def make_batches_with_looks(run: TrainConfig, corpus: Corpus) -> PackedDataModule:
    """Make the batches of a training whose validations, but for its last, read a part of the text.

    Such are the trainings that make something for another one, or are compared by their ends.
    """
    return PackedDataModule(run.data, seed=run.seed, corpus=corpus, look_every=LOOK_EVERY)


def train(
    run: TrainConfig,
    folder: Path,
    corpus: Corpus,
    teacher: Teacher | None,
    label: str = "train",
    record: dict | None = None,
    wait: bool = False,
    data: PackedDataModule | None = None,
) -> RunSummary:
    """Train one model on a corpus; see `pretrain`.

    wait: whether to wait for another process that works in the same folder. data: the batches,
    where they are not only those of the settings.
    """
    hide_lightning_notes()
    run_folder, run = RunFolder(folder), settle_by_teacher(run, folder, teacher)
    with run_folder.lock(wait):
        if (summary := _begin(run, run_folder, corpus, record)) is not None:
            return summary
        if data is None:
            unmasked = run.distill.reads_unmasked
            texts = keep_text_states(run, corpus, teacher) if unmasked else None
            data = PackedDataModule(run.data, seed=run.seed, corpus=corpus, unmasked=texts)
        return _train_to_end(run, run_folder, corpus, teacher, data, label)


def train_leg(
    run: TrainConfig,
    folder: Path,
    corpus: Corpus,
    teacher: Teacher,
    data: PackedDataModule,
    label: str,
    leg: Leg,
) -> RunSummary:
    """Train as `train` does, as one leg of a longer training.

    The weights are those of a training without the legs before it, bit by bit, if its rates up to
    `leg.start` are the same.
    """
    hide_lightning_notes()
    run_folder, run = RunFolder(folder), settle_by_teacher(run, folder, teacher)
    with run_folder.lock():
        if (summary := _begin(run, run_folder, corpus, None)) is not None:
            return summary
        return _train_to_end(run, run_folder, corpus, teacher, data, label, leg)


def _begin(
    run: TrainConfig, run_folder: RunFolder, corpus: Corpus, record: dict | None
) -> RunSummary | None:
    """Write down what is trained in a folder; return the summary of what was trained before."""
    models = hash_models(run, corpus)
    if run.resume and (summary := run_folder.find_summary()) is not None:
        run_folder.check_inputs(corpus.info.to_json(), models, run)
        return summary
    run_folder.begin(run, record, torch.get_num_threads())
    run_folder.check_inputs(corpus.info.to_json(), models, run)
    return None


def _train_to_end(
    run: TrainConfig,
    run_folder: RunFolder,
    corpus: Corpus,
    teacher: Teacher | None,
    data: PackedDataModule,
    label: str,
    leg: Leg = ALONE,
) -> RunSummary:
    """Train a model in a folder that this process has locked, and write down what came of it."""
    # `deterministic` is not forced: on the CPU, every operation used here is deterministic.
    pl.seed_everything(run.seed, verbose=False)
    model = build_student(run, corpus, teacher)
    distill, folder = run.distill, run_folder.path
    module = DistillationModule(
        model,
        teacher if distill.asks_teacher else None,
        leg.optim or run.optim,
        distill,
        run.compile,
    )
    module.judge = None if data.states is None else data.states.judge
    samples = [SamplePredictions(corpus.tokenizer, folder)] if distill.reads_masked else []
    # A head is saved only if it was trained.
    result = model if distill.reads_masked else model.encoder
    parameters = sum(p.numel() for p in result.parameters())  # counted before FSDP shards them
    looks = data.look_every > 1
    trainer, throughput = fit(run, folder, module, data, label, samples, looks, leg)
    values = _summarize(run, trainer, module, throughput, corpus, teacher)
    values["parameters"] = parameters
    values |= _score_unigram(corpus, data.val, sum(trainer.num_val_batches))
    if (reason := _explain_no_validation(run, corpus, len(data.val))) is not None:
        values["no_validation"] = reason
    summary = RunSummary(values)
    if trainer.is_global_zero:
        save_model(result, corpus.tokenizer, run_folder.model, state=module.full_weights)
        run_folder.write_summary(summary)
    return summary


def build_student(run: TrainConfig, corpus: Corpus, teacher: Teacher | None) -> MaskedLM:
    """Build the student of a run, with its initial weights.

    It has at least 512 position rows, so that fine-tuning may use longer sequences, but it states
    how many of them are trained: data.length, or the rows that a teacher has trained before.
    With `model=` it is that model, see `continue_model`.
    """
    run = run.settle()
    if run.model:
        return continue_model(run, corpus)
    # A teacher may have more rows than its tokenizer has words; the logits of both must match.
    V = teacher.vocab_size if teacher is not None else corpus.info.vocab_size
    return start_student(run, V, corpus.tokenizer.pad_token_id, teacher)


def start_student(
    run: TrainConfig, vocab_size: int, pad_id: int, teacher: Teacher | None
) -> MaskedLM:
    """Build a student of `run.arch` with so many words, and start it as `run.init` says."""
    positions = max(run.data.length, 512)
    config = ModelConfig(
        **run.arch.to_table(),
        vocab_size=vocab_size,
        positions=positions,
        pad_id=pad_id,
        dropout=run.dropout,
        attention_dropout=run.dropout,
        length=run.data.length,
    )
    if run.init != "teacher" or teacher is None:
        return build_model(config, run.init, run.seed)
    tables, source = teacher.embeddings, teacher.masked_lm
    if tables.positions is not None:
        trained = min(teacher.limit, len(tables.positions), positions)
        config = replace(config, length=max(run.data.length, trained))
    if source is not None:  # its layers are copied, so they must compute the same
        same = {key: getattr(source.config, key) for key in ("layer_norm_eps", "activation")}
        config = replace(config, **same)
    return build_model(config, "teacher", run.seed, source, tables, run.init_layers)


def continue_model(run: TrainConfig, corpus: Corpus) -> MaskedLM:
    """Open the model that a run continues; it gets a fresh head where it has none.

    It states the longer of the lengths that it was trained at before and is trained at here.
    Raises BortError if its vocabulary is not that of the text.
    """
    model, has_head = load_masked_lm_or_encoder(run.model)
    config, start = model.config, f"model={run.model} has"
    if hash_tokenizer(load_tokenizer(run.model)) != hash_tokenizer(corpus.tokenizer):
        raise BortError(
            f"{start} another vocabulary than this text, which was tokenized with "
            f"{corpus.info.vocab_size:,} tokens; give text without a tokenizer of its own"
        )
    if not has_head and run.distill.reads_masked:
        logger.info(f"{start} no masked-LM head; a fresh one is trained with it")
    config.dropout = config.attention_dropout = run.dropout
    if config.length is not None:
        config.length = max(config.length, run.data.length)
    return model


def hash_models(run: TrainConfig, corpus: Corpus) -> dict[str, str]:
    """Return the digests of the models that a run reads, by the setting that names each."""
    start = {"model": hub.digest_model(run.model)} if run.model else {}
    return start | hash_teacher(run, corpus)


def _summarize(
    run: TrainConfig,
    trainer,
    module,
    throughput: Throughput,
    corpus: Corpus,
    teacher: Teacher | None,
) -> dict:
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {
        **scores,
        "tokens": module.tokens,
        "steps": trainer.global_step,
        "tokens_per_s": module.tokens / max(throughput.seconds, 1e-9),
        "seconds": throughput.seconds,
        "seed": run.seed,
        "length": module.model.config.limit,
        "unigram_ce": corpus.info.unigram_ce,
        "unigram_accuracy": corpus.info.unigram_accuracy,
        **module.teacher_scores,
        "corpus": corpus.info.fingerprint,
        "precision": str(run.trainer_config.precision),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **({"model": run.model} if run.model else {}),
        **({} if teacher is None else describe_teacher(run, corpus, teacher)),
        **describe_trimming(run, corpus, teacher),
    }


def _score_unigram(corpus: Corpus, batches: Dataset, count: int) -> dict[str, float | None]:
    """Score word frequencies alone at the masked positions of the validated batches.

    Without any, the summary keeps what they score on the whole text.
    """
    validated = (batches[number] for number in range(min(count, len(batches))))
    labels = [batch["labels"].numpy() for batch in validated if "labels" in batch]
    if not sum(map(len, labels)):
        return {}
    loss, accuracy = measure_unigram(corpus, np.concatenate(labels))
    return {"unigram_ce": loss, "unigram_accuracy": accuracy}


def _explain_no_validation(run: TrainConfig, corpus: Corpus, batches: int) -> str | None:
    """Explain why a run has no `val/loss`; return None if it has one."""
    if batches == 0:
        held, needed = corpus.info.val_tokens, run.data.least_tokens
        return f"{held:,} tokens are held out, one sequence needs {needed:,}"
    if run.trainer_config.limit_val_batches == 0:
        return "trainer.limit_val_batches=0"
    return None
