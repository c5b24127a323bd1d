"""The composite optimizer against torch's own two, its state, the schedule."""

import copy

import pytest
import torch

from bort import optim
from bort.config import Optim
from bort.model import ModelConfig, build


def tiny():
    return build(ModelConfig(2, 2, 8, 16, vocab_size=20, positions=8), seed=3)


def gradients(model, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def equal(a, b) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_each_weight_moves_as_torchs_own_optimizers_move_it():
    config, ours, theirs = Optim(lr=1e-2, muon_ratio=2.0, weight_decay=0.1), tiny(), tiny()
    optimizer = optim.build(ours, config, fused=False)
    named = dict(theirs.named_parameters())
    matrices = [p for n, p in named.items() if "layers" in n and p.ndim == 2]
    head = [named["head.dense.weight"]]
    rest = [p for n, p in named.items() if p.ndim == 1 or "embeddings" in n]
    assert len(matrices) == 12 and len(matrices) + len(head) + len({id(p) for p in rest}) == len(
        named
    )
    separate = [
        torch.optim.Muon(matrices, lr=2e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(head, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0),
    ]
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        for one in separate:
            one.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), name
    assert not equal(ours, tiny())


def test_state_survives_saving_bit_by_bit():
    straight, stopped = tiny(), tiny()
    a, b = optim.build(straight, Optim()), optim.build(stopped, Optim())
    for step in range(4):
        for model, optimizer in ((straight, a), (stopped, b)):
            gradients(model, step)
            optimizer.step()
        if step == 1:  # the second goes on from what was saved
            saved = copy.deepcopy(b.state_dict())
            resumed = tiny()
            resumed.load_state_dict(stopped.state_dict())
            stopped, b = resumed, optim.build(resumed, Optim())
            b.load_state_dict(saved)
    assert equal(straight, stopped)


def test_a_loaded_learning_rate_is_used():
    model = tiny()
    optimizer = optim.build(model, Optim())
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
    optimizer.load_state_dict(state)
    before = copy.deepcopy(model)
    gradients(model, 0)
    optimizer.step()
    assert equal(model, before)


def test_the_papers_optimizer_decays_embeddings_but_no_vector():
    optimizer = optim.build(tiny(), Optim(name="adamw"))
    assert type(optimizer) is torch.optim.AdamW
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.01 and all(p.ndim == 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0 and all(p.ndim == 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(tiny().parameters()))


@pytest.mark.parametrize(
    ("progress", "factor"), [(0, 0), (0.025, 0.5), (0.05, 1), (0.525, 0.5), (1, 0), (2, 0)]
)
def test_schedule_is_linear_up_then_down(progress, factor):
    assert optim.schedule(progress, 0.05) == pytest.approx(factor)


def test_schedule_without_warmup_starts_at_the_peak():
    assert optim.schedule(0.0, 0.0) == 1
