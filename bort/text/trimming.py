"""Trimmed vocabularies: a tokenizer with those of its tokens that a text uses most.

It cuts a text of tokens that stay exactly as the full one does, and other words into more tokens.
Letters: V tokens of the full vocabulary, W of the trimmed one.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bort.errors import BortError
from bort.files.untrusted import parse_json
from bort.text.pieces import Pieces, read_pieces
from bort.text.tokenizer import BATCH, build_encoder, encode_texts

NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
SEQUENCE = ("cls_token", "sep_token", "pad_token", "mask_token")  # what a sequence is made with


def trim_tokenizer(tokenizer: Any, texts: Iterable[str], size: int) -> Any:
    """Build a tokenizer of `size` tokens out of a larger one: those that the texts use most.

    Special tokens, and the bytes or the characters of the texts, always stay. All that the
    tokenizer does before and after it looks into its vocabulary stays, too. The new ids are 0 … W −
    1, in the order of the old ones. Raises BortError if the size is too small for what has to stay.
    """
    content = _read_content(tokenizer)
    pieces = read_pieces(content, _name(tokenizer))
    counts = count_tokens(tokenizer, texts)
    selected = select_tokens(pieces, _list_special(content, pieces), counts, size)
    return _rebuild(tokenizer, content, pieces, selected)


def check_trimmed_size(tokenizer: Any, size: int, key: str = "data.vocab_size") -> None:
    """Raise BortError if a tokenizer cannot be trimmed to this size, whatever the text is.

    key: the setting that asks for it.
    """
    if size > len(tokenizer):
        raise BortError(
            f"{key}={size} is above the {len(tokenizer):,} tokens of the tokenizer "
            f"{_name(tokenizer)}; give less, or leave it out"
        )
    content = _read_content(tokenizer)
    pieces = read_pieces(content, _name(tokenizer))
    special, letters = _list_special(content, pieces), pieces.list_letters(())
    if size < (least := len(special | letters)):
        raise _too_small(size, least, "bytes" if letters else "")


def count_tokens(tokenizer: Any, texts: Iterable[str]) -> Counter[str]:
    """Count how often each token occurs in texts, without the special tokens around them."""
    encoder = build_encoder(tokenizer)
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)  # (V,)
    for batch in _batch(texts):
        for ids in encode_texts(encoder, batch):
            counts += np.bincount(ids, minlength=len(counts))
    return Counter(
        {encoder.id_to_token(number): int(counts[number]) for number in counts.nonzero()[0]}
    )


def _batch(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def select_tokens(pieces: Pieces, special: set[str], counts: Counter[str], size: int) -> set[str]:
    """Select `size` tokens so that a text of these counts is cut into few of them.

    Again and again the token goes whose loss makes the text longer by the fewest tokens: each of
    its occurrences becomes the tokens that it is then cut into, and counts for them. special: those
    that always stay, also ones that the model itself does not have.
    """
    counts = counts.copy()
    letters = pieces.list_letters(token for token in counts if token not in special)
    singles = pieces.list_letters(pieces.vocab)
    remaining = set(pieces.vocab) | special
    uses = Counter(part for token in remaining for part in pieces.list_parts(token))
    removable = remaining - special - letters

    def rank(token: str, added: int) -> tuple[int, bool, int]:
        """Order tokens; of equal ones a character stays longest, then one of a low id."""
        return counts[token] * added, token in singles, -pieces.vocab[token]

    queue = [(rank(token, 1), token) for token in removable if not uses[token]]
    heapq.heapify(queue)
    while len(remaining) > size:
        if not queue:
            raise _too_small(size, len(remaining), "characters of the text")
        (cost, *_), token = queue[0]
        parts = pieces.split(token, remaining) if counts[token] else []
        if parts is None:  # nothing else can take its place
            heapq.heappop(queue)
            continue
        now = rank(token, max(1, len(parts) - 1))
        if now[0] > cost:  # its splits or its occurrences have become more since
            heapq.heapreplace(queue, (now, token))
            continue
        heapq.heappop(queue)
        remaining.remove(token)
        for part in parts:
            counts[part] += counts[token]
        for part in pieces.list_parts(token):
            uses[part] -= 1
            if not uses[part] and part in removable:
                heapq.heappush(queue, (rank(part, 1), part))
    return remaining


def map_tokens(tokenizer: Any, full: Any) -> np.ndarray | None:
    """Return the id in the full vocabulary of each token of a trimmed one, (W,) int64.

    Return None if the one is not a part of the other: it has other tokens, begins, ends or masks a
    text with other ones, or cuts text otherwise.
    """
    if any(getattr(tokenizer, name) != getattr(full, name) for name in SEQUENCE):
        return None
    contents = _read_content(tokenizer), _read_content(full)
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        if contents[0].get(key) != contents[1].get(key):
            return None
    if contents[0]["model"]["type"] != contents[1]["model"]["type"]:
        return None
    numbers, words = full.get_vocab(), tokenizer.get_vocab()
    if words.keys() - numbers.keys():
        return None
    ids = np.zeros(max(words.values()) + 1, dtype=np.int64)
    for word, number in words.items():
        ids[number] = numbers[word]
    return ids


# ------------------------------------------------------------------------------- tokenizer.json


def _read_content(tokenizer: Any) -> dict[str, Any]:
    return parse_json(tokenizer.backend_tokenizer.to_str())


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__


def _list_special(content: dict[str, Any], pieces: Pieces) -> set[str]:
    """Return the tokens that always stay: all that were added, and the one for unknown words."""
    special = {token["content"] for token in content["added_tokens"]}
    unknown = getattr(pieces, "unknown", content["model"].get("unk_token"))
    return special | ({unknown} & pieces.vocab.keys())


def _too_small(size: int, least: int, letters: str) -> BortError:
    """Build the error of a size; letters: what stays beside the special tokens, if anything."""
    more = f" and the {letters}" if letters else ""
    return BortError(
        f"data.vocab_size={size} is too small: the special tokens{more} alone are {least:,}; give "
        "at least that many"
    )


def _rebuild(tokenizer: Any, content: dict[str, Any], pieces: Pieces, selected: set[str]) -> Any:
    """Build the tokenizer of the selected tokens, numbered in the order of their old ids."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    numbers = pieces.vocab | {token["content"]: token["id"] for token in content["added_tokens"]}
    ids = {token: new for new, token in enumerate(sorted(selected, key=numbers.__getitem__))}
    content["model"] |= pieces.select(selected & pieces.vocab.keys(), ids)
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    _renumber(content["post_processor"], ids)
    content["truncation"] = content["padding"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    if backend.get_vocab() != ids:
        raise BortError(
            f"the ids of the tokenizer {_name(tokenizer)} cannot be renumbered; leave "
            "data.vocab_size out"
        )
    named = {f"{kind}_token": getattr(tokenizer, f"{kind}_token") for kind in NAMED}
    special = {str(token) for token in named.values()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in named.items() if token is not None},
        extra_special_tokens=[
            token for token in tokenizer.all_special_tokens if token not in special
        ],
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
    )


def _renumber(processor: dict[str, Any] | None, ids: dict[str, int]) -> None:
    """Give the tokens that a post-processor adds their new ids."""
    if processor is None:
        return
    for inner in processor.get("processors", []):
        _renumber(inner, ids)
    for key in ("cls", "sep"):
        if key in processor:
            processor[key] = [processor[key][0], ids[processor[key][0]]]
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [ids[word] for word in token["tokens"]]
