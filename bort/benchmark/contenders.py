"""What a benchmark compares: models, and the engines that run them.

torch is imported inside of functions: a process that runs ONNX has to hold what a deployed one
holds.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from bort.errors import BortError, shorten
from bort.files.ownership import EXPORT
from bort.files.untrusted import read_json
from bort.models.arch import Arch

HEADS = {  # by the last part of Hugging Face's class, or bort's own head
    "ForMaskedLM": "masked LM",
    "ForSequenceClassification": "classifier",
    "ForMultipleChoice": "choices",
    "Model": "spans",
    "towers": "two texts",
    "ForEmbedding": "embedding",
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "spans")
Calls = Callable[[int, int], Callable[[], object]]  # batch, length → one inference


@dataclass(frozen=True)
class Contender:
    """A model and the engine that runs it."""

    name: str
    measures: str  # encoder, or the head that it has
    engine: str
    arch: Arch
    vocab: int
    limit: int  # tokens
    parameters: int
    disk: int  # bytes of the weights as the engine reads them
    source: str | None = None  # folder or hub name; None: random weights
    file: Path | None = None  # of ONNX
    texts: int = 1  # that a row has: 2 where the texts of a pair are encoded apart

    @classmethod
    def of_random_encoder(cls, arch: Arch, name: str, vocab: int, limit: int) -> Self:
        """Describe the encoder of a shape with random weights, run by PyTorch."""
        import torch

        from bort.models.bert import Encoder, ModelConfig

        sizes = ModelConfig(**vars(arch), vocab_size=vocab, positions=limit)
        with torch.device("meta"):
            count = sum(weight.numel() for weight in Encoder(sizes).parameters())
        return cls(name, "encoder", "measured", arch, vocab, limit, count, 4 * count)


def describe_encoders(
    encoder: Contender, engines: list[str], folder: Path, huggingface: bool = False
) -> Iterator[Contender]:
    """Yield an encoder with these engines; ONNX files are written into the folder.

    huggingface: also the same shape as Hugging Face's BertModel, before the others.
    """
    import torch

    from bort.models import onnx
    from bort.models.bert import Encoder, ModelConfig

    if huggingface:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in _build_huggingface(encoder).parameters())
        yield replace(encoder, engine="huggingface", parameters=count, disk=4 * count)
    files = {
        engine: folder / f"{encoder.name}.{engine}.onnx"
        for engine in engines
        if engine != "measured"
    }
    if files:
        sizes = ModelConfig(**vars(encoder.arch), vocab_size=encoder.vocab, positions=encoder.limit)
        float32 = folder / f"{encoder.name}.onnx"
        onnx.export_encoder(Encoder(sizes), float32)
        if "onnx_int8" in files:
            onnx.quantize(float32, files["onnx_int8"])
        float32.rename(files["onnx"]) if "onnx" in files else float32.unlink()
    for engine in engines:
        if file := files.get(engine):
            yield replace(encoder, engine=engine, file=file, disk=file.stat().st_size)
        else:
            yield encoder


def open_contender(name: str) -> Contender:
    """Describe the model of a folder as it is: ONNX if it holds that, else PyTorch.

    Raises BortError if there is no model, or one that cannot be read.
    """
    import huggingface_hub

    from bort.embeddings.embedder import Embedder, load_shippable
    from bort.models import hub
    from bort.models.bert import Classifier
    from bort.models.weight_names import name_kind

    folder = hub.find_model(name)
    file = folder / "model.onnx" if isinstance(folder, Path) else None
    has_weights = file and any((folder / weights).is_file() for weights in hub.WEIGHT_FILES)
    if file and file.is_file() and not has_weights:
        return _open_onnx_folder(name, folder, file)
    model, _ = load_shippable(name)
    if not isinstance(folder, Path):
        folder = Path(huggingface_hub.snapshot_download(folder, local_files_only=True))
    weights = list(folder.glob("model*.safetensors")) or [folder / "pytorch_model.bin"]
    kind = name_kind(model) if isinstance(model, Classifier) else "ForMaskedLM"
    kind = "ForEmbedding" if isinstance(model, Embedder) else kind
    texts = getattr(model, "texts_per_row", 1)
    return Contender(
        name=name,
        measures=HEADS["towers" if texts == 2 else kind],
        engine="measured",
        arch=model.config.arch,
        vocab=model.config.vocab_size,
        limit=model.config.limit,
        parameters=sum(weight.numel() for weight in model.parameters()),
        disk=sum(path.stat().st_size for path in weights),
        source=name,
        texts=texts,
    )


def _open_onnx_folder(name: str, folder: Path, file: Path) -> Contender:
    """Describe an exported folder; its parameters are those of the model that was exported.

    Where their number is not noted, they are the weights in the file, scales of int8 left out.
    """
    from bort.models import hf_config
    from bort.models.huggingface import load_tokenizer, read_config, read_model_config
    from bort.models.onnx import require_onnx

    require_onnx()
    from onnx import load

    settings = read_config(folder)
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    for key in (*keys, "vocab_size", "architectures"):
        if key not in settings:
            raise BortError(f"{folder / 'config.json'} has no {key}; export the model again")
    config = read_model_config(folder)  # checked: anybody may have written it
    kind = f"For{hf_config.read_kind(settings, folder / 'config.json')}"
    if hf_config.read_head(settings, folder / "config.json") == "towers":
        kind = "towers"
    inputs = _read_inputs(file)
    tensors = load(str(file)).graph.initializer
    is_int8 = any(tensor.name.endswith("_quantized") for tensor in tensors)
    return Contender(
        name=name,
        measures=HEADS["Model"] if "spans" in inputs else HEADS.get(kind, "encoder"),
        engine="onnx_int8" if is_int8 else "onnx",
        arch=config.arch,
        vocab=config.vocab_size,
        limit=load_tokenizer(folder).model_max_length,
        # The file has constants of its own and lacks weights that were folded into others.
        parameters=_read_noted_parameters(folder) or _count_weights(tensors),
        disk=file.stat().st_size,
        source=name,
        file=file,
        texts=2 if kind == "towers" else 1,
    )


def _read_inputs(file: Path) -> list[str]:
    """Return the names of an ONNX file's inputs; raises BortError for one that is not ours."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class for what a file does wrong
        raise BortError(f"{file} is no ONNX model that runs here: {shorten(error, 160)}") from None
    names = [item.name for item in session.get_inputs()]
    for name in names:
        if name not in INPUTS:
            raise BortError(f"{file} has the input {name}; known are {', '.join(INPUTS)}")
    return names


def _count_weights(tensors: Iterable[Any]) -> int:
    """Count the weights among the tensors of an ONNX file, without the scales of int8."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8)
    weights = [tensor for tensor in tensors if tensor.data_type in kinds and tensor.dims]
    scales = ("_scale", "_zero_point")
    return sum(int(np.prod(item.dims)) for item in weights if not item.name.endswith(scales))


def _read_noted_parameters(folder: Path) -> int | None:
    """Return the number of parameters in export.json; None in a folder that notes none."""
    path = folder / EXPORT
    count = read_json(path).get("parameters") if path.is_file() else None
    return count if type(count) is int and count > 0 else None


def export_forms(model: Contender, engines: list[str], folder: Path) -> Iterator[Contender]:
    """Yield a model of PyTorch with these engines, for ONNX as `bort.export` ships it, checked.

    What is ONNX already stays as it is. Raises BortError if int8 would ruin the model.
    """
    from bort.export import checks
    from bort.export.run import export

    if model.file:
        yield model
        return
    for engine in engines:
        if engine == "measured":
            yield model
            continue
        out = Path(tempfile.mkdtemp(dir=folder))
        try:
            with _name_lines(model.name, checks.logger):
                export(model.source, engine.replace("_", "-"), out)
        except BortError as error:
            raise BortError(f"{model.name} as {engine}: {error}") from None
        file = out / "model.onnx"
        yield replace(model, engine=engine, file=file, disk=file.stat().st_size)


@contextmanager
def _name_lines(model: str, logger: logging.Logger) -> Iterator[None]:
    """Show only the lines of an export's checks that are about int8, behind the model's name.

    They tell which matrices stay float32, and the share of equal answers.
    """

    def choose(record: logging.LogRecord) -> bool:
        about_int8 = str(record.msg).startswith("int8")
        record.msg = f"{model}: {record.msg}"
        return about_int8

    logger.addFilter(choose)
    try:
        yield
    finally:
        logger.removeFilter(choose)


# ------------------------------------------------------------------------------------ calls


def make_inputs(names: Iterable[str], vocab: int, batch: int, length: int) -> dict[str, np.ndarray]:
    """Return random words in rows without padding, (B, S) int64; spans are (B, 2, 2)."""
    ids = np.random.default_rng(0).integers(2, vocab, (batch, length))
    arrays = (ids, np.ones_like(ids), np.zeros_like(ids), np.tile([[1, 2], [2, 3]], (batch, 1, 1)))
    inputs = dict(zip(INPUTS, arrays, strict=True))
    return {name: inputs[name] for name in names}


def load_calls(contender: Contender, threads: int) -> Calls:
    """Load a model and return what makes an inference of it at one size."""
    if contender.file:
        return _load_onnx_calls(contender, threads)
    import torch

    keys = {"input_ids": "input_ids"}  # name in an exported file: the argument here
    if contender.engine == "huggingface":
        model = _build_huggingface(contender).eval()
    elif contender.source is None:
        from bort.objectives.timing import make_pytorch_call

        return partial(make_pytorch_call, contender.arch, contender.vocab)
    else:
        from bort.embeddings.embedder import load_shippable

        model = load_shippable(contender.source)[0].eval()
        keys["attention_mask"] = "attention_mask"
        if model.config.type_vocab:
            keys["token_type_ids"] = "token_types"
        if getattr(model, "spans", 0):
            keys["spans"] = "spans"

    def make_call(batch: int, length: int) -> Callable[[], object]:
        arrays = make_inputs(keys, contender.vocab, batch * contender.texts, length)
        tensors = {keys[name]: torch.from_numpy(array) for name, array in arrays.items()}

        def call() -> object:
            with torch.inference_mode():
                return model(**tensors)

        return call

    return make_call


def _load_onnx_calls(contender: Contender, threads: int) -> Calls:
    """Load an ONNX file, not by `bort.models.onnx`: what is deployed has no torch in memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    path = str(contender.file)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def make_call(batch: int, length: int) -> Callable[[], object]:
        inputs = make_inputs(names, contender.vocab, batch * contender.texts, length)
        return partial(session.run, None, inputs)

    return make_call


def _build_huggingface(encoder: Contender) -> Any:
    """Build Hugging Face's encoder of this shape, without pooler, with its own random start."""
    from transformers import BertConfig, BertModel

    arch = encoder.arch
    config = BertConfig(
        vocab_size=encoder.vocab,
        hidden_size=arch.hidden,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.heads,
        intermediate_size=arch.intermediate,
        max_position_embeddings=encoder.limit,
    )
    return BertModel(config, add_pooling_layer=False)
