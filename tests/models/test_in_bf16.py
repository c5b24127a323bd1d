"""The copy of a frozen teacher for passes in bf16."""

import torch

from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.in_bf16 import copy_in_bf16, is_bf16_autocast
from bort.models.initialization import build_model

IDS = torch.arange(64).reshape(4, 16) % 50


def make_teacher():
    config = ModelConfig(**vars(Arch(2, 2, 32, 64)), vocab_size=50, positions=32, type_vocab=2)
    model = build_model(config, "paper", 0).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def test_it_answers_as_the_model_under_autocast():
    teacher = make_teacher()
    copy = copy_in_bf16(teacher)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast, once = teacher(IDS), copy(IDS)
    exact = teacher(IDS)
    assert once.dtype == cast.dtype == torch.bfloat16
    scale = exact.abs().max()
    assert (once.float() - exact).abs().max() < 0.05 * scale
    assert (once.float() - cast.float()).abs().max() < 0.05 * scale
    assert not torch.equal(once.float(), exact)


def test_the_model_itself_stays_float32_and_what_is_looked_up_is_shared():
    teacher = make_teacher()
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    copy = copy_in_bf16(teacher)
    for name, weight in teacher.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, before[name])
    mine, theirs = dict(teacher.named_parameters()), dict(copy.named_parameters())
    shared = {name for name in mine if mine[name] is theirs[name]}
    assert all("norm" in name or "positions" in name or "types" in name for name in shared)
    assert {theirs[name].dtype for name in theirs.keys() - shared} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in theirs.values())


def test_bf16_autocast_is_told_from_others():
    cpu = torch.device("cpu")
    assert not is_bf16_autocast(cpu)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_bf16_autocast(cpu)
        with torch.autocast("cpu", enabled=False):
            assert not is_bf16_autocast(cpu)
    with torch.autocast("cpu", torch.float16):
        assert not is_bf16_autocast(cpu)
