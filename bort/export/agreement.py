"""How far two forms of one model agree: in their logits, and in their answers.

Letters: B rows, S tokens, V vocabulary.
"""

import argparse
import logging
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bort.errors import BortError
from bort.export.forms import Form, Inputs, draw_inputs, run_torch
from bort.models.bert import Classifier, MaskedLM
from bort.pretraining.masking import VAL_RATE, compute_row_keys, mask_tokens
from bort.text import sources
from bort.text.tokenizer import mark_special_ids

TOLERANCE = 1e-4  # of a logit, or of the largest one above 1; of numbers, of their spread
SHAPES = ((1, 2), (2, 7), (8, 33), (1, 0), (3, 64), (2, -1))  # 0: the limit, -1: half of it
MOST_UNKNOWN = 0.1  # share of unknown words in texts from which on they are none for a tokenizer
Answers = Callable[[Form], list[np.ndarray]]  # logits (answers, outputs) for a fixed set of inputs


@dataclass(frozen=True)
class Agreement:
    """How much of the answers of one form another one keeps."""

    compared: int
    largest: float  # difference of two logits
    equal: float | None = None  # the share of equal top answers; of numbers None
    error: float | None = None  # of numbers: root mean square difference / spread
    spread: float | None = None  # of numbers: the standard deviation of the first form's
    cosine: float | None = None  # of embeddings: the mean cosine of the two forms

    @property
    def kept(self) -> float:
        """What agreement= is compared with: 1 where nothing is lost."""
        if self.cosine is not None:
            return self.cosine
        return self.equal if self.error is None else 1 - self.error

    def __str__(self) -> str:
        if self.cosine is not None:
            return f"{self.compared:,} embeddings keep their direction: cosine {self.cosine:.4f}"
        if self.error is None:
            return f"{self.equal:.1%} of {self.compared:,} top answers are equal"
        return (
            f"{self.compared:,} answers are {self.error:.1%} of their spread {self.spread:.3g} off"
        )


def compare_answers(
    before: list[np.ndarray], after: list[np.ndarray], multi_label: bool = False
) -> Agreement:
    """Compare the answers of two forms to the same inputs, each (answers, outputs).

    Outputs are classes or words, or, with multi_label, labels of which any number is right: then
    answers are equal where all of these are. Numbers, which have one output, are compared by their
    distance, not by how many of them are equal.
    """
    pairs = list(zip(before, after, strict=True))
    compared = sum(part.size // part.shape[-1] for part in before)
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    if multi_label:
        equal = [((a >= 0) == (b >= 0)).all(-1) for a, b in pairs]
        return Agreement(compared, largest, equal=float(np.concatenate(equal).mean()))
    if before[0].shape[-1] > 1:
        equal = [(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs]
        return Agreement(compared, largest, equal=float(np.concatenate(equal).mean()))
    first, second = _flatten(before), _flatten(after)
    spread = float(first.std())
    distance = float(np.sqrt(np.mean((first - second) ** 2)))
    error = distance / spread if spread else (np.inf if distance else 0.0)
    return Agreement(compared, largest, error=error, spread=spread)


def compare_directions(before: list[np.ndarray], after: list[np.ndarray]) -> Agreement:
    """Compare the embeddings (texts, E) that two forms give the same inputs, by their cosines."""
    first, second = (np.concatenate(parts).astype(float) for parts in (before, after))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(1) / np.maximum(lengths, np.finfo(float).tiny)
    largest = float(np.abs(first - second).max())
    return Agreement(len(first), largest, cosine=float(cosines.mean()))


def _flatten(parts: list[np.ndarray]) -> np.ndarray:
    """Join arrays into one dimension, in float64."""
    return np.concatenate([part.ravel() for part in parts]).astype(float)


def find_largest_difference(reference: Form, form: Form, model, tokenizer) -> float:
    """Return the largest difference of a logit over SHAPES.

    Raises BortError when one is larger than rounding explains.
    """
    inputs = [
        draw_inputs(model, tokenizer, batch, length, seed)
        for seed, (batch, length) in enumerate(_fit_shapes(model.config.limit))
    ]
    is_classifier = isinstance(model, Classifier) and not model.multi_label
    is_number = is_classifier and model.out.out_features == 1
    tolerance = _tolerate_in_numbers(model, inputs) if is_number else None
    largest = 0.0
    for x in inputs:
        expected, exported = (_without_padding(model, x, run(x)) for run in (reference, form))
        difference = float(np.abs(expected - exported).max())
        most = tolerance or TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= most:
            batch, length = x["input_ids"].shape
            raise BortError(
                f"check: at {batch} × {length} tokens the export's logits differ by "
                f"{difference:.1e}, more than {most:.1e}; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _fit_shapes(limit: int) -> list[tuple[int, int]]:
    """Return SHAPES for a model that takes this many tokens."""
    lengths = {0: limit, -1: max(2, limit // 2)}
    return [(batch, min(limit, lengths.get(length, length))) for batch, length in SHAPES]


def _tolerate_in_numbers(model: Classifier, inputs: list[Inputs]) -> float:
    """Return how far answers of one output may differ: a share of their spread, and rounding.

    A share of the answers themselves would forgive anything where they lie far from 0. Rounding is
    that of the last layer's sums and of their terms; it alone remains where all answers are equal.
    """
    sizes = []  # of the terms of each sum, together

    def measure_terms(layer: torch.nn.Linear, states: tuple[torch.Tensor]) -> None:
        sizes.append(float((states[0].abs() @ layer.weight.abs().T).max()))

    hook = model.out.register_forward_pre_hook(measure_terms)
    run = run_torch(model)
    values = _flatten([run(x) for x in inputs])
    hook.remove()
    terms = max(sizes) * (model.scale[1] if model.scale else 1.0)
    rounding = np.finfo(np.float32).eps * (2 * np.abs(values).max() + 8 * terms)
    return float(TOLERANCE * values.std() + rounding)


def _without_padding(model, inputs: Inputs, logits: np.ndarray) -> np.ndarray:
    """Return a masked LM's logits (tokens, V) where there is no padding; of others all."""
    is_masked_lm = isinstance(model, MaskedLM)
    return logits[inputs["attention_mask"].astype(bool)] if is_masked_lm else logits


# ------------------------------------------------------------------------------------ samples


@dataclass(frozen=True)
class Sample:
    """Inputs, and of a masked LM the flat positions of the masked tokens, where answers count."""

    inputs: Inputs
    positions: np.ndarray | None = None

    def answers(self, form: Form) -> np.ndarray:
        """Return the logits (answers, outputs) of a form."""
        logits = form(self.inputs)
        if self.positions is None:
            return logits
        return logits.reshape(-1, logits.shape[-1])[self.positions]


def draw_samples(model, tokenizer, length: int = 64) -> tuple[str, list[Sample]]:
    """Return inputs for int8's answers where there is no task, behind what they are in words.

    They are docstrings of Python's own library, or random words where the tokenizer does not know
    theirs or spans are marked. Of a masked LM, 15% of the tokens are masked as in every evaluation,
    and answers are compared there: a token that it can read it has only to copy.
    """
    modules = (os, argparse, typing, logging)
    texts = [text for module in modules for text in sources.parse_docstrings(module.__file__)]
    room = min(length, model.config.limit)
    rows = [tokenizer(text, truncation=True, max_length=room)["input_ids"] for text in texts]
    unknown = [number == tokenizer.unk_token_id for row in rows for number in row]
    reads_texts = len(unknown) and np.mean(unknown) < MOST_UNKNOWN
    if reads_texts and not getattr(model, "spans", 0):
        name, count = "docstrings", getattr(model, "texts_per_row", 1)
        starts = range(0, len(rows) - count + 1, count)
        inputs = [_to_inputs(model, rows[k : k + count]) for k in starts]
    else:
        name = "random words"
        inputs = [draw_inputs(model, tokenizer, 16, room, seed) for seed in range(16)]
    if isinstance(model, MaskedLM):
        masked = [_mask(tokenizer, x, number) for number, x in enumerate(inputs)]
        return f"masked words of {name}", masked
    return name, [Sample(x) for x in inputs]


def _to_inputs(model, rows: list[list[int]]) -> Inputs:
    """Return the inputs (B, S) of the ids of some rows."""
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    ids = np.full(mask.shape, model.config.pad_id)
    ids[mask] = np.concatenate(rows)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if model.config.type_vocab:
        inputs["token_type_ids"] = np.zeros_like(ids)
    return inputs


def _mask(tokenizer, inputs: Inputs, number: int) -> Sample:
    """Mask inputs as evaluation does; number: of the sample, which decides where."""
    special = mark_special_ids(tokenizer)
    ids, mask = inputs["input_ids"].astype(np.int64), tokenizer.mask_token_id
    keys = compute_row_keys(number, np.arange(len(ids)))
    masked, positions, _ = mask_tokens(ids, VAL_RATE, special, mask, len(special), keys)
    return Sample(inputs | {"input_ids": masked}, positions)
