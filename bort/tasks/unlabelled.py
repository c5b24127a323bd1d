"""Rows without labels: the texts of the user's files, for a teacher to label.

They come from a table with the columns of the task, or from plain text. A document that holds a
text of the labelled rows is left out, because its sentences would give away what is scored.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bort.config.data import DataConfig
from bort.console import counted
from bort.errors import BortError, suggest_name
from bort.files.compressed import split_suffixes
from bort.files.tables import read_table
from bort.tasks.task import Row, Task
from bort.text.sources import KINDS, list_text_files, open_text

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
# Letters and digits of a text from which on a document that holds it is left out. A shorter one
# ("very good") stands in too many texts; it only keeps out the pieces that are equal to it.
LEAST = 24
KEY = 16  # of them, with which a place in a document is looked up
FEWEST_WORDS = 3  # of a sentence that is kept
# The end of a sentence: a mark, what may follow it, and the beginning of the next one.
SENTENCE_END = re.compile(r"(?<=[.!?…])([\"'”’)\]]*)\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÖØ-ÞА-ЯΑ-Ω])")
TAG = re.compile(r"<[a-zA-Z/][^<>]{0,60}>")  # as <br />, which ends a sentence too


@dataclass(frozen=True)
class Pool:
    """Rows without labels, and what was left out.

    documents: of the files, before they were divided. holders: of these, those that hold a text of
    the labelled rows. repeated: rows that are in the pool or among the labelled rows already.
    left: rows beyond `data.unlabelled_rows`.
    """

    rows: list[Row]
    documents: int
    holders: int
    repeated: int
    left: int

    def describe(self) -> str:
        """Describe the pool in one line."""
        parts = [f"{counted(len(self.rows), 'row')} without labels"]
        parts.append(f"of {counted(self.documents, 'document')}")
        notes = []
        if self.holders:
            why = "it holds" if self.holders == 1 else "they hold"
            notes.append(f"{self.holders:,} left out, because {why} a labelled text")
        if self.repeated:
            notes.append(f"{counted(self.repeated, 'row')} repeated")
        if self.left:
            notes.append(f"{self.left:,} more rows not taken (data.unlabelled_rows)")
        return " ".join(parts) + (f" ({'; '.join(notes)})" if notes else "")


def read_pool(task: Task, data: DataConfig, labelled: Iterable[Row]) -> Pool:
    """Read the rows of `data.unlabelled`.

    labelled: the rows of all splits of the task, whose texts may not be in the pool. With
    `data.unlabelled_rows`, the rows with the least hashes are taken, whatever their order. Raises
    BortError for a task whose rows are no one or two texts, for files that cannot be read, and
    where no row is left.
    """
    if task.kind not in ("classes", "regression", "labels") or len(task.columns) > 2:
        raise BortError(
            f"data.unlabelled is for tasks of one text or two; task={task.name} has {task.kind}"
        )
    if data.split_sentences and len(task.columns) == 2:
        raise BortError("data.split_sentences is for tasks of one text; a pair is not divided")
    check_pool_file(data)
    rows = list(labelled)
    holders = HeldTexts(text for row in rows for text in row.texts)
    existing = {_squeeze_row(row.texts) for row in rows}
    by_hash: dict[bytes, tuple[str, ...]] = {}
    documents = held = repeated = 0
    for texts in _read_texts(task, data):
        documents += 1
        if len(texts) == 1 and holders.is_in(texts[0]):
            held += 1
            continue
        pieces = (
            [(text,) for text in split_sentences(texts[0])] if data.split_sentences else [texts]
        )
        for piece in pieces:
            normal = _squeeze_row(piece)
            if normal in existing:
                repeated += 1
            elif all(normal):
                existing.add(normal)
                by_hash[_hash(normal)] = piece
    if not by_hash:
        raise BortError(
            f"data.unlabelled={data.unlabelled}: no row is left of {counted(documents, 'document')}"
            f" ({held:,} hold a labelled text, {repeated:,} rows repeat one); give other texts"
        )
    chosen = list(by_hash.values())
    if data.unlabelled_rows is not None and len(by_hash) > data.unlabelled_rows:
        chosen = [by_hash[key] for key in sorted(by_hash)[: data.unlabelled_rows]]
    pool = [Row(("unlabelled", number), texts) for number, texts in enumerate(chosen)]
    return Pool(pool, documents, held, repeated, len(by_hash) - len(chosen))


def split_sentences(text: str) -> list[str]:
    """Divide a text into sentences of at least FEWEST_WORDS words.

    Tags of HTML and blank lines end a sentence, too.
    """
    sentences = []
    for part in re.split(r"\n\s*\n|\0", TAG.sub("\0", text)):
        marked = SENTENCE_END.sub(r"\1\0", " ".join(part.split()))
        sentences += [piece.strip() for piece in marked.split("\0")]
    return [piece for piece in sentences if len(piece.split()) >= FEWEST_WORDS]


class HeldTexts:
    """Texts that no document of a pool may hold, whatever its spaces, its case and its marks.

    A look at a document costs about a microsecond a word.
    """

    def __init__(self, texts: Iterable[str]):
        self._by_key: dict[str, set[str]] = {}
        for text in texts:
            letters, _ = _squeeze(text)
            if len(letters) >= LEAST:
                self._by_key.setdefault(letters[:KEY], set()).add(letters)

    def is_in(self, document: str) -> bool:
        """Return whether a document holds one of the texts, from the beginning of a word on."""
        letters, starts = _squeeze(document)
        for start in starts:
            for text in self._by_key.get(letters[start : start + KEY], ()):
                if letters.startswith(text, start):
                    return True
        return False


def _squeeze(text: str) -> tuple[str, list[int]]:
    """Return the letters and digits of a text in lower case, and where its words begin in them."""
    words, starts, length = re.findall(r"[^\W_]+", text.lower()), [], 0
    for word in words:
        starts.append(length)
        length += len(word)
    return "".join(words), starts


def _squeeze_row(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_squeeze(text)[0] for text in texts)


def _hash(texts: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()


# ------------------------------------------------------------------------------------ files


def check_pool_file(data: DataConfig) -> None:
    """Raise BortError, before anything is read, for a file that is absent or of no known kind."""
    path = Path(data.unlabelled).expanduser()
    if not path.exists():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise BortError(f"data.unlabelled={path} is not there{suggest_name(path.name, near)}")
    kind, _ = split_suffixes(path)
    if path.is_file() and kind not in (*TABLES, ".txt", ".md", ".text"):
        raise BortError(f"data.unlabelled={path} is none of .csv .tsv {KINDS}; convert it")


def _read_texts(task: Task, data: DataConfig) -> Iterator[tuple[str, ...]]:
    """Read the texts of the task's columns, of one record or document after the other."""
    path = Path(data.unlabelled).expanduser()
    files = [path] if path.is_file() else list_text_files(path)[0]
    for file in files:
        kind, _ = split_suffixes(file)
        if kind in TABLES:
            yield from _read_records(file, task, data)
        elif len(task.columns) == 2:
            raise BortError(
                f"data.unlabelled: {file} is plain text, and task={task.name} takes pairs; give a "
                f"table with the columns {' and '.join(task.columns)}"
            )
        else:
            source = open_text(replace(data, source="text", path=str(file)))
            yield from ((document.text,) for document in source.read())


def _read_records(path: Path, task: Task, data: DataConfig) -> Iterator[tuple[str, ...]]:
    """Read the records of a table, by the first of `list_columns` that it has."""
    first_error = None
    for names in list_columns(task, data):
        try:
            table = read_table(path, list(names), list(names))
            break
        except BortError as error:
            first_error = first_error or error
        except OSError as error:
            raise BortError(f"data.unlabelled: {path}: {error.strerror or error}") from None
    else:
        raise first_error
    if first_error is not None:
        missing, read = (", ".join(part) for part in (task.columns, names))
        logger.info(f"data: {path.name} has no {missing}; its texts are those of {read}")
    for record, where in table:
        texts = tuple(record[name] for name in names)
        if not all(isinstance(text, str) for text in texts):
            raise BortError(f"{where}: a text is absent or none; fix or drop the row")
        yield texts


def list_columns(task: Task, data: DataConfig) -> list[tuple[str, ...]]:
    """List the columns that may hold the texts of a pool, in the order in which they are tried.

    They are the task's, those of `data.text`, and for tasks of one text `text`, which is what
    collections of texts call it.
    """
    columns = [tuple(task.columns)]
    if len(data.texts) == len(task.columns):
        columns.append(tuple(data.texts))
    if len(task.columns) == 1:
        columns.append(("text",))
    return list(dict.fromkeys(columns))
