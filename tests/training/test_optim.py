"""The composite optimizer against torch's own two, run apart; the schedule in closed form."""

import copy
import math

import pytest
import torch

from bort.config.optim import OptimConfig
from bort.models.arch import Arch
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.initialization import build_model
from bort.training import optim
from bort.training.optim import (
    NEWTON_SCHULZ_STEPS,
    QUINTIC,
    MuonAdamW,
    clip_gradients,
    compute_rate_factor,
    count_peak_steps,
    orthogonalize,
)
from bort.training.optim import build_optimizer as build_optimizer

CONFIG = OptimConfig(lr=3e-3, muon_ratio=2.0, weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-6)
MATRICES = ("query", "key", "value", "output", "up", "down")


def model() -> MaskedLM:
    arch = vars(Arch(2, 2, 16, 32))
    return build_model(ModelConfig(**arch, vocab_size=40, positions=16, type_vocab=2), "paper", 0)


def gradients(network: MaskedLM, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(network: MaskedLM, optimizers: list, steps: range) -> dict[str, torch.Tensor]:
    for step in steps:
        gradients(network, step)
        for optimizer in optimizers:
            optimizer.step()
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kinds(network: MaskedLM) -> tuple[list, list, list]:
    """By name: Muon's matrices, decayed ones of AdamW, the rest."""
    muon, decayed, rest = [], [], []
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        if "layers" in parts and parts[-2] in MATRICES and parts[-1] == "weight":
            muon.append(parameter)
        elif name == "head.dense.weight":
            decayed.append(parameter)
        else:
            rest.append(parameter)
    assert (len(muon), len(decayed)) == (12, 1)
    return muon, decayed, rest


def exact_newton_schulz(gradient, coefficients, steps, eps):
    """What torch's Muon approximates in bfloat16, one matrix at a time, in float64."""
    a, b, c = coefficients
    x = gradient.double() / gradient.double().norm()
    for _ in range(steps):
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    return x.float()


def test_equals_the_two_run_apart(monkeypatch):
    """Weights after 5 steps, from our own split of the parameters by name; AdamW's bit by bit.

    torch's Muon with its bfloat16 product replaced by float64: all else is torch's own.
    """
    one, two = model(), model()
    ours = train(one, [build_optimizer(one, CONFIG)], range(5))
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", exact_newton_schulz)
    muon, decayed, rest = kinds(two)
    apart = [
        torch.optim.Muon(muon, lr=6e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=3e-3,
            betas=(0.8, 0.95),
            eps=1e-6,
            fused=True,
        ),
    ]
    theirs = train(two, apart, range(5))
    of_muon = {name for name, p in two.named_parameters() if any(p is m for m in muon)}
    for name, weight in ours.items():
        atol = 1e-7 if name in of_muon else 0
        torch.testing.assert_close(weight, theirs[name], atol=atol, rtol=0)
    start = {name: p.detach() for name, p in model().named_parameters()}
    assert not any(torch.equal(ours[name], start[name]) for name in ours)


@pytest.mark.parametrize("shape", [(7, 64, 64), (3, 32, 96), (2, 96, 32), (1, 1, 5)])
def test_orthogonalize(shape):
    """Against the float64 product, and against torch's own within what bfloat16 leaves."""
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(stack)
    for one, given in zip(found, stack, strict=True):
        exact = exact_newton_schulz(given, QUINTIC, NEWTON_SCHULZ_STEPS, 1e-7)
        torch.testing.assert_close(one, exact, atol=2e-5, rtol=0)
        torches = torch.optim._muon._zeropower_via_newtonschulz(given, QUINTIC, 5, 1e-7)
        assert (one - torches).norm() < 0.04 * one.norm()
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


def test_products_in_bfloat16_equal_torchs_muon():
    """Five steps beside `torch.optim.Muon`, which iterates in bfloat16: all other weights' bits.

    The two normalize before and after rounding, so that each entry of a matrix may differ by what
    bfloat16 leaves of it, 1/256. Against products in float32 the difference is measurable.
    """
    one, two, exact = model(), model(), model()
    optimizer = build_optimizer(one, CONFIG, precision=torch.bfloat16)
    ours = train(one, [optimizer], range(5))
    muon, decayed, rest = kinds(two)
    apart = [
        torch.optim.Muon(muon, lr=6e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=3e-3, betas=(0.8, 0.95), eps=1e-6, fused=True,
        ),
    ]  # fmt: skip
    theirs = train(two, apart, range(5))
    start = {name: p.detach() for name, p in model().named_parameters()}
    of_muon = {name for name, p in two.named_parameters() if any(p is m for m in muon)}
    float32 = train(exact, [build_optimizer(exact, CONFIG)], range(5))
    for name, weight in ours.items():
        if name not in of_muon:
            assert torch.equal(weight, theirs[name])
            continue
        moved = (weight - start[name]).norm()
        assert (weight - theirs[name]).norm() < 0.02 * moved
        assert 0 < (weight - float32[name]).norm() < 0.02 * moved
        assert weight.dtype == one.get_parameter(name).grad.dtype == torch.float32
        assert optimizer.state[one.get_parameter(name)]["momentum_buffer"].dtype == torch.float32


def test_chunks_change_nothing(monkeypatch):
    whole = train(one := model(), [build_optimizer(one, CONFIG)], range(3))
    # three of the 16 × 16 at a time, one of the others
    monkeypatch.setattr(optim, "CHUNKS", {torch.float32: 1000})
    chunked = train(two := model(), [build_optimizer(two, CONFIG)], range(3))
    for name, weight in whole.items():
        torch.testing.assert_close(weight, chunked[name], atol=1e-7, rtol=0)


def test_paper_is_plain_adamw():
    """arXiv 2010.10499: decay on all matrices, embeddings too; not on LayerNorms and biases."""
    config = OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1)
    one, two = model(), model()
    optimizer = build_optimizer(one, config)
    assert type(optimizer) is torch.optim.AdamW
    groups = [
        {"params": [p for p in two.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in two.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    apart = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=True)
    assert equal(train(one, [optimizer], range(4)), train(two, [apart], range(4)))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_each_parameter_once(name):
    network = model()
    optimizer = build_optimizer(network, OptimConfig(name=name, lr=4e-3))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("fused", "precision"),
    [(True, torch.float32), (False, torch.float32), (True, torch.bfloat16)],
)
def test_state_survives_a_checkpoint(tmp_path, fused, precision):
    """Through a file that the safe loader reads, then bit-equal with the run that never stopped."""
    one, two = model(), model()
    optimizer = build_optimizer(one, CONFIG, fused, precision)
    train(one, [optimizer], range(3))
    torch.save({"model": one.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x")
    undisturbed = train(one, [optimizer], range(3, 6))

    saved = torch.load(tmp_path / "x", weights_only=True)
    two.load_state_dict(saved["model"])
    fresh = build_optimizer(two, CONFIG, fused, precision)
    train(copy.deepcopy(two), [fresh], range(1))  # its inner state exists before it is replaced
    fresh.load_state_dict(saved["optimizer"])
    resumed = train(two, [fresh], range(3, 6))
    assert equal(undisturbed, resumed)
    three = model()
    three.load_state_dict(saved["model"])
    forgetful = train(three, [build_optimizer(three, CONFIG, fused, precision)], range(3, 6))
    assert not any(torch.equal(undisturbed[n], forgetful[n]) for n in ("head.bias",))
    assert not torch.equal(
        undisturbed["encoder.layers.0.up.weight"], forgetful["encoder.layers.0.up.weight"]
    )


def test_rates_set_from_outside_reach_both():
    """A scheduler writes into the composite's groups; nothing may move at rate 0."""
    network = model()
    optimizer = build_optimizer(network, CONFIG)
    for reload in (False, True):
        if reload:
            optimizer.load_state_dict(optimizer.state_dict())
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        assert equal(before, train(network, [optimizer], range(2)))
        factor.lr_lambdas = [lambda step: 1.0] * 3
        factor.step()
        assert [group["lr"] for group in optimizer.param_groups] == [6e-3, 3e-3, 3e-3]
        after = train(network, [optimizer], range(1))
        assert not any(torch.equal(before[name], after[name]) for name in before)


def test_closure_is_called_with_gradients_on():
    network = model()
    optimizer = build_optimizer(network, CONFIG)
    assert isinstance(optimizer, MuonAdamW)

    def closure():
        assert torch.is_grad_enabled()
        gradients(network, 0)
        return torch.tensor(3.5)

    assert optimizer.step(closure) == 3.5


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.06, 0.066, 0.067, 1.0, math.inf, math.nan])
@pytest.mark.parametrize("limit", [1.0, math.inf])
def test_clipping_is_torchs(size, limit):
    """Bit by bit, within the limit and beyond it; the norm is 1 at a size of about 0.0662."""
    one, two = model(), model()
    for network in (one, two):
        gradients(network, 0)
        for parameter in network.parameters():
            parameter.grad.mul_(size / 5)
        network.head.bias.grad = None
    before = {name: p.grad.clone() for name, p in one.named_parameters() if p.grad is not None}
    norm = clip_gradients(one, limit)
    assert torch.equal(
        norm.nan_to_num(), torch.nn.utils.clip_grad_norm_(two.parameters(), limit).nan_to_num()
    )
    assert one.head.bias.grad is None and len(before) > 30
    for (name, mine), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        if name in before:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0, equal_nan=True)
    same = all(torch.equal(before[n], one.get_parameter(n).grad) for n in before)
    assert same == (float(norm) <= limit and math.isfinite(size))


def test_gradients_within_the_limit_are_not_written():
    network = model()
    gradients(network, 0)
    versions = [parameter.grad._version for parameter in network.parameters()]
    clip_gradients(network, 1e9)
    assert [parameter.grad._version for parameter in network.parameters()] == versions
    clip_gradients(network, 1e-3)
    assert all(p.grad._version > v for p, v in zip(network.parameters(), versions, strict=True))


@pytest.mark.parametrize(
    ("progress", "warmup", "factor"),
    [
        *((0.0, 0.05, 0.0), (0.025, 0.05, 0.5), (0.05, 0.05, 1.0), (0.525, 0.05, 0.5)),
        *((1.0, 0.05, 0.0), (0.0, 0.0, 1.0), (0.25, 0.0, 0.75), (1.0, 0.0, 0.0)),
        *((-1.0, 0.1, 0.0), (1.5, 0.1, 0.0), (0.45, 0.9, 0.5)),
    ],
)
def test_schedule(progress, warmup, factor):
    config = OptimConfig(warmup=warmup)
    assert compute_rate_factor(progress, config) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(-1, 0), (0, 0), (0.05, 0.5), (0.1, 1), (0.5, 1), (0.8, 1), (0.9, 0.5), (0.95, 0.25), (1, 0)],
)
def test_schedule_with_a_stable_phase(progress, factor):
    config = OptimConfig(warmup=0.1, schedule="wsd", decay=0.2)
    assert compute_rate_factor(progress, config) == pytest.approx(factor, abs=2**-24)
    whole = OptimConfig(warmup=0, schedule="wsd", decay=1)
    assert compute_rate_factor(progress, whole) == pytest.approx(min(1 - progress, 1), abs=2**-24)


@pytest.mark.parametrize("decay", [0.1, 0.2, 0.5])
def test_a_longer_training_has_the_same_rates_until_a_shorter_one_falls(decay):
    """Bit by bit, for equally many steps of warm-up; none of the steps that fall is counted."""
    for steps in range(4, 90):
        rises = min(2.0, (1 - decay) * (steps + 1))  # steps of warm-up of both
        short = OptimConfig(warmup=rises / (steps + 1), schedule="wsd", decay=decay)
        count = count_peak_steps(steps, short)
        factors = [compute_rate_factor(k / (steps + 1), short) for k in range(1, steps + 1)]
        falling = sum(k > (1 - decay) * (steps + 1) + 1e-9 for k in range(1, steps + 1))
        assert count == steps - falling and all(f < 1 for f in factors[count:])
        for total in (2 * steps, 7 * steps + 3):
            long = OptimConfig(warmup=rises / (total + 1), schedule="wsd", decay=decay)
            longer = [compute_rate_factor(k / (total + 1), long) for k in range(1, count + 1)]
            assert longer == factors[:count]
