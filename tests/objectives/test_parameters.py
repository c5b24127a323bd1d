"""Closed forms against the module itself: counted parameters, and torch's own FLOP counter."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bort.models.arch import Arch
from bort.models.bert import Encoder, MaskedLM, ModelConfig
from bort.models.initialization import build_model
from bort.models.onnx import export_encoder
from bort.objectives.parameters import (
    count_encoder_operations,
    count_forward_flops,
    count_int8_bytes,
    count_parameters,
    count_training_flops,
    infer_vocab_size,
)

FILES = sorted((Path(__file__).resolve().parents[2] / "conf" / "arch").glob("*.yaml"))
SHAPES = [Arch(1, 1, 8, 8), Arch(2, 4, 32, 48), Arch(3, 2, 16, 64), Arch(5, 8, 40, 24)]


def config(arch: Arch, vocab_size: int, positions: int) -> ModelConfig:
    return ModelConfig(**vars(arch), vocab_size=vocab_size, positions=positions)


def test_every_named_architecture_is_seen():
    assert len(FILES) == 19


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(("vocab_size", "positions"), [(8192, 512), (50265, 1024)])
def test_parameters_are_the_modules_own(path, vocab_size, positions):
    arch = Arch(**yaml.safe_load(path.read_text()))
    with torch.device("meta"):
        model = MaskedLM(config(arch, vocab_size, positions))
    assert count_parameters(arch, vocab_size, positions) == sum(
        p.numel() for p in model.parameters()
    )


def test_bort_as_counted_in_the_literature():
    """76.2 M with RoBERTa's vocabulary, 56.0 M (the paper's figure) with BERT's."""
    bort = Arch(4, 8, 1024, 768)
    assert round(count_parameters(bort, 50265, 512) / 1e6, 1) == 76.2
    assert round(count_parameters(bort, 30522, 512) / 1e6, 1) == 56.0


def counted(
    arch: Arch, vocab_size: int, rows: int, length: int, masked: int, backward: bool
) -> int:
    """FLOPs of the module by torch, which sees attention only as plain matrix products."""
    model = build_model(config(arch, vocab_size, length), "paper")
    ids = torch.randint(5, vocab_size, (rows, length))
    positions = torch.arange(masked)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids, positions=positions)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("arch", SHAPES, ids=str)
@pytest.mark.parametrize(("rows", "length", "masked"), [(1, 16, 4), (3, 20, 12), (2, 8, 0)])
def test_forward_flops(arch, rows, length, masked):
    tokens = rows * length
    expected = count_forward_flops(arch, 50, length, masked / tokens) * tokens
    assert counted(arch, 50, rows, length, masked, False) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("arch", SHAPES, ids=str)
def test_training_flops(arch):
    """Exactly three forward passes."""
    expected = count_training_flops(arch, 50, 16, 0.25) * 32
    assert counted(arch, 50, 2, 16, 8, True) == pytest.approx(expected, rel=1e-12)


def test_encoder_operations_leave_the_vocabulary_out():
    arch = Arch(2, 2, 16, 32)
    ids = torch.randint(5, 50, (3, 10))
    encoder = build_model(config(arch, 50, 10), "paper").encoder
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(ids)
    assert count_encoder_operations(arch, 3, 10) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("arch", "vocab_size", "positions"),
    [
        (Arch(1, 2, 32, 64), 512, 512),
        (Arch(2, 2, 64, 256), 8192, 512),
        (Arch(3, 2, 64, 100), 2000, 1024),
        (Arch(4, 4, 128, 512), 300, 512),
    ],
)
def test_the_int8_file_has_the_size_that_is_counted(arch, vocab_size, positions, tmp_path):
    """To 1%, of weights that all differ: the exporter stores equal ones once."""
    pytest.importorskip("onnxruntime")
    encoder, path = Encoder(config(arch, vocab_size, positions)), tmp_path / "int8.onnx"
    generator = torch.Generator().manual_seed(0)
    for weight in encoder.parameters():
        weight.data.normal_(0, 0.05, generator=generator)
    export_encoder(encoder, path, int8=True)
    counted_bytes = count_int8_bytes(arch, vocab_size, positions)
    assert path.stat().st_size == pytest.approx(counted_bytes, rel=0.01)


@pytest.mark.parametrize("arch", SHAPES)
def test_the_vocabulary_follows_from_the_parameters(arch):
    for vocab_size, positions in ((280, 512), (50265, 1024)):
        parameters = count_parameters(arch, vocab_size, positions)
        assert infer_vocab_size(parameters, arch, positions) == vocab_size
