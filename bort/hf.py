"""Hugging Face folders, both directions: names of weights, config.json, tokenizers."""

import math
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
)

from bort.errors import BortError
from bort.files import replacing_folder, write_json
from bort.foreign import read_json
from bort.hub import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    find,
    find_any,
    local_folder,
    read_weights,
)
from bort.model import Classifier, MaskedLM, ModelConfig, draw, empty, init_std

FAMILIES = {"bert": BertConfig, "roberta": RobertaConfig}

EMBEDDING_NAMES = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "types": "token_type_embeddings",
    "norm": "LayerNorm",
}
LAYER_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
HEAD_NAMES = {  # the key "" is the head itself, which holds the decoder's bias
    "bert": {
        "": "cls.predictions",
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
    },
    "roberta": {"": "lm_head", "dense": "lm_head.dense", "norm": "lm_head.layer_norm"},
}
CLASSIFIER_NAMES = {  # dense and output; a span model has no counterpart in Hugging Face
    "ForSequenceClassification": {
        "bert": ("bert.pooler.dense", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
    },
    "ForMultipleChoice": {
        "bert": ("bert.pooler.dense", "classifier"),
        "roberta": ("roberta.pooler.dense", "classifier"),
    },
    "Model": {
        "bert": ("span_head.dense", "span_head.out"),
        "roberta": ("span_head.dense", "span_head.out"),
    },
}


def load_masked_lm(name: str | os.PathLike, head_required: bool = True) -> MaskedLM:
    """The masked language model of a run folder, a Hugging Face folder or a hub name, in float32.

    With head_required=False, a folder that holds an encoder only gets a fresh head.
    Raises BortError if there is no such model, if it is neither BERT nor RoBERTa, if a weight is
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


def _random_head(name: str | os.PathLike) -> bool:
    return str(name).lower() == "amazon/bort"


def _has_head(config: ModelConfig, weights: dict[str, Tensor]) -> bool:
    head = HEAD_NAMES[_family(config)][""] + "."
    return any(key.startswith(head) for key in weights)


def _masked_lm(
    folder: Path, settings: dict, config: ModelConfig, weights: dict[str, Tensor], trained: bool
) -> MaskedLM:
    """trained: whether the head is the file's; else it is fresh."""
    family, model = _family(config), empty(config)
    names = hf_names(model)
    if trained:
        _drop_tied(weights, family, settings, folder)
    else:
        draw(model.head, init_std(config.hidden), torch.Generator().manual_seed(0))
        head = HEAD_NAMES[family][""] + "."
        names = {ours: theirs for ours, theirs in names.items() if not theirs.startswith(head)}
    _fill(model, names, weights, folder)
    return model


def load_classifier(name: str | os.PathLike) -> tuple[Classifier, dict[int, str]]:
    """A fine-tuned folder, also of Hugging Face's own classes, and the names of its outputs.

    Raises BortError if it holds no classifier, and as `load_masked_lm` does.
    """
    opened = _open(name)
    if (found := _classifier(*opened)) is None:
        raise BortError(
            f"{opened[0]} is not a fine-tuned model; train.py experiment=finetune makes one"
        )
    return found


def _classifier(
    folder: Path, settings: dict, config: ModelConfig, weights: dict[str, Tensor]
) -> tuple[Classifier, dict[int, str]] | None:
    """None when the folder holds no classifier."""
    family = _family(config)
    kind = str((settings.get("architectures") or [""])[0]).removeprefix(family.capitalize())
    names = CLASSIFIER_NAMES.get(kind, {}).get(family)
    if names is None or f"{names[1]}.weight" not in weights:
        return None
    outputs, width = weights[f"{names[1]}.weight"].shape
    spans = width // config.hidden - 1
    with torch.device("meta"):
        model = Classifier(config, outputs, "bort", spans, kind == "ForMultipleChoice")
    model = model.to_empty(device="cpu")
    layers = {"dense": names[0], "out": names[1]}
    head = {f"{k}.{leaf}": f"{v}.{leaf}" for k, v in layers.items() for leaf in ("weight", "bias")}
    _fill(model, hf_names(model) | head, weights, folder)
    if outputs == 1:
        _unfold_scale(model, settings.get(SCALE))
    labels = settings.get("id2label") or {}
    return model.eval(), {int(number): label for number, label in labels.items()}


SCALE = "bort_scale"  # of a regression, in config.json: [offset, factor]


@torch.no_grad()
def _unfold_scale(model: Classifier, stated: object) -> None:
    """Take the scale of a regression out of the last layer, where `save` put it.

    Only if it is the one that the weights have: config.json may have been edited, or the weights
    trained on by others. The folded layer then answers here as it does everywhere.
    """
    try:
        offset, factor = map(float, stated)
    except (TypeError, ValueError, OverflowError):
        return
    folded = torch.tensor([offset], dtype=torch.float64).float()
    if math.isfinite(factor) and factor and torch.equal(model.out.bias, folded):
        model.out.weight.div_(factor)
        model.out.bias.zero_()
        model.scale = (offset, factor)


def _whole_scale(model: Classifier) -> tuple[float, float]:
    """Offset, the bias of the last layer included, and factor of a regression, in float64."""
    offset, factor = model.scale
    return offset + factor * model.out.bias.item(), factor


# Keys of config.json that a task gave it.
OF_A_TASK = ("id2label", "label2id", "problem_type", "bort_task", "bort_texts")


def load(name: str | os.PathLike) -> tuple[MaskedLM | Classifier, dict[int, str]]:
    """A fine-tuned model and the names of its outputs, or else a masked LM and none.

    Raises BortError for an encoder without a head, and as `load_masked_lm` does.
    """
    opened = folder, _, config, weights = _open(name)
    if (found := _classifier(*opened)) is not None:
        return found
    if not _has_head(config, weights) or _random_head(name):
        raise BortError(
            f"{folder} is an encoder without a trained head; train.py experiment=finetune "
            f"model={name} gives it one"
        )
    return _masked_lm(*opened, trained=True), {}


def settings(name: str | os.PathLike) -> dict:
    """The config.json of a model that was loaded before."""
    return read_json(local_folder(find(name), ["*.json"], ("config.json",)) / "config.json")


def model_config(folder: Path) -> ModelConfig:
    """What a folder's config.json says of the shape; no weights are read.

    Raises BortError if it is neither BERT nor RoBERTa, or damaged.
    """
    return _config(read_json(folder / "config.json"), folder)


def _open(name: str | os.PathLike) -> tuple[Path, dict, ModelConfig, dict[str, Tensor]]:
    """Folder, config.json as it is and as ours, and weights by today's names."""
    found = find(name)
    folder = local_folder(found, ["*.json", "model*.safetensors"], WEIGHT_FILES)
    if not any((folder / file).is_file() for file in WEIGHT_FILES):
        folder = local_folder(found, ["pytorch_model.bin"], WEIGHT_FILES)
    settings = read_json(folder / "config.json")
    config = _config(settings, folder)
    family = _family(config)
    weights = _full_names(read_weights(folder), family)
    types = f"{family}.embeddings.token_type_embeddings.weight"
    if settings.get("no_token_types") and types in weights and not weights[types].any():
        config.type_vocab = 0  # still zero, as `save` wrote it: nobody trained it since
        del weights[types]
    return folder, settings, config, weights


def _family(config: ModelConfig) -> str:
    return "roberta" if config.position_offset else "bert"


def _config(settings: dict, folder: Path) -> ModelConfig:
    """The ModelConfig that config.json describes; what it leaves out has Hugging Face's default."""
    where, kind = folder / "config.json", settings.get("model_type")
    if kind not in FAMILIES:
        raise BortError(f"{where} says model_type={kind}; supported are bert and roberta")
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise BortError(f"{where} asks for relative positions; only absolute ones are supported")
    if settings.get("is_decoder"):
        raise BortError(f"{where} says is_decoder; only bidirectional encoders are supported")
    defaults = FAMILIES[kind]()

    def value(key: str, kinds: type | tuple):
        found = settings.get(key)
        found = getattr(defaults, key) if found is None else found
        if not isinstance(found, kinds):
            raise BortError(f"{where} has {key}={found!r}, which is not a number")
        return found

    pad_id = value("pad_token_id", int)
    offset = pad_id + 1 if kind == "roberta" else 0
    try:
        return ModelConfig(
            depth=value("num_hidden_layers", int),
            heads=value("num_attention_heads", int),
            hidden=value("hidden_size", int),
            intermediate=value("intermediate_size", int),
            vocab_size=value("vocab_size", int),
            positions=value("max_position_embeddings", int) - offset,
            position_offset=offset,
            type_vocab=value("type_vocab_size", int),
            pad_id=pad_id,
            dropout=value("hidden_dropout_prob", (int, float)),
            attention_dropout=value("attention_probs_dropout_prob", (int, float)),
            layer_norm_eps=value("layer_norm_eps", (int, float)),
            activation=str(settings.get("hidden_act", defaults.hidden_act)),
        )
    except BortError as e:
        raise BortError(f"{where}: {e}") from None


def _full_names(weights: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Today's names for those of an encoder saved alone, and of 2018 (gamma, beta)."""
    full = {}
    for name, tensor in weights.items():
        name = name.removesuffix(".gamma") + ".weight" if name.endswith(".gamma") else name
        name = name.removesuffix(".beta") + ".bias" if name.endswith(".beta") else name
        if name.startswith(("embeddings.", "encoder.")):
            name = f"{family}.{name}"
        full[name] = tensor
    return full


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


def hf_names(model: MaskedLM | Classifier) -> dict[str, str]:
    """Hugging Face's name of each of our weights; of a classifier, of those of its encoder."""
    family, names = _family(model.config), {}
    for ours in model.state_dict():
        module, leaf = ours.rsplit(".", 1)
        if module.startswith("encoder.layers."):
            index, part = module.removeprefix("encoder.layers.").split(".", 1)
            theirs = f"{family}.encoder.layer.{index}.{LAYER_NAMES[part]}"
        elif module.startswith("encoder.embeddings."):
            part = module.removeprefix("encoder.embeddings.")
            theirs = f"{family}.embeddings.{EMBEDDING_NAMES[part]}"
        elif isinstance(model, Classifier):
            continue
        else:
            theirs = HEAD_NAMES[family][module.removeprefix("head").removeprefix(".")]
        names[ours] = f"{theirs}.{leaf}"
    return names


def _fill(
    model: MaskedLM | Classifier, names: dict[str, str], weights: dict[str, Tensor], folder: Path
) -> None:
    """Copies weights into the model, where each one of the encoder must have its place."""
    state = model.state_dict()
    for ours, theirs in names.items():
        if theirs not in weights:
            raise BortError(f"{folder} lacks the weight {theirs}; fetch the model again")
        found, asked = list(weights[theirs].shape), list(state[ours].shape)
        if found != asked:
            raise BortError(
                f"{folder}: {theirs} has shape {found}, but config.json asks for {asked}"
            )
        state[ours].copy_(weights.pop(theirs))
    encoder = tuple(f"{_family(model.config)}.{part}." for part in ("embeddings", "encoder"))
    for extra in weights:
        if extra.startswith(encoder) and not extra.endswith(("position_ids", "token_type_ids")):
            raise BortError(f"{folder} has the weight {extra}, which config.json has no place for")


def load_tokenizer(name: str | os.PathLike) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a run folder, model or tokenizer folder, or hub name.

    Where the folder also has a config.json, `model_max_length` is at most the model's true limit.
    Raises BortError if there is no tokenizer, if it has more tokens than the model, or lacks one of
    the tokens that start, end, mask and pad a sequence.
    """
    found = find_any(str(name), ("config.json", *TOKENIZER_FILES))
    folder = local_folder(found, ["*.json", "*.txt"], TOKENIZER_FILES)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        # transformers would answer with a tokenizer of five tokens.
        raise BortError(f"{folder} holds no tokenizer; looked for {', '.join(TOKENIZER_FILES)}")
    try:
        tokenizer = _open_tokenizer(folder)
    except Exception as e:  # whatever a foreign file makes the library raise is the file's fault
        reason = " ".join(str(e).split())[:200]
        raise BortError(f"cannot read the tokenizer in {folder}: {reason}") from None
    special = {"cls": "bos", "sep": "eos", "mask": "mask", "pad": "pad"}
    for kind, other in special.items():
        if getattr(tokenizer, f"{kind}_token_id") is None:
            if getattr(tokenizer, f"{other}_token_id") is None:
                raise BortError(f"the tokenizer in {folder} has no {kind} token, which is needed")
    if (folder / "config.json").is_file():
        _fit(tokenizer, folder)
    return tokenizer


def _open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    stated = folder / "tokenizer_config.json"
    stated = read_json(stated) if stated.is_file() else {}
    plain = not (folder / "tokenizer.json").is_file()
    options = {}
    if plain and (folder / "vocab.txt").is_file() and "do_lower_case" not in stated:
        # transformers lower-cases by default, whatever the vocabulary holds.
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        options["do_lower_case"] = not any(w != w.lower() for w in words if not w.startswith("["))
    if plain and "tokenizer_class" not in stated:  # AutoTokenizer would need a config.json
        kind = BertTokenizer if (folder / "vocab.txt").is_file() else RobertaTokenizer
        return kind.from_pretrained(folder, **options)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)


def _fit(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    config = model_config(folder)
    most = max(tokenizer.get_vocab().values()) + 1
    if most > config.vocab_size:
        raise BortError(
            f"the tokenizer in {folder} has {most} tokens, its model only {config.vocab_size}; "
            "they do not belong together"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.positions)


def save(
    model: MaskedLM | Classifier,
    tokenizer: PreTrainedTokenizerFast,
    folder: str | os.PathLike,
    extra: dict | None = None,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Writes model and tokenizer as a whole Hugging Face folder that needs no code of ours.

    extra: further keys of config.json. state: the weights of a masked LM that holds pieces of them
    only. An existing folder is replaced only when the new one is
    complete. Raises BortError if it cannot be written, or holds anything but a model.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "config.json").is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise BortError(f"{folder} exists and is not a model folder; give another place")
    try:
        with replacing_folder(folder) as fresh:
            write_json(fresh / "config.json", _settings(model, tokenizer) | (extra or {}))
            safetensors.torch.save_file(
                _hf_weights(model, state), fresh / "model.safetensors", metadata={"format": "pt"}
            )
            _save_tokenizer(tokenizer, model.config, fresh)
    except (OSError, SafetensorError) as e:
        raise BortError(f"cannot write the model folder {folder}: {e}") from None


def _hf_weights(
    model: MaskedLM | Classifier, state: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    state, config = state or model.state_dict(), model.config
    weights = {
        theirs: state[ours].detach().float().cpu().contiguous()
        for ours, theirs in hf_names(model).items()
    }
    if not config.type_vocab:  # Hugging Face always adds a token type: one that changes nothing
        types = f"{_family(config)}.embeddings.token_type_embeddings.weight"
        weights[types] = torch.zeros(1, config.hidden)
    if isinstance(model, Classifier):
        weights |= _classifier_weights(model)
    return weights


EPSILON = 1e-4  # tanh(εx) / ε differs from x by ε² x³ / 3


@torch.no_grad()
def _classifier_weights(model: Classifier) -> dict[str, Tensor]:
    """The head as Hugging Face's dense, tanh, dense, so that no code of ours is needed.

    One linear layer is dense = ε I and W / ε; two are ε W₁ and W₂ / ε. The scale of a regression
    is folded into the last layer, so that every reader answers on the scale of the user's numbers.
    """
    out, kind = model.out, model.head
    scale = 1.0 if kind == "bort" else EPSILON
    width = out.in_features
    dense, bias = torch.eye(width), torch.zeros(width)
    if model.dense is not None:
        dense, bias = model.dense.weight, model.dense.bias
    weight, offset = out.weight, out.bias
    if model.scale is not None:
        number, factor = _whole_scale(model)
        weight, offset = weight.double() * factor, torch.tensor([number], dtype=torch.float64)
    tensors = (scale * dense, scale * bias, weight / scale, offset)
    names = CLASSIFIER_NAMES[classifier_kind(model)][_family(model.config)]
    keys = [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]
    return {k: t.detach().float().cpu().contiguous() for k, t in zip(keys, tensors, strict=True)}


def classifier_kind(model: Classifier) -> str:
    """The suffix of Hugging Face's class for it."""
    if model.spans:
        return "Model"
    return "ForMultipleChoice" if model.choices else "ForSequenceClassification"


def _settings(model: MaskedLM | Classifier, tokenizer: PreTrainedTokenizerFast) -> dict:
    """config.json of this model."""
    config = model.config
    family = _family(config)
    kind = classifier_kind(model) if isinstance(model, Classifier) else "ForMaskedLM"
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
        settings[SCALE] = list(_whole_scale(model))
    return settings


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, config: ModelConfig, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    for key in ("backend", "is_local", "local_files_only", "name_or_path"):
        settings.pop(key, None)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if config.type_vocab < 2:
        inputs.remove("token_type_ids")
    settings |= {
        # A named class would rebuild tokenizer.json its own way; this one takes it as it is, and
        # transformers 4 knows it, unlike the TokenizersBackend that transformers 5 writes.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.positions,
        "model_input_names": inputs,
    }
    write_json(path, settings)
