"""Closed forms against the module's own count and torch's FLOP counter."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bort.config import Arch
from bort.cost import forward_flops, parameters, training_flops
from bort.model import MaskedLM, ModelConfig, build

FILES = sorted((Path(__file__).parents[1] / "conf" / "arch").glob("*.yaml"))


def test_all_named_architectures_are_here():
    assert len(FILES) >= 18


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parameters_are_the_modules_own(file):
    arch = Arch(**OmegaConf.load(file))
    with torch.device("meta"):
        model = MaskedLM(ModelConfig(**vars(arch), vocab_size=8_192, positions=128))
    assert parameters(arch, 8_192, 128) == sum(p.numel() for p in model.parameters())


def test_bort_has_the_published_size():
    # 56.0 M with BERT's vocabulary is the figure that the paper prints
    assert round(parameters(Arch(4, 8, 1024, 768), 30_522, 512) / 1e6, 1) == 56.0


@pytest.mark.parametrize("arch", [Arch(2, 2, 64, 128), Arch(3, 4, 32, 96)], ids=str)
def test_flops_are_those_that_torch_counts(arch):
    model = build(ModelConfig(**vars(arch), vocab_size=500, positions=32))
    ids, positions = torch.randint(5, 500, (4, 32)), torch.arange(0, 128, 4)  # 32 of 128 tokens
    # the fused kernel of the CPU is invisible to the counter
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = model(ids, positions=positions).logsumexp(-1).sum()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() == forward_flops(arch, 500, 32, 0.25) * 128
    assert forward.get_total_flops() + backward.get_total_flops() == pytest.approx(
        training_flops(arch, 500, 32, 0.25) * 128, rel=1e-9
    )
