"""The rules of texts and answers that `bort.load` and an exported predict.py share.

What a row may be, which rows are answered together, how long ones are divided, and what an answer
says. This file becomes a part of the predict.py that is shipped.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bort.files.delimited import Mistake

BATCH = 32  # texts that the model reads at once
BLOCK = 32 * BATCH  # texts that are read ahead, to put those of similar length together
TOKENS = 4096  # of a batch, padding included
Text = str | tuple[str, ...]  # a text or a pair of texts


def shorten(value: object, most: int = 40) -> str:
    """Return a quotation of at most that many characters."""
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}…"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def split_row(text: object, count: int | None) -> tuple[str, ...]:
    """Return the one or two texts of a row.

    count: how many the model's task has, if that is known. Raises Mistake for what is no such row.
    """
    parts = (text,) if isinstance(text, str) else text
    if not isinstance(parts, (tuple, list)) or not all(isinstance(part, str) for part in parts):
        raise Mistake(f"{shorten(text)} is no text and no pair of texts")
    if not 1 <= len(parts) <= 2:
        raise Mistake(f"{len(parts)} texts are given, it takes one or two")
    if count not in (None, len(parts)):
        kind = "pairs of texts; give two" if count == 2 else "one text; give no second"
        raise Mistake(f"the model was fine-tuned on {kind}")
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
            raise Mistake(f"{shorten(part)} has half a character") from None
    return tuple(parts)


def check_one_text(text: object) -> None:
    """Raise Mistake for what is no text."""
    if not isinstance(text, str):
        raise Mistake(f"{shorten(text)} is no text; an embedding is of one text")


def check_masks(parts: tuple[str, ...], count: int, mask: str, limit: int) -> None:
    """Raise Mistake unless all masks of a row, of which there is one, are among its tokens.

    count: masks that are among them; limit: tokens that fit.
    """
    if count < sum(part.count(mask) for part in parts):
        raise Mistake(f"the mask lies beyond the {limit} tokens that fit: {shorten(parts[0])}")
    if not count:
        raise Mistake(
            f"{shorten(parts[0])} has no {mask} to fill; the model is a masked language model, "
            "not a fine-tuned one"
        )


def check_top(top: object) -> None:
    """Raise Mistake for what is no number of words."""
    if not isinstance(top, int) or top < 1:
        raise Mistake(f"top={shorten(top)} is no number of words; write top=5")


def check_list(texts: object) -> None:
    """Raise Mistake for what is no list of texts, as a single text."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise Mistake("predict takes a list of texts; write predict([text])")


@contextmanager
def name_row(number: int, alone: bool) -> Iterator[None]:
    """Name the row in the mistakes of the block, unless it is alone."""
    try:
        yield
    except Mistake as error:
        raise error if alone else Mistake(f"row {number}: {error}") from None


def split_blocks(texts: Iterable[Text], top: int) -> Iterator[list[Text]]:
    """Yield texts in lists, in their order; top: words of an answer, all kept for a list."""
    size = max(1, min(BLOCK, 100 * BLOCK // top))
    block = []
    for text in texts:
        block.append(text)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def form_batches(
    lengths: list[int], most: int = BATCH, tokens: int = TOKENS
) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar length together.

    most: rows of a batch; tokens: of a batch, with their padding.
    A row that is longer than `tokens` is alone.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[row] > tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def divide_row(
    tokenizer, parts: tuple[str, ...], limit: int, cut: int | None, overlap: int
) -> list:
    """Return the encodings of a row's windows, one for a row that fits; none where it must be cut.

    tokenizer: a tokenizers.Tokenizer that cuts nothing. limit: tokens of a window. cut: which of
    two texts is divided, None: the longer one; the other one is in every window, and a row is cut
    where that one would leave less than half of the room. overlap: tokens that neighbouring windows
    share, at most half of what they hold of the text.
    """
    texts = [tokenizer.encode(part, add_special_tokens=False) for part in parts]
    lengths, is_pair = list(map(len, texts)), len(parts) == 2
    room = limit - tokenizer.num_special_tokens_to_add(is_pair)
    if sum(lengths) <= room:
        return [tokenizer.post_process(*texts)]
    number = cut if is_pair and cut is not None else int(is_pair and lengths[0] <= lengths[1])
    size = room - (sum(lengths) - lengths[number])
    if 2 * size < room:
        return []
    texts[number].truncate(size, stride=min(overlap, size // 2))
    first = tokenizer.post_process(*texts)
    return [first, *first.overflowing]


def remove_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without its [[ ]], and the ranges of the characters between them."""
    spans, plain = [], ""
    for number, part in enumerate(re.split(r"\[\[(.*?)\]\]", text)):
        if number % 2:
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


def describe_scores(scores: Iterable[float], names: list[str]) -> dict:
    """Return the most probable label, its probability and those of all labels."""
    scores = list(scores)
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "label": names[best],
        "score": scores[best],
        "scores": dict(zip(names, scores, strict=True)),
    }


def describe_labels(scores: Iterable[float], names: list[str], are_right: Iterable[bool]) -> dict:
    """Return the labels that are right, which may be none or several, before what else is said."""
    labels = [name for name, is_right in zip(names, are_right, strict=True) if is_right]
    return {"labels": labels} | describe_scores(scores, names)


def to_json_line(answer: dict, encoding: str | None) -> str:
    """Return the answer as JSON, with escapes where the encoding lacks a character."""
    line = json.dumps(answer, ensure_ascii=False, default=str)  # a table may hold dates
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(answer, default=str)
    return line
