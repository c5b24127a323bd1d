"""Embeddings from their settings to a finished run folder: learnt from a teacher, or from pairs."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from bort.config.fingerprint import fingerprint
from bort.config.train import TrainConfig
from bort.embeddings.datamodule import EmbeddingDataModule, TaughtTexts, embed_texts
from bort.embeddings.embedder import Embedder, make_embedder, save_embedder
from bort.embeddings.module import AGREEMENT, EmbeddingModule
from bort.embeddings.scores import (
    Embed,
    describe_start,
    find_doubt,
    list_texts,
    read_sets,
    score_sets,
    score_tfidf,
)
from bort.embeddings.teacher import (
    SentenceTeacher,
    keep_embeddings,
    open_sentence_teacher,
)
from bort.embeddings.texts import make_rows, read_texts, split_texts
from bort.finetuning.examples import hash_rows
from bort.finetuning.recipe import check_length
from bort.models import hub
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.models.initialization import build_model
from bort.runs.baselines import Baseline
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.training.precision import settle_precision
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import (
    check_monitors,
    check_trainer,
    choose_device,
    fit,
    hide_lightning_notes,
)

logger = logging.getLogger(__name__)


def distil_embeddings(run: TrainConfig, folder: Path, record: dict | None = None) -> RunSummary:
    """Teach a small encoder the embeddings of `run.teacher.name` on texts without labels.

    The student is `run.model`, or `run.arch` started from the teacher's embeddings. `val/agreement`
    in the summary is how its cosines agree with the teacher's on held-out texts; where `data.root`
    has the files, there are the scores of the student, the teacher, the start and TF-IDF on STS-B
    and QNLI. Raises BortError for a teacher that does not say how it embeds, for texts that cannot
    be read, and for a student that cannot read what it should, before anything is written.
    """
    check_trainer(run)
    check_monitors(run, [AGREEMENT, "val/loss"])
    run_folder = RunFolder(folder)
    if (summary := run_folder.find_result(run)) is not None:
        return summary
    hide_lightning_notes()
    lesson = EmbeddingLesson(run)
    facts = {"digest": lesson.hash(), "source": run.task}
    if run.resume and (summary := run_folder.find_summary()) is not None:
        run_folder.check_inputs(facts, run=run)
        return summary
    run = settle_precision(run, run_folder.precision)
    with use_threads(choose_threads(run, run_folder.threads)), run_folder.lock(False):
        run_folder.begin(run, record, torch.get_num_threads())
        models = {"teacher.name": lesson.teacher.digest()}
        if run.model:
            models["model"] = hub.digest_model(run.model)
        run_folder.check_inputs(facts, models, run)
        lesson.run = run
        summary = RunSummary(lesson.teach(folder))
        run_folder.write_summary(summary)
        return summary


class EmbeddingLesson:
    """What a student learns embeddings from, opened and checked: its teacher and its texts."""

    def __init__(self, run: TrainConfig):
        """Raise BortError for what is wrong with the teacher, the texts or the student."""
        self.run = run
        self.teacher = open_sentence_teacher(run.teacher.name, run.data.length, choose_device(run))
        self.tokenizer = load_tokenizer(run.model) if run.model else self.teacher.tokenizer
        self.student = build_student(run, self.teacher)
        check_length(run, self.student.config.positions)
        self.sets = read_sets(run.data.root)
        texts, self.pool = read_texts(run.data, list_texts(self.sets))
        self.texts, self.held = split_texts(texts)
        logger.info(f"data: {self.pool.describe()}, {len(self.held):,} of them held out")

    def hash(self) -> str:
        """Return a digest of the texts that are learnt, held out and scored, and of the pooling."""
        kinds = {"train": self.texts, "held": self.held, "scored": list_texts(self.sets)}
        texts = hash_rows({kind: make_rows(part) for kind, part in kinds.items()})
        return fingerprint({"texts": texts, "pooling": self.teacher.pooling.list_facts()})

    def teach(self, folder: Path) -> dict[str, Any]:
        """Train the student, save it and score it; return what summary.json has."""
        run, length = self.run, self.run.data.length
        logger.info(f"teacher: {run.teacher.name}: {self.teacher.pooling.describe()}")
        vectors = keep_embeddings(self.teacher, [*self.texts, *self.held])
        learnt, held = np.split(vectors, [len(self.texts)])
        pl.seed_everything(run.seed, verbose=False)
        model = make_embedder(self.student.encoder)
        start = score_sets(self.sets, self._embed_by(model))
        module = EmbeddingModule(model.train(), run.optim, run.distill, held)
        data = EmbeddingDataModule(
            TaughtTexts(self.texts, learnt, self.tokenizer, length),
            TaughtTexts(self.held, held, self.tokenizer, length),
            run,
        )
        trainer, throughput = fit(run, folder, module, data, "embeddings")
        model = model.to(choose_device(run)).eval()
        save_embedder(model, self.tokenizer, RunFolder(folder).model)
        scores = score_sets(self.sets, self._embed_by(model))
        return {
            **module.validation,
            **scores,
            **self._compare(scores, start),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "tokens": module.tokens,
            "steps": trainer.global_step,
            "tokens_per_s": module.tokens / max(throughput.seconds, 1e-9),
            "seconds": throughput.seconds,
            "lr": module.optim.lr,
            "seed": run.seed,
            "precision": str(run.trainer_config.precision),
            "task": run.task,
            "metric": AGREEMENT,
            "teacher": str(run.teacher.name),
            "unlabelled_rows": len(self.texts),
            "rows/val": len(self.held),
        }

    def _compare(self, scores: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the start, of the teacher and of word counts, where there are any.

        scores, start: those after and before the training. Those that are below the start's or the
        word counts' are doubted.
        """
        if not self.sets:
            return {}
        teacher = Baseline("teacher", score_sets(self.sets, self.teacher.embed), "whose it learns")
        before, words = describe_start(start), score_tfidf(self.sets)
        flat: dict[str, Any] = {}
        for baseline in (before, teacher, words):
            flat |= baseline.to_json()
        return flat | find_doubt(scores, (before, words))

    def _embed_by(self, model: Embedder) -> Embed:
        """Return what embeds texts by a student as it is now."""
        length, device = self.run.data.length, choose_device(self.run)
        model.to(device).eval()
        return lambda texts: embed_texts(texts, self.tokenizer, length, model, device)


def build_student(run: TrainConfig, teacher: SentenceTeacher) -> MaskedLM:
    """Open the student that `run.model` names, or build one of `run.arch` from its teacher.

    The latter has the teacher's vocabulary. Its limit is the length of its texts. Raises BortError
    for layers that cannot be taken.
    """
    if run.model:
        student = load_masked_lm(run.model, head_required=False)
        config = student.config
    else:
        source = teacher.teacher
        config = ModelConfig(
            **run.arch.to_table(),
            vocab_size=source.vocab_size,
            positions=max(run.data.length, 512),
            pad_id=teacher.tokenizer.pad_token_id,
        )
        if source.masked_lm is not None:  # its layers are copied, so they must compute the same
            theirs = source.masked_lm.config
            config = replace(
                config, layer_norm_eps=theirs.layer_norm_eps, activation=theirs.activation
            )
        tables, layers = source.embeddings, run.init_layers
        student = build_model(config, run.init, run.seed, source.masked_lm, tables, layers)
    config.dropout = config.attention_dropout = run.dropout
    config.length = min(run.data.length, config.positions)
    return student
