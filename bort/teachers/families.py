"""The families of encoders that can teach: how each is opened and what it can give.

A family is what config.json calls `model_type`. BERT, RoBERTa, XLM-RoBERTa and CamemBERT are models
of our own (`bort.models`); the others are opened by transformers. A family outside of the table
may work as well: then it gives no relations. docs/teachers.md shows the table to users.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bort.errors import BortError, quote, shorten, suggest_name
from bort.models.arch import Arch
from bort.models.hf_config import check_precision


@dataclass(frozen=True)
class Family:
    """How an encoder of one family is built, as far as a student has to know.

    attention: the path of a layer's attention in the encoder, with * for the number of the layer;
    projections: the names of query, key and value in it, or of one layer that computes all three,
    as (3, A, K). Neither is given where they are not known. offset: the row of the first token's
    position; None for pad_id + 1, as in RoBERTa.
    """

    title: str
    attention: str = ""
    projections: tuple[str, ...] = ()
    offset: int | None = 0

    def find_offset(self, pad_id: int) -> int:
        """Return the row of the first token's position."""
        return pad_id + 1 if self.offset is None else self.offset


BERT_LIKE = "encoder.layer.*.attention.self"
QUERY_KEY_VALUE = ("query", "key", "value")
FAMILIES = {
    "bert": Family("BERT"),
    "roberta": Family("RoBERTa"),
    "xlm-roberta": Family("XLM-RoBERTa"),
    "camembert": Family("CamemBERT"),
    "distilbert": Family(
        "DistilBERT", "transformer.layer.*.attention", ("q_lin", "k_lin", "v_lin")
    ),
    "electra": Family("ELECTRA", BERT_LIKE, QUERY_KEY_VALUE),
    "albert": Family(
        "ALBERT", "encoder.albert_layer_groups.*.albert_layers.*.attention", QUERY_KEY_VALUE
    ),
    "mpnet": Family("MPNet", "encoder.layer.*.attention.attn", ("q", "k", "v"), offset=2),
    "deberta": Family("DeBERTa"),
    "deberta-v2": Family("DeBERTa-v2, -v3", BERT_LIKE, ("query_proj", "key_proj", "value_proj")),
    "modernbert": Family("ModernBERT", "layers.*.attn", ("Wqkv",)),
    "roformer": Family("RoFormer", BERT_LIKE, QUERY_KEY_VALUE),
    "nomic_bert": Family("NomicBERT", "layers.*.self_attn", ("q_proj", "k_proj", "v_proj")),
    "ernie": Family("ERNIE", BERT_LIKE, QUERY_KEY_VALUE),
    "data2vec-text": Family("data2vec", BERT_LIKE, QUERY_KEY_VALUE, offset=None),
    "rembert": Family("RemBERT", BERT_LIKE, QUERY_KEY_VALUE),
    "megatron-bert": Family("Megatron-BERT", BERT_LIKE, QUERY_KEY_VALUE),
    "roberta-prelayernorm": Family("RoBERTa-PreLayerNorm", BERT_LIKE, QUERY_KEY_VALUE, offset=None),
    "xlm-roberta-xl": Family("XLM-RoBERTa-XL", BERT_LIKE, QUERY_KEY_VALUE, offset=None),
}


@dataclass(frozen=True)
class Shape:
    """What the config.json of an encoder says of it; limit: the longest input in tokens."""

    arch: Arch
    vocab_size: int
    limit: int
    pad_id: int


def build_config(settings: dict[str, Any], path: Path) -> Any:
    """Build the configuration of transformers for a model that it opens as an encoder.

    Nothing that the file names is imported or fetched. Raises BortError, in one line, for a family
    that is unknown, and for a model that is no encoder of texts or is stored in a way that only
    code of others can read.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str):
        raise BortError(f"{path} names no model_type: give the folder of an encoder")
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        if settings.get("auto_map"):
            raise BortError(
                f"{path.parent} is of the family {quote(kind)}, which needs code from its folder; "
                "that is never run, so use a family that transformers knows"
            )
        hint = suggest_name(kind[:40], FAMILIES)
        raise BortError(f"{path} says model_type={shorten(kind, 40)}, which is unknown{hint}")
    check_precision(settings, path)
    try:
        with hide_transformers_notes():
            config = CONFIG_MAPPING[kind].from_dict(_keep_plain(settings))
    except Exception as error:  # whatever a foreign file makes the library raise is its fault
        raise BortError(f"{path} cannot be read as {kind}: {shorten(error)}") from None
    _check_encoder(config, path.parent)
    return config


@contextmanager
def hide_transformers_notes() -> Iterator[None]:
    """Keep transformers from listing missing weights and from showing bars."""
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def _keep_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Drop what asks for code, for another kernel or for outputs that a teacher does not give."""
    dropped = ("auto_map", "_attn_implementation", "attn_implementation", "return_dict")
    dropped += ("output_hidden_states", "output_attentions", "torchscript")
    return {key: value for key, value in settings.items() if key not in dropped}


def _check_encoder(config: Any, folder: Path) -> None:
    """Raise BortError unless a model reads a whole text at once and gives a state per token."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING,
    )

    kind = config.model_type
    advice = "a teacher is an encoder, such as BERT or ModernBERT"
    if getattr(config, "is_encoder_decoder", False):
        raise BortError(f"{folder} ({kind}) is an encoder-decoder; {advice}")
    has_decoder = (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if has_decoder or getattr(config, "is_decoder", False):
        raise BortError(f"{folder} ({kind}) is a decoder; {advice}")
    reads_text = isinstance(getattr(config, "vocab_size", None), int)
    if not reads_text or type(config) not in MODEL_MAPPING:
        raise BortError(f"{folder} ({kind}) is no encoder of texts; {advice}")


INNER_SIZES = ("intermediate_size", "hidden_dim", "n_inner", "d_inner")


def measure_config(config: Any, path: Path) -> Shape:
    """Read the shape of an encoder from a configuration of transformers."""
    family = FAMILIES.get(config.model_type, Family(config.model_type))
    pad_id = getattr(config, "pad_token_id", None) or 0
    rows = getattr(config, "max_position_embeddings", None) or 512
    try:
        hidden = int(config.hidden_size)
        inner = [getattr(config, name, None) for name in INNER_SIZES]
        arch = Arch(
            int(config.num_hidden_layers),
            int(config.num_attention_heads),
            hidden,
            next((int(size) for size in inner if size), 4 * hidden),
        ).check()
        limit = int(rows) - family.find_offset(pad_id)
    except BortError as error:
        raise BortError(f"{path}: {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise BortError(f"{path} states no shape that is understood: {shorten(error)}") from None
    if limit < 1 or config.vocab_size < 1:
        raise BortError(f"{path} leaves no room for a token: {limit} positions")
    return Shape(arch, config.vocab_size, limit, pad_id)
