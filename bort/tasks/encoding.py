"""The encoding of rows into token ids: the tokenizer's template, and the cuts of long rows.

Letters: N rows, L tokens of one input.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bort.errors import BortError
from bort.tasks.task import Row, Task
from bort.text.tokenizer import build_encoder, encode_texts, mark_special_ids


@dataclass
class EncodedRows:
    """The inputs of rows; each row has one, or one per choice, text that is apart, or window."""

    input_ids: list[list[np.ndarray]]  # N × inputs × int32 (L,), with the special tokens
    token_types: list[list[np.ndarray]] | None  # likewise; None where the tokenizer makes none
    spans: np.ndarray | None  # (N, 2, 2) int64: first and one past the last token of both spans
    cut: int  # rows that are shorter than their text
    has_windows: bool = False  # whether a row's inputs are windows, whose answers are averaged

    @property
    def windows(self) -> np.ndarray:
        """The number (N,) of inputs that the answer to each row is a mean over."""
        if not self.has_windows:
            return np.ones(len(self.input_ids), dtype=np.int64)
        return np.array(list(map(len, self.input_ids)), dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens (N,) of each row's longest input."""
        return np.array([max(map(len, choices)) for choices in self.input_ids])

    def of(self, rows: Sequence[int]) -> "EncodedRows":
        """Those of some rows alone, in the order given."""
        ids, types, spans = self.input_ids, self.token_types, self.spans
        return EncodedRows(
            [ids[row] for row in rows],
            None if types is None else [types[row] for row in rows],
            None if spans is None else spans[list(rows)],
            self.cut,
            self.has_windows,
        )


@dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer puts before, between and after one or two texts."""

    parts: tuple[np.ndarray, ...]  # ids before the first text, after it, after the second
    part_types: tuple[np.ndarray, ...]
    text_types: tuple[int, ...]  # type of each text's tokens

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.parts))

    def fill(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Ids (L,) of texts between their special tokens."""
        pieces = [self.parts[0]]
        for text, after in zip(texts, self.parts[1:], strict=True):
            pieces += [text, after]
        return np.concatenate(pieces).astype(np.int32)

    def types(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Token types (L,) of the same."""
        pieces = [self.part_types[0]]
        for text, kind, after in zip(texts, self.text_types, self.part_types[1:], strict=True):
            pieces += [np.full(len(text), kind), after]
        return np.concatenate(pieces).astype(np.int32)


def encode_rows(task: Task, rows: list[Row], tokenizer, length: int) -> EncodedRows:
    """Inputs of at most `length` tokens for rows; words like `<mask>` in a text are ordinary text.

    Of a row that is too long, the text `task.cut` is shortened at its end (None: the longer of
    two), for all choices of a question alike; texts with spans are a window around them. Texts that
    are apart are cut each at its own end. With `task.overlap`, such a text is divided into windows
    instead, and each of them is an input, see `plan_windows`.
    Raises BortError for a row that does not fit even without that text.
    """
    encoder = build_encoder(tokenizer)
    texts = [join_texts(task, row) for row in rows]
    if task.apart:
        texts = list(map(_separate_texts, texts))
    count = 1 if task.apart or len(task.columns) == 1 else 2
    template = _find_template(encoder, count)
    room = length - template.size
    if room < 1:
        raise BortError(
            f"data.length={length} leaves no room beside the {template.size} special tokens; "
            "give a larger one"
        )
    unknown, special = tokenizer.unk_token_id, mark_special_ids(tokenizer)

    def plain(ids: np.ndarray) -> np.ndarray:
        """Without special ids: some vocabularies (SentencePiece) hold "<s>" as a word too."""
        return ids if unknown is None else np.where(special[ids], unknown, ids)

    fit = _fit_windows if task.kind == "spans" else _fit_texts
    types = "token_type_ids" in tokenizer.model_input_names
    result = EncodedRows([], [] if types else None, None, 0, task.overlap is not None)
    spans = []
    for inputs, ranges, cut in fit(task, rows, texts, encoder, plain, room):
        result.input_ids.append([template.fill(texts_of_input) for texts_of_input in inputs])
        if types:
            result.token_types.append([template.types(texts_of_input) for texts_of_input in inputs])
        if ranges:
            spans.append(_place_spans(ranges, inputs[0], template))
        result.cut += cut
    if task.kind == "spans":
        result.spans = np.array(spans, dtype=np.int64).reshape(-1, 2, 2)
    return result


def join_texts(task: Task, row: Row) -> list[tuple[str, ...]]:
    """Join the texts of a row to the one or two of each of its inputs; choices have one each."""
    first, *following = row.texts
    if task.kind == "choices":
        question, *options = following
        return [(first, f"{question} {option}") for option in options]
    if task.placeholder:
        query, entity = following
        return [(first, query.replace(task.placeholder, entity))]
    return [(first, " ".join(following))] if following else [(first,)]


def _separate_texts(inputs: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Make the two texts of a row's only input two inputs."""
    (pair,) = inputs
    return [(text,) for text in pair]


def _find_template(encoder, texts: int) -> Template:
    """What the tokenizer's post-processor puts around one or two texts, seen on the letter a."""
    probe = encoder.encode("a", "a") if texts == 2 else encoder.encode("a")
    ids, types = np.array(probe.ids), np.array(probe.type_ids)
    owner = np.array([-1 if text is None else text for text in probe.sequence_ids])
    token_places = [np.flatnonzero(owner == text) for text in range(texts)]
    if not all(map(len, token_places)):
        raise BortError("the tokenizer makes no token of the letter a; use another one")
    edges = [
        0,
        *(edge for tokens in token_places for edge in (tokens[0], tokens[-1] + 1)),
        len(ids),
    ]
    around = [slice(*edges[k : k + 2]) for k in range(0, len(edges), 2)]
    return Template(
        tuple(ids[part] for part in around),
        tuple(types[part] for part in around),
        tuple(int(types[tokens[0]]) for tokens in token_places),
    )


def _name_row(task: Task, row: Row) -> str:
    index = row.index if isinstance(row.index, tuple) else (row.index,)
    return f"{task.name}, row {'-'.join(map(str, index))}"


# ------------------------------------------------------------------------------------ plain rows

# What `_fit_texts` and `_fit_windows` yield for a row: the cut texts of each input, the ranges
# of tokens (text, first, one past the last) of its spans, and whether anything was cut.
FittedTexts = tuple[list[list[np.ndarray]], list[tuple[int, int, int]], bool]


def _fit_texts(
    task: Task, rows: list, texts: list, encoder, plain: Callable, room: int
) -> Iterator[FittedTexts]:
    """Cut the inputs of rows without spans to `room` tokens of text."""
    distinct = list(dict.fromkeys(text for inputs in texts for parts in inputs for text in parts))
    ids = dict(zip(distinct, map(plain, encode_texts(encoder, distinct)), strict=True))
    for row, inputs in zip(rows, texts, strict=True):
        uncut = [list(map(ids.__getitem__, parts)) for parts in inputs]
        if windows := _divide_texts(task, uncut[0], room):
            yield windows, [], False
            continue
        if task.cut is None or task.apart:
            cut = [_shorten_longest(parts, room) for parts in uncut]
        else:
            fixed = max(sum(map(len, g)) - len(g[task.cut]) for g in uncut)  # the same for all
            if fixed > room:
                raise BortError(
                    f"{_name_row(task, row)}: {fixed} tokens without the {task.columns[task.cut]}, "
                    f"data.length leaves {room}; give a larger one"
                )
            cut = [
                _replace_text(parts, task.cut, parts[task.cut][: room - fixed]) for parts in uncut
            ]
        yield cut, [], any(sum(map(len, parts)) > room for parts in uncut)


@dataclass(frozen=True)
class WindowPlan:
    """How a row that is too long is divided: which text, and how."""

    text: int  # the number of the text that is divided; the other one is in every window
    size: int  # its tokens in a window
    overlap: int  # those that it shares with the window before

    def list_ranges(self, length: int) -> Iterator[slice]:
        """Yield the windows of a text of so many tokens; the last one may be shorter."""
        for start in range(0, length, self.size - self.overlap):
            yield slice(start, min(start + self.size, length))
            if start + self.size >= length:
                return


def plan_windows(
    lengths: Sequence[int], cut: int | None, room: int, overlap: int
) -> WindowPlan | None:
    """Plan the windows of a row; None for a row that fits, and for one that is to be cut.

    lengths: tokens of its one or two texts. cut: the text that is divided; None: the longer one.
    room: tokens of text in a window. overlap: tokens that neighbouring windows share, at most half
    of what a window holds of the text. A row is cut where the text that stands in every window
    would leave less than half of the room: a long text would become very many windows.
    """
    if sum(lengths) <= room:
        return None
    is_pair = len(lengths) == 2
    text = cut if is_pair and cut is not None else int(is_pair and lengths[0] <= lengths[1])
    size = room - (sum(lengths) - lengths[text])
    return WindowPlan(text, size, min(overlap, size // 2)) if 2 * size >= room else None


def _divide_texts(task: Task, texts: list[np.ndarray], room: int) -> list[list[np.ndarray]] | None:
    """Divide the texts of a row into windows; None where there is nothing to divide."""
    if task.overlap is None:
        return None
    plan = plan_windows(list(map(len, texts)), task.cut, room, task.overlap)
    if plan is None:
        return None
    ranges = plan.list_ranges(len(texts[plan.text]))
    return [_replace_text(texts, plan.text, texts[plan.text][part]) for part in ranges]


def _replace_text(texts: list[np.ndarray], number: int, text: np.ndarray) -> list[np.ndarray]:
    """Put another text in the place of one, by its number."""
    return [text if k == number else other for k, other in enumerate(texts)]


def _shorten_longest(texts: list[np.ndarray], room: int) -> list[np.ndarray]:
    """Cut the texts of an input to `room` tokens, from the end of the longer."""
    lengths = _cut_longest(texts, room)
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def _cut_longest(texts: Sequence[np.ndarray], room: int) -> list[int]:
    """Return how much is left of each text when the longer one loses token by token at its end."""
    if sum(map(len, texts)) <= room:
        return [len(text) for text in texts]
    if len(texts) == 1:
        return [room]
    first, second = map(len, texts)
    short = min(first, second, room // 2)
    return [room - short, short] if first > second else [short, room - short]


# ------------------------------------------------------------------------------------ spans


def _fit_windows(
    task: Task, rows: list, texts: list, encoder, plain: Callable, room: int
) -> Iterator[FittedTexts]:
    """Cut the inputs of rows with spans: of each text the part around its spans stays."""
    flat = [text for (row_texts,) in texts for text in row_texts]
    encodings = iter(encoder.encode_batch(flat, add_special_tokens=False))
    for row, (row_texts,) in zip(rows, texts, strict=True):
        parts = [next(encodings) for _ in row_texts]
        ids = [plain(np.array(part.ids, dtype=np.int64)) for part in parts]
        owners = [0, len(row_texts) - 1]  # the text of each span
        ranges = [
            (text, *_find_tokens(parts[text].offsets, *span))
            for text, span in zip(owners, row.spans, strict=True)
        ]
        reach = [_join_ranges(ranges, text) for text in range(len(row_texts))]
        needed = [end - first for first, end in reach]
        if sum(needed) > room:
            raise BortError(
                f"{_name_row(task, row)}: its spans and what lies between take {sum(needed)} "
                f"tokens, data.length leaves {room}; give a larger one"
            )
        keep = _share_room(ids, needed, room)
        starts = [
            min(max(0, first - (n - (end - first)) // 2), len(text) - n)
            for (first, end), n, text in zip(reach, keep, ids, strict=True)
        ]
        windows = [text[s : s + n] for text, s, n in zip(ids, starts, keep, strict=True)]
        moved = [(t, first - starts[t], end - starts[t]) for t, first, end in ranges]
        yield [windows], moved, sum(keep) < sum(map(len, ids))


def _join_ranges(ranges: list[tuple[int, int, int]], text: int) -> tuple[int, int]:
    """Return the shortest range of tokens that holds all spans of a text."""
    inside = [(first, end) for owner, first, end in ranges if owner == text]
    firsts, ends = zip(*inside, strict=True)
    return min(firsts), max(ends)


def _share_room(texts: list[np.ndarray], needed: list[int], room: int) -> list[int]:
    """Return how much is kept of each text: the longer is cut first, but not into its spans."""
    if len(texts) == 1:
        return [min(len(texts[0]), room)]
    first, second = _cut_longest(texts, room)
    first = min(max(first, needed[0]), len(texts[0]))
    second = min(second, len(texts[1]), room - first)
    if second < needed[1]:
        second = needed[1]
        first = min(first, room - second)
    return [first, second]


def _find_tokens(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """First and one past the last token that overlap characters start to end.

    A word that the tokenizer drops (control characters) is the token after it, else the last.
    """
    inside = [k for k, (first, last) in enumerate(offsets) if first < end and last > start]
    if inside:
        return inside[0], inside[-1] + 1
    after = [k for k, (first, _) in enumerate(offsets) if first >= end] or [len(offsets) - 1]
    return after[0], after[0] + 1


def _place_spans(
    ranges: list, texts: list[np.ndarray], template: Template
) -> list[tuple[int, int]]:
    """Token ranges within the whole input."""
    shifts = [len(template.parts[0])]
    for text, after in zip(texts, template.parts[1:], strict=True):
        shifts.append(shifts[-1] + len(text) + len(after))
    return [(first + shifts[text], end + shifts[text]) for text, first, end in ranges]
