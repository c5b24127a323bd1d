"""The forms of one model: functions from inputs to logits, in PyTorch, ONNX and transformers.

Letters: B rows, S tokens, V vocabulary.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bort.models.bert import Classifier, MaskedLM
from bort.models.huggingface import read_config
from bort.models.onnx import open_session
from bort.teachers.families import hide_transformers_notes
from bort.text.tokenizer import mark_special_ids

Inputs = dict[str, np.ndarray]
Form = Callable[[Inputs], np.ndarray]  # inputs to logits


def run_torch(model: MaskedLM | Classifier) -> Form:
    """Return the model in PyTorch, float32."""
    model.eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}
        if "token_type_ids" in tensors:
            tensors["token_types"] = tensors.pop("token_type_ids")
        return model(**tensors).numpy()

    return run


def run_onnx(path: Path) -> Form:
    """Return the file in onnxruntime."""
    session = open_session(path, threads=0)
    return lambda inputs: session.run(None, inputs)[0]


def run_transformers(folder: Path, model: MaskedLM | Classifier) -> Form:
    """Return a Hugging Face folder as plain transformers open it.

    model: the same as bort opened it, which runs the heads that transformers have no class for, on
    the encoder as transformers open it where they take no spans.
    """
    if getattr(model, "spans", 0):
        return run_torch(model)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = read_config(folder)["architectures"][0].partition("For")[2]
    if not kind:
        with hide_transformers_notes():  # of the head, which an encoder has no place for
            encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
        return run_torch(_put_on_encoder(model, encoder))
    opened = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder).eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}
        if kind == "MultipleChoice":  # (B, choices, S)
            tensors = {key: tensor[:, None] for key, tensor in tensors.items()}
        return opened(**tensors).logits.numpy()

    return run


class _TheirEncoder(torch.nn.Module):
    """An encoder of transformers with the arguments of ours."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_types: torch.Tensor | None = None,
    ) -> torch.Tensor:
        types = {} if token_types is None else {"token_type_ids": token_types}
        return self.model(input_ids, attention_mask, **types).last_hidden_state


def _put_on_encoder(model: Classifier, encoder: torch.nn.Module) -> Classifier:
    """Return a classifier with the same head on an encoder of transformers."""
    return copy.deepcopy(model, {id(model.encoder): _TheirEncoder(encoder)})


def draw_inputs(model, tokenizer, batch: int, length: int, seed: int = 0) -> Inputs:
    """Draw ids (B, S) of ordinary words, in rows of unequal length padded at their end.

    For a model that reads marked words there are two spans in each row, and for one that reads the
    texts of a pair apart there are twice as many rows.
    """
    batch *= getattr(model, "texts_per_row", 1)
    random = np.random.default_rng(seed)
    words = np.flatnonzero(~mark_special_ids(tokenizer))
    ids = random.choice(words, (batch, length))
    lengths = random.integers(2, length + 1, batch)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    inputs = {"input_ids": np.where(mask, ids, model.config.pad_id), "attention_mask": mask}
    if model.config.type_vocab:
        second = np.arange(length) >= lengths[:, None] // 2
        types = second & (model.config.type_vocab > 1)
        inputs["token_type_ids"] = (types * mask).astype(np.int64)
    if getattr(model, "spans", 0):
        starts = np.stack([np.zeros(batch, dtype=np.int64), lengths - 1], axis=1)
        inputs["spans"] = np.stack([starts, starts + 1], axis=2)
    return inputs
