"""Families that transformers opens: each row of the table, on a tiny random model."""

import pytest
import torch
from teacher_folders import LENGTH, make_folder

from bort.errors import BortError
from bort.models.hf_config import OWN_FAMILIES
from bort.teachers.families import FAMILIES
from bort.teachers.opening import open_teacher

WRAPPED = [kind for kind in FAMILIES if kind not in OWN_FAMILIES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder and the model of transformers of each family, made when it is first asked for."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("teachers") / kind
            made[kind] = folder, make_folder(folder, kind)
        return made[kind]

    return make


def make_batch(teacher, lengths=(9, 5)):
    """Ids of two texts, padded, and their mask."""
    ids = torch.arange(5, 5 + 2 * lengths[0]).reshape(2, -1) % teacher.vocab_size
    mask = (torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask.bool(), ids, teacher.pad_id), mask


@pytest.mark.parametrize("kind", WRAPPED)
def test_each_family_gives_what_the_table_says(kind, folders):
    folder, model = folders(kind)
    teacher = open_teacher(folder)
    expected = {"logits", "hidden"} | ({"relations"} if FAMILIES[kind].projections else set())
    assert teacher.gives == expected
    assert (teacher.arch.depth, teacher.arch.heads, teacher.arch.hidden) == (2, 2, 16)
    assert teacher.arch.intermediate == 24
    assert teacher.vocab_size == model.config.vocab_size
    assert teacher.limit == LENGTH - FAMILIES[kind].find_offset(teacher.pad_id)
    ids, mask = make_batch(teacher)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
        states = model.base_model(input_ids=ids, attention_mask=mask)[0]
    positions = torch.tensor([1, 4, 10, 12])
    torch.testing.assert_close(teacher.compute_states(ids, mask), states)
    logits = teacher.compute_logits(ids, positions, mask)
    torch.testing.assert_close(logits, output.logits.flatten(0, 1)[positions])
    kept = teacher.compute_head_states(ids, positions, mask)
    assert kept.shape == (4, teacher.head_width)
    torch.testing.assert_close(teacher.decode(kept), logits)


@pytest.mark.parametrize("kind", WRAPPED)
def test_padding_and_batches_change_nothing(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids, mask = make_batch(teacher)
    together = teacher.compute_states(ids, mask)
    alone = teacher.compute_states(ids[1:, :5])
    torch.testing.assert_close(together[1:, :5], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(teacher.compute_states(ids)[1:, :5], alone, atol=1e-3)  # no mask


@pytest.mark.parametrize("kind", [kind for kind in WRAPPED if FAMILIES[kind].projections])
def test_relations_are_the_projections_of_one_layer(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids, mask = make_batch(teacher)
    last = teacher.compute_relations(ids, mask)
    first = teacher.compute_relations(ids, mask, layer=0)
    for tensor in (*last, *first):
        assert tensor.shape == (2, 9, 2, 8)
    assert all(map(torch.equal, last, teacher.compute_relations(ids, mask, layer=1)))
    assert not torch.equal(last.query, first.query) and not torch.equal(last.query, last.key)
    with pytest.raises(IndexError):
        teacher.compute_relations(ids, mask, layer=2)


@pytest.mark.parametrize("kind", WRAPPED)
def test_an_input_that_is_too_long_is_one_line(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids = torch.full((1, teacher.limit), 6)
    assert torch.isfinite(teacher.compute_states(ids)).all()
    with pytest.raises(BortError, match=f"longer than the limit of {teacher.limit} of the teacher"):
        teacher.compute_states(torch.full((1, teacher.limit + 1), 6))
