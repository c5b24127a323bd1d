"""Predictions in words, after a validation by any Lightning trainer."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from bort.pretraining.callbacks import SamplePredictions


class Words:
    """A tokenizer whose word of an id is `w` and the id."""

    def decode(self, ids) -> str:
        return " ".join(f"w{number}" for number in ids)


class Tables(Logger):
    """Keeps the tables that it is given."""

    name = version = "tables"

    def __init__(self):
        super().__init__()
        self.tables = []
        self.experiment = None

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        pass

    def log_metrics(self, metrics, step=None) -> None:
        pass

    def log_table(self, key, columns, data) -> None:
        self.tables.append((key, columns, data))


class Predicts(pl.LightningModule):
    """Answers every batch with the labels plus 1."""

    def validation_step(self, batch, batch_idx):
        return batch["labels"] + 1


def example(masked: int) -> dict[str, torch.Tensor]:
    """Two rows of the ids 0 … 29 and 30 … 59, with masks at the first positions of the second."""
    positions = 30 + torch.arange(masked)
    ids = torch.arange(60).reshape(2, 30)
    return {"input_ids": ids, "positions": positions, "labels": 100 + torch.arange(masked)}


def validate(folder: Path, batches: list[dict]) -> Tables:
    tables = Tables()
    trainer = pl.Trainer(
        logger=tables,
        callbacks=[SamplePredictions(Words(), folder)],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    loader = DataLoader(batches, batch_size=None)
    trainer.validate(Predicts(), loader, verbose=False)
    return tables


@pytest.mark.parametrize(
    ("masked", "shown"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (12, [0, 2, 4, 6, 8])]
)
def test_masked_words_are_spread_over_the_first_batch(masked, shown):
    batch = example(masked)
    rows = SamplePredictions(Words(), "unused").read(batch, batch["labels"] + 1)
    assert [(truth, guess) for _, truth, guess in rows] == [
        (f"w{100 + k}", f"w{101 + k}") for k in shown
    ]
    first = " ".join(f"w{30 + k}" for k in range(8))  # nothing of the row before
    assert rows[0][0] == first


def test_they_are_in_a_file_and_in_loggers_that_take_tables(tmp_path):
    tables = validate(tmp_path, [example(3), example(12)])
    lines = (tmp_path / "samples.txt").read_text("utf-8").splitlines()
    assert len(lines) == 6 and lines[1] == "  true 'w100', predicted 'w101'"
    ((key, columns, rows),) = tables.tables
    assert (key, columns) == ("samples/predictions", ["text", "true", "predicted"])
    assert [row[1:] for row in rows] == [[f"w{100 + k}", f"w{101 + k}"] for k in range(3)]


def test_a_batch_without_a_masked_word_shows_nothing(tmp_path):
    assert validate(tmp_path, [example(0)]).tables == []
    assert not (tmp_path / "samples.txt").exists()
