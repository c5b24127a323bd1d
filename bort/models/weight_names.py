"""The names that Hugging Face's BERT and RoBERTa give to the weights of our modules."""

from torch import Tensor

from bort.models.bert import Classifier, Encoder, MaskedLM, ModelConfig

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
    """Return the suffix of the name of Hugging Face's class for a classifier or an encoder."""
    if isinstance(model, Encoder) or model.spans:
        return "Model"
    return "ForMultipleChoice" if model.choices else "ForSequenceClassification"
