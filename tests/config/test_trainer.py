"""Numbers of Lightning's trainer with a sign or a range: one line, before torch is loaded."""

import pytest
from omegaconf import OmegaConf

from bort import shell
from bort.config.trainer import RANGES, check_trainer_numbers
from bort.errors import BortError

NONE = ["nan", "inf", "-inf", "x", "true", "[1]", "{a: 1}"]


def check(text: str, **others) -> None:
    check_trainer_numbers(others | dict(OmegaConf.to_container(OmegaConf.create(text))), False)


@pytest.mark.parametrize("value", NONE)
@pytest.mark.parametrize("key", RANGES)
def test_what_is_no_number_for_any_key(key, value):
    with pytest.raises(BortError, match=rf"trainer\.{key}=.* must be a (whole )?number, at least"):
        check(f"{{{key}: {value}}}")


@pytest.mark.parametrize(
    "text",
    [
        *("max_steps: -2", "max_steps: null", "max_steps: 1.5", "max_steps: 1e3", "max_epochs: -2"),
        *("max_epochs: 0.5", "min_steps: -1", "limit_train_batches: -1", "limit_val_batches: 1.5"),
        *("limit_val_batches: -0.1", "overfit_batches: -1", "val_check_interval: 0"),
        *("val_check_interval: 0.0", "val_check_interval: -1", "val_check_interval: 1.5"),
        *("check_val_every_n_epoch: 0", "num_sanity_val_steps: -2", "log_every_n_steps: 0"),
        *("log_every_n_steps: -1", "accumulate_grad_batches: 0", "accumulate_grad_batches: -1"),
        *("accumulate_grad_batches: 1.5", "gradient_clip_val: -1", "gradient_clip_val: -0.5"),
        *("num_nodes: 0", "max_time: x", "max_time: '00:00:00:00'", "max_time: '12:00'"),
    ],
)
def test_out_of_range(text):
    with pytest.raises(BortError) as error:
        check(f"{{{text}}}")
    assert text.split(":")[0] in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        *("max_steps: 0", "max_steps: 5", "max_epochs: null", "max_epochs: 0", "min_steps: 3"),
        *("limit_train_batches: 0", "limit_train_batches: 0.0", "limit_val_batches: 1.0"),
        *("limit_val_batches: 0.25", "limit_val_batches: 7", "overfit_batches: 0.0"),
        *("overfit_batches: 2", "val_check_interval: null", "val_check_interval: 0.25"),
        *("val_check_interval: '00:00:10:00'", "num_sanity_val_steps: -1", "gradient_clip_val: 0"),
        *("gradient_clip_val: null", "gradient_clip_val: 0.5", "max_time: '00:12:00:00'"),
        *("max_time: {hours: 1}", "unknown: -1"),
    ],
)
def test_within_range(text):
    check(f"{{{text}}}")


def test_a_training_ends():
    """By steps, epochs or time; -1 alone is for ever, unless something watches a score."""
    with pytest.raises(BortError, match="max_steps=-1 trains for ever; give a number of steps"):
        check("{max_steps: -1, max_epochs: -1, max_time: null}")
    check("{max_steps: -1, max_epochs: 3}")
    check("{max_steps: -1, max_epochs: -1, max_time: '00:00:10:00'}")
    check_trainer_numbers({"max_steps": -1, "max_epochs": -1}, stops=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1 must be a number, at leas"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0 must be a whole number, a"),
        ("trainer.max_steps=-1", "trainer.max_steps=-1 trains for ever"),
        ("trainer.max_epochs=x", "trainer.max_epochs=x must be a whole number, at least -1"),
    ],
)
def test_the_command_line(settings_of, override, message):
    with pytest.raises(Exception) as error:
        settings_of(override)
    assert message in shell.mistake(error.value)
    assert settings_of("trainer.max_steps=-1", "callbacks=early_stopping").trainer
    assert settings_of("trainer.max_steps=-1", experiment="kd_vs_mlm").trainer
