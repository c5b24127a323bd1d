"""What a teacher says that it can give, and cannot."""

import pytest

from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.initialization import build_model
from bort.teachers.bert_teacher import BertTeacher
from bort.teachers.teacher import GIFTS, require

SIZES = dict(depth=1, heads=2, hidden=8, intermediate=12, vocab_size=20, positions=8)


def test_what_a_teacher_cannot_give_is_one_line_with_what_it_can():
    encoder = BertTeacher(build_model(ModelConfig(**SIZES)), "some/encoder", has_head=False)
    assert encoder.gives == {"hidden", "relations"} < set(GIFTS)
    require(encoder, "hidden")
    with pytest.raises(BortError) as error:
        require(encoder, "logits")
    assert str(error.value) == (
        "the teacher some/encoder gives hidden and relations, but no logits: it lacks a masked-LM "
        "head; use distill.w_hidden or distill.w_relation"
    )
