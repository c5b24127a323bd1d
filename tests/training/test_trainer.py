"""Settings of the trainer: wrong ones are one line before any work, right ones are obeyed."""

from dataclasses import replace

import pytest

from bort.errors import BortError
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.recipe import pretrain
from bort.training.trainer import check_monitors, check_trainer

WATCHES = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/los"}


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_callback_that_watches_no_score(settings_of, tmp_path, monkeypatch, kind):
    """One line before there is a corpus; a plain MLM has no KD loss, nor has each arm of two."""
    run = settings_of(experiment="kd_pretrain")
    watching = {**WATCHES, "_target_": f"lightning.pytorch.callbacks.{kind}"}
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work before the refusal")
    )
    with pytest.raises(BortError, match="callbacks.a.monitor=val/los is no score of this run; di"):
        pretrain(replace(run, callbacks={"a": watching}), tmp_path / "run")
    for other in (replace(run, job="compare"), settings_of("trainer.max_steps=1")):
        other = replace(other, callbacks={"a": watching | {"monitor": "val/kd_loss"}})
        with pytest.raises(BortError, match="monitor=val/kd_loss is no score of this run"):
            (compare if other.job == "compare" else pretrain)(other, tmp_path)
    check_monitors(replace(run, callbacks={"a": watching | {"monitor": "val/loss"}}), ["val/loss"])
    assert not list(tmp_path.iterdir())


def test_a_callback_of_ones_own_may_log_what_another_watches(settings_of, tmp_path):
    """What it never logs is found by Lightning, after the first validation."""
    silent = {"_target_": "tiny_runs.Logs"}
    run = settings_of("trainer.val_check_interval=2")
    run = replace(run, callbacks={"mine": silent, "a": WATCHES | {"monitor": "mine/score"}})
    assert pretrain(run, tmp_path / "logged")["steps"]
    run = replace(run, callbacks=run.callbacks | {"a": WATCHES})
    with pytest.raises(BortError, match="^callbacks: Early stopping conditioned on metric `val/lo"):
        pretrain(run, tmp_path / "missing")


def test_a_compiler_that_is_missing(settings_of, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work before the refusal")
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BortError, match=r"compile=true needs a compiler, and .*\+\+ is not found"):
        pretrain(settings_of("compile=true"), tmp_path / "runs" / "x")
    assert not (tmp_path / "runs").exists()


def test_sharded_matrices_are_not_for_muon(settings_of, tmp_path):
    run = settings_of("trainer.strategy=fsdp")
    with pytest.raises(BortError, match="Muon needs them whole; use optim=adamw"):
        pretrain(run, tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=99", "trainer.devices=99: on this CPU use at most "),
        ("+trainer.max_stps=4", "trainer.max_stps is not a setting; did you mean 'max_steps'?"),
        (
            "trainer.precision=33",
            "trainer.precision=33 is unknown; use auto, 32-true, bf16-mixed, 16-mixed, bf16-true",
        ),
        ("trainer.precision=bf16-mixd", "is unknown; use auto, 32-true, bf16-mixed"),
        ("trainer.accelerator=tpuu", "trainer: "),
        ("trainer.max_steps=-5", "trainer.max_steps=-5 must be a whole number, at least -1"),
        ("trainer.devices=0", "trainer: "),
    ],
)
def test_mistakes_in_the_trainer_come_before_any_work(
    settings_of, tmp_path, monkeypatch, override, message
):
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work before the refusal")
    )
    with pytest.raises(BortError) as error:
        pretrain(settings_of(override), tmp_path / "runs" / "x")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.profiler=1.5", "trainer.profiler=1.5 must be text"),
        ("trainer.detect_anomaly=3", "trainer.detect_anomaly=3 must be true or false"),
        ("trainer.precision=[1]", "trainer.precision=[1] must be a whole number or text"),
        ("+trainer.sync_batchnorm={a: 1}", "trainer.sync_batchnorm={'a': 1} must be true or false"),
        ("+trainer.default_root_dir=x", "trainer.default_root_dir is set by bort; use name=NAME"),
        ("trainer.enable_checkpointing=true", "is set by bort; use checkpoint_every=STEPS"),
        ("+trainer.callbacks=[x]", "trainer.callbacks is set by bort; use callbacks=NAME"),
    ],
)
def test_trainer_settings_of_a_wrong_kind(settings_of, override, message):
    """Lightning would find them in the middle of a training, or bort's own would replace them."""
    with pytest.raises(BortError) as error:
        check_trainer(settings_of(override))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "override",
    ["trainer.precision=bf16-mixed", "trainer.precision=32", "trainer.devices='1'"]
    + ["trainer.deterministic=warn", "trainer.profiler=simple", "trainer.gradient_clip_val=1"]
    + ["trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler}"],
)
def test_trainer_settings_of_every_right_kind(settings_of, override):
    check_trainer(settings_of(override))
