"""Settings of a distillation and its teacher."""

import pytest

from bort.config.distill import DistillConfig, TeacherConfig
from bort.errors import BortError

MESSAGES = [
    (lambda: DistillConfig(w_kd=-1), "distill.w_kd=-1 must be at least 0"),
    (lambda: DistillConfig(w_mlm=-1), "distill.w_mlm=-1 must be at least 0"),
    (
        lambda: DistillConfig(w_kd=0, w_mlm=0),
        "distill.w_kd, w_mlm, w_hidden, w_relation and w_ce are all 0; nothing would be learnt",
    ),
    (lambda: DistillConfig(w_hidden=-1), "distill.w_hidden=-1 must be at least 0"),
    (lambda: DistillConfig(w_relation=-1), "distill.w_relation=-1 must be at least 0"),
    (lambda: DistillConfig(w_ce=-1), "distill.w_ce=-1 must be at least 0"),
    (lambda: DistillConfig(kd_loss="x"), "distill.kd_loss=x is unknown; use mse, kl"),
    (lambda: DistillConfig(guard=-2), "distill.guard=-2 must be at least -1 and below 1"),
    (lambda: DistillConfig(relation_heads=0), "distill.relation_heads=0 must be at least 1"),
    (lambda: DistillConfig(states_gb=-1), "distill.states_gb=-1 must be at least 0"),
    (lambda: DistillConfig(temperature=0), "distill.temperature=0 must be above 0"),
    (lambda: TeacherConfig(max_steps=0), "teacher.max_steps=0 must be at least 1"),
    (lambda: TeacherConfig(batch_size=0), "teacher.batch_size=0 must be at least 1"),
    (lambda: TeacherConfig(lr=0), "teacher.lr=0 must be above 0"),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "has_head", "weights"),
    [
        ({}, True, (1, 0, 0, 0)),
        ({}, False, (0, 0, 1, 0)),
        ({"w_mlm": 0.5}, True, (1, 0.5, 0, 0)),
        ({"w_mlm": 0.5}, False, (0, 0.5, 1, 0)),
        ({"w_hidden": 2.0}, True, (0, 0, 2, 0)),
        ({"w_relation": 1.0}, True, (0, 0, 0, 1)),
        ({"w_relation": 1.0}, False, (0, 0, 0, 1)),
        ({"w_kd": 0.5, "w_hidden": 1.0}, True, (0.5, 0, 1, 0)),
        ({"w_kd": 0.0, "w_mlm": 1.0}, False, (0, 1, 0, 0)),
    ],
)
def test_what_is_left_open_follows_from_the_teacher(given, has_head, weights):
    """The same weights are the same loss of any teacher; only their absence depends on its head."""
    settled = DistillConfig(**given).settle(has_head)
    names = ("w_kd", "w_mlm", "w_hidden", "w_relation")
    assert tuple(getattr(settled, name) for name in names) == weights
    assert settled.settle(not has_head) == settled and not settled.is_open
    assert settled.reads_masked == bool(weights[0] or weights[1])
    assert settled.reads_unmasked == bool(weights[2] or weights[3])


def test_no_final_states_where_the_user_set_them_to_0():
    """A teacher without a head can then only be asked for what it cannot give."""
    settled = DistillConfig(w_hidden=0.0, w_mlm=1.0).settle(has_head=False)
    assert (settled.w_kd, settled.w_hidden) == (1.0, 0.0)
