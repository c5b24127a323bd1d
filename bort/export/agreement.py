"""Two forms of one model on the same inputs: the model in memory and what was exported of it.

A form is a function from inputs to logits. Letters: B rows, S tokens, V vocabulary.
"""

import argparse
import logging
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bort.errors import BortError
from bort.models import onnx
from bort.models.bert import Classifier, MaskedLM
from bort.pretraining.masking import VAL_RATE, compute_row_keys, mask_tokens
from bort.text import sources
from bort.text.tokenizer import mark_special_ids

TOLERANCE = 1e-4  # of a logit, or of the largest one above 1; of numbers, of their spread
SHAPES = ((1, 2), (2, 7), (8, 33), (1, 0), (3, 64), (2, -1))  # 0: the limit, -1: half of it
Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]  # inputs to logits
Answers = Callable[[Run], list[np.ndarray]]  # logits (answers, outputs) for a fixed set of inputs


@dataclass
class Agreement:
    """How much of the answers of one form another one keeps."""

    compared: int
    largest: float  # difference of two logits
    equal: float | None = None  # the share of equal top answers; of numbers None
    error: float | None = None  # of numbers: root mean square difference / spread
    spread: float | None = None  # of numbers: the standard deviation of the first form's

    @property
    def kept(self) -> float:
        """What agreement= is compared with: 1 where nothing is lost."""
        return self.equal if self.error is None else 1 - self.error

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.equal:.1%} of {self.compared:,} top answers are equal"
        return (
            f"{self.compared:,} answers are {self.error:.1%} of their spread {self.spread:.3g} off"
        )


def compare(expected: list[np.ndarray], found: list[np.ndarray]) -> Agreement:
    """Answers of two forms to the same inputs, each (answers, outputs): classes, words or numbers.

    Numbers, which have one output, are compared by their distance, not by how many are equal.
    """
    compared = sum(len(part.reshape(-1, part.shape[-1])) for part in expected)
    largest = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    if expected[0].shape[-1] > 1:
        equal = [a.argmax(-1) == b.argmax(-1) for a, b in zip(expected, found, strict=True)]
        share = float(np.concatenate([part.ravel() for part in equal]).mean())
        return Agreement(compared, largest, equal=share)
    before, after = (
        np.concatenate([x.ravel() for x in y]).astype(float) for y in (expected, found)
    )
    spread = float(before.std())
    distance = float(np.sqrt(np.mean((before - after) ** 2)))
    error = distance / spread if spread else (np.inf if distance else 0.0)
    return Agreement(compared, largest, error=error, spread=spread)


def largest_difference(reference: Run, run: Run, model, tokenizer) -> float:
    """Of a logit, over SHAPES; raises BortError when it is more than rounding explains."""
    inputs = [
        random_inputs(model, tokenizer, batch, length, seed)
        for seed, (batch, length) in enumerate(_shapes(model.config.limit))
    ]
    numbers = isinstance(model, Classifier) and model.out.out_features == 1
    allowed = _allowed_in_numbers(model, inputs) if numbers else None
    worst = 0.0
    for x in inputs:
        expected, found = (_real(model, x, call(x)) for call in (reference, run))
        difference = float(np.abs(expected - found).max())
        most = allowed or TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= most:
            batch, length = x["input_ids"].shape
            raise BortError(
                f"check: at {batch} × {length} tokens the export's logits differ by "
                f"{difference:.1e}, more than {most:.1e}; nothing was written"
            )
        worst = max(worst, difference)
    return worst


def _shapes(limit: int) -> list[tuple[int, int]]:
    """SHAPES for a model that takes this many tokens."""
    lengths = {0: limit, -1: max(2, limit // 2)}
    return [(batch, min(limit, lengths.get(length, length))) for batch, length in SHAPES]


def _allowed_in_numbers(model: Classifier, inputs: list[Inputs]) -> float:
    """By how much answers of one output may differ: a share of their spread, and rounding.

    A share of the answers themselves would forgive anything where they lie far from 0. Rounding is
    that of the last layer's sums and of their terms; it alone remains where all answers are equal.
    """
    sizes = []  # of the terms of each sum, together

    def measure(layer: torch.nn.Linear, states: tuple[torch.Tensor]) -> None:
        sizes.append(float((states[0].abs() @ layer.weight.abs().T).max()))

    hook = model.out.register_forward_pre_hook(measure)
    run = torch_run(model)
    values = np.concatenate([run(x).ravel() for x in inputs]).astype(float)
    hook.remove()
    terms = max(sizes) * (model.scale[1] if model.scale else 1.0)
    rounding = np.finfo(np.float32).eps * (2 * np.abs(values).max() + 8 * terms)
    return float(TOLERANCE * values.std() + rounding)


def random_inputs(model, tokenizer, batch: int, length: int, seed: int = 0) -> Inputs:
    """Ids (B, S) of ordinary words, in rows of unequal length padded at their end; two spans."""
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


def _real(model, inputs: Inputs, logits: np.ndarray) -> np.ndarray:
    """Of a masked LM the logits (tokens, V) where there is no padding; of others all."""
    masked = isinstance(model, MaskedLM)
    return logits[inputs["attention_mask"].astype(bool)] if masked else logits


# ------------------------------------------------------------------------------------ samples


@dataclass
class Sample:
    """Inputs, and of a masked LM the flat places of the masked tokens, where its answers count."""

    inputs: Inputs
    places: np.ndarray | None = None

    def answers(self, run: Run) -> np.ndarray:
        """Logits (answers, outputs)."""
        logits = run(self.inputs)
        return logits if self.places is None else logits.reshape(-1, logits.shape[-1])[self.places]


def samples(model, tokenizer, length: int = 64) -> tuple[str, list[Sample]]:
    """Inputs for int8's answers where there is no task, and what they are in words.

    They are docstrings of Python's own library, or random words where the tokenizer does not know
    theirs or spans are marked. Of a masked LM, 15% of the tokens are masked as in every evaluation,
    and answers are compared there: a token that it can read it has only to copy.
    """
    texts = [
        text
        for module in (os, argparse, typing, logging)
        for text in sources.parse_docstrings(module.__file__)
    ]
    room = min(length, model.config.limit)
    rows = [tokenizer(text, truncation=True, max_length=room)["input_ids"] for text in texts]
    flat = [k for row in rows for k in row]
    known = len(flat) and np.mean([k == tokenizer.unk_token_id for k in flat]) < 0.1
    if known and not getattr(model, "spans", 0):
        name, found = "docstrings", [_unpadded(model, np.array([row])) for row in rows]
    else:
        name = "random words"
        found = [random_inputs(model, tokenizer, 16, room, seed) for seed in range(16)]
    if isinstance(model, MaskedLM):
        masked = [_masked(tokenizer, inputs, number) for number, inputs in enumerate(found)]
        return f"masked words of {name}", masked
    return name, [Sample(inputs) for inputs in found]


def _unpadded(model, ids: np.ndarray) -> Inputs:
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if model.config.type_vocab:
        inputs["token_type_ids"] = np.zeros_like(ids)
    return inputs


def _masked(tokenizer, inputs: Inputs, number: int) -> Sample:
    """The inputs with masks as evaluation sets them; number: of the sample, which decides where."""
    special = mark_special_ids(tokenizer)
    ids, mask = inputs["input_ids"].astype(np.int64), tokenizer.mask_token_id
    keys = compute_row_keys(number, np.arange(len(ids)))
    masked, places, _ = mask_tokens(ids, VAL_RATE, special, mask, len(special), keys)
    return Sample(inputs | {"input_ids": masked}, places)


# ------------------------------------------------------------------------------------ forms


def torch_run(model: MaskedLM | Classifier) -> Run:
    """The model in PyTorch, float32."""
    model.eval()

    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        given = {k: torch.from_numpy(v) for k, v in inputs.items()}
        if "token_type_ids" in given:
            given["token_types"] = given.pop("token_type_ids")
        return model(**given).numpy()

    return run


def onnx_run(path: Path) -> Run:
    """The file in onnxruntime."""
    session = onnx.open_session(path, threads=0)
    return lambda inputs: session.run(None, inputs)[0]
