"""From a folder of transformers to the teacher of another family than our own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bort.errors import BortError, quote, shorten
from bort.models.hf_config import read_architecture
from bort.models.hub import read_weights
from bort.teachers.families import FAMILIES, build_config, hide_transformers_notes, measure_config
from bort.teachers.wrapped_teacher import WrappedTeacher, make_probe

PADDING = 3  # tokens of the check of an unknown family


def open_wrapped(folder: Path, settings: dict[str, Any], name: str) -> WrappedTeacher:
    """Open an encoder of another family in a local folder, in float32.

    settings: the content of its config.json. Raises BortError for a model that is no encoder, that
    needs code from its folder, whose weights are not in safetensors, or are not whole.
    """
    path = folder / "config.json"
    config = build_config(settings, path)
    shape = measure_config(config, path)
    if not list(folder.glob("model*.safetensors")):
        raise BortError(
            f"{folder} holds no safetensors, and no other weights are read of {config.model_type}; "
            "open it once in transformers and save it by save_pretrained"
        )
    weights = read_weights(folder)
    is_tuned = read_architecture(settings, path).endswith("ForSequenceClassification")
    model, missing = _load(config, weights, folder, is_tuned)
    if is_tuned and missing:  # it is named so, but has no such head
        model, missing = _load(config, weights, folder, is_tuned=False)
    has_head = _is_head_whole(model, missing, folder)
    _check_finite(model, folder)
    teacher = WrappedTeacher(model, shape, name, has_head)
    if config.model_type not in FAMILIES:
        check_padding(teacher)
    return teacher


def _load(
    config: Any, weights: dict[str, Tensor], folder: Path, is_tuned: bool
) -> tuple[Any, list[str]]:
    """Build the model of a configuration from its weights; return also the names of missing ones.

    is_tuned: whether it is a classifier; else it is a masked LM if the family has one, or a bare
    encoder.
    """
    kind = _choose_class(config, is_tuned)
    _check_size(kind, config, weights, folder)
    try:
        with hide_transformers_notes():
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights),
                dtype=torch.float32,
                attn_implementation="sdpa" if kind._supports_sdpa else "eager",
                output_loading_info=True,
            )
    except Exception as error:  # whatever a foreign file makes the library raise is its fault
        raise BortError(
            f"{folder} cannot be opened as {config.model_type}: {shorten(error)}"
        ) from None
    return model, sorted(report["missing_keys"])


SLACK = 10_000_000  # weights that a model may lack in its file, beside a head as large as the rest


def _check_size(kind: Any, config: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Raise BortError if a config.json asks for far more weights than there are.

    transformers would make random ones, however much memory they take.
    """
    try:
        with hide_transformers_notes(), torch.device("meta"):
            needed = sum(weight.numel() for weight in kind(config).parameters())
    except Exception as error:  # sizes that do not fit together
        raise BortError(
            f"{folder} cannot be opened as {config.model_type}: {shorten(error)}"
        ) from None
    stored = sum(weight.numel() for weight in weights.values())
    if needed > 2 * stored + SLACK:
        raise BortError(
            f"{folder} holds {stored:,} weights, but its config.json asks for {needed:,}; fetch it "
            "again"
        )


def _choose_class(config: Any, is_tuned: bool) -> Any:
    """Choose the class of transformers for a model."""
    from transformers import (
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
    )

    tables = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING] if is_tuned else []
    tables += [MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING]
    return next(table[type(config)] for table in tables if type(config) in table)


def _is_head_whole(model: Any, missing: list[str], folder: Path) -> bool:
    """Return whether a model has a head; raise BortError where a weight of the encoder is missing.

    A pooler, which only classifiers use, may be missing.
    """
    encoder = {id(weight) for weight in model.base_model.parameters()}
    named = dict(model.named_parameters())
    in_encoder = [key for key in missing if id(named.get(key)) in encoder and "pooler" not in key]
    if in_encoder:
        raise BortError(f"{folder} lacks the weight {in_encoder[0]}; fetch the model again")
    is_bare = model.base_model is model
    return not is_bare and not [key for key in missing if "pooler" not in key]


def _check_finite(model: Any, folder: Path) -> None:
    """Raise BortError for a weight that is infinite or no number."""
    for name, weight in model.named_parameters():
        if weight.numel() and not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
            raise BortError(
                f"{folder}: {shorten(name)} holds numbers that are infinite or not numbers"
            )


def check_padding(teacher: WrappedTeacher) -> None:
    """Raise BortError unless padding leaves a teacher's states as they are.

    Families in the table are tested for that; any other is asked before it teaches anything.
    """
    ids, kind = make_probe(teacher), quote(teacher.model.config.model_type)
    length = ids.shape[1]
    padded = nn.functional.pad(ids, (0, PADDING), value=teacher.pad_id)
    mask = nn.functional.pad(torch.ones_like(ids), (0, PADDING))
    try:
        alone = teacher.compute_states(ids, torch.ones_like(ids))
        beside = teacher.compute_states(padded, mask)[:, :length]
        is_state_per_token = alone.shape == (1, length, teacher.arch.hidden)
    except Exception as error:  # whatever a model makes of a text that it is not made for
        raise BortError(
            f"{teacher.name} ({kind}) cannot teach: it does not take texts as BERT does "
            f"({shorten(error, 60)})"
        ) from None
    if not is_state_per_token or not torch.allclose(alone, beside, rtol=1e-3, atol=1e-3):
        raise BortError(f"{teacher.name} ({kind}) cannot teach: padding changes its states")
