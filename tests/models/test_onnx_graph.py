"""The exported graph: the answers of PyTorch, and what ONNX Runtime makes of it."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bort.models.arch import Arch
from bort.models.bert import Encoder, MaskedLM, ModelConfig
from bort.models.initialization import build_classifier, build_model
from bort.models.onnx import export_encoder, export_onnx, list_matrices, quantize
from bort.models.onnx_graph import arrange_for_export

ARCH = Arch(2, 4, 32, 48)
SHAPES = ((1, 1), (1, 2), (3, 1), (2, 2), (1, 24), (5, 9), (2, 17))


def draw_model(**sizes) -> MaskedLM:
    """A masked language model with weights that are large enough for its answers to differ."""
    config = ModelConfig(**(vars(ARCH) | {"vocab_size": 80, "positions": 24} | sizes))
    model = build_model(config, "default", 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def draw_batch(batch: int, length: int, config: ModelConfig, spans: int) -> dict[str, torch.Tensor]:
    """Rows of unequal length; with three rows and more, one is padding only."""
    generator = torch.Generator().manual_seed(batch * 100 + length)
    ids = torch.randint(2, config.vocab_size, (batch, length), generator=generator)
    real = torch.randint(1, length + 1, (batch,), generator=generator)
    real[0] = length
    if batch > 2:
        real[2] = 0
    mask = (torch.arange(length) < real[:, None]).long()
    inputs = {
        "input_ids": torch.where(mask.bool(), ids, config.pad_id),
        "attention_mask": mask,
        "token_type_ids": torch.arange(length).expand(batch, -1) % 2 * mask,
        "spans": torch.tensor([[[0, 1], [length - 1, length]][:spans]] * batch),
    }
    dropped = (() if spans else ("spans",)) + (() if config.type_vocab else ("token_type_ids",))
    return {name: tensor for name, tensor in inputs.items() if name not in dropped}


def compare_logits(model, path, shapes=SHAPES) -> float:
    """The largest difference of a logit between PyTorch and the file, as a share of the largest."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences, largest = [], 0.0
    for batch, length in shapes:
        inputs = draw_batch(batch, length, model.config, getattr(model, "spans", 0))
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        inputs["token_types"] = inputs.pop("token_type_ids", None)
        with torch.no_grad():
            expected = model(**inputs).numpy()
        assert found.shape == expected.shape and found.dtype == expected.dtype
        differences.append(np.abs(found - expected).max())
        largest = max(largest, np.abs(expected).max())
    return max(differences) / largest


def optimize(path, folder) -> onnx.GraphProto:
    """The graph that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph


def count_operations(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A model in BERT's style, and its file."""
    model, path = draw_model(type_vocab=2), tmp_path_factory.mktemp("bert") / "model.onnx"
    export_onnx(model, path)
    return model, path


def test_masked_words_are_those_of_pytorch(bert):
    model, path = bert
    onnx.checker.check_model(str(path), full_check=True)
    assert {opset.domain for opset in onnx.load(path).opset_import} == {""}  # no runtime's own
    assert compare_logits(model, path) < 1e-5


def test_masked_words_of_roberta_are_those_of_pytorch(tmp_path):
    model = draw_model(position_offset=2, activation="relu")
    export_onnx(model, tmp_path / "model.onnx")
    assert compare_logits(model, tmp_path / "model.onnx") < 1e-5


@pytest.mark.parametrize(
    ("outputs", "head", "spans", "choices", "scale"),
    [
        (3, "linear2", 0, False, None),
        (2, "bort", 2, False, None),
        (1, "linear", 0, True, None),
        (1, "bort", 0, False, (1000.0, 2.5)),
    ],
    ids=["classes", "marked words", "choices", "numbers"],
)
def test_classifiers_are_those_of_pytorch(tmp_path, outputs, head, spans, choices, scale):
    model = build_classifier(
        draw_model(type_vocab=2), outputs, head, spans, choices, scale=scale
    ).eval()
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    shapes = SHAPES if not spans else [shape for shape in SHAPES if shape[1] > 1]
    assert compare_logits(model, path, shapes) < 1e-5


def test_onnx_runtime_joins_what_it_can(tmp_path):
    """No slow layer norm, one operation for GELU, and one transposition for each attention."""
    encoder, path = draw_model().encoder, tmp_path / "encoder.onnx"
    export_encoder(encoder, path)
    quantize(path, tmp_path / "int8.onnx")
    assert not count_operations(onnx.load(path).graph)["Where"]  # without a mask nothing is masked
    for file, product in ((path, "Gemm"), (tmp_path / "int8.onnx", "DynamicQuantizeMatMul")):
        counts = count_operations(optimize(file, tmp_path))
        assert not [name for name in counts if "SkipLayerNorm" in name]
        assert counts["LayerNormalization"] == 1 + 2 * ARCH.depth
        assert counts[product] and counts["FusedMatMul"] == 2 * ARCH.depth
        assert counts["Transpose"] <= ARCH.depth + 2  # that of the states, before and after
        assert counts["Gelu"] == ARCH.depth and not counts["Erf"]
    assert counts["DynamicQuantizeLinear"] == ARCH.depth  # query, key and value share one


def test_the_mask_is_computed_once(bert, tmp_path):
    _, path = bert
    counts = count_operations(onnx.load(path).graph)
    assert counts["Where"] == 1 and not counts["IsNaN"]
    assert not [name for name in count_operations(optimize(path, tmp_path)) if "SkipLayer" in name]


def test_matrices_keep_the_names_of_their_modules(bert, tmp_path):
    (_, path), layers = bert, [f"encoder.layers.{k}" for k in range(ARCH.depth)]
    matrices = list_matrices(path)
    names = {name for name, _ in matrices.values()}
    for layer in layers:
        parts = ("query", "key", "value", "output")
        assert {f"{layer}.attention.{part}" for part in parts} <= names
        assert {f"{layer}.up", f"{layer}.down"} <= names
    assert "encoder.embeddings.words" in names or "encoder.embeddings" in names
    (kept,) = [node for node, (name, _) in matrices.items() if name == f"{layers[1]}.up"]
    quantize(path, tmp_path / "int8.onnx", [kept])
    left = onnx.load(tmp_path / "int8.onnx").graph.node
    assert [node.op_type for node in left if node.name == kept] == ["MatMul"]
    assert not [n.name for n in left if n.name in set(matrices) - {kept} and n.op_type == "MatMul"]


def test_the_model_stays_as_it_is():
    model = draw_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arranged = arrange_for_export(model)
    assert isinstance(model.encoder, Encoder) and model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    words = [m.encoder.embeddings.words.weight for m in (arranged, model)]
    assert words[0] is words[1]  # nothing large is copied, and the decoder is still tied
