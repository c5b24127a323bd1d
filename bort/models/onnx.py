"""Models as ONNX files, in float32 or int8, and the sessions that run them."""

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import Classifier, Encoder, MaskedLM, ModelConfig
from bort.models.onnx_graph import GRAPH, arrange_for_export

OPSET = 18  # CPU kernels refuse opset 23's Attention with a padding mask
QUANTIZED = ("MatMul", "Gather")
SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the modules that it is in


class _Deployed(nn.Module):
    """A model under the names that Hugging Face's inputs have."""

    def __init__(self, model: MaskedLM | Classifier | Encoder):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        spans: Tensor | None = None,
    ) -> Tensor:
        given = {} if spans is None else {"spans": spans}
        return self.model(input_ids, attention_mask, token_type_ids, **given)


def export_onnx(model: MaskedLM | Classifier | nn.Module, path: Path) -> None:
    """Write a whole model: input_ids, attention_mask (B, S), int64 → `logits`, for any B and S.

    The output has another name where the model has an `output_name`, as one that embeds texts.

    A model with token types also takes token_type_ids (B, S), one with spans also spans
    (B, spans, 2), and one with towers two texts of each pair after each other, (2B, S). Logits as
    `MaskedLM.forward` and `Classifier.forward` give them.
    """
    rows = 2 * getattr(model, "texts_per_row", 1)
    ids = torch.randint(2, model.config.vocab_size, (rows, min(16, model.config.positions)))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.type_vocab:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if spans := getattr(model, "spans", 0):
        inputs["spans"] = torch.tensor([[[1, 3]] * spans, [[2, 4]] * spans])
    _trace(model, inputs, path, getattr(model, "output_name", "logits"))


def export_encoder(encoder: Encoder, path: Path, int8: bool = False) -> None:
    """Write the encoder: input_ids (B, S), int64 → states (B, S, H), for any B and S."""
    ids = torch.randint(2, encoder.config.vocab_size, (2, min(16, encoder.config.positions)))
    _trace(encoder, {"input_ids": ids}, path, "states")
    if int8:
        quantize(path, path)


def _trace(model: nn.Module, inputs: dict[str, Tensor], path: Path, output: str) -> None:
    require_onnx()
    batch = torch.export.Dim("batch", min=1, max=4096)
    if getattr(model, "texts_per_row", 1) == 2:
        batch = 2 * batch
    length = torch.export.Dim("length", min=2, max=model.config.positions)
    shapes = {name: {0: batch} | ({} if name == "spans" else {1: length}) for name in inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Deployed(arrange_for_export(model.eval())),
            (),
            kwargs=inputs,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            output_names=[output],
            dynamic_shapes=shapes,
            verbose=False,
        )
    _strip(program.model)
    program.save(str(path))


def _strip(model) -> None:
    """Take out what the exporter notes of each node but for the module: paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        for key in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[key]
        for value in node.outputs:
            value.metadata_props.clear()


def quantize(source: Path, target: Path, keep: Iterable[str] = ()) -> None:
    """int8: weights per column of each matrix, activations as they come (dynamic quantization).

    keep: names of nodes that stay float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # advice to preprocess, which torch's exporter has done
    try:
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            op_types_to_quantize=list(QUANTIZED),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
        )
    finally:
        root.setLevel(level)


def list_matrices(path: Path) -> dict[str, tuple[str, float]]:
    """What int8 would replace: node → (the module's name, how much int8 loses of the matrix).

    The loss is the rounding noise of the worst column (of a table: of all of it, which has one
    scale), as a share of a typical column's length: one large weight makes a scale coarse for all
    that share it. Cost: one pass over the weights.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    matrices = {}
    for node in graph.node:
        names = [name for name in node.input if name in weights]
        if node.op_type not in QUANTIZED or not names:
            continue
        matrix = numpy_helper.to_array(weights[names[0]])
        if matrix.ndim == 2 and matrix.dtype == np.float32:
            matrices[node.name] = (_module(node), _noise(matrix, node.op_type == "Gather"))
    return matrices


def _noise(matrix: np.ndarray, table: bool) -> float:
    rows = matrix if table else matrix.T  # each of the vectors that belong together
    scales = np.abs(rows).max() if table else np.abs(rows).max(axis=1)
    noise = np.max(scales) / 127 * np.sqrt(rows.shape[1] / 12)
    return float(noise / max(np.median(np.linalg.norm(rows, axis=1)), 1e-12))


def _module(node) -> str:
    """`encoder.layers.0.attention.query`; the tied decoder has no module of its own."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}
    names = [part.strip(" '[]") for part in scopes.get(SCOPES, "").split(",")]
    owners = [name for name in names if name.startswith("model.")]
    return owners[-1].removeprefix("model.") if owners else "decoder"


def describe_graph() -> str:
    """Say which graph is exported and what runs it: latencies of others are not comparable."""
    import onnxruntime

    return f"graph {GRAPH}, ONNX Runtime {onnxruntime.__version__}"


def open_session(path: Path, threads: int):
    """An onnxruntime session on the CPU with this many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def make_encoder_call(
    arch: Arch, vocab_size: int, batch: int, length: int, threads: int, path: Path, int8: bool
) -> Callable[[], Callable[[], object]]:
    """Write an encoder of this shape to `path`; returns what makes its inference call."""
    sizes = ModelConfig(**arch.to_table(), vocab_size=vocab_size, positions=max(512, length))
    export_encoder(Encoder(sizes), path, int8)
    ids = np.random.default_rng(0).integers(2, vocab_size, (batch, length))

    def make() -> Callable[[], object]:
        session = open_session(path, threads)
        return lambda: session.run(None, {"input_ids": ids})

    return make


def require_onnx() -> None:
    """Raises BortError when a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BortError(
            f"ONNX needs the package {error.name}; pip install onnx onnxscript onnxruntime"
        ) from None
