"""From a name to the teacher that it stands for."""

import os

from bort.files.untrusted import read_json
from bort.models.bert import MaskedLM
from bort.models.hf_config import OWN_FAMILIES
from bort.models.hub import fetch_model
from bort.models.huggingface import load_masked_lm_or_encoder
from bort.teachers.bert_teacher import BertTeacher
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
        return BertTeacher(model, str(name), has_head)
    from bort.teachers.wrapped_teacher import open_wrapped  # what it imports takes seconds

    return open_wrapped(folder, settings, str(name))


def as_teacher(model: Teacher | MaskedLM) -> Teacher:
    """Return a teacher as it is, and a masked LM as a teacher."""
    return BertTeacher(model) if isinstance(model, MaskedLM) else model
