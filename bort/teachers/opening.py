"""From a name to the teacher that it stands for."""

import os
from pathlib import Path

from bort.files.untrusted import read_json
from bort.models.bert import MaskedLM
from bort.models.hf_config import OWN_FAMILIES, parse_config
from bort.models.hub import fetch_model
from bort.models.huggingface import find_classifier, load_masked_lm_or_encoder
from bort.teachers.bert_teacher import BertTeacher
from bort.teachers.families import Shape, build_config, measure_config
from bort.teachers.loading import open_wrapped
from bort.teachers.teacher import Teacher


def open_teacher(name: str | os.PathLike) -> Teacher:
    """Open the encoder in a run folder, a Hugging Face folder or under a hub name, in float32.

    A head whose weights are missing in the file counts as none. Raises BortError if there is no
    such model, or if it is none that a student can learn from.
    """
    folder = fetch_model(name)
    settings = read_json(folder / "config.json")
    if settings.get("model_type") in OWN_FAMILIES:
        model, has_head = load_masked_lm_or_encoder(name)
        classifier = None if has_head else find_classifier(name)
        if classifier is not None:
            classifier.encoder = model.encoder  # one copy is enough
        return BertTeacher(model, str(name), has_head, classifier)
    return open_wrapped(folder, settings, str(name))


def is_own_family(name: str | os.PathLike) -> bool:
    """Return whether a folder holds a model of our own family, which transformers need not open.

    A folder that names no family counts as one, so that its reader says what is wrong.
    """
    kind = read_json(fetch_model(name) / "config.json").get("model_type")
    return not isinstance(kind, str) or kind in OWN_FAMILIES


def read_shape(folder: Path) -> Shape:
    """Read the shape of the encoder in a local folder; no weights are read.

    Raises BortError for whatever no student can learn from.
    """
    path = folder / "config.json"
    settings = read_json(path)
    if settings.get("model_type") in OWN_FAMILIES:
        config = parse_config(settings, path)
        return Shape(config.arch, config.vocab_size, config.limit, config.pad_id)
    return measure_config(build_config(settings, path), path)


def as_teacher(model: Teacher | MaskedLM) -> Teacher:
    """Return a teacher as it is, and a masked LM as a teacher."""
    return BertTeacher(model) if isinstance(model, MaskedLM) else model
