"""The encoder through onnxruntime, at other shapes than it was traced with."""

import pytest
import torch

from bort import onnx
from bort.config import Arch
from bort.errors import BortError
from bort.model import ModelConfig, build

ARCH = Arch(2, 2, 32, 64)


@pytest.fixture(scope="module")
def encoder():
    sizes = ModelConfig(**vars(ARCH), vocab_size=60, positions=64)
    return build(sizes, "default", 0).encoder.eval()


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.2)])
def test_encoder(encoder, tmp_path, int8, tolerance):
    onnx.encoder_to_onnx(encoder, tmp_path / "encoder.onnx", int8)
    session = onnx.onnx_session(tmp_path / "encoder.onnx", threads=1)
    differences = []
    for shape in ((1, 2), (1, 64), (8, 7), (3, 32)):
        ids = torch.randint(2, 60, shape, generator=torch.Generator().manual_seed(0))
        (found,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            expected = encoder(ids)
        assert found.shape == tuple(expected.shape)
        differences.append((torch.from_numpy(found) - expected).abs().max().item())
    assert max(differences) < tolerance
    assert not int8 or min(differences) > 1e-5  # it was quantized


def test_without_the_packages(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BortError, match="ONNX needs the package onnxruntime; pip install onnx"):
        onnx.encoder_to_onnx(encoder, tmp_path / "x.onnx")
