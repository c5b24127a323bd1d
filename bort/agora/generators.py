"""The generators τ of Agora: they make new rows by changing words (arXiv 2010.07990).

A generator changes words of a row's texts, never those of a span, and of a task with choices only
those of the passage; what it makes is a row of the same task without a label. Letters: V
vocabulary, H hidden, M masks.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bort.models.bert import MaskedLM
from bort.tasks.task import Row, Task
from bort.text.tokenizer import build_encoder

WORD = re.compile(r"\w+")
TOP = 32  # most probable words that a masked LM draws from
NEIGHBOURS = 10  # nearest words that one is drawn from


@dataclass(frozen=True)
class Word:
    """A word of a row that may change: the text that it is in, and its characters."""

    text: int
    start: int
    end: int


Edit = tuple[Word, str]  # a word, or more, and what stands there afterwards


class WordSource:
    """A masked LM, and the words that are single tokens of its vocabulary."""

    def __init__(self, model: MaskedLM, tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.encoder = build_encoder(tokenizer)
        self.ids = _find_whole_words(tokenizer)
        self.words = {number: word for word, number in self.ids.items()}
        self.allowed = torch.tensor(sorted(self.words))
        self.place = {number: k for k, number in enumerate(self.allowed.tolist())}

    @cached_property
    def vectors(self) -> Tensor:
        """The allowed words' embeddings, of length 1."""
        weights = self.model.encoder.embeddings.words.weight.detach()
        return F.normalize(weights[self.allowed], dim=-1)

    def id(self, word: str) -> int | None:
        """The id of a word, or of its lower-case form."""
        return self.ids.get(word, self.ids.get(word.lower()))


def _find_whole_words(tokenizer) -> dict[str, int]:
    """Words that are one token at the beginning of a word, with their ids."""
    vocabulary = tokenizer.get_vocab()
    # byte-level and SentencePiece vocabularies mark beginnings, WordPiece marks continuations
    marked = any(token[0] in "Ġ▁" for token in vocabulary)
    special, whole_words = set(tokenizer.all_special_ids), {}
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        begins = token[0] in "Ġ▁" if marked else not token.startswith("##")
        if begins and number not in special:
            word = tokenizer.decode([number]).strip()
            if WORD.fullmatch(word):
                whole_words.setdefault(word, number)
    return whole_words


def find_changeable(task: Task, row: Row) -> list[Word]:
    """The words of a row that a generator may change, in their order."""
    texts = row.texts[:1] if task.kind == "choices" else row.texts
    words = []
    for number, text in enumerate(texts):
        spans = [
            span
            for owner, span in zip(_list_owners(row), row.spans, strict=False)
            if owner == number
        ]
        for match in WORD.finditer(text):
            start, end = match.span()
            if all(end <= first or start >= last for first, last in spans):
                words.append(Word(number, start, end))
    return words


def _list_owners(row: Row) -> tuple[int, int]:
    """The texts of both spans."""
    return 0, len(row.texts) - 1


def apply_edits(row: Row, edits: list[Edit]) -> Row | None:
    """The row after these edits, its spans moved along; None if a text has no word left."""
    texts, spans = list(row.texts), list(row.spans)
    for word, new in sorted(edits, key=lambda edit: (edit[0].text, edit[0].start), reverse=True):
        text, shift = texts[word.text], len(new) - (word.end - word.start)
        texts[word.text] = text[: word.start] + new + text[word.end :]
        spans = [
            (first + shift, last + shift)
            if owner == word.text and first >= word.end
            else (first, last)
            for owner, (first, last) in zip(_list_owners(row), spans, strict=False)
        ]
    if not edits or any(
        WORD.search(o) and not WORD.search(n) for o, n in zip(row.texts, texts, strict=True)
    ):
        return None
    return replace(row, texts=tuple(texts), spans=tuple(spans), label=None, group=None)


def _choose_words(words: list[Word], rate: float, random: np.random.Generator) -> list[Word]:
    """A share of words, one at least, in their order; none of none."""
    count = min(len(words), max(1, round(rate * len(words))))
    return (
        [words[k] for k in sorted(random.choice(len(words), count, replace=False))] if count else []
    )


def _copy_case(old: str, new: str) -> str:
    return new[0].upper() + new[1:] if old[0].isupper() else new


def _get_word(row: Row, word: Word) -> str:
    return row.texts[word.text][word.start : word.end]


# ------------------------------------------------------------------------------------ the three


def delete_and_swap(
    task: Task,
    rows: list[Row],
    rate: float,
    random: np.random.Generator,
    source: WordSource | None = None,
) -> list[Row | None]:
    """Rows with words deleted, or swapped with the next one; None where nothing could change."""
    return [apply_edits(row, _choose_edits(task, row, rate, random)) for row in rows]


def _choose_edits(task: Task, row: Row, rate: float, random) -> list[Edit]:
    words, edits, used = find_changeable(task, row), [], set()
    after = dict(zip(words, words[1:], strict=False))
    for word in _choose_words(words, rate, random):
        following = after.get(word)
        swap = random.random() < 0.5 and following is not None and following.text == word.text
        if word in used or (swap and following in used):
            continue
        used.add(word)
        if swap:
            used.add(following)
            edits += [(word, _get_word(row, following)), (following, _get_word(row, word))]
        else:
            text, end = row.texts[word.text], word.end
            end += text[end : end + 1] == " "  # one of the two spaces around it goes, too
            edits.append((Word(word.text, word.start, end), ""))
    return edits


@torch.no_grad()
def replace_by_nearest(
    task: Task, rows: list[Row], rate: float, random: np.random.Generator, source: WordSource
) -> list[Row | None]:
    """Rows with words replaced by near ones, by the cosine of a model's word embeddings.

    Cost: a product of V × H per changed word.
    """
    vectors = source.vectors
    made = []
    for row in rows:
        single = [w for w in find_changeable(task, row) if source.id(_get_word(row, w)) is not None]
        words = _choose_words(single, rate, random)
        old = torch.tensor(
            [source.place[source.id(_get_word(row, w))] for w in words], dtype=torch.long
        )
        near = (vectors[old] @ vectors.T).topk(min(NEIGHBOURS + 1, len(vectors))).indices
        edits = []
        for word, me, numbers in zip(words, old.tolist(), near.tolist(), strict=True):
            if numbers := [k for k in numbers if k != me]:
                new = source.words[int(source.allowed[random.choice(numbers)])]
                edits.append((word, _copy_case(_get_word(row, word), new)))
        made.append(apply_edits(row, edits))
    return made


@torch.no_grad()
def resample_words(
    task: Task, rows: list[Row], rate: float, random: np.random.Generator, source: WordSource
) -> list[Row | None]:
    """Rows with words masked and drawn anew from a masked LM, never the ones that were there.

    One pass of the model over all rows' changed texts; logits at the masks only.
    """
    words = [_choose_words(find_changeable(task, row), rate, random) for row in rows]
    texts, owners = [], []  # of each masked text its ids; and the words of each mask
    for number, row in enumerate(rows):
        for text in sorted({word.text for word in words[number]}):
            words_of_text = [word for word in words[number] if word.text == text]
            ids, masked = mask_words(row.texts[text], words_of_text, source)
            if masked:
                texts.append(ids)
                owners += [(number, word) for word in masked]
    if not texts:
        return [None] * len(rows)
    old = [source.id(_get_word(rows[number], word)) for number, word in owners]
    drawn = _draw_words(compute_mask_logits(texts, source), old, source, random)
    edits: list[list[Edit]] = [[] for _ in rows]
    for (number, word), new in zip(owners, drawn, strict=True):
        edits[number].append((word, _copy_case(_get_word(rows[number], word), new)))
    return [apply_edits(row, row_edits) for row, row_edits in zip(rows, edits, strict=True)]


def mask_words(text: str, words: list[Word], source: WordSource) -> tuple[list[int], list[Word]]:
    """Ids of a text with one mask for each word, and the words that the model's length reaches."""
    borders = [0, *(edge for word in words for edge in (word.start, word.end)), len(text)]
    # without the space before it: it belongs to the hidden word, in training too
    pieces = [text[a:b].rstrip() for a, b in zip(borders[::2], borders[1::2], strict=True)]
    tokenizer, room = source.tokenizer, source.model.config.limit - 2
    ids, masked = [], []
    for k, encoding in enumerate(source.encoder.encode_batch(pieces, add_special_tokens=False)):
        ids += encoding.ids
        if k < len(words) and len(ids) < room:
            masked.append(words[k])
            ids.append(tokenizer.mask_token_id)
    return [tokenizer.cls_token_id, *ids[:room], tokenizer.sep_token_id], masked


def compute_mask_logits(texts: list[list[int]], source: WordSource) -> Tensor:
    """Logits (M, words) of the whole words at all masks, in their order."""
    length, mask = max(map(len, texts)), source.tokenizer.mask_token_id
    ids = torch.full((len(texts), length), source.tokenizer.pad_token_id)
    for row, text_ids in zip(ids, texts, strict=True):
        row[: len(text_ids)] = torch.tensor(text_ids)
    lengths = torch.tensor([len(text_ids) for text_ids in texts])
    attention = (torch.arange(length) < lengths[:, None]).long()
    positions = (ids == mask).flatten().nonzero().flatten()
    device = next(source.model.parameters()).device
    moved, positions = (ids.to(device), attention.to(device)), positions.to(device)
    return source.model(*moved, positions=positions).float().cpu()[:, source.allowed]


def _draw_words(
    logits: Tensor, old: list[int | None], source: WordSource, random: np.random.Generator
) -> list[str]:
    """A word for each row of logits (M, words): of the TOP most probable, never the old one."""
    for row, number in zip(logits, old, strict=True):
        if number is not None:
            row[source.place[number]] = -torch.inf
    best = logits.topk(min(TOP, logits.shape[1]))
    noise = torch.from_numpy(random.gumbel(size=best.values.shape)).float()
    drawn = best.indices.gather(1, (best.values + noise).argmax(-1, keepdim=True)).squeeze(1)
    return [source.words[number] for number in source.allowed[drawn].tolist()]


GENERATORS: dict[str, Callable] = {
    "mlm": resample_words,
    "nearest": replace_by_nearest,
    "edit": delete_and_swap,
}
