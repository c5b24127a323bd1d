"""Embeddings learnt from pairs of texts with a number: the cosine of a pair learns it.

The training is that of head=towers on numbers (`bort.finetuning`); what is kept is its encoder.
"""

from pathlib import Path
from typing import Any

from bort.config.train import TrainConfig
from bort.embeddings.datamodule import embed_texts
from bort.embeddings.embedder import Embedder, make_embedder, save_embedder
from bort.embeddings.scores import (
    Embed,
    describe_start,
    list_texts,
    read_sets,
    score_sets,
    score_tfidf,
)
from bort.embeddings.texts import make_rows
from bort.finetuning.examples import TaskExamples, hash_rows
from bort.finetuning.fitting import TrainingRecord, train_classifier
from bort.finetuning.rates import choose_rate
from bort.finetuning.recipe import finetune
from bort.models.bert import Classifier
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.task import Row, Task
from bort.training.trainer import choose_device


def finetune_embeddings(run: TrainConfig, folder: Path, record: dict | None = None) -> RunSummary:
    """Fine-tune an encoder so that the cosines of pairs follow their numbers; return the summary.

    Where `data.root` has the files, there are the scores of the start and of the best epoch on
    STS-B and QNLI, too. Raises BortError as `finetune` does.
    """
    return finetune(run, folder, record, PairLesson(run))


class PairLesson:
    """What follows a fine-tuning on pairs: its encoder is saved as one that embeds texts."""

    def __init__(self, run: TrainConfig):
        """Raise BortError for files to be scored that cannot be read."""
        self.sets = read_sets(run.data.root)

    def prepare(self, run: TrainConfig, task: Task, rows: dict[str, list[Row]]) -> dict[str, str]:
        """Return the digest of what is scored beside the rows."""
        return {"scored": hash_rows({"scored": make_rows(list_texts(self.sets))})}

    def digest_models(self) -> dict[str, str]:
        """Return nothing: no other model is read."""
        return {}

    def teach(
        self, run: TrainConfig, folder: Path, model: Classifier, examples: TaskExamples
    ) -> tuple[Classifier, TrainingRecord, dict[str, Any]]:
        """Train the towers, keep their encoder, and score it beside its start."""
        embed = self._embed_by(run, make_embedder(model.encoder), examples)
        values = describe_start(score_sets(self.sets, embed)).to_json() if self.sets else {}
        run, choice = choose_rate(run, folder, model.train(), examples, train_classifier)
        best, record = train_classifier(run, folder, model, examples, "embeddings")
        embedder = make_embedder(best.encoder)
        values |= score_sets(self.sets, self._embed_by(run, embedder, examples))
        save_embedder(embedder, examples.tokenizer, RunFolder(folder).model)
        words = score_tfidf(self.sets).to_json() if self.sets else {}
        return best, record, values | words | choice.to_json()

    def _embed_by(self, run: TrainConfig, model: Embedder, examples: TaskExamples) -> Embed:
        """Return what embeds texts by a model as it is now."""
        device = choose_device(run)
        model.to(device).eval()
        return lambda texts: embed_texts(texts, examples.tokenizer, examples.length, model, device)
