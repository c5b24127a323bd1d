"""The public classes under a plain Trainer: rows, batches, training, and the best model."""

import csv
import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger

import bort
from bort.finetuning.callbacks import SaveBestModel
from bort.models.bert import ModelConfig
from bort.text.tokenizer import train_tokenizer

WORDS = ("cat", "dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A pre-trained folder as small as can be."""
    lines = [f"the {word} of line {k}, and so on." for k, word in enumerate(WORDS * 40)]
    sizes = ModelConfig(**vars(bort.Arch(1, 2, 16, 32)), vocab_size=320, positions=64)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    bort.save_model(bort.build_model(sizes, "default", 0), train_tokenizer(lines, 320), folder)
    return folder


@pytest.fixture
def data(tmp_path) -> bort.DataConfig:
    """A table of one's own: which of two words a row has."""
    lines = [f"the {WORDS[k % 2]} of line {k},{WORDS[k % 2]}\n" for k in range(60)]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(lines))
    return bort.DataConfig(train=str(tmp_path / "train.csv"), length=32, batch_size=4)


def make_trainer(folder: Path, *callbacks: pl.Callback, **settings) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"log_every_n_steps": 1}
    logger = CSVLogger(folder)
    return pl.Trainer(logger=logger, callbacks=list(callbacks), **(quiet | settings))


def build_module(data: bort.TaskDataModule, model: Path, lr: float) -> bort.FineTuningModule:
    body = bort.load_masked_lm(model, head_required=False)
    classifier = bort.build_task_classifier(body, data.examples)
    return bort.FineTuningModule(classifier, bort.OptimConfig(lr=lr, warmup=0.1), data.examples)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_a_plain_trainer_trains_and_saves_the_best_model(model, data, tmp_path):
    """Its folder answers as the module did in its best validation, and opens by bort.load."""
    rows = bort.TaskDataModule("custom", model, data)
    rows.prepare_data()
    rows.setup("fit")
    train = rows.examples
    rows.setup("fit")  # as the trainer will
    assert rows.examples is train and set(train.rows) == {"train", "val"}
    module = build_module(rows, model, 1e-2)
    best = bort.SaveBestModel(tmp_path / "best", train)
    stop = EarlyStopping("val/accuracy", mode="max", patience=9)
    trainer = make_trainer(tmp_path, best, stop, max_epochs=6)
    trainer.fit(module, datamodule=rows)
    assert best.best == (True, 1.0) and trainer.callback_metrics["val/accuracy"] == 1.0
    answers = bort.load(tmp_path / "best").predict([f"the {word} of line 7" for word in WORDS])
    assert [answer["label"] for answer in answers] == list(WORDS)
    with Path(trainer.logger.log_dir, "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == trainer.global_step and losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_the_rank_of_the_best_model_is_in_checkpoints(model, data, tmp_path):
    """A resumed training does not replace a better model; version 0.1 kept the rank elsewhere."""
    rows = bort.TaskDataModule("custom", model, data)
    rows.setup()
    quick = {"limit_train_batches": 2, "enable_checkpointing": False}
    best = SaveBestModel(tmp_path / "best", rows.examples)
    trainer = make_trainer(tmp_path, best, max_epochs=1, **quick)
    trainer.fit(build_module(rows, model, 1e-9), datamodule=rows)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if "SaveBest" in name)
    assert tuple(state["best"]) == best.best and best.best[0]
    state["best"] = (True, 2.0)  # better than any
    torch.save(content, tmp_path / "new.ckpt")
    content["callbacks"] = {"Another": {}}
    content["bort"]["best_rank"] = (True, 2.0)
    torch.save(content, tmp_path / "old.ckpt")
    for name in ("new", "old"):
        again = SaveBestModel(tmp_path / name, rows.examples)
        trainer = make_trainer(tmp_path, again, max_epochs=2, **quick)
        with pytest.warns(UserWarning) if name == "old" else pytest.MonkeyPatch.context():
            path = tmp_path / f"{name}.ckpt"
            trainer.fit(build_module(rows, model, 1e-9), rows, ckpt_path=path, weights_only=True)
        assert trainer.global_step > 2 and again.best == (True, 2.0)
        assert not (tmp_path / name).exists()


def test_mistakes_in_the_data_are_told_by_setup(model, data, tmp_path):
    with pytest.raises(bort.BortError, match="task=glue/rtee is no known task; did you mean"):
        bort.TaskDataModule("glue/rtee", model, bort.DataConfig(root=str(tmp_path))).setup()
    with pytest.raises(bort.BortError, match="no RTE/train.tsv for glue/rte"):
        bort.TaskDataModule("glue/rte", model, bort.DataConfig(root=str(tmp_path))).setup()
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "label": 1}))
    with pytest.raises(bort.BortError, match="nothing to learn"):
        table = bort.DataConfig(train=str(tmp_path / "a.jsonl"))
        bort.TaskDataModule("custom", model, table).setup()
