"""Steps of a training: a loss that is no number, half precision, budgets."""

import math
import time

import pytest
import torch
from pretraining_helpers import rows
from safetensors.torch import load_file

from bort.errors import BortError
from bort.pretraining.recipe import pretrain


def test_a_loss_that_is_not_a_number_is_never_saved(settings_of, tmp_path):
    """Between two logged steps nothing looks at the loss until a checkpoint is due."""
    run = settings_of(
        "optim.name=adamw", "optim.lr=1e30", "optim.warmup=0", "trainer.max_steps=6",
        "trainer.log_every_n_steps=7", "trainer.gradient_clip_val=null",
        "trainer.val_check_interval=100", "checkpoint_every=3",
    )  # fmt: skip
    with pytest.raises(BortError, match="the loss became .* at step 3; lower optim.lr"):
        pretrain(run, tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/*.ckpt"))


def test_a_diverging_run_is_one_line(settings_of, tmp_path):
    run = settings_of("optim.lr=1e30", "trainer.max_steps=30")
    with pytest.raises(BortError, match=r"the loss became .* at step \d+; lower optim.lr"):
        pretrain(run, tmp_path / "run")
    for row in rows(tmp_path / "run"):
        assert all(math.isfinite(float(value)) for value in row.values() if value)


def test_a_validation_that_is_no_number_is_no_score(settings_of, tmp_path):
    """The first loss is that of the start; the weights after its step have none."""
    run = settings_of(
        *("optim.name=adamw", "optim.lr=1e30", "optim.warmup=0", "trainer.max_steps=1"),
        *("trainer.gradient_clip_val=null", "trainer.val_check_interval=1"),
    )
    with pytest.raises(BortError, match="the loss became nan at step 1; lower optim.lr"):
        pretrain(run, tmp_path / "run")
    assert not [row for row in rows(tmp_path / "run") if row["val/loss"]]


def test_budget_in_epochs(settings_of, tmp_path):
    run = settings_of("trainer.max_steps=-1", "trainer.max_epochs=2", "optim.lr=4e-3")
    assert pretrain(run, tmp_path / "run")["steps"] == 14
    rate = float(rows(tmp_path / "run")[-1]["train/lr"])
    assert rate == pytest.approx(4e-3 * (1 - 14 / 15) / 0.95)


def test_a_rate_that_stays_at_its_peak(settings_of, tmp_path):
    """Of 19 steps, 2 rise and 3 fall; the share of a step is its number / 20."""
    run = settings_of(
        *("trainer.max_steps=19", "trainer.log_every_n_steps=1", "optim.lr=4e-3"),
        *("optim.schedule=wsd", "optim.warmup=0.1", "optim.decay=0.2"),
    )
    pretrain(run, tmp_path / "run")
    rates = [float(row["train/lr"]) for row in rows(tmp_path / "run") if row["train/lr"]]
    shares = [0.5, *[1.0] * 15, 0.75, 0.5, 0.25]
    assert rates == pytest.approx([4e-3 * share for share in shares], rel=1e-6)


def test_budget_by_the_clock(settings_of, tmp_path):
    """The rate falls to 0 as the time runs out, whatever the steps take."""
    run = settings_of("trainer.max_steps=-1", "trainer.max_time='00:00:00:02'")
    start = time.monotonic()
    summary = pretrain(run, tmp_path / "run")
    assert 2 <= time.monotonic() - start < 20 and summary["steps"] > 5
    rates = [float(row["train/lr"]) for row in rows(tmp_path / "run")]
    assert rates[-1] < 0.1 * max(rates) and max(rates) > 3e-3


def test_mixed_precision(settings_of, tmp_path):
    """Clipped bfloat16 with float32 weights, as `trainer=gpu` has it."""
    run = settings_of("trainer.precision=bf16-mixed", experiment="kd_pretrain")
    exact = pretrain(settings_of(experiment="kd_pretrain"), tmp_path / "exact")
    mixed = pretrain(run, tmp_path / "mixed")
    assert mixed["val/loss"] == pytest.approx(exact["val/loss"], rel=1e-2)
    assert mixed["val/loss"] != exact["val/loss"]
    weights = load_file(tmp_path / "mixed" / "model" / "model.safetensors").values()
    assert {w.dtype for w in weights} == {torch.float32}
