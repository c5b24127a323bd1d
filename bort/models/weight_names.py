"""Our weights as Hugging Face's BERT and RoBERTa have them: their names, and the form of a head."""

import math

import torch
from torch import Tensor

from bort.models.bert import POOLED_HEADS, Classifier, Encoder, MaskedLM, ModelConfig

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
LEAVES = ("weight", "bias")
SCALE = "bort_scale"  # of a regression, in config.json: [offset, factor]
EPSILON = 1e-4  # tanh(εx) / ε differs from x by ε² x³ / 3


def name_family(config: ModelConfig) -> str:
    """Return what Hugging Face calls the family of a model: bert or roberta."""
    return "roberta" if config.position_offset else "bert"


def complete_names(weights: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Give today's names to the weights of an encoder saved alone, and to those of 2018.

    In 2018, weight and bias of a LayerNorm were called gamma and beta.
    """
    full = {}
    for name, tensor in weights.items():
        name = name.removesuffix(".gamma") + ".weight" if name.endswith(".gamma") else name
        name = name.removesuffix(".beta") + ".bias" if name.endswith(".beta") else name
        if name.startswith(("embeddings.", "encoder.")):
            name = f"{family}.{name}"
        full[name] = tensor
    return full


def map_weight_names(model: MaskedLM | Classifier | Encoder) -> dict[str, str]:
    """Map our names of weights to Hugging Face's; of a classifier, only those of its encoder.

    The weights of an encoder have the names that they have in a masked LM.
    """
    family, names = name_family(model.config), {}
    prefix = "encoder." if isinstance(model, Encoder) else ""
    for ours in (prefix + name for name in model.state_dict()):
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


def name_class(model: Classifier | Encoder) -> str:
    """Return the suffix of the name of Hugging Face's class for a classifier or an encoder.

    Of a head that Hugging Face has no class for, it is that of the encoder alone.
    """
    pooled = not isinstance(model, Encoder) and model.head in POOLED_HEADS
    return "Model" if pooled else name_kind(model)


def name_kind(model: Classifier | Encoder) -> str:
    """Return what a classifier answers, as the suffix of Hugging Face's class for such answers."""
    if isinstance(model, Encoder) or model.spans:
        return "Model"
    return "ForMultipleChoice" if model.choices else "ForSequenceClassification"


# ------------------------------------------------------------------------------------ heads


@torch.no_grad()
def to_head_weights(model: Classifier) -> dict[str, Tensor]:
    """The head as Hugging Face's dense, tanh, dense, so that no code of ours is needed.

    One linear layer is dense = ε I and W / ε; two are ε W₁ and W₂ / ε. The scale of a regression
    is folded into the last layer, so that every reader answers on the scale of the user's numbers.
    A head that no class of Hugging Face computes is one matrix, the biases its last column: such a
    class finds another shape than its own under the name, and refuses to open the folder.
    """
    out, kind = model.out, model.head
    weight, offset = out.weight, out.bias
    if model.scale is not None:
        number, factor = whole_scale(model)
        weight, offset = weight.double() * factor, torch.tensor([number], dtype=torch.float64)
    names = CLASSIFIER_NAMES[name_kind(model)][name_family(model.config)]
    if kind in POOLED_HEADS:
        joined = torch.cat([weight.cpu(), offset.cpu()[:, None]], dim=1)
        return {f"{names[1]}.weight": joined.detach().float().contiguous()}
    scale = 1.0 if kind == "bort" else EPSILON
    width = out.in_features
    dense, bias = torch.eye(width), torch.zeros(width)
    if model.dense is not None:
        dense, bias = model.dense.weight, model.dense.bias
    tensors = (scale * dense, scale * bias, weight / scale, offset)
    keys = [f"{name}.{leaf}" for name in names for leaf in LEAVES]
    return {k: t.detach().float().cpu().contiguous() for k, t in zip(keys, tensors, strict=True)}


def split_head(weights: dict[str, Tensor], layer: str) -> None:
    """Split a matrix whose last column are the biases into the weight and the bias of a layer."""
    joined = weights[f"{layer}.weight"]
    weights[f"{layer}.weight"], weights[f"{layer}.bias"] = joined[:, :-1], joined[:, -1]


@torch.no_grad()
def unfold_scale(model: Classifier, stated: object) -> None:
    """Take the scale of a regression out of the last layer, where `to_head_weights` put it.

    stated: the scale in config.json. It is used only if it is the one that the weights have: the
    file may have been edited, or the weights trained on by others. The folded layer then answers
    here as it does everywhere.
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


def whole_scale(model: Classifier) -> tuple[float, float]:
    """Offset, the bias of the last layer included, and factor of a regression, in float64."""
    offset, factor = model.scale
    return offset + factor * model.out.bias.item(), factor
