"""The three kinds of subword vocabularies: what a token is built of, and how it is cut without it.

They are read from the `model` of a tokenizer.json. Letters: L characters of a token.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Any, Protocol

from bort.errors import BortError

BYTES = tuple(f"<0x{number:02X}>" for number in range(256))  # tokens for single bytes


class Pieces(Protocol):
    """The model of a tokenizer, as far as its vocabulary can be made smaller.

    vocab: its tokens and their ids.
    """

    vocab: dict[str, int]

    def list_letters(self, used: Iterable[str]) -> set[str]:
        """Return the tokens of one byte or character without which these could not be cut."""

    def list_parts(self, token: str) -> tuple[str, ...]:
        """Return the tokens without which the tokenizer would not build this one."""

    def split(self, token: str, vocab: Collection[str]) -> list[str] | None:
        """Cut a token into others of a vocabulary; return None if that is impossible."""

    def select(self, tokens: Collection[str], ids: dict[str, int]) -> dict[str, Any]:
        """Return what changes in the JSON of the model with these tokens alone, under these ids."""


def read_pieces(content: dict[str, Any], name: str) -> Pieces:
    """Read the vocabulary of a tokenizer from the content of its tokenizer.json.

    Raises BortError for a kind of model that is none of the three. name: of the tokenizer, for it.
    """
    kinds = {"BPE": MergedPairs, "WordPiece": LongestWords, "Unigram": LikeliestPieces}
    kind = content["model"]["type"]
    if kind not in kinds:
        raise BortError(
            f"tokenizer {name} is of the kind {kind}, whose vocabulary cannot be trimmed; "
            "leave data.vocab_size out"
        )
    return kinds[kind](content)


def _find_bytes(vocab: dict[str, int]) -> set[str]:
    """Return the tokens that stand for the bytes of characters which the vocabulary lacks."""
    return {token for token in BYTES if token in vocab}


class MergedPairs:
    """Byte pair encoding: two neighbours become one token, in the order of a list of merges."""

    def __init__(self, content: dict[str, Any]):
        model = content["model"]
        self.vocab: dict[str, int] = model["vocab"]
        self.merges = [
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        ]
        self.prefix: str = model.get("continuing_subword_prefix") or ""
        self.suffix: str = model.get("end_of_word_suffix") or ""
        self.alphabet = _find_bytes(self.vocab) if model.get("byte_fallback") else set()
        if _reads_bytes(content):
            from tokenizers.pre_tokenizers import ByteLevel

            self.alphabet |= self.vocab.keys() & set(ByteLevel.alphabet())
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        results = [self._join(*pair) for pair in self.merges]
        self.parts: dict[str, tuple[str, ...]] = dict(zip(results, self.merges, strict=True))
        for token, number in Counter(results).items():
            if number > 1:  # several merges make it, of which its letters decide
                self.parts[token] = self._find_parts(token)

    def _join(self, left: str, right: str) -> str:
        return left + right.removeprefix(self.prefix)

    def _cut_letters(self, token: str) -> list[str]:
        """Cut a token into the symbols of one character that its merges begin with."""
        is_last = bool(self.suffix) and token.endswith(self.suffix) and token != self.suffix
        body = token.removesuffix(self.suffix) if is_last else token
        is_first = not self.prefix or not body.startswith(self.prefix)
        letters = [self.prefix + letter for letter in body.removeprefix(self.prefix)]
        if is_first and letters:
            letters[0] = letters[0].removeprefix(self.prefix)
        if is_last:
            letters[-1] += self.suffix
        return letters

    def _find_parts(self, token: str) -> tuple[str, ...]:
        """Merge the letters of a token; return the last pair, or () if that gives another token."""
        symbols, last = self._cut_letters(token), ()
        while len(symbols) > 1:
            ranks = [self.ranks.get(pair, len(self.ranks)) for pair in pairwise(symbols)]
            first = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[first] == len(self.ranks):
                return ()
            last = tuple(symbols[first : first + 2])
            symbols[first : first + 2] = [self._join(*last)]
        return last

    def list_letters(self, used: Iterable[str]) -> set[str]:
        """Return the bytes; of a vocabulary of characters, those that these tokens consist of."""
        if self.alphabet:
            return self.alphabet
        return {letter for token in used for letter in self._cut_letters(token)} & self.vocab.keys()

    def list_parts(self, token: str) -> tuple[str, ...]:
        """Return the two tokens whose merge makes this one."""
        return self.parts.get(token, ())

    def split(self, token: str, vocab: Collection[str]) -> list[str] | None:
        """Cut a token into the two that its merge joins."""
        parts = self.list_parts(token)
        return list(parts) if parts and all(part in vocab for part in parts) else None

    def select(self, tokens: Collection[str], ids: dict[str, int]) -> dict[str, Any]:
        """Return the vocabulary and the merges whose two tokens and whose result stay."""
        merges = [
            list(pair) for pair in self.merges if tokens.issuperset((*pair, self._join(*pair)))
        ]
        return {"vocab": {token: ids[token] for token in self.vocab if token in tokens}} | {
            "merges": merges
        }


def _reads_bytes(content: dict[str, Any]) -> bool:
    """Return whether a tokenizer turns the bytes of a text into characters, as GPT-2's does."""
    steps = [content.get("pre_tokenizer"), content.get("normalizer")]
    while steps:
        step = steps.pop() or {}
        if step.get("type") == "ByteLevel":
            return True
        steps += step.get("pretokenizers", []) + step.get("normalizers", [])
    return False


class LongestWords:
    """WordPiece: the longest word that fits is cut off, then the longest continuation, and so on.

    A text whose tokens all stay is cut as before: what is the longest among more is it among fewer.
    """

    def __init__(self, content: dict[str, Any]):
        self.vocab: dict[str, int] = content["model"]["vocab"]
        self.prefix: str = content["model"]["continuing_subword_prefix"]

    def list_letters(self, used: Iterable[str]) -> set[str]:
        """Return the characters of these tokens, as words and as continuations of words."""
        letters: set[str] = set()
        for token in used:
            body = token.removeprefix(self.prefix)
            is_first = token == body
            letters |= {self.prefix + letter for letter in body[is_first:]}
            if is_first:
                letters.add(body[:1])
        return letters & self.vocab.keys()

    def list_parts(self, token: str) -> tuple[str, ...]:
        """Return nothing: a word does not need any other."""
        return ()

    def split(self, token: str, vocab: Collection[str]) -> list[str] | None:
        """Cut a token into the longest others."""
        body = token.removeprefix(self.prefix)
        prefix = "" if body == token else self.prefix
        pieces, start = [], 0
        while start < len(body):
            ends = range(len(body), start, -1)
            words = (prefix + body[start:end] for end in ends)
            piece = next((word for word in words if word in vocab and word != token), None)
            if piece is None:
                return None
            pieces.append(piece)
            start += len(piece) - len(prefix)
            prefix = self.prefix
        return pieces

    def select(self, tokens: Collection[str], ids: dict[str, int]) -> dict[str, Any]:
        """Return the words."""
        return {"vocab": {token: ids[token] for token in self.vocab if token in tokens}}


class LikeliestPieces:
    """Unigram: a text is cut into the pieces whose sum of scores is the largest.

    A text whose tokens all stay is cut as before: the best of more cuts is the best of fewer.
    """

    def __init__(self, content: dict[str, Any]):
        model = content["model"]
        self.pairs: list[tuple[str, float]] = model["vocab"]
        self.vocab = {token: number for number, (token, _) in enumerate(self.pairs)}
        self.scores = dict(self.pairs)
        self.longest = max(map(len, self.vocab))
        unknown = model.get("unk_id")
        self.unknown = None if unknown is None else self.pairs[unknown][0]
        self.alphabet = _find_bytes(self.vocab) if model.get("byte_fallback") else set()

    def list_letters(self, used: Iterable[str]) -> set[str]:
        """Return the characters of these tokens, and the bytes where there are any."""
        return {letter for token in used for letter in token} & self.vocab.keys() | self.alphabet

    def list_parts(self, token: str) -> tuple[str, ...]:
        """Return nothing: a piece does not need any other."""
        return ()

    def split(self, token: str, vocab: Collection[str]) -> list[str] | None:
        """Cut a token into the likeliest others."""
        best: list[tuple[float, int] | None] = [(0.0, 0)] + [None] * len(token)
        for end in range(1, len(token) + 1):
            for start in range(max(0, end - self.longest), end):
                piece, before = token[start:end], best[start]
                if before is None or piece == token or piece not in vocab:
                    continue
                score = before[0] + self.scores[piece]
                if best[end] is None or score > best[end][0]:
                    best[end] = score, start
        if best[-1] is None:
            return None
        pieces, end = [], len(token)
        while end:
            start = best[end][1]
            pieces.append(token[start:end])
            end = start
        return pieces[::-1]

    def select(self, tokens: Collection[str], ids: dict[str, int]) -> dict[str, Any]:
        """Return the pieces with their scores."""
        changes: dict[str, Any] = {"vocab": [pair for pair in self.pairs if pair[0] in tokens]}
        return changes if self.unknown is None else changes | {"unk_id": ids[self.unknown]}
