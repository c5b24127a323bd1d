"""The family against Hugging Face from the same weights, its invariances and its start values."""

import dataclasses
import json
import math
import random

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from bort.errors import BortError
from bort.models.bert import ACTIVATIONS, ModelConfig, build_empty, build_model, init_std
from bort.models.huggingface import load_masked_lm, map_weight_names

SEEDS = range(60)  # even: BERT, odd: RoBERTa
TINY = ModelConfig(depth=2, heads=2, hidden=8, intermediate=12, vocab_size=40, positions=16)
BERT = dataclasses.replace(TINY, pad_id=0, type_vocab=2)
ROBERTA = dataclasses.replace(TINY, position_offset=2, type_vocab=1)


def random_config(seed: int) -> ModelConfig:
    rng = random.Random(seed)
    heads, pad_id = rng.randint(1, 4), rng.randint(0, 3)
    return ModelConfig(
        depth=rng.randint(1, 3),
        heads=heads,
        hidden=heads * rng.randint(4, 9),
        intermediate=rng.randint(1, 40),
        vocab_size=rng.randint(20, 60),
        positions=rng.randint(6, 20),
        position_offset=pad_id + 1 if seed % 2 else 0,
        type_vocab=rng.randint(1, 3),
        pad_id=pad_id,
        layer_norm_eps=rng.choice([1e-12, 1e-5, 1e-2]),
        activation=rng.choice(list(ACTIVATIONS)),
    )


def randomise(model, seed: int):
    """Every parameter, or a lost or swapped bias (fresh: 0) or LayerNorm (fresh: 1) would pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


def reference(config: ModelConfig, seed: int, attention: str = "sdpa"):
    """Hugging Face's model for a config, every parameter random."""
    roberta = config.position_offset > 0
    settings = (RobertaConfig if roberta else BertConfig)(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        hidden_act=config.activation,
        max_position_embeddings=config.positions + config.position_offset,
        type_vocab_size=config.type_vocab,
        pad_token_id=config.pad_id,
        layer_norm_eps=config.layer_norm_eps,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        attn_implementation=attention,
    )
    return randomise((RobertaForMaskedLM if roberta else BertForMaskedLM)(settings), seed).eval()


def ours(config: ModelConfig, theirs):
    model, state = build_empty(config), theirs.state_dict()
    model.load_state_dict(
        {name: state[hf_name] for name, hf_name in map_weight_names(model).items()}
    )
    return model.eval()


def padded_batch(config: ModelConfig, seed: int, rows: int = 3):
    """Rows of unequal length padded on the right, the first one full."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, config.positions + 1, (rows, 1), generator=generator)
    lengths[0] = config.positions
    mask = (torch.arange(config.positions) < lengths).long()
    words = torch.randint(4, config.vocab_size, mask.shape, generator=generator)
    ids = torch.where(mask.bool(), words, config.pad_id)
    types = torch.randint(0, max(config.type_vocab, 1), mask.shape, generator=generator)
    return ids, mask, types


def assert_close(found, expected, share: float, largest=None):
    largest = expected.abs().max() if largest is None else largest
    assert (found - expected).abs().max() <= share * largest


# Parity with Hugging Face


@pytest.mark.parametrize("dtype, share", [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("seed", SEEDS)
def test_logits_and_gradients_are_those_of_hugging_face(seed, dtype, share):
    config = random_config(seed)
    theirs = reference(config, seed, random.Random(seed).choice(["sdpa", "eager"])).to(dtype)
    model = ours(config, theirs).to(dtype)
    ids, mask, types = padded_batch(config, seed)
    types = None if seed % 5 == 0 else types
    expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    found = model(ids, mask, types)
    assert_close(found, expected, share)

    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(g.abs().max() for g in gradients.values())
    compared = 0
    for name, hf_name in map_weight_names(model).items():
        assert_close(model.get_parameter(name).grad, gradients[hf_name], share, largest)
        compared += 1
    assert compared == len(gradients)


@pytest.mark.parametrize("config", [BERT, ROBERTA])
def test_without_a_mask_too(config):
    theirs = reference(config, 1)
    model, (ids, _, _) = ours(config, theirs), padded_batch(config, 1)
    assert_close(model(ids), theirs(input_ids=ids).logits, 1e-5)
    full = ids[:1, :7]  # no padding: the shortcut for positions
    assert_close(model(full), theirs(input_ids=full).logits, 1e-5)


@pytest.mark.parametrize("config", [BERT, ROBERTA])
def test_dropout_falls_where_hugging_face_has_it(config):
    config = dataclasses.replace(config, dropout=0.3, attention_dropout=0.2)
    theirs = reference(config, 1)
    model, (ids, mask, _) = ours(config, theirs).train(), padded_batch(config, 1)
    torch.manual_seed(3)
    expected = theirs.train()(input_ids=ids, attention_mask=mask).logits
    torch.manual_seed(3)
    found = model(ids, mask)
    assert_close(found, expected, 1e-5)
    assert (found - model.eval()(ids, mask)).abs().max() > 0.1  # there was dropout to compare


def test_given_logits(shared):  # cases P1
    cases = json.loads((shared / "cases/models/expected.json").read_text())
    assert set(cases) == {"bert-tiny", "roberta-tiny"}
    for name, case in cases.items():
        model = load_masked_lm(shared / "cases/models" / name).eval()
        ids, mask = torch.tensor(case["input_ids"]), torch.tensor(case["attention_mask"])
        types = torch.tensor(case["token_type_ids"]) if "token_type_ids" in case else None
        with torch.no_grad():
            logits = model(ids, mask, types)
        for place, expected in case["logits_at"].items():
            row, column = map(int, place.split(","))
            found = logits[row, column, : len(expected)]
            torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)
        for row in (0, 1):
            total = case.get(f"sum_row{row}", case.get(f"sum_valid_row{row}"))
            assert logits[row][mask[row].bool()].sum().item() == pytest.approx(total, abs=2e-2)


# Invariances


@pytest.mark.parametrize("config", [TINY, BERT, ROBERTA])
def test_extra_padding_changes_nothing(config):
    model = randomise(build_empty(config), 0).eval()
    ids, mask, types = padded_batch(config, 2)
    whole = model(ids, mask, types)
    for row, length in enumerate(mask.sum(1)):
        alone = model(ids[row : row + 1, :length], None, types[row : row + 1, :length])
        assert_close(whole[row, :length], alone[0], 1e-5)


@pytest.mark.parametrize("config", [TINY, ROBERTA])
def test_logits_at_positions_are_the_gathered_full_logits(config):
    model = randomise(build_empty(config), 0).eval()
    ids, mask, _ = padded_batch(config, 2)
    places = torch.tensor([0, 3, 3, 17, 2 * config.positions])
    full = model(ids, mask)
    assert full.shape == (*ids.shape, config.vocab_size)
    found = model(ids, mask, positions=places)
    assert_close(found, full.flatten(0, 1)[places], 1e-6)
    states = model.head_states(ids, mask, positions=places)
    assert states.shape == (5, config.hidden)
    assert torch.equal(model.decode(states), found)
    assert model(ids, mask, positions=places[:0]).shape == (0, config.vocab_size)


@pytest.mark.parametrize("config", [TINY, BERT, ROBERTA])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_row_of_padding_stays_finite(config, dropout):  # case P2
    config = dataclasses.replace(config, dropout=dropout, attention_dropout=dropout)
    model = randomise(build_empty(config), 0)
    ids, mask, _ = padded_batch(config, 2, rows=2)
    ids[1], mask[1] = config.pad_id, 0
    logits = model.train()(ids, mask)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert_close(model(ids, mask)[0], model(ids[:1])[0], 1e-5)
    assert_close(model(ids, mask)[1], model(ids[1:])[0], 1e-5)  # it attends everywhere


def test_no_mask_larger_than_needed(monkeypatch):
    seen, attend = [], F.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **kwargs):
        seen.append(None if attn_mask is None else (attn_mask.dtype, tuple(attn_mask.shape)))
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model = randomise(build_empty(TINY), 0)
    ids, mask, _ = padded_batch(TINY, 2)
    model(ids)
    model(ids, torch.ones_like(mask))
    model(ids, mask)
    assert seen == [None] * 4 + [(torch.bool, (3, 1, 1, 16))] * 2


@pytest.mark.parametrize("config", [TINY, ROBERTA])
def test_the_exported_graph_serves_padded_and_unpadded_input(config):
    model = randomise(build_empty(config), 0).eval()
    ids, mask, _ = padded_batch(config, 2)
    graph = torch.export.export(model, (ids, torch.ones_like(mask))).module()
    assert_close(graph(ids, mask), model(ids, mask), 1e-5)
    full = ids.clamp(min=4)
    assert_close(graph(full, torch.ones_like(mask)), model(full), 1e-5)


@pytest.mark.parametrize("config", [TINY, ROBERTA])
def test_too_long_an_input_is_one_line(config):  # case P1
    with pytest.raises(BortError, match="17 tokens .* limit of 16") as error:
        randomise(build_empty(config), 0)(torch.full((1, 17), 5))
    assert "\n" not in str(error.value)


# Configurations that cannot be


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(heads=12, hidden=1024), "arch.heads=12 does not divide arch.hidden=1024; use 4, 8 "),
        (dict(heads=3, hidden=7), "arch.heads=3 does not divide arch.hidden=7; use 1 or 7"),
        (dict(depth=0), "arch.depth=0 must be at least 1"),
        (dict(heads=-1), "arch.heads=-1 must be at least 1"),
        (dict(hidden=0), "arch.hidden=0 must be at least 1"),
        (dict(intermediate=0), "arch.intermediate=0 must be at least 1"),
        (dict(vocab_size=0), "vocab_size=0 must be at least 1"),
        (dict(positions=0), "positions=0 must be at least 1"),
        (dict(type_vocab=-1), "type_vocab=-1 must be at least 0"),
        (dict(pad_id=-1), "pad_id=-1 must be at least 0"),
        (dict(pad_id=40), "pad_id=40 is outside the vocabulary of 40"),
        (dict(position_offset=1), "position_offset=1 must be 0 .* or pad_id . 1 = 2"),
        (dict(dropout=1.0), "dropout=1.0 must be at least 0 and below 1"),
        (dict(attention_dropout=-0.1), "attention_dropout=-0.1 must be at least 0"),
        (dict(activation="gelo"), "activation 'gelo' is not supported; .* did you mean 'gelu'"),
    ],
)
def test_impossible_configurations(change, message):
    with pytest.raises(BortError, match=message):
        dataclasses.replace(TINY, **change)


# Start values

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


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(vocab_size=48), "vocabulary has 40 tokens, the student's 48"),
        (dict(hidden=16), "arch.hidden=16 to be at most the teacher's 8"),
    ],
)
def test_teachers_that_do_not_fit(change, message):
    with pytest.raises(BortError, match=message):
        taught(dataclasses.replace(TINY, **change))
