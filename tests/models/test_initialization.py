"""The start values of a model, by itself and from its teacher."""

import dataclasses
import math

import pytest
import torch
from models_helpers import BERT, ROBERTA, TINY, padded_batch, randomise
from torch.nn import functional as F

from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.initialization import EmbeddingTables, build_empty, build_model, init_std

MIDDLE = ModelConfig(depth=2, heads=4, hidden=64, intermediate=256, vocab_size=500, positions=128)


def equal(a, b) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(w, theirs[name]) for name, w in a.state_dict().items())


@pytest.mark.parametrize("init", ["default", "paper"])
def test_the_seed_decides_and_the_global_generator_is_left_alone(init):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = build_model(TINY, init, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert equal(one, build_model(TINY, init, seed=1))
    assert not equal(one, build_model(TINY, init, seed=2))


def test_default_start():
    model = build_model(MIDDLE, "default", seed=0)
    zero = {
        f"encoder.layers.{i}.{part}.weight" for i in (0, 1) for part in ("attention.output", "down")
    }
    drawn = 0
    for name, p in model.named_parameters():
        if name == "encoder.embeddings.positions.weight":
            rows = torch.arange(128, dtype=torch.float64)[:, None]
            angles = rows / 1000 ** (torch.arange(32, dtype=torch.float64) / 32)
            expected = 0.084 * torch.cat([angles.sin(), angles.cos()], 1)
            torch.testing.assert_close(p.double(), expected, rtol=0, atol=1e-5)
        elif name in zero or name.endswith("bias"):
            assert not p.any(), name
        elif p.dim() == 1:
            assert (p == 1).all(), name
        else:  # mean and spread within five standard errors
            assert abs(p.mean()) < 5 * 0.06 / math.sqrt(p.numel()), name
            assert abs(p.std() / 0.06 - 1) < 5 / math.sqrt(2 * p.numel()), name
            drawn += 1
    assert drawn == 1 + 2 * 4 + 1  # words, (query, key, value, up) per layer, head
    for layer in model.encoder.layers:
        assert torch.equal(layer.attention.key.weight, layer.attention.query.weight)
        assert not torch.equal(layer.attention.value.weight, layer.attention.query.weight)
    assert model.encoder.embeddings.words.weight[MIDDLE.pad_id].any()


def test_paper_start():
    model = build_model(dataclasses.replace(MIDDLE, type_vocab=2), "paper", seed=0)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            assert (p == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
        else:
            assert abs(p.std() / 0.02 - 1) < 5 / math.sqrt(2 * p.numel()), name
    attention = model.encoder.layers[0].attention
    assert not torch.equal(attention.key.weight, attention.query.weight)


def test_wide_models_start_smaller():
    assert init_std(511) == 0.06 and init_std(512) == init_std(1024) == 0.02


def test_a_default_start_is_near_uniform():
    """Untrained, the loss is near log V: no start value is too large."""
    model = build_model(MIDDLE, "default", seed=0)
    ids = torch.randint(4, 500, (4, 64), generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    assert abs(loss - math.log(500)) < 1


def test_odd_widths_have_sinusoids_too():
    odd = dataclasses.replace(TINY, hidden=5, heads=1)
    assert build_model(odd).encoder.embeddings.positions.weight.isfinite().all()


# Start from a teacher

TEACHER = dataclasses.replace(TINY, depth=5, positions=32)


def taught(student: ModelConfig, teacher=TEACHER):
    source = randomise(build_empty(teacher), 9)
    return build_model(student, "teacher", seed=0, teacher=source), source


@pytest.mark.parametrize("config", [TEACHER, BERT])
def test_equal_shape_takes_everything(config):
    model, teacher = taught(config, config)
    assert equal(model, teacher)


@pytest.mark.parametrize(
    "depth, sources", [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (4, [0, 1, 3, 4])]
)
def test_layers_are_evenly_spaced_first_and_last_included(depth, sources):
    model, teacher = taught(dataclasses.replace(TINY, depth=depth))
    for layer, source in zip(model.encoder.layers, sources, strict=True):
        assert equal(layer, teacher.encoder.layers[source])
    assert equal(model.head, teacher.head)


@pytest.mark.parametrize("change", [dict(heads=4), dict(intermediate=16)])
def test_layers_of_another_shape_stay_as_they_start(change):
    student = dataclasses.replace(TINY, **change)
    model, teacher = taught(student)
    assert equal(model.encoder.layers, build_model(student, seed=0).encoder.layers)
    assert equal(model.head.dense, build_model(student, seed=0).head.dense)
    assert torch.equal(model.head.bias, teacher.head.bias)
    assert torch.equal(
        model.encoder.embeddings.words.weight, teacher.encoder.embeddings.words.weight
    )


def test_a_narrower_student_gets_the_best_projection():
    model, teacher = taught(dataclasses.replace(TINY, hidden=4))
    words, source = (m.encoder.embeddings.words.weight.double() for m in (model, teacher))
    u, s, vh = torch.linalg.svd(source, full_matrices=False)
    project = vh[:4].T
    # The same subspace and the same inner products, whatever the signs of the vectors.
    best = u[:, :4] * s[:4] @ (u[:, :4] * s[:4]).T
    torch.testing.assert_close(words @ words.T, best, rtol=1e-4, atol=1e-4)
    signs = ((source @ project) * words).sum(0).sign()
    fixed = project * signs  # an eigenvector's sign is arbitrary: its largest entry decides
    assert (fixed.gather(0, fixed.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(words, source @ project * signs, rtol=1e-4, atol=1e-4)
    rows = teacher.encoder.embeddings.positions.weight[:16].double()
    found = model.encoder.embeddings.positions.weight.double()
    torch.testing.assert_close(found, rows @ project * signs, rtol=1e-4, atol=1e-4)
    again, _ = taught(dataclasses.replace(TINY, hidden=4))
    assert equal(model, again)


def test_position_rows_of_roberta_lose_their_offset_and_its_token_type():
    model, teacher = taught(TINY, dataclasses.replace(ROBERTA, positions=20))
    source = teacher.encoder.embeddings
    expected = source.positions.weight[2:18] + source.types.weight[0]
    assert torch.equal(model.encoder.embeddings.positions.weight, expected)
    model.eval(), teacher.eval()
    ids, _, _ = padded_batch(TINY, 0, rows=1)
    embed = (m.encoder.embeddings(ids, None) for m in (model, teacher))
    torch.testing.assert_close(*embed, rtol=1e-5, atol=1e-5)


def test_a_teacher_with_fewer_positions_gives_what_it_has():
    model, teacher = taught(TINY, dataclasses.replace(TEACHER, positions=15))
    rows, own = (m.encoder.embeddings.positions.weight for m in (model, build_model(TINY)))
    taken = teacher.encoder.embeddings.positions.weight
    expected = taken if teacher.encoder.embeddings.types is None else rows[:15]
    assert torch.equal(rows[:15], expected) and torch.equal(rows[15], own[15])


@pytest.mark.parametrize(
    "student, init, message",
    [
        (TINY, "teacher", "init=teacher needs a teacher"),
        (TINY, "tracher", "init=tracher is unknown; .* did you mean 'teacher'"),
    ],
)
def test_init_errors(student, init, message):
    with pytest.raises(BortError, match=message):
        build_model(student, init)


def test_a_wider_student_has_the_rows_of_its_teacher_and_zeros():
    model, teacher = taught(dataclasses.replace(TINY, hidden=16))
    for name in ("words", "positions"):
        rows, source = (getattr(m.encoder.embeddings, name).weight[:16] for m in (model, teacher))
        assert torch.equal(rows[:, :8], source) and not rows[:, 8:].any()
    fresh = build_model(dataclasses.replace(TINY, hidden=16), seed=0)
    assert equal(model.encoder.layers, fresh.encoder.layers)


def test_chosen_layers():
    student = dataclasses.replace(TINY, depth=2)
    _, source = taught(student)
    model = build_model(student, "teacher", teacher=source, layers=[3, 1])
    for layer, number in zip(model.encoder.layers, (3, 1), strict=True):
        assert equal(layer, source.encoder.layers[number])
    none = build_model(student, "teacher", teacher=source, layers=[])
    assert equal(none.encoder.layers, build_model(student).encoder.layers)
    with pytest.raises(BortError, match="init_layers=.* the teacher's layers are 0 to 4"):
        build_model(student, "teacher", teacher=source, layers=[0, 5])
    narrow = dataclasses.replace(student, hidden=4)
    with pytest.raises(BortError, match="layers are copied only where H, A and I are equal"):
        build_model(narrow, "teacher", teacher=source, layers=[0, 1])


def test_tables_alone_start_a_student_of_another_family():
    """Narrower tables than the student's width, no positions, and a norm without a bias."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(TINY.vocab_size, 6, generator=generator)
    types = torch.randn(1, 6, generator=generator)
    tables = EmbeddingTables(words, None, types, torch.nn.LayerNorm(6, bias=False))
    fresh, model = build_model(TINY), build_model(TINY, "teacher", tables=tables)
    ours, own = model.encoder.embeddings, fresh.encoder.embeddings
    assert torch.equal(ours.words.weight[:, :6], words) and not ours.words.weight[:, 6:].any()
    shift = torch.nn.functional.pad(types[0], (0, 2))
    torch.testing.assert_close(ours.positions.weight, own.positions.weight + shift)
    assert equal(model.head, fresh.head) and equal(model.encoder.layers, fresh.encoder.layers)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(vocab_size=48), "vocabulary has 40 tokens, the student's 48"),
    ],
)
def test_teachers_that_do_not_fit(change, message):
    with pytest.raises(BortError, match=message):
        taught(dataclasses.replace(TINY, **change))
