"""Settings of a distillation and its teacher."""

import pytest

from bort.config.distill import DistillConfig, TeacherConfig
from bort.errors import BortError

MESSAGES = [
    (lambda: DistillConfig(w_kd=-1), "distill.w_kd=-1 must be at least 0"),
    (lambda: DistillConfig(w_mlm=-1), "distill.w_mlm=-1 must be at least 0"),
    (
        lambda: DistillConfig(w_kd=0, w_mlm=0),
        "distill.w_kd and distill.w_mlm are both 0; nothing would be learnt",
    ),
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
