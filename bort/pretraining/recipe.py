"""One pre-training run from settings to a model folder: teacher, corpus, training, summary."""

import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from bort.config.data import DataConfig
from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.fingerprint import FREE_TRAINER_KEYS, fingerprint, flatten_settings
from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.console import clock, counted
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.models import hub
from bort.models.bert import MaskedLM, ModelConfig, build_model
from bort.models.huggingface import load_masked_lm, load_tokenizer, read_model_config, save_model
from bort.models.identity import find_local_model
from bort.pretraining import corpus as corpora
from bort.pretraining.callbacks import SamplePredictions
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import PackedDataModule
from bort.pretraining.module import DistillationModule, list_scores
from bort.pretraining.teacher_states import TeacherStates
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.training.module import VERSION
from bort.training.progress import Throughput
from bort.training.trainer import (
    check_monitors,
    check_trainer,
    choose_device,
    fit,
    hide_lightning_notes,
)

logger = logging.getLogger(__name__)

OWN_STEPS = 1200  # of the pre-training that stands in for the model= of a fine-tuning


def pretrain(run: TrainConfig, folder: Path, record: dict | None = None) -> RunSummary:
    """Train what `run` describes and leave it in `folder`; return its summary.

    The same settings on the same folder continue where the last whole checkpoint stands, or
    return at once when the run is finished. record: file name → text for the folder's `.hydra`.
    """
    check_trainer(run)
    check_monitors(run, list_scores(run.distill.w_kd > 0))
    if (summary := RunFolder(folder).find_result(run)) is not None:
        return summary
    corpus, teacher = prepare(run, folder)
    return train(run, folder, corpus, teacher, record=record)


def prepare(run: TrainConfig, folder: Path | None = None) -> tuple[Corpus, MaskedLM | None]:
    """Open the corpus of a run and the teacher that it needs, trained first if it has no name.

    folder: of the run, so that one that was started on other text is refused before that, and one
    whose teacher is no longer there is told what depends on the new one.
    """
    teacher, tokenizer = open_sources(run)
    corpus = corpora.build_corpus(run.data, locate_cache(), tokenizer)
    goes_on = folder is not None and run.resume
    if goes_on:
        run_folder = RunFolder(folder)
        run_folder.check_data(corpus.info.digest)
    if teacher is None and run.needs_teacher:
        if goes_on and "teacher" in run_folder.read_models() and _is_gone(run, corpus):
            logger.info(
                f"teacher: the one that {folder} was started with is no longer in the cache; it is "
                "trained again, and only if it comes out the same can this run resume"
            )
        teacher = train_teacher(run, corpus)
    elif teacher is not None and tokenizer is None:
        _check_vocabulary(run, corpus.tokenizer, teacher)
    return corpus, teacher


def open_sources(run: TrainConfig) -> tuple[MaskedLM | None, Any]:
    """Open the named teacher that a run needs, and the tokenizer that it names; None for neither.

    Raises BortError for what can be known to be wrong with them before there is a corpus.
    """
    teacher = tokenizer = None
    if run.teacher.name and (run.needs_teacher or run.data.tokenizer == "auto"):
        if run.needs_teacher and (folder := find_local_model(run.teacher.name)):
            _check_length(run, read_model_config(folder).positions)  # before anything large is read
        tokenizer = _load_teacher_tokenizer(run)
        if run.needs_teacher:
            teacher = load_masked_lm(run.teacher.name)
            _check_length(run, teacher.config.limit)
    if run.data.tokenizer not in ("auto", "bpe"):
        tokenizer = load_tokenizer(run.data.tokenizer)
    if teacher is not None and tokenizer is not None:
        _check_vocabulary(run, tokenizer, teacher)
    return teacher, tokenizer


def _load_teacher_tokenizer(run: TrainConfig):
    """Load the tokenizer for `auto`; None for another one whose size can still agree."""
    tokenizer = load_tokenizer(run.teacher.name)
    if run.data.tokenizer == "auto":
        return tokenizer
    if run.data.tokenizer == "bpe" and len(tokenizer) != run.data.vocab_size:
        raise BortError(
            f"teacher.name={run.teacher.name} has a vocabulary of {len(tokenizer):,}, the "
            f"student's is {run.data.vocab_size:,}; data.tokenizer=auto takes the teacher's"
        )
    return None


def _check_length(run: TrainConfig, limit: int) -> None:
    """Raise BortError when sequences are longer than those that the teacher was trained at."""
    if run.data.length > limit and (run.distill.w_kd or run.job == "compare"):
        raise BortError(
            f"data.length={run.data.length} is longer than the {limit} tokens of the teacher "
            f"{run.teacher.name}; use data.length={limit} or less"
        )


def _check_vocabulary(run: TrainConfig, tokenizer: Any, teacher: MaskedLM) -> None:
    """Raise BortError unless the same word is behind each id, or KD would teach noise."""
    student_ids = tokenizer.get_vocab()
    teacher_ids = load_tokenizer(run.teacher.name).get_vocab()
    different = [word for word, number in student_ids.items() if teacher_ids.get(word) != number]
    if different or teacher.config.vocab_size < len(student_ids):
        raise BortError(
            f"teacher.name={run.teacher.name} has a vocabulary of {teacher.config.vocab_size:,}, "
            f"the student's is {len(student_ids):,}, and {len(different):,} words differ; "
            "data.tokenizer=auto takes the teacher's"
        )


def build_teacher_run(run: TrainConfig) -> TrainConfig:
    """Build the settings that train the teacher of `run`: plain MLM on the same text."""
    trainer = {**run.trainer, "max_steps": run.teacher.max_steps, "max_time": None}
    trainer |= {"max_epochs": -1, "accumulate_grad_batches": 1}
    trainer["val_check_interval"] = max(1, run.teacher.max_steps // 4)
    tokenizer = run.data.tokenizer
    if tokenizer == "auto" and run.teacher.name is None:
        tokenizer = "bpe"  # it means that here, and one teacher is not to be trained twice
    return run.to_pretraining(
        arch_file=None,
        arch=run.teacher.arch,
        data=replace(run.data, batch_size=run.teacher.batch_size, tokenizer=tokenizer),
        optim=replace(run.optim, lr=run.teacher.lr),
        distill=DistillConfig(w_kd=0.0, w_mlm=1.0),
        teacher=TeacherConfig(),
        trainer=trainer,
        callbacks=None,  # those of the run: one that stops it early would leave half a teacher
        init="default",
        dropout=0.0,
        seed=0,
        resume=True,
    )


def locate_teacher(run: TrainConfig, corpus: Corpus) -> Path:
    """Locate the trained teacher of these settings in the cache."""
    return _locate_training("teachers", build_teacher_run(run), corpus)


def _is_gone(run: TrainConfig, corpus: Corpus) -> bool:
    return RunFolder(locate_teacher(run, corpus)).find_summary() is None


def hash_teacher(run: TrainConfig, corpus: Corpus) -> dict[str, str]:
    """Compute the digest of the teacher that a run learns from, by the setting that names it."""
    if not run.needs_teacher:
        return {}
    if run.teacher.name:
        return {"teacher.name": hub.digest_model(run.teacher.name)}
    return {"teacher": hub.digest_model(locate_teacher(run, corpus))}


def _locate_training(kind: str, training: TrainConfig, corpus: Corpus) -> Path:
    """Locate a kept training, named by all that decides its weights and by nothing else."""
    name = fingerprint(_select_weight_settings(training) | {"corpus": corpus.info.digest})
    return locate_cache() / kind / name


# Keys of the trainer that leave the weights of a training alone which no callback watches.
IDLE_TRAINER_KEYS = FREE_TRAINER_KEYS | {
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_val_batches",
    "num_sanity_val_steps",
    "enable_checkpointing",
    "enable_model_summary",
    "inference_mode",
    "detect_anomaly",
}
WEIGHT_KEYS = re.compile(
    r"(arch|optim|distill|trainer|callbacks)\.|data\.(length|batch_size|mask_rate)$"
    r"|(init|dropout|compile|seed)$"
)


def _select_weight_settings(training: TrainConfig) -> dict:
    """Select what decides the weights of a pre-training on given streams of tokens, as key: value.

    The digest of the streams says what the text is made of and how it is split.
    """
    idle = {f"trainer.{key}" for key in IDLE_TRAINER_KEYS}
    flat = {
        k: v
        for k, v in flatten_settings(training).items()
        if WEIGHT_KEYS.match(k) and k not in idle
    }
    return flat | {"trainer.accelerator": choose_device(training), "version": VERSION}


def train_teacher(run: TrainConfig, corpus: Corpus) -> MaskedLM:
    """Open the teacher T, after training it by MLM the first time that it is needed."""
    folder = locate_teacher(run, corpus)
    run_folder = RunFolder(folder)
    if run_folder.settle_finished() is None:
        steps = counted(run.teacher.max_steps, "step")
        logger.info(
            f"teacher: training {run.teacher.arch} for {steps} first; it is kept in {folder}"
        )
        train(build_teacher_run(run), folder, corpus, None, label="teacher", wait=True)
    summary = run_folder.find_summary()
    spent = clock(summary.seconds)
    logger.info(f"teacher: {run.teacher.arch}, {summary.describe_validation()}, trained in {spent}")
    return load_masked_lm(folder)


def locate_encoder(run: TrainConfig, corpus: Corpus) -> Path:
    """Locate the encoder of a fine-tuning without a model in the cache."""
    return _locate_training("encoders", build_encoder_run(run), corpus)


def pretrain_encoder(run: TrainConfig) -> Path:
    """Pre-train an encoder run.arch on the embedded corpus, the first time; return its folder."""
    encoder_run = build_encoder_run(run)
    corpus = corpora.build_corpus(encoder_run.data, locate_cache(), None)
    folder = locate_encoder(run, corpus)
    if RunFolder(folder).settle_finished() is None:
        logger.info(
            f"model: none given; pre-training {run.arch} for {OWN_STEPS:,} steps, kept in {folder}"
        )
        train(encoder_run, folder, corpus, None, label="encoder", wait=True)
    return folder


def pretrain_teacher(run: TrainConfig) -> Path:
    """Pre-train run.teacher on the embedded corpus, the first time; return its folder."""
    encoder_run = build_encoder_run(run)
    corpus = corpora.build_corpus(encoder_run.data, locate_cache(), None)
    train_teacher(encoder_run, corpus)
    return locate_teacher(encoder_run, corpus)


def build_encoder_run(run: TrainConfig) -> TrainConfig:
    """Build the settings of a pre-training on the embedded corpus from those of a fine-tuning."""
    steps = {"max_steps": OWN_STEPS, "max_epochs": -1, "max_time": None}
    validation = {"val_check_interval": OWN_STEPS // 4, "check_val_every_n_epoch": None}
    return run.to_pretraining(
        data=DataConfig(),
        optim=OptimConfig(),
        distill=DistillConfig(w_kd=0.0, w_mlm=1.0),
        task=None,
        head="linear",
        patience=None,
        dropout=0.0,
        seed=0,
        callbacks=None,
        trainer={**run.trainer, **steps, **validation, "accumulate_grad_batches": 1},
        resume=True,
    )


# -------------------------------------------------------------------------------- one training


def train(
    run: TrainConfig,
    folder: Path,
    corpus: Corpus,
    teacher: MaskedLM | None,
    label: str = "train",
    record: dict | None = None,
    wait: bool = False,
    states: tuple[TeacherStates, TeacherStates] | None = None,
) -> RunSummary:
    """Train one model on a corpus; see `pretrain`.

    wait: for a process busy in the same folder. states: the teacher's output for the training and
    the validation batches, which is then not computed again.
    """
    hide_lightning_notes()
    run_folder = RunFolder(folder)
    with run_folder.lock(wait):
        if run.resume and (summary := run_folder.find_summary()) is not None:
            run_folder.check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
            return summary
        run_folder.begin(run, record)
        run_folder.check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
        # `deterministic` is not forced: on the CPU, all that we use is.
        pl.seed_everything(run.seed, verbose=False)
        model = build_student(run, corpus, teacher)
        data = PackedDataModule(run.data, seed=run.seed, corpus=corpus, states=states)
        module = DistillationModule(
            model,
            teacher if run.distill.w_kd else None,
            run.optim,
            run.distill,
            compile=run.compile,
        )
        samples = SamplePredictions(corpus.tokenizer, folder)
        parameters = sum(p.numel() for p in model.parameters())  # before FSDP cuts them up
        trainer, throughput = fit(run, folder, module, data, label, [samples])
        values = _summarize(run, trainer, module, throughput, corpus, teacher)
        values["parameters"] = parameters
        if (reason := _explain_no_validation(run, corpus, len(data.val))) is not None:
            values["no_validation"] = reason
        summary = RunSummary(values)
        if trainer.is_global_zero:
            save_model(model, corpus.tokenizer, run_folder.model, state=module.full_weights)
            run_folder.write_summary(summary)
        return summary


def build_student(run: TrainConfig, corpus: Corpus, teacher: MaskedLM | None) -> MaskedLM:
    """Build the model that is trained, with its start values.

    It has at least 512 position rows, so that a fine-tuning may be longer than the pre-training,
    but says that it was trained at data.length: what it would answer beyond is noise.
    """
    # A teacher may have more rows than its tokenizer has words: both models need equal logits.
    V = teacher.config.vocab_size if teacher is not None else corpus.info.vocab_size
    config = ModelConfig(
        **run.arch.to_table(),
        vocab_size=V,
        positions=max(run.data.length, 512),
        pad_id=corpus.tokenizer.pad_token_id,
        dropout=run.dropout,
        attention_dropout=run.dropout,
        length=run.data.length,
    )
    if run.init == "teacher":  # its layers are copied, so they must compute what they did there
        same = {key: getattr(teacher.config, key) for key in ("layer_norm_eps", "activation")}
        config = replace(config, **same)
    return build_model(config, run.init, run.seed, teacher)


def _summarize(
    run: TrainConfig,
    trainer,
    module,
    throughput: Throughput,
    corpus: Corpus,
    teacher: MaskedLM | None,
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
        "unigram_ce": corpus.info.unigram_ce,
        "unigram_accuracy": corpus.info.unigram_accuracy,
        "corpus": corpus.info.fingerprint,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **({} if teacher is None else _describe_teacher(run, corpus, teacher)),
    }


def _explain_no_validation(run: TrainConfig, corpus: Corpus, batches: int) -> str | None:
    """Explain why a run has no `val/loss`; None when it has one."""
    if batches == 0:
        held, needed = corpus.info.val_tokens, run.data.length - 2
        return f"{held:,} tokens are held out, one sequence needs {needed:,}"
    if run.trainer_config.limit_val_batches == 0:
        return "trainer.limit_val_batches=0"
    return None


def _describe_teacher(run: TrainConfig, corpus: Corpus, teacher: MaskedLM) -> dict:
    """Describe the teacher: where it is, and what a sweep needs to weigh a student against it."""
    parameters = sum(p.numel() for p in teacher.parameters())
    source = {"teacher": run.teacher.name or str(locate_teacher(run, corpus))}
    if digests := hash_teacher(run, corpus):  # none where only the vocabulary was the teacher's
        (source["teacher_digest"],) = digests.values()
    return source | {"teacher_parameters": parameters, **teacher.config.arch.to_table("teacher_")}
