"""The family against Hugging Face from the same weights, and its invariances."""

import dataclasses
import json
import random

import pytest
import torch
from models_helpers import BERT, ROBERTA, TINY, padded_batch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from bort.errors import BortError
from bort.models.bert import ACTIVATIONS, ModelConfig
from bort.models.huggingface import load_masked_lm
from bort.models.initialization import build_empty
from bort.models.weight_names import map_weight_names

SEEDS = range(60)  # even: BERT, odd: RoBERTa


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
