"""An encoder as an ONNX file, in float32 or int8, and the session that runs it."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bort.config import Arch
from bort.errors import BortError
from bort.model import Encoder, ModelConfig

OPSET = 18  # CPU kernels refuse opset 23's Attention with a padding mask


class _States(nn.Module):
    """Final hidden states of unpadded input."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.encoder(input_ids, None, None)


def encoder_to_onnx(encoder: Encoder, path: Path, int8: bool = False) -> None:
    """Write the encoder: input_ids (B, S), int64 → states (B, S, H), for any B and S.

    int8: weights per row of each matrix, activations as they come (dynamic quantization).
    """
    _require_onnx()
    ids = torch.randint(2, encoder.config.vocab_size, (2, 16))
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=2, max=encoder.config.positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _States(encoder.eval()),
            (ids,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            dynamic_shapes={"input_ids": {0: batch, 1: length}},
            verbose=False,
        )
    program.save(str(path))
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # advice to preprocess, which torch's exporter has done
        quantize_dynamic(
            path,
            path,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=QuantType.QInt8,
        )
        root.setLevel(level)


def onnx_session(path: Path, threads: int):
    """An onnxruntime session on the CPU with this many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_encoder_call(
    arch: Arch, vocab_size: int, batch: int, length: int, threads: int, path: Path, int8: bool
) -> Callable[[], Callable[[], object]]:
    """Write an encoder of this shape to `path`; returns what makes its inference call."""
    sizes = ModelConfig(**vars(arch), vocab_size=vocab_size, positions=max(512, length))
    encoder_to_onnx(Encoder(sizes), path, int8)
    ids = np.random.default_rng(0).integers(2, vocab_size, (batch, length))

    def make() -> Callable[[], object]:
        session = onnx_session(path, threads)
        return lambda: session.run(None, {"input_ids": ids})

    return make


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BortError(
            f"ONNX needs the package {error.name}; pip install onnx onnxscript onnxruntime"
        ) from None
