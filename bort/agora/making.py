"""Making the rows of a round: a generator makes them, S labels them, and files keep them."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import torch

from bort.agora.generated import (
    Generated,
    Labelling,
    generate_rows,
    read_generated,
    to_hard,
    write_generated,
)
from bort.agora.generators import GENERATORS, WordSource
from bort.agora.pool import PoolSource, choose_nearest, choose_random
from bort.agora.rounds import Round, count_samples, name_round, name_training
from bort.agora.student import Student
from bort.config.train import TrainConfig
from bort.console import counted, to_printable
from bort.errors import BortError
from bort.files.json_lines import read_json_lines
from bort.files.run_files import GENERATED, ROWS
from bort.files.writing import replace_file
from bort.finetuning.answering import compute_outputs
from bort.finetuning.held_out import normalize_texts
from bort.finetuning.judge import Judge
from bort.finetuning.module import compute_loss, to_answers
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.tasks.task import Row
from bort.tasks.unlabelled import Pool
from bort.training.trainer import choose_device

logger = logging.getLogger(__name__)

HARDEST = 0.1  # share of the rows that rows are made from where there are fewer mistakes
SHOWN = 200  # generated rows in generated.jsonl


def open_word_source(
    run: TrainConfig, student: str, encoder: str | None, pool: Pool | None = None
) -> WordSource | PoolSource | None:
    """Open what the generator takes words or rows from; None where it needs nothing.

    student: the student's model. encoder: what S was fine-tuned from, where it was not given. pool:
    the rows of generator=pool. Raises BortError for a model that cannot fill masks where the
    generator needs one.
    """
    kind = run.agora.generator
    if kind == "edit":
        return None
    source = student
    if kind == "mlm":
        source = run.agora.mlm or encoder or student
    try:
        model = load_masked_lm(source, head_required=kind == "mlm")
    except BortError as error:
        raise BortError(
            f"agora.generator={kind}: {error}; set agora.mlm=FOLDER to a masked LM, or "
            "agora.generator=edit"
        ) from None
    if pool is not None:
        return PoolSource(pool.rows, WordSource(model, load_tokenizer(source)))
    return WordSource(model.to(choose_device(run)), load_tokenizer(source))


class RowMaker:
    """Makes rows by the generator of the run, and keeps them in files below the run's folder.

    judge: S. words: what the generator takes words or rows from. confidence: the least probability
    with which S keeps a hard label.
    """

    def __init__(
        self,
        student: Student,
        judge: Judge,
        words: WordSource | PoolSource | None,
        confidence: float,
    ):
        self.student, self.judge, self.words = student, judge, words
        self.confidence = confidence
        self.run, self.task, self.folder = student.run, student.task, student.folder

    def grow(self, before: Round, number: int, replay: int) -> list[Row] | None:
        """Make D of a round: that of the round before, and rows made from its mistakes.

        Returns None where no row could be made.
        """
        path = self.locate_rows(number, replay)
        if not path.is_file():
            seed = (self.run.seed, number, replay)
            count = count_samples(self.run, len(self.student.D))
            self._make(path, self.choose_mistakes(before), count, seed, before.data)
        new = self.read_round(number, replay)
        return [*before.data, *new] if new else None

    def make_random_rows(self, count: int) -> list[Row]:
        """Make as many rows as Agora made, from random rows of D, or take them from the pool."""
        path = self.folder / "random" / ROWS
        if count and not path.is_file():
            self._make(path, self.student.D, count, (self.run.seed, 0, 0), self.student.D, True)
        return read_generated(path, self.task) if count else []

    def locate_rows(self, number: int, replay: int) -> Path:
        """Name the file with the rows that were made for a round."""
        return self.folder / name_round(number, replay) / ROWS

    def read_round(self, number: int, replay: int) -> list[Row]:
        """Read the rows that were made for a round."""
        return read_generated(self.locate_rows(number, replay), self.task)

    def choose_mistakes(self, before: Round) -> list[Row]:
        """Choose the rows that the best model of a round gets wrong, and the hardest others.

        Others are chosen only where there are few mistakes, up to a share HARDEST of the rows: a
        model may know all of D by heart.
        """
        student = self.student
        best = name_training(before.number, before.replay, before.best)
        model, _ = load_classifier(self.folder / best)
        name, rows = ("D", student.D) if self.run.agora.mistakes == "train" else ("E", student.E)
        labels, inputs = torch.tensor([row.label for row in rows]), student.encode(rows)
        pad = student.tokenizer.pad_token_id
        outputs = compute_outputs(model.to(choose_device(self.run)), rows, inputs, pad)
        losses = compute_loss(self.task.kind, outputs, labels, "none").numpy()
        wrong = to_answers(self.task, outputs) != labels.numpy()
        if self.task.kind == "regression":
            wrong[:] = False  # no number is quite right
        count = max(int(wrong.sum()), math.ceil(HARDEST * len(rows)))
        logger.info(
            f"round {before.number + 1}: {counted(int(wrong.sum()), 'mistake')} on {name}; rows "
            f"are made from the {count:,} hardest"
        )
        chosen = np.lexsort((-losses, ~wrong))[:count]  # mistakes first
        return [rows[k] for k in np.sort(chosen)]

    def _make(
        self,
        path: Path,
        sources: list[Row],
        count: int,
        seed: tuple[int, ...],
        data: list[Row],
        is_random: bool = False,
    ) -> None:
        """Generate rows into a file.

        data: the rows of D so far, which are not made again. is_random: whether the rows of a pool
        are taken without regard to `sources`.
        """
        options = self.run.agora

        def make(rows: list[Row], random: np.random.Generator) -> list[Row | None]:
            if isinstance(self.words, PoolSource):
                return (choose_random if is_random else choose_nearest)(rows, random, self.words)
            return GENERATORS[options.generator](self.task, rows, options.rate, random, self.words)

        existing = {normalize_texts(row) for row in data}
        for rows in self.student.rows.values():
            existing.update(map(normalize_texts, rows))
        made = generate_rows(
            self.task,
            sources,
            count,
            make,
            Labelling(self.judge, self.confidence, options.labels == "soft"),
            existing,
            seed,
        )
        logger.info(f"  made {counted(len(made), 'row')}{self._describe_labels(made)}")
        if len(made) < count:
            logger.info(
                f"  warning: {count:,} were asked for; S is unsure of the others, or they were "
                "there before (agora.confidence, agora.rate)"
            )
        write_generated(path, made)

    def _describe_labels(self, made: list[Generated]) -> str:
        if self.task.kind == "regression":
            return ""
        labels = [to_hard(generated.row.label) for generated in made]
        counts = {to_printable(name): labels.count(k) for k, name in enumerate(self.task.labels)}
        return ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items())

    def write_samples(self, history: list[Round]) -> None:
        """Write generated.jsonl: rows to read, spread over the rounds."""
        paths = [self.locate_rows(played.number, played.replay) for played in history[1:]]
        rows = [line.record for path in paths for line in read_json_lines(path)]
        with replace_file(self.folder / GENERATED) as file:
            for row in rows[:: max(1, len(rows) // SHOWN)]:
                label = row["label"]
                if self.task.kind != "regression":
                    label = self.task.labels[to_hard(label)]
                facts = {key: row[key] for key in ("texts", "source", "confidence")}
                file.write(json.dumps({"label": label, **facts}).encode() + b"\n")
