"""The teacher of a run: its settings, its checks, its digest, and where the cache keeps it.

The encoder that a fine-tuning without `model=` starts from is named here too. Both are trained by
`bort.pretraining.recipe`.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from bort.config.data import DataConfig
from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.fingerprint import FREE_TRAINER_KEYS, fingerprint, flatten_settings
from bort.config.optim import OptimConfig
from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.models import hub
from bort.models.huggingface import load_tokenizer
from bort.models.identity import find_local_model
from bort.pretraining.corpus import Corpus
from bort.runs.folder import RunFolder
from bort.teachers.opening import open_teacher, read_shape
from bort.teachers.teacher import Teacher, require
from bort.training.module import VERSION
from bort.training.trainer import choose_device

OWN_STEPS = 1200  # of the encoder that stands in for a missing model=


def open_sources(run: TrainConfig) -> tuple[Teacher | None, Any]:
    """Open the named teacher of a run and its named tokenizer; either may be None.

    Raises BortError for everything wrong with them that shows without a corpus.
    """
    teacher = tokenizer = None
    if run.teacher.name and (run.needs_teacher or run.data.tokenizer == "auto"):
        if run.needs_teacher and (folder := find_local_model(run.teacher.name)):
            _check_length(run, read_shape(folder).limit)  # before the weights are read
        tokenizer = _load_teacher_tokenizer(run)
        if run.needs_teacher:
            teacher = open_teacher(run.teacher.name)
            if run.distill.w_kd or run.job == "compare":
                require(teacher, "logits")
            _check_length(run, teacher.limit)
    if run.data.tokenizer not in ("auto", "bpe"):
        tokenizer = load_tokenizer(run.data.tokenizer)
    if teacher is not None and tokenizer is not None:
        check_vocabulary(run, tokenizer, teacher)
    return teacher, tokenizer


def _load_teacher_tokenizer(run: TrainConfig):
    """Load the teacher's tokenizer if data.tokenizer=auto; else check its size and return None."""
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
    """Raise BortError if the sequences are longer than those the teacher was trained on."""
    if run.data.length > limit and (run.distill.w_kd or run.job == "compare"):
        raise BortError(
            f"data.length={run.data.length} is longer than the {limit} tokens of the teacher "
            f"{run.teacher.name}; use data.length={limit} or less"
        )


def check_vocabulary(run: TrainConfig, tokenizer: Any, teacher: Teacher) -> None:
    """Raise BortError unless each id stands for the same word; otherwise KD would teach noise."""
    student_ids = tokenizer.get_vocab()
    teacher_ids = load_tokenizer(run.teacher.name).get_vocab()
    different = [word for word, number in student_ids.items() if teacher_ids.get(word) != number]
    if different or teacher.vocab_size < len(student_ids):
        raise BortError(
            f"teacher.name={run.teacher.name} has a vocabulary of {teacher.vocab_size:,}, "
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
    r"(arch|optim|distill|trainer|callbacks)\.|data\.(length|batch_size|mask_rate)$"
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


def describe_teacher(run: TrainConfig, corpus: Corpus, teacher: Teacher) -> dict:
    """Describe the teacher for the summary: its name or folder, digest, size and architecture."""
    source = {"teacher": run.teacher.name or str(locate_teacher(run, corpus))}
    if digests := hash_teacher(run, corpus):  # empty if only the teacher's vocabulary was used
        (source["teacher_digest"],) = digests.values()
    return source | {
        "teacher_parameters": teacher.parameter_count,
        **teacher.arch.to_table("teacher_"),
    }
