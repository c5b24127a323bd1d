"""The teacher of a run: its settings, its checks, its digest, and where the cache keeps it.

The encoder that a fine-tuning without `model=` starts from is named here too. Both are trained by
`bort.pretraining.recipe`.
"""

import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bort.config.data import DataConfig
from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.fingerprint import FREE_TRAINER_KEYS, fingerprint, flatten_settings
from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.console import Progress
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.files.locks import lock
from bort.models import hub
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer, read_model_config
from bort.models.identity import find_local_model
from bort.models.initialization import choose_layers
from bort.pretraining.corpus import Corpus, open_full_validation
from bort.pretraining.datamodule import OrderedTexts, Sequences, ValBatches
from bort.pretraining.flops import estimate_states_bytes, measure_amount
from bort.pretraining.state_losses import choose_relation_heads
from bort.runs.folder import RunFolder
from bort.teachers.opening import open_teacher, read_shape
from bort.teachers.states import (
    TeacherStates,
    UnmaskedText,
    compute_text_states,
    read_masked,
)
from bort.teachers.teacher import Teacher, require
from bort.text.tokenizer import mark_special_ids
from bort.text.trimming import check_trimmed_size, map_tokens
from bort.training.module import VERSION
from bort.training.precision import BF16_NAMES, autocast_training
from bort.training.trainer import choose_device

logger = logging.getLogger(__name__)

OWN_STEPS = 1200  # of the encoder that stands in for a missing model=


@dataclass(frozen=True)
class Sources:
    """The teacher and the tokenizer of a run that have a name, opened before its text is read.

    tokenizer: the full one where the corpus will trim it; None where one is trained on the text.
    teacher: its words have the ids of `teacher_tokenizer`, which is `tokenizer` if there is one.
    """

    teacher: Teacher | None = None
    tokenizer: Any = None
    teacher_tokenizer: Any = None


def open_sources(run: TrainConfig) -> Sources:
    """Open the named teacher of a run and its named tokenizer.

    Raises BortError for everything wrong with them, and with what is learnt from the teacher, that
    shows without a corpus.
    """
    teacher = words = tokenizer = None
    start = read_start(run) if run.model else None
    if run.teacher.name and (run.needs_teacher or run.data.tokenizer == "auto"):
        if run.needs_teacher and (folder := find_local_model(run.teacher.name)):
            _check_length(run, read_shape(folder).limit)  # before the weights are read
        words = load_tokenizer(run.teacher.name)
        _check_bpe_size(run, words)
        teacher = _open_named_teacher(run) if run.needs_teacher else None
    elif run.needs_teacher:
        check_shapes(run, run.teacher.arch)
    if run.data.tokenizer not in ("auto", "bpe"):
        tokenizer = load_tokenizer(run.data.tokenizer)
    elif run.data.tokenizer == "auto":
        tokenizer = words
    if tokenizer is not None and run.data.vocab_size is not None:
        check_trimmed_size(tokenizer, run.data.vocab_size)
    if teacher is not None and tokenizer is not None:
        teacher, words = match_vocabulary(run, tokenizer, words, teacher), tokenizer
    if start is not None and run.needs_teacher:
        _check_rows(run, start, teacher, tokenizer)
    return Sources(teacher, tokenizer, words)


def _open_named_teacher(run: TrainConfig) -> Teacher:
    """Open a teacher; raise BortError if it cannot give what the student is to learn or take."""
    teacher = open_teacher(run.teacher.name)
    has_head = "logits" in teacher.gives
    if not has_head and (run.job == "compare" or (run.job == "search" and run.distill.w_kd)):
        job, remedy = "experiment=kd_vs_mlm", "experiment=kd_pretrain learns from its final states"
        if run.job == "search":
            job, remedy = "search.proxy=words", "search.proxy=states compares its final states"
        raise BortError(
            f"{job} asks its teacher for masked words, and {teacher.name} gives no logits: it "
            f"lacks a masked-LM head; {remedy}"
        )
    distill = run.distill.settle(has_head)
    check_gifts(distill, teacher)
    check_shapes(run, teacher.arch, has_layers=teacher.masked_lm is not None)
    _check_length(run, teacher.limit)
    if run.distill.is_open and not has_head:
        words = f"distill.w_hidden={distill.w_hidden:g} in place of w_kd"
        logger.info(
            f"teacher: {teacher.name} has no masked-LM head, so its final states are learnt: "
            f"{'search.proxy=states' if run.job == 'search' else words}"
        )
    return teacher


def check_shapes(run: TrainConfig, teacher: Arch, has_layers: bool = True) -> None:
    """Raise BortError for relations or layers that the shapes of both models do not allow.

    has_layers: whether the teacher's layers compute what the student's do.
    """
    if run.distill.w_relation:
        _check_relation_layer(run.distill, teacher.depth)
        choose_relation_heads(run.arch.hidden, teacher.hidden, run.distill.relation_heads)
    if not run.model and run.settle().init == "teacher":
        choose_layers(run.arch, teacher if has_layers else None, run.init_layers)


def read_start(run: TrainConfig) -> ModelConfig:
    """Read the shape of the model that is continued.

    Raises BortError if the sequences are longer than it can read.
    """
    folder = hub.fetch_folder(hub.find_model(run.model), ["*.json"], ("config.json",))
    config = read_model_config(folder)
    if run.data.length > config.positions:
        raise BortError(
            f"data.length={run.data.length} is longer than the {config.positions} positions of "
            f"model={run.model}; use data.length={config.positions} or less"
        )
    return config


def _check_rows(
    run: TrainConfig, start: ModelConfig, teacher: Teacher | None, tokenizer: Any
) -> None:
    """Raise BortError unless a model and its teacher have logits for the same number of words.

    A model may have more rows than its tokenizer has words. teacher: None for one that is trained
    first, which has a row for each word.
    """
    has_head = teacher is None or "logits" in teacher.gives
    rows = len(mark_special_ids(tokenizer)) if teacher is None else teacher.vocab_size
    if run.distill.settle(has_head).w_kd and rows != start.vocab_size:
        name = f"teacher.name={run.teacher.name}" if teacher else "the teacher trained for it"
        raise BortError(
            f"model={run.model} has {start.vocab_size:,} rows for words, {name} {rows:,}; w_kd "
            "needs as many: use distill.w_hidden=1 or another teacher"
        )


def _check_bpe_size(run: TrainConfig, tokenizer: Any) -> None:
    """Raise BortError if a tokenizer that is yet to be trained cannot become the teacher's."""
    if run.data.tokenizer == "bpe" and len(tokenizer) != run.data.bpe_size:
        raise BortError(
            f"teacher.name={run.teacher.name} has a vocabulary of {len(tokenizer):,}, the "
            f"student's is {run.data.bpe_size:,}; data.tokenizer=auto takes the teacher's"
        )


def _check_length(run: TrainConfig, limit: int) -> None:
    """Raise BortError if the sequences are longer than those the teacher was trained on."""
    if run.data.length > limit and (run.distill.asks_teacher or run.job == "compare"):
        raise BortError(
            f"data.length={run.data.length} is longer than the {limit} tokens of the teacher "
            f"{run.teacher.name}; use data.length={limit} or less"
        )


def check_gifts(distill: DistillConfig, teacher: Teacher | None) -> None:
    """Raise BortError for a loss without a teacher, or with one that cannot give what it needs."""
    gifts = {"logits": "w_kd", "hidden": "w_hidden", "relations": "w_relation"}
    for gift, key in gifts.items():
        if not getattr(distill, key):
            continue
        if teacher is None:
            raise BortError(f"distill.{key} is above 0 but there is no teacher; set teacher.name")
        require(teacher, gift)
    if distill.w_relation:
        _check_relation_layer(distill, teacher.arch.depth)


def _check_relation_layer(distill: DistillConfig, depth: int) -> None:
    """Raise BortError for a layer that a teacher of this depth does not have."""
    if not -depth <= distill.relation_layer < depth:
        raise BortError(
            f"distill.relation_layer={distill.relation_layer}: the teacher's layers are 0 to "
            f"{depth - 1}, or -{depth} to -1 from its end"
        )


def match_vocabulary(run: TrainConfig, tokenizer: Any, full: Any, teacher: Teacher) -> Teacher:
    """Return the named teacher with a tokenizer's words under the tokenizer's ids.

    full: the teacher's tokenizer. That is the teacher itself where both have the same words, and
    one of fewer words where the tokenizer was trimmed from the teacher's. Raises BortError for a
    tokenizer whose ids stand for other words: a distillation would teach noise.
    """
    student_ids, teacher_ids = tokenizer.get_vocab(), full.get_vocab()
    different = [word for word, number in student_ids.items() if teacher_ids.get(word) != number]
    ids = map_tokens(tokenizer, full) if len(student_ids) < len(teacher_ids) else None
    if ids is not None and ids.max() < teacher.vocab_size:
        return teacher.select_words(torch.from_numpy(ids))
    if different or teacher.vocab_size < len(student_ids):
        if run.model:
            raise BortError(
                f"model={run.model} and teacher.name={run.teacher.name} have different "
                f"vocabularies ({len(student_ids):,} and {len(teacher_ids):,} words, and "
                f"{len(different):,} words differ); use a teacher with the words of the model"
            )
        raise BortError(
            f"teacher.name={run.teacher.name} has a vocabulary of {teacher.vocab_size:,}, "
            f"the student's is {len(student_ids):,}, and {len(different):,} words differ; "
            "data.tokenizer=auto takes the teacher's"
        )
    return teacher


def build_teacher_run(run: TrainConfig) -> TrainConfig:
    """Build the settings that train the teacher of `run`: plain MLM on the same text."""
    trainer = {**run.trainer, "max_steps": run.teacher.max_steps, "max_time": None}
    trainer |= {"max_epochs": -1, "accumulate_grad_batches": 1}
    trainer["val_check_interval"] = max(1, run.teacher.max_steps // 4)
    tokenizer = run.data.tokenizer
    if tokenizer == "auto" and run.teacher.name is None:
        tokenizer = "bpe"  # "auto" means that here; two names would train the same teacher twice
    return run.to_pretraining(
        arch_file=None,
        arch=run.teacher.arch,
        data=replace(run.data, batch_size=run.teacher.batch_size, tokenizer=tokenizer),
        optim=replace(run.optim, lr=run.teacher.lr),
        distill=DistillConfig(w_kd=0.0, w_mlm=1.0),
        teacher=TeacherConfig(),
        trainer=trainer,
        callbacks=None,  # a callback of the run could stop the training of its teacher early
        init="default",
        dropout=0.0,
        seed=0,
        resume=True,
    )


def locate_teacher(run: TrainConfig, corpus: Corpus) -> Path:
    """Return the folder in the cache where the trained teacher of these settings is kept."""
    return _locate_training("teachers", build_teacher_run(run), corpus)


def is_teacher_cached(run: TrainConfig, corpus: Corpus) -> bool:
    """Return whether the cache holds the trained teacher of these settings."""
    return RunFolder(locate_teacher(run, corpus)).find_summary() is not None


def hash_teacher(run: TrainConfig, corpus: Corpus) -> dict[str, str]:
    """Return the setting that names the teacher and the digest of its model; {} without teacher."""
    if not run.needs_teacher:
        return {}
    if run.teacher.name:
        return {"teacher.name": hub.digest_model(run.teacher.name)}
    return {"teacher": hub.digest_model(locate_teacher(run, corpus))}


def _locate_training(kind: str, training: TrainConfig, corpus: Corpus) -> Path:
    """Return the folder of a cached training; its name depends on what decides the weights only."""
    name = fingerprint(_select_weight_settings(training) | {"corpus": corpus.info.digest})
    return locate_cache() / kind / name


# Keys of the trainer that do not change the weights of a training without callbacks.
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
    r"(arch|optim|trainer|callbacks)\.|distill\.(w_kd|w_mlm|temperature)$"
    r"|data\.(length|packing|batch_size|mask_rate)$"
    r"|(init|dropout|compile|seed)$"
)


def _select_weight_settings(training: TrainConfig) -> dict:
    """Select the settings, as key → value, that decide the weights of a training on given tokens.

    The text and its split are not among them: the digest of the tokens covers both.
    """
    idle = {f"trainer.{key}" for key in IDLE_TRAINER_KEYS}
    flat = {
        k: v
        for k, v in flatten_settings(training).items()
        if WEIGHT_KEYS.match(k) and k not in idle
    }
    if training.data.packing:  # as in the names of trainings before there was a choice
        del flat["data.packing"]
    return flat | {"trainer.accelerator": choose_device(training), "version": VERSION}


def locate_encoder(run: TrainConfig, corpus: Corpus) -> Path:
    """Return the folder in the cache of the encoder for a fine-tuning without `model=`."""
    return _locate_training("encoders", build_encoder_run(run), corpus)


def build_encoder_run(run: TrainConfig) -> TrainConfig:
    """Build the settings that pre-train the encoder of a fine-tuning on the embedded corpus."""
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


def keep_text_states(run: TrainConfig, corpus: Corpus, teacher: Teacher) -> UnmaskedText:
    """Keep the teacher's final states of the unmasked text in the cache, where that saves passes.

    Those of training text are computed in the precision of the training, those of validation text
    in float32.
    """
    count = corpus.count_sequences("train", run.data)
    sizes = estimate_states_bytes(run, teacher.arch.hidden, measure_amount(run, corpus), count)
    states = {}
    for split in sizes:
        rows = np.arange(count) if split == "train" else ValBatches(corpus, run.data).chosen
        texts = OrderedTexts(Sequences(corpus, split, run.data), rows)
        states[split] = _build_text_states(run, corpus, teacher, split, texts)
    return UnmaskedText(**states)


def _build_text_states(
    run: TrainConfig, corpus: Corpus, teacher: Teacher, split: str, texts: OrderedTexts
) -> TeacherStates:
    """Build the states of a split, or complete those that are in the cache."""
    device = torch.device(choose_device(run))
    is_bf16 = split == "train" and run.trainer_config.precision in BF16_NAMES
    settings = {
        "teacher": hash_teacher(run, corpus),
        "corpus": corpus.info.digest,
        "length": run.data.length,
        "rows": [split, len(texts.rows), int(texts.rows[-1])],
        "bf16": is_bf16,
        "device": device.type,
    }
    if not run.data.packing:
        settings["packing"] = False
    path = locate_cache() / "states" / fingerprint(settings)
    tick = Progress(logger, f"teacher: its states of {split} text, batch").update

    def tell_waiting() -> None:
        logger.info("teacher: waiting for the process that keeps its states of the same text…")

    with lock(path.with_suffix(".lock"), "", tell_waiting):
        states = TeacherStates(path, teacher.arch.hidden, compute_text_states)
        teacher.to(device)
        reader = teacher.copy_in_bf16() if is_bf16 and len(states) < len(texts) else teacher
        with autocast_training(run, device) if is_bf16 else nullcontext():
            states.build(reader, texts, len(texts), tick)
    return states


def describe_teacher(run: TrainConfig, corpus: Corpus, teacher: Teacher) -> dict:
    """Describe the teacher for the summary: its name or folder, digest, size and architecture."""
    source = {"teacher": run.teacher.name or str(locate_teacher(run, corpus))}
    if digests := hash_teacher(run, corpus):  # empty if only the teacher's vocabulary was used
        (source["teacher_digest"],) = digests.values()
    full = teacher
    while full.origin is not None:
        full = full.origin
    return source | {
        "teacher_parameters": full.parameter_count,
        **teacher.arch.to_table("teacher_"),
    }


def describe_trimming(run: TrainConfig, corpus: Corpus, teacher: Teacher | None) -> dict:
    """Describe a trimmed vocabulary for the summary; empty where the vocabulary is a whole one.

    A named teacher is scored on the held-out text as the trimmed tokenizer cuts it and, with its
    whole vocabulary, as its own does. Both losses are in nats per masked token; the trimmed text
    has more tokens, each of which holds less.
    """
    info = corpus.info
    if not info.full_val_tokens:
        return {}
    facts = {
        "full_vocab_size": info.full_vocab_size,
        "tokens_per_full_token": info.val_tokens / info.full_val_tokens,
    }
    if teacher is None or not run.teacher.name or "logits" not in teacher.gives:
        return facts
    full, text = teacher.origin, open_full_validation(corpus, corpus.full_tokenizer)
    losses = {
        "teacher_trimmed_loss": measure_loss(teacher, corpus, run.data),
        "teacher_full_loss": measure_loss(full.to(teacher.device), text, run.data),
    }
    after, before = losses.values()
    if after is not None and before is not None:
        logger.info(
            f"teacher: {after:.2f} nats per masked token of held-out text with "
            f"{teacher.vocab_size:,} words, {before:.2f} with all of its {info.full_vocab_size:,}"
        )
    return facts | losses


SCORED = 128  # sequences of held-out text on which the teacher is scored


@torch.no_grad()
def measure_loss(teacher: Teacher, corpus: Corpus, data: DataConfig) -> float | None:
    """Measure a teacher's cross-entropy in nats per masked token of held-out text.

    Returns None where there is too little text for a sequence.
    """
    scored = min(SCORED, data.val_sequences)
    total, count = 0.0, 0
    for batch in ValBatches(corpus, replace(data, val_sequences=scored)):
        logits = teacher.compute_logits(*read_masked(batch, teacher.device)).float()  # (M, V)
        labels = batch["labels"].to(teacher.device)
        total += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    return total / count if count else None
