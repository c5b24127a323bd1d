"""Hugging Face folders, both directions: weights, config.json, tokenizers."""

import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bort.console import counted
from bort.errors import BortError, quote, shorten
from bort.files.run_files import read_run_settings
from bort.files.untrusted import read_json
from bort.files.writing import replace_folder, write_json
from bort.models import hf_config
from bort.models.bert import (
    POOLED_HEADS,
    Classifier,
    Encoder,
    MaskedLM,
    ModelConfig,
    measure_head_input,
)
from bort.models.hub import fetch_folder, fetch_model, find_any, find_model, read_weights
from bort.models.initialization import draw_weights, init_std
from bort.models.tokenizer_folder import TOKENIZER_FILES, open_tokenizer, save_tokenizer
from bort.models.weight_names import (
    CLASSIFIER_NAMES,
    HEAD_NAMES,
    LEAVES,
    SCALE,
    complete_names,
    map_weight_names,
    name_class,
    name_family,
    name_kind,
    split_head,
    to_head_weights,
    unfold_scale,
    whole_scale,
)


def load_masked_lm(name: str | os.PathLike, head_required: bool = True) -> MaskedLM:
    """The masked language model of a run folder, a Hugging Face folder or a hub name, in float32.

    With head_required=False, a folder that holds an encoder only gets a fresh head.
    Raises BortError if there is no such model, if it is of another family, if a weight is
    missing or has another shape, or if the file is damaged or wants to run code.
    """
    if head_required and _random_head(name):  # before anything is fetched
        raise BortError(
            "amazon/bort is usable as an encoder, not as a teacher: no masked-LM head "
            "(the published one is random)"
        )
    opened = folder, _, config, weights = _open(name)
    trained = _has_head(config, weights) and not _random_head(name)
    if head_required and not trained:
        raise BortError(f"{folder} is usable as an encoder, not as a teacher: no masked-LM head")
    return _masked_lm(*opened, trained)


def load_masked_lm_or_encoder(name: str | os.PathLike) -> tuple[MaskedLM, bool]:
    """Load a masked LM, or an encoder that gets a fresh head; return whether the head is trained.

    Raises BortError as `load_masked_lm` does.
    """
    opened = _, _, config, weights = _open(name)
    trained = _has_head(config, weights) and not _random_head(name)
    return _masked_lm(*opened, trained), trained


def _random_head(name: str | os.PathLike) -> bool:
    return str(name).lower() == "amazon/bort"


def _has_head(config: ModelConfig, weights: dict[str, Tensor]) -> bool:
    head = HEAD_NAMES[name_family(config)][""] + "."
    return any(key.startswith(head) for key in weights)


def _masked_lm(
    folder: Path, settings: dict, config: ModelConfig, weights: dict[str, Tensor], trained: bool
) -> MaskedLM:
    """trained: whether the head is the file's; else it is fresh."""
    family = name_family(config)
    with torch.device("meta"):
        model = MaskedLM(config)
    names = map_weight_names(model)
    if trained:
        _drop_tied(weights, family, settings, folder)
    else:
        head = HEAD_NAMES[family][""] + "."
        names = {ours: theirs for ours, theirs in names.items() if not theirs.startswith(head)}
    _check(model, names, weights, folder)
    model = model.to_empty(device="cpu")
    if not trained:
        draw_weights(model.head, init_std(config.hidden), torch.Generator().manual_seed(0))
    _fill(model, names, weights, folder)
    return model


def load_classifier(name: str | os.PathLike) -> tuple[Classifier, dict[int, str]]:
    """A fine-tuned folder, also of Hugging Face's own classes, and the names of its outputs.

    Raises BortError if it holds no classifier, and as `load_masked_lm` does.
    """
    opened = folder, *_ = _open(name)
    if (loaded := _classifier(*opened)) is None:
        raise BortError(
            f"{folder} is not a fine-tuned model; train.py experiment=finetune makes one"
        )
    return loaded


def is_classifier(name: str | os.PathLike) -> bool:
    """Return whether a folder holds a fine-tuned model; raises BortError as `load_classifier`."""
    return _classifier(*_open(name)) is not None


def find_classifier(name: str | os.PathLike) -> Classifier | None:
    """Load the classifier of whole inputs in a folder; None where it holds none.

    Raises BortError as `load_classifier` does.
    """
    if (loaded := _classifier(*_open(name))) is None:
        return None
    model, _ = loaded
    is_whole = not model.spans and not model.choices and model.texts_per_row == 1
    return model if is_whole else None


def _classifier(
    folder: Path, settings: dict, config: ModelConfig, weights: dict[str, Tensor]
) -> tuple[Classifier, dict[int, str]] | None:
    """None when the folder holds no classifier."""
    path = folder / "config.json"
    head = hf_config.read_head(settings, path)
    kind = hf_config.read_architecture(settings, path)
    kind = kind.removeprefix(hf_config.CLASS_NAMES[settings["model_type"]])
    kind = kind if head is None else f"For{hf_config.read_kind(settings, path)}"
    names = CLASSIFIER_NAMES.get(kind, {}).get(name_family(config))
    if names is None or f"{names[1]}.weight" not in weights:
        return None
    outputs, spans = _measure_head(weights, names[1], head, config.hidden, folder)
    choices = kind == "ForMultipleChoice"
    labels = {} if choices else hf_config.read_output_names(settings, outputs, path)
    problem = hf_config.read_problem_type(settings, outputs, path)
    multi_label = problem == hf_config.MULTI_LABEL
    with torch.device("meta"):
        model = Classifier(config, outputs, head or "bort", spans, choices, None, multi_label)
    if head is not None:
        split_head(weights, names[1])
    layers = {"out": names[1]} if head else {"dense": names[0], "out": names[1]}
    of_head = {f"{k}.{leaf}": f"{v}.{leaf}" for k, v in layers.items() for leaf in LEAVES}
    names = map_weight_names(model) | of_head
    _check(model, names, weights, folder)
    model = model.to_empty(device="cpu")
    _fill(model, names, weights, folder)
    if outputs == 1:
        unfold_scale(model, settings.get(SCALE))
    return model.eval(), labels


def _measure_head(
    weights: dict[str, Tensor], layer: str, head: str | None, hidden: int, folder: Path
) -> tuple[int, int]:
    """Return how many outputs and how many spans a head has, by the shape of its last layer.

    head: one of bort's own, whose matrix has its biases as the last column; None for another.
    Raises BortError for a shape that no such head has.
    """
    shape = list(weights[f"{layer}.weight"].shape)
    outputs, columns = shape if len(shape) == 2 else (0, 0)
    expected = 1 + measure_head_input(hidden, outputs, head) if head else hidden
    if not outputs or not columns or columns % expected or (head and columns != expected):
        raise BortError(
            f"{folder}: {layer}.weight has shape {quote(shape)}, but config.json asks for rows "
            f"of {expected}"
        )
    return outputs, 0 if head else columns // hidden - 1


def open_model(
    name: str | os.PathLike,
) -> tuple[MaskedLM | Classifier | Encoder, dict[int, str]]:
    """A fine-tuned model and the names of its outputs, or else a masked LM or an encoder, and none.

    Raises BortError as `load_masked_lm` does.
    """
    opened = _, _, config, weights = _open(name)
    if (classifier := _classifier(*opened)) is not None:
        return classifier
    trained = _has_head(config, weights) and not _random_head(name)
    model = _masked_lm(*opened, trained)
    return model if trained else model.encoder, {}


def load_model(name: str | os.PathLike) -> tuple[MaskedLM | Classifier, dict[int, str]]:
    """A fine-tuned model and the names of its outputs, or else a masked LM and none.

    Raises BortError for an encoder without a head, and as `load_masked_lm` does.
    """
    model, labels = open_model(name)
    if isinstance(model, Encoder):
        raise BortError(
            f"{name} is an encoder without a trained head; train.py experiment=finetune "
            f"model={name} gives it one, and AutoModel opens it as it is"
        )
    return model, labels


def read_task_keys(name: str | os.PathLike) -> dict:
    """What a fine-tuned folder that was loaded before says of its task; of others nothing."""
    folder = fetch_folder(find_model(name), ["*.json"], ("config.json",))
    stated = read_json(folder / "config.json")
    labels = stated.get("id2label")
    return hf_config.read_task_settings(
        stated, len(labels) if isinstance(labels, dict) else 1, folder
    )


def read_config(name: str | os.PathLike) -> dict:
    """The config.json of a model that was loaded before."""
    return read_json(fetch_folder(find_model(name), ["*.json"], ("config.json",)) / "config.json")


def read_model_config(folder: Path) -> ModelConfig:
    """What a folder's config.json says of the shape; no weights are read.

    Raises BortError if it is of another family, or damaged.
    """
    path = folder / "config.json"
    return hf_config.parse_config(read_json(path), path)


def _open(name: str | os.PathLike) -> tuple[Path, dict, ModelConfig, dict[str, Tensor]]:
    """Folder, config.json as it is and as ours, and weights by today's names."""
    folder = fetch_model(name)
    settings = read_json(folder / "config.json")
    config = hf_config.parse_config(settings, folder / "config.json")
    family = name_family(config)
    weights = complete_names(read_weights(folder), family)
    _check_depth(config, weights, folder)
    types = f"{family}.embeddings.token_type_embeddings.weight"
    if settings.get("no_token_types") and types in weights and not weights[types].any():
        config.type_vocab = 0  # still zero, as `save` wrote it: nobody trained it since
        del weights[types]
    return folder, settings, config, weights


def _drop_tied(weights: dict[str, Tensor], family: str, settings: dict, folder: Path) -> None:
    """Drops the decoder's copies of tied weights; raises BortError if they are no copies."""
    head = HEAD_NAMES[family][""]
    originals = {
        f"{head}.decoder.weight": f"{family}.embeddings.word_embeddings.weight",
        f"{head}.decoder.bias": f"{head}.bias",
    }
    decoder = f"{head}.decoder.weight"
    untied = settings.get("tie_word_embeddings") is False and decoder not in weights
    for copy, original in originals.items():
        if copy in weights:
            tensor = weights.pop(copy)
            untied |= not torch.equal(tensor, weights.setdefault(original, tensor))
    if untied:
        raise BortError(
            f"{folder} has a decoder of its own ({decoder}); only decoders tied to the word "
            "embedding are supported"
        )


def _check_depth(config: ModelConfig, weights: dict[str, Tensor], folder: Path) -> None:
    """Raise BortError for layers that the file lacks, before a model is as deep as it is told."""
    prefix = f"{name_family(config)}.encoder.layer."
    layers = {name.split(".")[3] for name in weights if name.startswith(prefix)}
    if len(layers) < config.depth:
        raise BortError(
            f"{folder} has {counted(len(layers), 'layer')}, but config.json asks for {config.depth}"
        )


def _check(
    model: MaskedLM | Classifier, names: dict[str, str], weights: dict[str, Tensor], folder: Path
) -> None:
    """Raise BortError where names and shapes of the weights are not those of the model.

    The model is on torch's meta device: nothing has been allocated for it yet.
    """
    state = model.state_dict()
    for ours, theirs in names.items():
        if theirs not in weights:
            raise BortError(f"{folder} lacks the weight {theirs}; fetch the model again")
        stored, expected = list(weights[theirs].shape), list(state[ours].shape)
        if stored != expected:
            raise BortError(
                f"{folder}: {theirs} has shape {quote(stored)}, but config.json asks for {expected}"
            )
    encoder = tuple(f"{name_family(model.config)}.{part}." for part in ("embeddings", "encoder"))
    for extra in weights.keys() - set(names.values()):
        if extra.startswith(encoder) and not extra.endswith(("position_ids", "token_type_ids")):
            raise BortError(
                f"{folder} has the weight {shorten(extra)}, which config.json has no place for"
            )


@torch.no_grad()
def _fill(
    model: MaskedLM | Classifier, names: dict[str, str], weights: dict[str, Tensor], folder: Path
) -> None:
    """Copy weights into the model; raises BortError for one that is no number or infinite."""
    state = model.state_dict()
    for ours, theirs in names.items():
        state[ours].copy_(weights.pop(theirs))
        low, high = torch.aminmax(state[ours])
        if not torch.isfinite(low) or not torch.isfinite(high):
            raise BortError(f"{folder}: {theirs} holds numbers that are infinite or not numbers")


def load_tokenizer(name: str | os.PathLike) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a run folder, model or tokenizer folder, or hub name.

    Where the folder also has a config.json, `model_max_length` is at most the model's true limit.
    Raises BortError if it has more tokens than the model, and as `open_tokenizer` does.
    """
    model = find_any(str(name), ("config.json", *TOKENIZER_FILES))
    folder = fetch_folder(model, ["*.json", "*.txt"], TOKENIZER_FILES)
    tokenizer = open_tokenizer(folder)
    if (folder / "config.json").is_file():
        _fit(tokenizer, folder)
    return tokenizer


def _fit(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    settings = read_json(folder / "config.json")
    vocab_size, limit = hf_config.read_limits(settings, folder / "config.json")
    most = max(tokenizer.get_vocab().values()) + 1
    if vocab_size is not None and most > vocab_size:
        raise BortError(
            f"the tokenizer in {folder} has {most} tokens, its model only {vocab_size}; "
            "they do not belong together"
        )
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)


def save_model(
    model: MaskedLM | Classifier | Encoder,
    tokenizer: PreTrainedTokenizerFast,
    folder: str | os.PathLike,
    extra: dict | None = None,
    state: dict[str, Tensor] | None = None,
    files: dict[str, Any] | None = None,
) -> None:
    """Writes model and tokenizer as a whole Hugging Face folder that needs no code of ours.

    An encoder is written as one without any head. extra: further keys of config.json. state: the
    weights of a masked LM that holds pieces of them only; an encoder leaves those of the head out.
    files: the contents of further JSON files, by their paths in the folder.
    An existing folder is replaced only when the new one is complete; files that bort does not write
    stay in it. Raises BortError if it cannot be written, or holds anything but a model.
    """
    folder, config = Path(folder), model.config
    in_run = read_run_settings(folder.parent) is not None  # where bort chose the name
    if folder.exists() and not (in_run or (folder / "config.json").is_file()):
        if not folder.is_dir() or any(folder.iterdir()):
            raise BortError(f"{folder} exists and is not a model folder; give another place")
    try:
        with replace_folder(folder) as fresh:
            write_json(fresh / "config.json", _settings(model, tokenizer) | (extra or {}))
            safetensors.torch.save_file(
                _hf_weights(model, state), fresh / "model.safetensors", metadata={"format": "pt"}
            )
            save_tokenizer(tokenizer, fresh, config.limit, config.type_vocab > 1)
            for path, content in (files or {}).items():
                write_json(fresh / path, content)
    except (OSError, SafetensorError) as e:
        raise BortError(f"cannot write the model folder {folder}: {e}") from None


def _hf_weights(
    model: MaskedLM | Classifier | Encoder, state: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    config = model.config
    if state is None:
        prefix = "encoder." if isinstance(model, Encoder) else ""
        state = {prefix + name: weight for name, weight in model.state_dict().items()}
    weights = {
        theirs: state[ours].detach().float().cpu().contiguous()
        for ours, theirs in map_weight_names(model).items()
    }
    if "lm_head.bias" in weights:  # of RoBERTa: transformers 4 takes it from the decoder, or 0
        weights["lm_head.decoder.bias"] = weights["lm_head.bias"].clone()
    if not config.type_vocab:  # Hugging Face always adds a token type: one that changes nothing
        types = f"{name_family(config)}.embeddings.token_type_embeddings.weight"
        weights[types] = torch.zeros(1, config.hidden)
    if isinstance(model, Classifier):
        weights |= to_head_weights(model)
    return weights


def _settings(model: MaskedLM | Classifier | Encoder, tokenizer: PreTrainedTokenizerFast) -> dict:
    """config.json of this model."""
    config = model.config
    family = name_family(config)
    kind = "ForMaskedLM" if isinstance(model, MaskedLM) else name_class(model)
    settings = {
        "architectures": [f"{family.capitalize()}{kind}"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "hidden_act": config.activation,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.positions + config.position_offset,
        "type_vocab_size": config.type_vocab or 1,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    for kind in ("bos", "eos", "cls", "sep"):
        settings[f"{kind}_token_id"] = getattr(tokenizer, f"{kind}_token_id")
    if not config.type_vocab:
        settings["no_token_types"] = True  # read back by load_masked_lm
    if isinstance(model, Classifier) and model.scale is not None:
        settings[SCALE] = list(whole_scale(model))
    if isinstance(model, Classifier) and model.head in POOLED_HEADS:
        settings |= {hf_config.HEAD: model.head, hf_config.KIND: name_kind(model)[len("For") :]}
    if config.length is not None:
        settings["bort_length"] = config.length
    return settings
