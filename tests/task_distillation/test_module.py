"""A step of the module is one of plain torch on the same loss."""

from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bort.config.distill import DistillConfig
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import encode_examples
from bort.finetuning.heads import build_task_classifier
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.task_distillation.module import TaskDistillationModule
from bort.tasks.reading import load_task


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step(run_of, student, tmp_path, accumulated):
    """The logged losses are those of all rows of the first step, with and without a label."""
    run = run_of("optim.lr=1e-9")
    task, rows = load_task("custom", run.data)
    for number, row in enumerate(rows["train"]):
        if number % 3:
            rows["train"][number] = replace(row, label=None)
    examples = encode_examples(task, rows, load_tokenizer(student), 32)
    teacher = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model = build_task_classifier(load_masked_lm(student), examples)
    module = TaskDistillationModule(model, run.optim, examples, DistillConfig(w_kd=1.0, w_ce=0.5))
    seen, step = [], module.training_step

    def note(batch, batch_idx):
        seen.append(batch)
        return step(batch, batch_idx)

    module.training_step = note
    trainer = pl.Trainer(
        max_steps=1,
        accumulate_grad_batches=accumulated,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    trainer.fit(module, TaskDataModule.from_examples(examples, run.data, 0, teacher))
    assert len(seen) == accumulated
    kd = ce = count = 0.0
    for batch in seen:
        numbers = batch["rows"].numpy()
        assert np.array_equal(batch["teacher"].numpy(), teacher[numbers])
        assert batch["is_labelled"].tolist() == [
            rows["train"][k].label is not None for k in numbers
        ]
        with torch.no_grad():
            outputs = model(batch["input_ids"], batch["attention_mask"])
        centred = outputs - outputs.mean(1, keepdim=True)
        target = batch["teacher"] - batch["teacher"].mean(1, keepdim=True)
        kd += float(((centred - target) ** 2).mean(1).sum())
        chosen = batch["is_labelled"]
        ce += float(F.cross_entropy(outputs[chosen], batch["labels"][chosen], reduction="sum"))
        count += len(numbers)
    row = module.last_row
    assert row["train/kd_loss"] == pytest.approx(kd / count, rel=1e-4)
    assert row["train/ce_loss"] == pytest.approx(ce / count, rel=1e-4)
    assert row["train/loss"] == pytest.approx((kd + 0.5 * ce) / count, rel=1e-4)
