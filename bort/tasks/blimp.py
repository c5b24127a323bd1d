"""BLiMP: minimal pairs of sentences, scored by a masked LM without any fine-tuning.

The score of a sentence is its pseudo-log-likelihood (Salazar et al. 2020): each of its tokens is
masked alone, and the log-probabilities of the true tokens, given all others, are added up. As
there, in minicons (`original`) and in lm-eval, the special tokens at the ends are not counted, and
the sum is not divided by the length. A pair is right if its good sentence scores strictly higher;
equal scores, which a tokenizer gives that does not tell the sentences apart, are wrong.

Letters: K sentences, M masked tokens of a batch, S tokens of a sentence, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bort.errors import BortError, check_at_least, check_at_most
from bort.files.json_lines import read_json_lines
from bort.text.sources import list_text_files

TOKENS = 8192  # tokens of the masked copies in a batch
LOGITS = 2**24  # logits of a batch: 64 MB
# the keys of a pair in one file of all sets, and in the official files, one of a set each
KEYS = {
    "name": ("set", "UID"),
    "field": ("field", "field"),
    "good": ("good", "sentence_good"),
    "bad": ("bad", "sentence_bad"),
}
ComputeLogits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, of which only one is grammatical; the name and the field of their set."""

    name: str
    field: str
    good: str
    bad: str


@dataclass(frozen=True)
class Accuracy:
    """How many of some pairs are right, and the standard error of their mean over equal sets.

    value, error: shares between 0 and 1; count: pairs.
    """

    value: float
    error: float
    count: int


@dataclass(frozen=True)
class BlimpResult:
    """The right pairs of each set, by its name, and the field of each set."""

    right: dict[str, list[bool]]
    fields: dict[str, str]
    ties: int  # pairs with equal scores, which count as wrong

    @property
    def overall(self) -> Accuracy:
        """The mean over all sets, each of which counts alike."""
        return self.average(self.right)

    @property
    def by_field(self) -> dict[str, Accuracy]:
        """The mean over the sets of each field, by its name."""
        sets: dict[str, list[str]] = {}
        for name, field in self.fields.items():
            sets.setdefault(field, []).append(name)
        return {field: self.average(sets[field]) for field in sorted(sets)}

    @property
    def by_set(self) -> dict[str, Accuracy]:
        """The accuracy of each set, by its name."""
        return {name: self.average([name]) for name in self.right}

    def average(self, names: Sequence[str]) -> Accuracy:
        """Compute the mean accuracy of these sets, and its standard error for other pairs of them.

        The error is that of independent pairs within each set. It does not cover other trainings.
        """
        shares = [sum(self.right[name]) / len(self.right[name]) for name in names]
        counts = [len(self.right[name]) for name in names]
        variances = [p * (1 - p) / n for p, n in zip(shares, counts, strict=True)]
        error = math.sqrt(sum(variances)) / len(shares)
        return Accuracy(sum(shares) / len(shares), error, sum(counts))

    def to_json(self) -> dict[str, Any]:
        """Return `blimp`, `blimp/FIELD` and `blimp/SET` with accuracies, and their errors."""
        values = {"blimp": self.overall}
        values |= {f"blimp/{name}": value for name, value in (self.by_field | self.by_set).items()}
        flat: dict[str, Any] = {name: value.value for name, value in values.items()}
        flat |= {f"{name}_error": value.error for name, value in values.items()}
        return flat | {"blimp_pairs": self.overall.count, "blimp_ties": self.ties}


def read_pairs(path: Path, share: float = 1.0) -> list[MinimalPair]:
    """Read the pairs of a jsonl file with all sets, or of a folder with BLiMP's official files.

    share: the part of each set that is taken, evenly spread over it, at least one pair. Raises
    BortError for files that hold no pairs, with the line.
    """
    check_at_least("share", share, 0)
    check_at_most("share", share, 1)
    files, _ = list_text_files(path)
    sets: dict[str, list[MinimalPair]] = {}
    for file in files:
        for line in read_json_lines(file, skips_blank=True):
            pair = _to_pair(line.record, line.where)
            sets.setdefault(pair.name, []).append(pair)
    return [pair for pairs in sets.values() for pair in _thin_out(pairs, share)]


def _to_pair(record: dict[str, Any], where: str) -> MinimalPair:
    values = {}
    for name, keys in KEYS.items():
        value = next((record[key] for key in keys if key in record), None)
        if not isinstance(value, str):
            raise BortError(
                f"{where}: no text under '{keys[0]}' or '{keys[1]}'; give BLiMP's files"
            )
        values[name] = value
    values["field"] = values["field"].replace("/", "_")  # one official set spells it otherwise
    return MinimalPair(**values)


def _thin_out(pairs: list[MinimalPair], share: float) -> list[MinimalPair]:
    count = max(1, round(share * len(pairs)))
    return [pairs[k * len(pairs) // count] for k in range(count)]


def score_pairs(
    compute_logits: ComputeLogits,
    tokenizer: Any,
    pairs: Sequence[MinimalPair],
    limit: int,
    tick: Callable[[int, int], None] = lambda done, total: None,
    device: str | torch.device = "cpu",
) -> BlimpResult:
    """Compare the scores of both sentences of each pair; see `score_sentences`."""
    sentences = list(dict.fromkeys(text for pair in pairs for text in (pair.good, pair.bad)))
    scores = score_sentences(compute_logits, tokenizer, sentences, limit, tick, device)
    by_text = dict(zip(sentences, scores.tolist(), strict=True))
    right: dict[str, list[bool]] = {}
    for pair in pairs:
        right.setdefault(pair.name, []).append(by_text[pair.good] > by_text[pair.bad])
    ties = sum(by_text[pair.good] == by_text[pair.bad] for pair in pairs)
    return BlimpResult(right, {pair.name: pair.field for pair in pairs}, ties)


@torch.inference_mode()
def score_sentences(
    compute_logits: ComputeLogits,
    tokenizer: Any,
    sentences: Sequence[str],
    limit: int,
    tick: Callable[[int, int], None] = lambda done, total: None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Compute the pseudo-log-likelihood of sentences, in nats: (K,), float64.

    compute_logits: gives logits (M, V) of input_ids (B, S) at flat positions (M,), as `MaskedLM`
    does in eval mode. tokenizer: a fast tokenizer of that model. limit: the most tokens that the
    model reads. tick: is told how many of how many tokens have been masked. Sentences of equal
    length are batched, so that there is no padding; each counted token costs one masked copy of its
    sentence. Raises BortError for a sentence that is longer than the limit.
    """
    encoded = tokenizer(list(sentences), return_special_tokens_mask=True)
    total = sum(mask.count(0) for mask in encoded["special_tokens_mask"])
    scores, done = torch.zeros(len(sentences), dtype=torch.float64), 0
    for rows in _group_by_length(encoded["input_ids"]):
        ids = torch.tensor([encoded["input_ids"][row] for row in rows], device=device)
        special = torch.tensor([encoded["special_tokens_mask"][row] for row in rows], device=device)
        if ids.shape[1] > limit:
            raise BortError(
                f"a sentence of {ids.shape[1]} tokens is longer than the {limit} that the model "
                "was trained on; pre-train with a larger data.length"
            )
        line, column = (special == 0).nonzero(as_tuple=True)  # (M,)
        for chunk in _divide(len(line), ids.shape[1], len(tokenizer)):
            owners, columns = line[chunk], column[chunk]
            inputs = ids[owners]  # (M, S)
            index = torch.arange(len(owners), device=device)
            labels = inputs[index, columns]
            inputs[index, columns] = tokenizer.mask_token_id
            logits = compute_logits(inputs, index * inputs.shape[1] + columns)  # (M, V)
            losses = cross_entropy(logits.float(), labels, reduction="none")
            scores.index_add_(0, torch.tensor(rows)[owners.cpu()], -losses.double().cpu())
            done += len(owners)
            tick(done, total)
    return scores


def _group_by_length(ids: list[list[int]]) -> Iterator[list[int]]:
    """Yield the numbers of sentences of equal length, at most a few batches' worth together."""
    groups: dict[int, list[int]] = {}
    for row, sentence in enumerate(ids):
        groups.setdefault(len(sentence), []).append(row)
    for _, rows in sorted(groups.items()):
        for start in range(0, len(rows), 1024):
            yield rows[start : start + 1024]


def _divide(count: int, length: int, vocab_size: int) -> Iterator[slice]:
    """Divide masked copies of `length` tokens into batches of at most TOKENS and LOGITS."""
    size = max(1, min(TOKENS // length, LOGITS // vocab_size))
    return (slice(start, start + size) for start in range(0, count, size))
