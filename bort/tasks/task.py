"""The typed rows of a task, and how records of official files and of the hub become rows.

A *shape* makes the rows of one flat record; a *flatten* the flat records of a nested object.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bort.console import counted
from bort.errors import BortError, name_kind, quote


@dataclass(frozen=True, slots=True)
class Row:
    """One input of a task: a sentence, a pair, a question with its choices, one of its answers."""

    index: int | str | tuple  # what a submission names it by; nested ones (passage, question, …)
    texts: tuple[str, ...]  # in the order of Task.columns
    # place in Task.labels, the number of a regression, the probabilities of all labels, or, where
    # a row has several of them, 1 or 0 for each
    label: int | float | tuple[float, ...] | None = None
    group: Any = None  # equal for the rows that belong together: of a question, of a file
    spans: tuple[tuple[int, int], ...] = ()  # characters; WiC: one per text, WSC: both in text 0
    answers: tuple[str, ...] = ()  # ReCoRD: all right answers of the query


@dataclass(frozen=True)
class Split:
    """Where the rows of one split are, and the file that their answers are submitted in."""

    files: tuple[str, ...]  # accepted names below the task's folder
    hub: str  # name of the split on the hub
    submission: str = ""
    header: tuple[str, ...] = ()  # of a file without a header line


@dataclass(frozen=True)
class Task:
    """A row of the table."""

    name: str  # suite/name
    folders: tuple[str, ...]  # accepted names of its folder below the suite's
    splits: dict[str, Split]
    kind: str  # classes, regression, choices, spans, or labels, of which a row has any number
    columns: tuple[str, ...]  # of the texts; choices: passage, question, then one per option
    labels: tuple[str, ...]  # names in official order; of a regression the ends of its scale
    metrics: tuple[str, ...]  # in the order of print; the first chooses the checkpoint
    hub: str
    config: str
    written: tuple = ()  # labels as the official files spell them; empty: the names
    answers: tuple = ()  # labels as a submission spells them; empty: as the files do
    label: str = "label"  # column
    index: str = "idx"  # column of what a submission names a row by; GLUE has it in test files only
    hub_columns: tuple[str, ...] = ()  # of the texts on the hub, where they differ
    cut: int | None = None  # which text is shortened when a row is too long; None: the longer one
    placeholder: str = ""  # word of the second text that the third stands for
    form: str = "jsonl"  # layout of files and submission: tsv, jsonl, multirc, record, race
    flatten: Callable[[dict, str], Iterator[dict]] | None = None  # nested object to flat records
    shape: Callable[["Task", dict, str], Iterator[Row]] | None = None  # flat record to rows
    phrases: bool = False  # whether rows are parts of fewer sentences
    parent: str | None = None  # the task whose model answers this one
    apart: bool = False  # whether the two texts of a row are encoded each by itself
    # tokens that neighbouring windows of a long text share; None: a long text is cut
    overlap: int | None = None
    notes: tuple[str, ...] = ()  # about the user's labels, to be told before the training

    @property
    def spelled(self) -> tuple:
        """Labels as the official files spell them."""
        return self.written or self.labels

    @property
    def submitted(self) -> tuple:
        """Labels as a submission spells them."""
        return self.answers or self.spelled

    def required(self, split: str) -> bool:
        """Whether a folder without this split is a mistake; a test set may be absent."""
        return not split.startswith("test") or "train" not in self.splits


# ------------------------------------------------------------------------------------ cells


def _get(record: Any, key: str, kinds: tuple[type, ...], where: str) -> Any:
    """The value of a key; raises BortError if it is absent or of another type."""
    if not isinstance(record, dict):
        raise BortError(f"{where}: {quote(record)} where an object with '{key}' should be")
    if record.get(key) is None:
        has = quote(", ".join(map(str, record)))
        raise BortError(f"{where}: no '{key}' (it has {has}); fix it or get the file again")
    value = record[key]
    if type(value) not in kinds:
        expected = " or ".join(map(name_kind, kinds))
        raise BortError(f"{where}: '{key}' is {quote(value)}, not {expected}; fix it")
    return value


def _get_list(record: Any, key: str, where: str) -> list:
    """A list that is not empty: rows would be missing without a word."""
    values = _get(record, key, (list,), where)
    if not values:
        raise BortError(f"{where}: '{key}' is empty; fix it or get the file again")
    return values


def _get_text(record: dict, key: str, where: str) -> str:
    text = _get(record, key, (str,), where)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half a character as \ud800
        position = f"'{key}' has half a character at {error.start}"
        raise BortError(f"{where}: {position}; fix it") from None
    return text


def _get_number(record: dict, key: str, where: str) -> int:
    """A whole number, which GLUE and AX-b write as text."""
    value = _get(record, key, (int, str), where)
    try:
        return int(value)
    except ValueError:
        raise BortError(f"{where}: '{key}' is {quote(value)}, not a number; fix it") from None


def _get_label(task: Task, record: dict, where: str) -> int | float | None:
    """A label's place in the table, or the number of a regression; None where there is none."""
    value = record.get(task.label)
    if value is None:
        return None
    if task.kind == "regression":
        low, high = map(float, task.labels)
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not low <= score <= high:
            raise BortError(f"{where}: score {quote(value)}, not a number from {low} to {high}")
        return score
    for number, label in enumerate(task.spelled):
        if type(value) is type(label) and value == label:  # 1 is not true
            return number
    names = ", ".join(json.dumps(label) for label in task.spelled)
    raise BortError(f"{where}: label {quote(value)} is none of {names}; fix it")


# ------------------------------------------------------------------------------------ shapes

COPA_QUESTIONS = {
    "cause": "What was the cause of this?",
    "effect": "What happened as a result?",
}


def shape_plain(task: Task, record: dict, where: str) -> Iterator[Row]:
    """One row: its texts and its label."""
    texts = tuple(_get_text(record, column, where) for column in task.columns)
    yield Row(_get_number(record, task.index, where), texts, _get_label(task, record, where))


def shape_wic(task: Task, record: dict, where: str) -> Iterator[Row]:
    """Two sentences with a span of characters in each, which must be a whole word."""
    (row,) = shape_plain(task, record, where)
    word = _get_text(record, "word", where)
    spans = []
    for number, text in enumerate(row.texts, start=1):
        start, end = (_get_number(record, f"{side}{number}", where) for side in ("start", "end"))
        if not (0 <= start < end <= len(text) and _is_word(text, start, end)):
            raise BortError(
                f"{where}: characters {start} to {end} of sentence{number} are no whole word, "
                f"{quote(word)} should be there; fix it"
            )
        spans.append((start, end))
    yield replace(row, spans=tuple(spans))


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a span is a word or several; the `does` of `doesn't` is one."""
    before, span, after = text[max(0, start - 1) : start], text[start:end], text[end:]
    if span != span.strip() or (before.isalnum() and span[0].isalnum()):
        return False
    return after.startswith("n't") or not (after[:1].isalnum() and span[-1].isalnum())


def flatten_wsc(record: dict, where: str) -> Iterator[dict]:
    yield record | _get(record, "target", (dict,), where)


def shape_wsc(task: Task, record: dict, where: str) -> Iterator[Row]:
    """One text with two spans, given by the number of their first word and by their text."""
    (row,) = shape_plain(task, record, where)
    spans = []
    for name in ("span1", "span2"):
        words = _get_text(record, f"{name}_text", where)
        index = _get_number(record, f"{name}_index", where)
        span = find_occurrence(row.texts[0], words, index)
        if span is None:
            raise BortError(f"{where}: {quote(words)} ({name}_text) is not in the text; fix it")
        spans.append(span)
    yield replace(row, spans=tuple(spans))


def find_occurrence(text: str, words: str, index: int) -> tuple[int, int] | None:
    """Characters (start, end) of the words in a text, nearest to its word number `index`.

    Words are counted by white space. Case, white space and punctuation need not agree: files have
    `Sam` for `Sam;` and a space for a line feed, and their numbers may be off. Two rows of the
    official test file name people together whom the text names apart: of words that are nowhere,
    as many as are there from the first on are taken. None: not even the first.
    """
    parts = re.findall(r"\w+", words)
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    position = starts[min(max(index, 0), len(starts) - 1)] if starts else 0
    for count in range(len(parts), 0, -1):
        pattern = r"(?<!\w)" + r"[\W_]*".join(map(re.escape, parts[:count])) + r"(?!\w)"
        spans = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
        if spans:
            return min(spans, key=lambda span: abs(span[0] - position))
    return None


def shape_copa(task: Task, record: dict, where: str) -> Iterator[Row]:
    """Premise, the question in words, two choices."""
    kind = _get_text(record, "question", where)
    if kind not in COPA_QUESTIONS:
        kinds = ", ".join(COPA_QUESTIONS)
        raise BortError(f"{where}: question {quote(kind)} is none of {kinds}; fix it")
    yield from shape_plain(task, record | {"question": COPA_QUESTIONS[kind]}, where)


def flatten_multirc(record: dict, where: str) -> Iterator[dict]:
    """Each answer of each question of a passage."""
    passage = _get(record, "passage", (dict,), where)
    for question in _get_list(passage, "questions", where):
        for answer in _get_list(question, "answers", where):
            yield {
                "paragraph": passage.get("text"),
                "question": question.get("question"),
                "answer": _get(answer, "text", (str,), where),
                "idx": tuple(
                    _get_number(part, "idx", where) for part in (record, question, answer)
                ),
                "label": answer.get("label"),
            }


def shape_multirc(task: Task, record: dict, where: str) -> Iterator[Row]:
    """One answer, grouped by passage and question: question numbers start again in each passage."""
    texts = tuple(_get_text(record, column, where) for column in task.columns)
    index = record["idx"]
    yield Row(index, texts, _get_label(task, record, where), group=index[:2])


def flatten_record(record: dict, where: str) -> Iterator[dict]:
    """Each query of a passage, with the texts of the passage's entities and of the answers."""
    passage = _get(record, "passage", (dict,), where)
    text = _get_text(passage, "text", where)
    entities = []
    for entity in _get_list(passage, "entities", where):
        start, end = (_get_number(entity, side, where) for side in ("start", "end"))
        if not 0 <= start <= end < len(text):  # the end is the last character, not one further
            raise BortError(f"{where}: entity {start} to {end} is not in the text; fix it")
        entities.append(text[start : end + 1])
    for query in _get_list(record, "qas", where):
        has_answers = isinstance(query, dict) and query.get("answers")
        answers = _get_list(query, "answers", where) if has_answers else []
        yield {
            "passage": text,
            "query": _get_text(query, "query", where),
            "entities": entities,
            "answers": [_get_text(answer, "text", where) for answer in answers],
            "idx": (_get_number(record, "idx", where), _get_number(query, "idx", where)),
        }


def shape_record(task: Task, record: dict, where: str) -> Iterator[Row]:
    """One row per distinct entity; its label is whether it is among the answers."""
    passage, query = (_get_text(record, column, where) for column in task.columns[:2])
    if task.placeholder not in query:
        raise BortError(f"{where}: no {task.placeholder} in the query {quote(query)}; fix it")
    answers = tuple(record.get(task.label) or ())
    for number, entity in enumerate(dict.fromkeys(_get_list(record, "entities", where))):
        texts = (passage, query, _get_text({"entity": entity}, "entity", where))
        label = int(entity in answers) if answers else None
        yield Row((*record["idx"], number), texts, label, group=record["idx"], answers=answers)


def flatten_race(record: dict, where: str) -> Iterator[dict]:
    """Each question of a passage, with its options and its answer."""
    lists = [_get_list(record, key, where) for key in ("questions", "options")]
    lists.append(
        _get_list(record, "answers", where) if "answers" in record else [None] * len(lists[0])
    )
    if len({len(part) for part in lists}) > 1:
        counts = ", ".join(str(len(part)) for part in lists)
        raise BortError(f"{where}: {counts} questions, options and answers; get the file again")
    passage = _get_text(record, "id", where)
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True)):
        yield {
            "article": record.get("article"),
            "question": question,
            "options": options,
            "answer": answer,
            "idx": (passage, number),
        }


def shape_race(task: Task, record: dict, where: str) -> Iterator[Row]:
    """One question with four options, named by its passage and its number there."""
    where = f"{where}, question {record['idx'][1]}"
    options = _get(record, "options", (list,), where)
    columns = task.columns[2:]
    if len(options) != len(columns):
        raise BortError(f"{where}: {counted(len(options), 'option')}, not {len(columns)}; fix it")
    record = record | dict(zip(columns, options, strict=True))
    texts = tuple(_get_text(record, column, where) for column in task.columns)
    yield Row(record["idx"], texts, _get_label(task, record, where))
