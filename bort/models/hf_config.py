"""config.json of Hugging Face, read with care: the shape of a model and what its outputs mean.

Anybody may have written the file: every value that is used is checked for its type and its range.
"""

from pathlib import Path
from typing import Any

from transformers import BertConfig, CamembertConfig, RobertaConfig, XLMRobertaConfig

from bort.errors import BortError, quote, shorten
from bort.files.ownership import EMBEDDING, KIND
from bort.models.bert import POOLED_HEADS, ModelConfig

# The families that are models of our own, by their model_type: one has BERT's embeddings, the
# others have RoBERTa's. Beside them, what their classes in transformers are called.
OWN_FAMILIES = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
}
CLASS_NAMES = {
    kind: config.__name__.removesuffix("Config") for kind, config in OWN_FAMILIES.items()
}
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
MULTI_LABEL = PROBLEMS[2]
HEAD = "bort_head"  # a head that no class of Hugging Face computes; KIND says what it answers
KINDS = ("SequenceClassification", "MultipleChoice")
# Tokens that neighbouring windows of a long text share, where answers are means over windows.
WINDOW_STRIDE = "bort_window_stride"


def parse_config(settings: dict[str, Any], path: Path) -> ModelConfig:
    """The shape that the settings in the file `path` describe.

    What they leave out has Hugging Face's default. Raises BortError if it is of another family, or
    if a value cannot be right.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in OWN_FAMILIES:
        stated = shorten(kind) if isinstance(kind, str) else quote(kind)
        *names, last = OWN_FAMILIES
        raise BortError(
            f"{path} says model_type={stated}; supported are {', '.join(names)} and {last}"
        )
    check_precision(settings, path)
    if settings.get("position_embedding_type", "absolute") not in ("absolute", None):
        raise BortError(f"{path} asks for relative positions; only absolute ones are supported")
    if settings.get("is_decoder"):
        raise BortError(f"{path} says is_decoder; only bidirectional encoders are supported")
    defaults = OWN_FAMILIES[kind]()

    def value(key: str, kinds: type | tuple) -> Any:
        stated = settings.get(key)
        stated = getattr(defaults, key) if stated is None else stated
        if not isinstance(stated, kinds) or isinstance(stated, bool):
            what = "a whole number" if isinstance(stated, float) else "a number"
            what = "text" if kinds is str else what
            raise BortError(f"{path} has {key}={quote(stated)}, which is not {what}")
        return stated

    def number(key: str) -> float:
        try:
            return float(value(key, (int, float)))
        except OverflowError:
            raise BortError(f"{path} has a {key} that no number can be as large as") from None

    pad_id = value("pad_token_id", int)
    offset = 0 if kind == "bert" else pad_id + 1
    length = settings.get("bort_length")
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
            dropout=number("hidden_dropout_prob"),
            attention_dropout=number("attention_probs_dropout_prob"),
            layer_norm_eps=number("layer_norm_eps"),
            activation=value("hidden_act", str),
            length=None if length is None else value("bort_length", int),
        )
    except BortError as error:
        raise error if str(error).startswith(str(path)) else BortError(f"{path}: {error}") from None


def check_precision(settings: dict[str, Any], path: Path) -> None:
    """Raise BortError for a model whose weights are stored as quantized numbers."""
    if settings.get("quantization_config"):
        raise BortError(f"{path} says that the model is quantized; give it in full precision")


def read_limits(settings: dict[str, Any], path: Path) -> tuple[int | None, int | None]:
    """The size of the vocabulary and the longest input of a model of any family.

    None for what the file of another family does not say. Raises BortError as `parse_config` does.
    """
    if settings.get("model_type") in OWN_FAMILIES:
        config = parse_config(settings, path)
        return config.vocab_size, config.limit
    stated = (settings.get(key) for key in ("vocab_size", "max_position_embeddings"))
    vocab_size, limit = (number if isinstance(number, int) else None for number in stated)
    return vocab_size, limit if limit and limit > 0 else None


def read_architecture(settings: dict[str, Any], path: Path) -> str:
    """Hugging Face's class of the model, `` when the file names none."""
    names = settings.get("architectures")
    if names is None or names == []:
        return ""
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise BortError(f"{path} has architectures={quote(names)}, which is no list of names")
    return names[0]


def read_head(settings: dict[str, Any], path: Path) -> str | None:
    """The head of bort's own that stands on the encoder; None where there is none.

    A file that names a class with a head is that of a model which others put their head on. Raises
    BortError for a head or a kind of answer that is unknown.
    """
    head, kind = settings.get(HEAD), settings.get(KIND)
    if head is None or "For" in read_architecture(settings, path):
        return None
    for key, value, names in ((HEAD, head, POOLED_HEADS), (KIND, kind, KINDS)):
        if value not in names:
            raise BortError(f"{path} has {key}={quote(value)}; known are {' and '.join(names)}")
    return head


def read_kind(settings: dict[str, Any], path: Path) -> str:
    """What the model answers, as the name of Hugging Face's class says it after `For`.

    It is empty for an encoder alone, and for one whose head takes spans; for one that embeds texts
    it is EMBEDDING.
    """
    if read_head(settings, path) is not None or is_embedding(settings):
        return settings[KIND]
    return read_architecture(settings, path).partition("For")[2]


def is_embedding(settings: dict[str, Any]) -> bool:
    """Whether the model is an encoder whose mean state is an embedding, as bort writes them."""
    return settings.get(KIND) == EMBEDDING


def read_output_names(settings: dict[str, Any], outputs: int, path: Path) -> dict[int, str]:
    """The name of each output of a classifier, an empty dictionary when the file has none.

    Raises BortError for names that do not belong to these outputs, and for a name given twice: the
    answer under it would be that of either.
    """
    table = settings.get("id2label")
    if table is None or table == {}:
        return {}
    if not isinstance(table, dict) or not all(isinstance(x, str | int) for x in table.values()):
        raise BortError(f"{path} has id2label={quote(table)}, which is no table of names")
    names = {key: str(name) for key, name in table.items()}
    if set(names) != {str(number) for number in range(outputs)}:
        raise BortError(
            f"{path} has id2label for {quote(list(names))}, but the model has {outputs} outputs, "
            f"numbered from 0"
        )
    if len(set(names.values())) < outputs:
        twice = next(x for x in names.values() if list(names.values()).count(x) > 1)
        raise BortError(f"{path} names two outputs {quote(twice)} in id2label; give each its own")
    return {number: names[str(number)] for number in range(outputs)}


def read_problem_type(settings: dict[str, Any], outputs: int, path: Path) -> str:
    """What a classifier's outputs are: one of PROBLEMS; by their number where the file is silent.

    Raises BortError for a kind of problem that is unknown, or that has another number of outputs.
    """
    kind = settings.get("problem_type")
    if kind is None:
        return PROBLEMS[0] if outputs == 1 else PROBLEMS[1]
    if not isinstance(kind, str) or kind not in PROBLEMS:
        raise BortError(f"{path} has problem_type={quote(kind)}; known are {', '.join(PROBLEMS)}")
    if kind == "regression" and outputs > 1:
        raise BortError(f"{path} is a regression with {outputs} numbers; only one is supported")
    return kind


def read_task_settings(settings: dict[str, Any], outputs: int, path: Path) -> dict[str, Any]:
    """Of a classifier's config.json what a task gave it, checked: the rest is not passed on."""
    names = read_output_names(settings, outputs, path)
    task_settings: dict[str, Any] = {}
    if names:
        task_settings["id2label"] = {str(number): name for number, name in names.items()}
        task_settings["label2id"] = {name: number for number, name in names.items()}
    if settings.get("problem_type") is not None:
        task_settings["problem_type"] = read_problem_type(settings, outputs, path)
    for key, kind in (("bort_task", str), ("bort_texts", int), ("bort_cut", int)):
        if isinstance(settings.get(key), kind):
            task_settings[key] = settings[key]
    if (stride := read_window_stride(settings)) is not None:
        task_settings[WINDOW_STRIDE] = stride
    return task_settings


def read_window_stride(settings: dict[str, Any]) -> int | None:
    """How many tokens neighbouring windows of a long text share; None where it is cut."""
    stride = settings.get(WINDOW_STRIDE)
    return stride if type(stride) is int and stride >= 0 else None


def read_text_to_cut(settings: dict[str, Any]) -> int | None:
    """Which of two texts a row that is too long loses the end of; None for the longer one."""
    cut = settings.get("bort_cut")
    return cut if read_texts_per_row(settings) == 2 and cut in (0, 1) else None


def read_texts_per_row(settings: dict[str, Any]) -> int | None:
    """How many texts a row of the model's task has, None when the file does not say."""
    texts = settings.get("bort_texts")
    return texts if texts in (1, 2) else None
