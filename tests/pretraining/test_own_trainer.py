"""The LightningModule and the DataModule in a trainer that is none of bort's."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger

from bort.config.data import DataConfig
from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.models.bert import ModelConfig
from bort.models.initialization import build_model
from bort.pretraining.datamodule import PackedDataModule
from bort.pretraining.module import DistillationModule


def test_any_trainer_trains_on_text_of_ones_own(text, tmp_path):
    """Neither callbacks nor loggers of bort; the data module reads the text and trains a BPE."""
    settings = {"length": 16, "batch_size": 4, "vocab_size": 280, "val_fraction": 0.2}
    data = PackedDataModule(
        DataConfig(source="text", path=str(text), **settings), cache=tmp_path / "cache"
    )
    data.prepare_data()
    data.setup()
    shape = {"vocab_size": data.vocab_size, "positions": 16}
    sizes = {"depth": 1, "heads": 2, "hidden": 16, "intermediate": 32}
    student, teacher = (build_model(ModelConfig(**sizes, **shape), seed=k) for k in range(2))
    before = {key: value.clone() for key, value in student.state_dict().items()}
    module = DistillationModule(student, teacher, OptimConfig(), DistillConfig(w_mlm=0.5))
    assert module.optim.lr == width_lr(16)  # what suits the width, where no rate is given
    trainer = pl.Trainer(
        max_steps=6,
        val_check_interval=3,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="own", flush_logs_every_n_steps=1),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["val/loss"] > 0
    assert any(not torch.equal(before[key], value) for key, value in student.state_dict().items())
    logged = (Path(trainer.logger.log_dir) / "metrics.csv").read_text()
    assert "train/kd_loss" in logged and "val/mlm_accuracy" in logged
    (checkpoint,) = Path(trainer.logger.log_dir).rglob("*.ckpt")  # Lightning's own
    content = torch.load(checkpoint, weights_only=True)
    assert not [key for key in content["state_dict"] if key.startswith(("teacher", "student"))]
    resumed = DistillationModule(
        build_model(ModelConfig(**sizes, **shape)), teacher, OptimConfig(), DistillConfig(w_mlm=0.5)
    )
    resumed.load_state_dict(content["state_dict"])
    assert all(map(torch.equal, resumed.model.state_dict().values(), student.state_dict().values()))
