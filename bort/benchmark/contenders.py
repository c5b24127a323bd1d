"""What a benchmark compares: models with the engines that run them, their time and their memory.

torch is imported inside of functions: a process that runs ONNX has to hold what a deployed one
holds.
"""

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bort.console import Progress
from bort.errors import BortError
from bort.files.untrusted import read_json
from bort.models.arch import Arch

logger = logging.getLogger(__name__)

HEADS = {  # by the last part of Hugging Face's class
    "ForMaskedLM": "masked LM",
    "ForSequenceClassification": "classifier",
    "ForMultipleChoice": "choices",
    "Model": "spans",
}


@dataclass(frozen=True)
class Contender:
    """A model and what runs it. disk: bytes of the weights as the engine reads them."""

    name: str
    what: str  # encoder, or the head that it has
    engine: str
    arch: Arch
    vocab: int
    limit: int  # tokens
    parameters: int
    disk: int
    source: str | None = None  # folder or hub name; None: random weights
    file: Path | None = None  # of ONNX


def of_arch(
    arch: Arch, name: str, engines: list[str], vocab: int, limit: int, folder: Path,
    huggingface: bool = False,
) -> Iterator[Contender]:  # fmt: skip
    """The encoder of this shape with random weights; ONNX files are written into `folder`."""
    import torch

    from bort.models import onnx
    from bort.models.bert import Encoder, ModelConfig

    sizes = ModelConfig(**arch.to_table(), vocab_size=vocab, positions=limit)
    with torch.device("meta"):
        count = sum(weight.numel() for weight in Encoder(sizes).parameters())
    plain = Contender(name, "encoder", "measured", arch, vocab, limit, count, 4 * count)
    if huggingface:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in _theirs(plain).parameters())
        yield replace(plain, engine="huggingface", parameters=count, disk=4 * count)
    files = {engine: folder / f"{name}.{engine}.onnx" for engine in engines if engine != "measured"}
    if files:
        whole = folder / f"{name}.onnx"
        onnx.export_encoder(Encoder(sizes), whole)
        if "onnx_int8" in files:
            onnx.quantize(whole, files["onnx_int8"])
        whole.rename(files["onnx"]) if "onnx" in files else whole.unlink()
    for engine in engines:
        if file := files.get(engine):
            yield replace(plain, engine=engine, file=file, disk=file.stat().st_size)
        else:
            yield plain


def of_folder(name: str) -> Contender:
    """A folder as it is: ONNX if it holds that, else PyTorch.

    Raises BortError if there is no model, or one that cannot be read.
    """
    import huggingface_hub

    from bort.models import hub
    from bort.models.bert import Classifier
    from bort.models.huggingface import load_model, name_class

    found = hub.find_model(name)
    file = found / "model.onnx" if isinstance(found, Path) else None
    if file and file.is_file() and not any((found / each).is_file() for each in hub.WEIGHT_FILES):
        return _of_onnx(name, found, file)
    model, _ = load_model(name)
    config = model.config
    what = HEADS[name_class(model) if isinstance(model, Classifier) else "ForMaskedLM"]
    arch = config.arch
    count = sum(weight.numel() for weight in model.parameters())
    if not isinstance(found, Path):
        found = Path(huggingface_hub.snapshot_download(found, local_files_only=True))
    weights = list(found.glob("model*.safetensors")) or [found / "pytorch_model.bin"]
    return Contender(
        name, what, "measured", arch, config.vocab_size, config.limit, count,
        sum(file.stat().st_size for file in weights), name,
    )  # fmt: skip


def _of_onnx(name: str, folder: Path, file: Path) -> Contender:
    """An exported folder; its parameters are those of the model that was exported.

    Where that is not noted, they are the weights in the file, scales of int8 left out.
    """
    from bort.models import hf_config, onnx
    from bort.models.huggingface import load_tokenizer, read_config, read_model_config

    onnx.require_onnx()
    import onnxruntime
    from onnx import TensorProto, load

    settings = read_config(folder)
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    for key in (*keys, "vocab_size", "architectures"):
        if key not in settings:
            raise BortError(f"{folder / 'config.json'} has no {key}; export the model again")
    config = read_model_config(folder)  # checked: anybody may have written it
    arch = config.arch
    kind = hf_config.read_architecture(settings, folder / "config.json").partition("For")[2]
    limit = load_tokenizer(folder).model_max_length
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class for what a file does wrong
        raise BortError(f"{file} is no ONNX model that runs here: {_short(error)}") from None
    for given in session.get_inputs():
        if given.name not in INPUTS:
            raise BortError(f"{file} has the input {given.name}; known are {', '.join(INPUTS)}")
    tensors = load(str(file)).graph.initializer
    int8 = any(tensor.name.endswith("_quantized") for tensor in tensors)
    kinds = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8)
    weights = [t for t in tensors if t.data_type in kinds and t.dims]
    weights = [t for t in weights if not t.name.endswith(("_scale", "_zero_point"))]
    # The file has constants of its own and lacks weights that were folded into others.
    count = _noted_parameters(folder) or sum(int(np.prod(tensor.dims)) for tensor in weights)
    what = HEADS.get(f"For{kind}", "encoder")
    if "spans" in [given.name for given in session.get_inputs()]:
        what = HEADS["Model"]
    return Contender(
        name, what, "onnx_int8" if int8 else "onnx", arch, config.vocab_size, limit, count,
        file.stat().st_size, name, file,
    )  # fmt: skip


def _noted_parameters(folder: Path) -> int | None:
    """The number of parameters in export.json; None in a folder that notes none."""
    path = folder / "export.json"
    count = read_json(path).get("parameters") if path.is_file() else None
    return count if type(count) is int and count > 0 else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def exported(given: Contender, engines: list[str], folder: Path) -> Iterator[Contender]:
    """A model of PyTorch with these engines, for ONNX as `bort.export` ships it, checks included.

    What is ONNX already stays as it is. Raises BortError if int8 would ruin the model.
    """
    from bort.export import run as export

    if given.file:
        yield given
        return
    for engine in engines:
        if engine == "measured":
            yield given
            continue
        out = Path(tempfile.mkdtemp(dir=folder))
        try:
            with _named_after(given.name, export.logger):
                export.export(given.source, engine.replace("_", "-"), out)
        except BortError as error:
            raise BortError(f"{given.name} as {engine}: {error}") from None
        file = out / "model.onnx"
        yield replace(given, engine=engine, file=file, disk=file.stat().st_size)


@contextmanager
def _named_after(model: str, exporter: logging.Logger) -> Iterator[None]:
    """Of the lines of an export, show those about int8 only, behind the name of the model.

    They tell which matrices stay float32, and the share of equal answers.
    """

    def choose(record: logging.LogRecord) -> bool:
        about_int8 = str(record.msg).startswith("int8")
        record.msg = f"{model}: {record.msg}"
        return about_int8

    exporter.addFilter(choose)
    try:
        yield
    finally:
        exporter.removeFilter(choose)


# ----------------------------------------------------------------------------------- measuring

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "spans")


def inputs(names: Iterable[str], vocab: int, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random words in rows without padding, (B, S) int64; spans (B, 2, 2)."""
    ids = np.random.default_rng(0).integers(2, vocab, (batch, length))
    arrays = (ids, np.ones_like(ids), np.zeros_like(ids), np.tile([[1, 2], [2, 3]], (batch, 1, 1)))
    known = dict(zip(INPUTS, arrays, strict=True))
    return {name: known[name] for name in names}


Calls = Callable[[int, int], Callable[[], object]]  # batch, length → one inference


def opened(given: Contender, threads: int) -> Calls:
    """Load the model; what it returns makes an inference of this model at one size."""
    if given.file:
        return _opened_onnx(given, threads)
    import torch

    keys = {"input_ids": "input_ids"}  # name in an exported file: the argument here
    if given.engine == "huggingface":
        model = _theirs(given).eval()
    elif given.source is None:
        from bort.objectives.timing import make_pytorch_call

        return partial(make_pytorch_call, given.arch, given.vocab)
    else:
        from bort.models.huggingface import load_model

        model = load_model(given.source)[0].eval()
        keys["attention_mask"] = "attention_mask"
        if model.config.type_vocab:
            keys["token_type_ids"] = "token_types"
        if getattr(model, "spans", 0):
            keys["spans"] = "spans"

    def make(batch: int, length: int) -> Callable[[], object]:
        arrays = inputs(keys, given.vocab, batch, length)
        tensors = {keys[name]: torch.from_numpy(array) for name, array in arrays.items()}

        def call() -> object:
            with torch.inference_mode():
                return model(**tensors)

        return call

    return make


def _opened_onnx(given: Contender, threads: int) -> Calls:
    """Not by `bort.models.onnx`, which imports torch: what is deployed has none in memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    path = str(given.file)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def make(batch: int, length: int) -> Callable[[], object]:
        return partial(session.run, None, inputs(names, given.vocab, batch, length))

    return make


def _theirs(given: Contender):
    """Hugging Face's encoder of this shape, without pooler, with its own random start."""
    from transformers import BertConfig, BertModel

    arch = given.arch
    config = BertConfig(
        vocab_size=given.vocab,
        hidden_size=arch.hidden,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.heads,
        intermediate_size=arch.intermediate,
        max_position_embeddings=given.limit,
    )
    return BertModel(config, add_pooling_layer=False)


def peaks(given: Contender, sizes: list[tuple[int, int]], threads: int) -> list[int]:
    """Most bytes resident so far, after loading the model and one inference at each size.

    Of the process that calls it, everything included: it must do nothing else. The kernel's own
    high-water mark; getrusage's would start at the parent's.
    """
    if not given.file:
        import torch

        torch.set_num_threads(threads)
    make, found = opened(given, threads), []
    for batch, length in sizes:
        make(batch, length)()
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        found.append(1024 * int(next(x for x in lines if x.startswith("VmHWM:")).split()[1]))
    return found


def memory(
    contenders: list[Contender], sizes: list[tuple[int, int]], threads: int
) -> dict[tuple[Contender, int, int], int]:
    """`peaks` of each in a fresh process; empty where the system has no /proc."""

    found: dict[tuple[Contender, int, int], int] = {}
    if not Path("/proc/self/status").exists():
        return found
    tick, rising = (
        Progress(logger, "benchmark: memory").update,
        sorted(sizes, key=lambda x: x[0] * x[1]),
    )
    for number, each in enumerate(contenders):
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                values = pool.submit(peaks, each, rising, threads).result()
        except BrokenProcessPool:
            raise BortError(
                f"a process with {each.name} ({each.engine}) alone was killed, as for want of "
                "memory; leave the largest of batches= and lengths= out"
            ) from None
        found |= {(each, *size): value for size, value in zip(rising, values, strict=True)}
        tick(number + 1, len(contenders))
    return found


def measure(
    contenders: list[Contender],
    sizes: list[tuple[int, int]],
    threads: int,
    rounds: int,
    with_memory: bool,
) -> list[dict]:
    """A row for each contender at each (batch, length), timed in turns.

    In a round every contender is loaded once, alone, and answers at all sizes. `ratio`: how many
    times faster than the first contender at the same size.
    """
    import torch

    from bort.objectives.timing import time_interleaved

    peak = memory(contenders, sizes, threads) if with_memory else {}
    held: dict[Contender, Calls] = {}

    def make(each: Contender, batch: int, length: int) -> Callable[[], object]:
        if each not in held:
            held.clear()
            held[each] = opened(each, threads)
        return held[each](batch, length)

    calls = {(each, *size): partial(make, each, *size) for each in contenders for size in sizes}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = time_interleaved(calls, rounds, tick=Progress(logger, "benchmark: timing").update)
    finally:
        torch.set_num_threads(before)
    rows = []
    for size in sizes:
        first = found[contenders[0], *size].ms
        for each in contenders:
            time = found[each, *size]
            rows.append(
                {"name": each.name, "measures": each.what, "engine": each.engine}
                | {"batch": size[0], "length": size[1], "threads": threads}
                | {"parameters": each.parameters, "disk_bytes": each.disk}
                | {"median_ms": time.ms, "low_ms": time.low, "high_ms": time.high}
                | {"sequences_per_s": 1e3 * size[0] / time.ms}
                | {"peak_bytes": peak.get((each, *size)), "ratio": first / time.ms}
                | each.arch.to_table()
                | {"vocabulary": each.vocab}
            )
    return rows
