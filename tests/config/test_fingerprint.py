"""Which settings decide a run's result."""

from dataclasses import replace

import pytest
from composed_settings import composed

from bort.config.fingerprint import fingerprint, flatten_settings
from bort.config.search import SearchRunConfig
from bort.config.trainer import LoggerConfig


def test_settings_are_flat_and_leave_out_what_changes_no_weight():
    run = composed()
    flat = flatten_settings(run)
    assert flat["optim.lr"] == pytest.approx(4e-3 * 2**0.67)  # of width 64
    assert flat["arch.hidden"] == 64 and flat["seed"] == 0
    assert not [value for value in flat.values() if isinstance(value, dict)]
    free = replace(
        run,
        **{"name": "y", "output_dir": "z", "resume": False, "dry_run": True, "callbacks": {"a": 1}},
        logger=LoggerConfig(name="wandb"),
        checkpoint_every=3,
        data=replace(run.data, workers=4),
        trainer={**run.trainer, "profiler": "simple", "log_every_n_steps": 7},
    )
    assert flatten_settings(free) == flat
    for change in (
        {"seed": 1},
        {"dropout": 0.1},
        {"compile": True},
        {"data": replace(run.data, length=64)},
        {"optim": replace(run.optim, beta1=0.8)},
        {"trainer": {**run.trainer, "max_steps": 3}},
        {"trainer": {**run.trainer, "precision": "bf16-mixed"}},
        {"callbacks": {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}}},
    ):
        other = flatten_settings(replace(run, **change))
        assert len([k for k in {**flat, **other} if flat.get(k) != other.get(k)]) == 1


def test_the_schedule_of_older_runs_is_no_setting():
    """Their records lack it, and the names of their cached teachers stay; another one counts."""
    run = composed()
    flat = flatten_settings(run)
    assert not {"optim.schedule", "optim.decay"} & flat.keys()
    wsd = flatten_settings(composed("optim.schedule=wsd"))
    assert wsd == flat | {"optim.schedule": "wsd", "optim.decay": 0.2}
    search = flatten_settings(composed("search.halving=true", of=SearchRunConfig))
    assert search["optim.decay"] == 0.2 and "optim.schedule" not in search
    assert "optim.decay" not in flatten_settings(composed(of=SearchRunConfig))


def test_fingerprint():
    a = {"x": 1, "y": [1, 2], "z": None}
    assert fingerprint(a) == fingerprint(dict(reversed(a.items())))
    assert fingerprint(a) != fingerprint(a | {"x": 2})
    assert len(fingerprint(a)) == 16 and int(fingerprint(a), 16) >= 0


def test_what_only_a_task_reads_is_no_setting_of_a_pretraining():
    """Otherwise the names of cached teachers would change with each new setting of tasks."""
    flat = flatten_settings(composed())
    task = flatten_settings(composed("experiment=finetune"))
    for key in ("data.metric", "data.kind", "optim.class_weights"):
        assert key not in flat and key in task
