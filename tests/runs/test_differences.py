"""A folder with another run is refused in one line, which says what a longer run would be."""

import pytest

from bort.errors import BortError
from bort.runs.differences import check_equal

THEN = {"job": "pretrain", "seed": 0, "trainer.max_steps": 5, "trainer.max_epochs": None}


def refuse(**changes) -> str:
    now = THEN | {key.replace("__", "."): value for key, value in changes.items()}
    then = THEN | {"job": now["job"]}
    with pytest.raises(BortError) as error:
        check_equal("runs/x", then, now)
    return str(error.value)


def test_equal_settings_pass():
    check_equal("runs/x", THEN, dict(THEN))
    check_equal("runs/x", THEN, THEN | {"new": None})


def test_other_settings_are_named():
    line = refuse(seed=1, trainer__max_steps=6)
    assert line.startswith("runs/x holds a run with other settings (seed=0, now 1, trainer.max_st")
    assert line.endswith("or resume=false to start it again")
    assert " and 2 more); use" in refuse(a=1, b=2, c=3, d=4, e=5)


def test_a_longer_run_is_another_one():
    """Its rates would have been others from the first step on; a pre-training can be continued."""
    line = refuse(trainer__max_steps=10)
    assert "rates follow from its length (trainer.max_steps=5, now 10)" in line
    assert line.endswith("use another name=; model=runs/x there trains its weights further")
    line = refuse(job="finetune", trainer__max_steps=-1, trainer__max_epochs=3)
    assert line.endswith("a longer one is another run; use another name=")
