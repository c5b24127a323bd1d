"""Answers of the model.onnx beside this file: numpy, onnxruntime and tokenizers are all it needs.

python predict.py 'a text'                    # classes with probabilities, or a number
python predict.py 'a text' 'a second text'    # of a model for pairs
python predict.py 'Paris is <mask>.'          # of a masked language model; top=10: ten words
python predict.py 'a passage' 'question option 1' 'question option 2'   # of a model for choices
python predict.py 'A [[cup]] fell. [[It]] broke.'    # of a model for two marked words
python predict.py 'a text'                    # of a model that embeds: {"embedding": [0.1, …]}
python predict.py input=texts.txt out=answers.jsonl  # a text on each line
python predict.py input=texts.jsonl           # {"text": …, "pair": …} on each line
python predict.py input=texts.txt.gz          # either may be compressed by gzip or xz
python predict.py - < texts.txt               # a text on each line of the standard input

An answer is a line of JSON. In Python: `from predict import Model; Model().predict([text, …])`.
"""

import gzip
import json
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

try:
    import numpy as np
    from tokenizers import Tokenizer
except ImportError as error:
    if __name__ != "__main__":
        raise
    packages = "numpy onnxruntime tokenizers"
    raise SystemExit(
        f"predict.py: needs the package {error.name}; pip install {packages}"
    ) from None

FOLDER = Path(__file__).resolve().parent
BATCH = 32  # texts that the model reads at once
BLOCK = 32 * BATCH  # texts that are read ahead, to put those of similar length together
TOKENS = 4096  # of a batch, padding included
LOGITS = 1 << 22  # of a batch of a masked language model: 16 MB
TABLES = (".csv", ".tsv", ".parquet", ".json", ".xlsx", ".bz2", ".zip")
OPENERS = {".gz": gzip.open, ".xz": lzma.open}  # of compressed files, by the end of their names
EMBEDDING = "Embedding"  # the kind of a model that turns texts into vectors
Text = str | tuple[str, ...]  # a text or a pair of texts


class Mistake(ValueError):
    """A mistake of the user; the message is one line."""


# ------------------------------------------------------------------------------------ texts


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


def read_texts(path: Path) -> Iterator[Text]:
    """Yield a text for each line of a .txt file, or `text` (and `pair`) of each one of a .jsonl.

    Either may be compressed by gzip or xz, as in `texts.jsonl.gz`. One line is in memory at a time.
    Raises Mistake, with the line, for what cannot be read so.
    """
    suffix = path.suffix.lower()
    is_packed = suffix in OPENERS or suffix == ".zst"
    kind = Path(path.stem).suffix.lower() if is_packed else suffix
    if kind in TABLES:
        raise Mistake(
            f"input={path}: give a .txt file with a text per line, or a .jsonl file of "
            '{"text": …} lines'
        )
    if suffix == ".zst":
        raise Mistake(f"input={path}: predict.py cannot unpack it; unpack it by `zstd -d`")
    try:
        with OPENERS.get(suffix, open)(path, "rb") as file:
            yield from parse_texts(file, f"input={path}", kind == ".jsonl")
    except EOFError:
        reason = f"is cut: its {suffix} data ends too early; get it again"
        raise Mistake(f"input={path} {reason}") from None
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if reason := getattr(error, "strerror", None):  # of the disk, not of the content
            raise Mistake(f"input={path}: {reason}") from None
        raise Mistake(f"input={path} is damaged, or no {suffix} file; get it again") from None


def parse_texts(file: IO[bytes], name: str, is_jsonl: bool) -> Iterator[Text]:
    """Yield the texts of an open file, as `read_texts` does; mistakes begin with `name`."""
    for number, line in enumerate(read_lines(file, name), 1):
        yield parse_row(line, f"{name} line {number}") if is_jsonl else line


def read_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield lines of UTF-8 without their ends; only \\n and \\r\\n end one."""
    offset = 0
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            where = f"byte {offset + error.start} (line {number})"
            raise Mistake(f"{name} is not UTF-8 at {where}; convert the file") from None
        if "\0" in line:
            raise Mistake(
                f"{name} has a NUL byte in line {number}, as UTF-16 has; convert the file"
            )
        if not offset and not (line := line.removeprefix("\ufeff")):
            return  # a byte-order mark alone is an empty file
        offset += len(raw)
        yield line.removesuffix("\n").removesuffix("\r")


def parse_row(line: str, where: str) -> Text:
    """Return a text, or a pair of texts, of an object in JSON."""
    try:
        row = json.loads(line)
        text = (row["text"], row["pair"]) if "pair" in row else row["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Mistake(f"{where} is no object with the key text") from None
    for part in text if isinstance(text, tuple) else (text,):
        if not isinstance(part, str):
            raise Mistake(f"{where}: {shorten(part)} is no text")
    return text


def divide_row(
    tokenizer: Tokenizer, parts: tuple[str, ...], limit: int, cut: int | None, overlap: int
) -> list:
    """Return the encodings of a row's windows, one for a row that fits; none where it must be cut.

    tokenizer: one that cuts nothing. limit: tokens of a window. cut: which of two texts is divided,
    None: the longer one; the other one is in every window, and a row is cut where that one would
    leave less than half of the room. overlap: tokens that neighbouring windows share, at most half
    of what they hold of the text.
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
    line = json.dumps(answer, ensure_ascii=False)
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(answer)
    return line


# ------------------------------------------------------------------------------------ model


def softmax(x: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis."""
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return a probability for each value."""
    return 0.5 * (1 + np.tanh(0.5 * x))  # without an overflow


@dataclass
class Encoded:
    """The tokens of a row, and the token ranges of its marked words.

    second: ids and types of its second text, where the model reads the two apart.
    """

    ids: list[int]
    types: list[int]
    spans: list[list[int]]
    second: tuple[list[int], list[int]] | None = None

    @property
    def length(self) -> int:
        """Tokens of the longer text, or of both where they are read together."""
        return max(len(self.ids), len(self.second[0]) if self.second else 0)


class Model:
    """The exported model, its tokenizer and its config.json.

    Raises Mistake for a folder that does not hold them.
    """

    def __init__(self, folder: str | Path = FOLDER, threads: int = 0):
        folder = Path(folder)
        self.config = read_json(folder / "config.json")
        settings = read_json(folder / "tokenizer_config.json")
        self.limit = int(settings["model_max_length"])
        kind = self.config["architectures"][0].partition("For")[2]
        self.kind = kind or self.config.get("bort_kind", "")  # of a head that is bort's own
        # whether the two texts of a pair are encoded apart
        self.has_towers = not kind and self.config.get("bort_head") == "towers"
        self.pad = self.config["pad_token_id"]
        texts = self.config.get("bort_texts")
        self.texts = texts if texts in (1, 2) else None  # of a row, where the file says it
        self.cut = self.config.get("bort_cut")  # which of two texts, None: the longer one
        cut = {0: "only_first", 1: "only_second"}.get(self.cut, "longest_first")
        # tokens that the windows of a long text share, whose answers are averaged; None: it is cut
        overlap = self.config.get("bort_window_stride")
        self.overlap = overlap if type(overlap) is int and overlap >= 0 else None
        # words such as <mask> are ordinary text to all but a masked language model
        masked = self.kind == "MaskedLM"
        try:
            self.tokenizer = open_tokenizer(folder / "tokenizer.json", self.limit, cut, masked)
            self.longest_first = (  # no tokenizer changes later: threads may share the model
                self.tokenizer
                if cut == "longest_first"
                else open_tokenizer(folder / "tokenizer.json", self.limit, "longest_first", masked)
            )
            self.uncut = None
            if self.overlap is not None:
                self.uncut = open_tokenizer(folder / "tokenizer.json", None, cut, masked)
            self.session = open_session(folder / "model.onnx", threads)
        except Exception as error:  # neither library has a class for damaged files
            raise Mistake(f"{folder} cannot be opened: {shorten(str(error), 100)}") from None
        self.mask = str(settings.get("mask_token"))
        self.mask_id = self.tokenizer.token_to_id(self.mask)

    def predict(self, inputs: Iterable[Text], top: int = 5) -> list[dict]:
        """Return an answer to each text or pair; of a model for choices, one answer to all of them.

        Raises Mistake, a ValueError, for what the model cannot answer.
        """
        return list(self.answers(inputs, top))

    def answers(self, inputs: Iterable[Text], top: int = 5) -> Iterator[dict]:
        """Yield what `predict` returns, for any number of texts: memory holds BLOCK of them."""
        check_list(inputs)
        check_top(top)
        if self.kind == "MultipleChoice":
            yield from self.choose(list(inputs))
            return
        if self.kind == EMBEDDING:
            for vectors in self.embed_blocks(inputs):
                yield from ({"embedding": vector} for vector in vectors.tolist())
            return
        first = 1
        for block in split_blocks(inputs, top):
            if self.overlap is not None:
                yield from self.answer_windows(self.divide_rows(block, first), top)
                first += len(block)
                continue
            rows = self.encode_rows(block, first)
            answers: list[dict] = [{}] * len(rows)
            for batch in self.split_batches(rows):
                for row, logits in zip(
                    batch, self.compute_logits([rows[k] for k in batch]), strict=True
                ):
                    answers[row] = self.answer_row(rows[row], logits, top)
            yield from answers
            first += len(block)

    def encode(self, texts: Iterable[str], batch_size: int = BATCH) -> np.ndarray:
        """Return the embeddings (N, E) of texts in their order, in float32.

        Raises Mistake for what is no list of texts, and where the model embeds none.
        """
        check_list(texts)
        if self.kind != EMBEDDING:
            raise Mistake("the model does not embed texts; predict answers them")
        parts = list(self.embed_blocks(texts, batch_size))
        width = int(self.session.get_outputs()[0].shape[1])
        return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)

    def embed_blocks(self, texts: Iterable[str], batch_size: int = BATCH) -> Iterator[np.ndarray]:
        """Yield the embeddings (rows, E) of texts, for any number of them."""
        first = 1
        for block in split_blocks(texts, 1):
            alone = first == len(block) == 1
            for number, text in enumerate(block, first):
                with name_row(number, alone):
                    check_one_text(text)
            rows = self.encode_rows(block, first)
            batches = list(form_batches([row.length for row in rows], batch_size))
            vectors = []
            for batch in batches:
                vectors.append(self.compute_logits([rows[k] for k in batch]))
            yield np.concatenate(vectors)[np.argsort(np.concatenate(batches))]
            first += len(block)

    def choose(self, inputs: list[Text]) -> Iterator[dict]:
        """Yield one answer to all pairs of a passage and an option; none to no pairs."""
        if not inputs:
            return
        if len(inputs) < 2:
            raise Mistake("give a passage, then the options, two at least")
        rows, scores = self.encode_rows(inputs, 1), np.zeros(len(inputs))
        for batch in self.split_batches(rows):
            scores[batch] = self.compute_logits([rows[k] for k in batch])[:, 0]
        scores = softmax(scores)
        yield {"choice": int(scores.argmax()), "scores": scores.tolist()}

    def encode_rows(self, inputs: list[Text], first: int) -> list[Encoded]:
        """Return the tokens of rows, the first of which has this number."""
        if self.has_towers:
            return self.encode_pairs(inputs, first)
        rows, alone = [], first == len(inputs) == 1
        for start in range(0, len(inputs), BATCH):  # what was cut off stays in memory until then
            texts, marks = [], []
            for number, text in enumerate(inputs[start : start + BATCH], first + start):
                with name_row(number, alone):
                    plain, spans = self.check_row(text)
                texts.append(plain if len(plain) > 1 else plain[0])
                marks.append(spans)
            encodings = self.tokenize(texts)
            for k, (text, spans, row) in enumerate(zip(texts, marks, encodings, strict=True)):
                with name_row(first + start + k, alone):
                    rows.append(self.locate_marks(text, spans, row))
        return rows

    def divide_rows(self, inputs: list[Text], first: int) -> list[list[Encoded]]:
        """Return the windows of each row; `first` is the number of the first."""
        rows, alone = [], first == len(inputs) == 1
        for number, text in enumerate(inputs, first):
            with name_row(number, alone):
                parts = split_row(text, self.texts)
            windows = divide_row(self.uncut, parts, self.limit, self.cut, self.overlap)
            windows = windows or self.tokenize([parts if len(parts) > 1 else parts[0]])
            rows.append([Encoded(np.array(x.ids), np.array(x.type_ids), []) for x in windows])
        return rows

    def answer_windows(self, rows: list[list[Encoded]], top: int) -> list[dict]:
        """Return the answer to each row: that of the mean of its windows' logits."""
        windows = [window for row in rows for window in row]
        owners = [k for k, row in enumerate(rows) for _ in row]
        means: list = [0.0] * len(rows)
        for batch in self.split_batches(windows):
            logits = self.compute_logits([windows[k] for k in batch])
            for k, values in zip(batch, logits, strict=True):
                means[owners[k]] += values / len(rows[owners[k]])
        return [self.answer_row(row[0], mean, top) for row, mean in zip(rows, means, strict=True)]

    def encode_pairs(self, inputs: list[Text], first: int) -> list[Encoded]:
        """Return the tokens of pairs whose texts are apart; `first` is the number of the first."""
        alone = first == len(inputs) == 1
        pairs = []
        for number, text in enumerate(inputs, first):
            with name_row(number, alone):
                pairs.append(split_row(text, 2))
        rows = self.tokenize([text for pair in pairs for text in pair])
        return [
            Encoded(first.ids, first.type_ids, [], (second.ids, second.type_ids))
            for first, second in zip(rows[0::2], rows[1::2], strict=True)
        ]

    def tokenize(self, texts: list[Text]) -> list:
        """Encode texts within the limit; where the other text alone is too long, both are cut."""
        try:
            return self.tokenizer.encode_batch(texts)
        except Exception:  # tokenizers has no class for it
            if len(texts) > 1:
                return [row for text in texts for row in self.tokenize([text])]
            return self.longest_first.encode_batch(texts)

    def check_row(self, text: Text) -> tuple[tuple[str, ...], list[list[tuple[int, int]]]]:
        """Return the one or two texts of a row, and the characters that are marked in each."""
        parts = split_row(text, self.texts)
        if self.kind:
            return parts, []
        unmarked = [remove_marks(part) for part in parts]
        if sum(len(spans) for _, spans in unmarked) != 2:
            raise Mistake("mark two words by [[ ]], as in 'A [[cup]] fell. [[It]] broke.'")
        return tuple(plain for plain, _ in unmarked), [spans for _, spans in unmarked]

    def locate_marks(self, text: Text, marks: list[list[tuple[int, int]]], row) -> Encoded:
        """Return the tokens of a row; raises Mistake where masks or marks are not among them."""
        parts = (text,) if isinstance(text, str) else text
        if self.kind == "MaskedLM":
            check_masks(parts, row.ids.count(self.mask_id), self.mask, self.limit)
        spans = []
        for number, of_text in enumerate(marks):
            for start, end in of_text:
                inside = [
                    k
                    for k, (first, last) in enumerate(row.offsets)
                    if row.sequence_ids[k] == number and first < end and last > start
                ]
                if not inside:
                    word = shorten(parts[number][start:end])
                    raise Mistake(
                        f"{word} lies beyond the {self.limit} tokens that fit, or is empty"
                    )
                spans.append([inside[0], inside[-1] + 1])
        return Encoded(row.ids, row.type_ids, spans)

    def split_batches(self, rows: list[Encoded]) -> Iterator[list[int]]:
        """Yield the numbers of rows that the model reads at once."""
        masked = self.kind == "MaskedLM"
        tokens = min(TOKENS, LOGITS // self.config["vocab_size"]) if masked else TOKENS
        return form_batches([row.length for row in rows], tokens=tokens)

    def compute_logits(self, rows: list[Encoded]) -> np.ndarray:
        """Return (rows, outputs), or of a masked language model (rows, tokens, vocabulary)."""
        if self.has_towers:  # the two texts of a pair follow each other
            rows = [text for row in rows for text in (row, Encoded(*row.second, []))]
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids, types = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for k, row in enumerate(rows):
            ids[k, : len(row.ids)], types[k, : len(row.ids)] = row.ids, row.types
            mask[k, : len(row.ids)] = 1
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if not self.kind:
            arrays["spans"] = np.array([row.spans for row in rows])
        inputs = {item.name: arrays[item.name] for item in self.session.get_inputs()}
        return self.session.run(None, inputs)[0]

    def answer_row(self, row: Encoded, logits: np.ndarray, top: int) -> dict:
        """Return the answer to a row from its logits: (tokens, vocabulary), or (outputs,)."""
        if self.kind == "MaskedLM":
            masks = [k for k, number in enumerate(row.ids) if number == self.mask_id]
            return {"words": [self.rank_words(softmax(logits[k]), top) for k in masks]}
        multi_label = self.config.get("problem_type") == "multi_label_classification"
        if len(logits) == 1 and not multi_label:
            return {"score": float(logits[0])}
        names = self.config.get("id2label") or {}
        names = [names.get(str(k), f"LABEL_{k}") for k in range(len(logits))]
        if multi_label:  # a label is right that is at least as likely as not
            return describe_labels(sigmoid(logits).tolist(), names, logits >= 0)
        return describe_scores(softmax(logits).tolist(), names)

    def rank_words(self, scores: np.ndarray, top: int) -> list[dict]:
        """Return the most probable words of a mask, from the probabilities (V,) of all."""
        best = np.argpartition(-scores, min(top, len(scores)) - 1)[:top]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [
            {
                "word": self.tokenizer.decode([int(k)], skip_special_tokens=False),
                "score": float(scores[k]),
            }
            for k in best
        ]


def read_json(path: Path) -> dict:
    """Read the object in a file of the folder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(f"{path} cannot be read: {error}; export the model again") from None


def open_tokenizer(path: Path, limit: int | None, cut: str, special: bool) -> Tokenizer:
    """Open a tokenizer that cuts what is longer than the limit; None: nothing.

    cut: which text, as tokenizers says it; special: whether words such as <mask> are tokens.
    """
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if limit is not None:
        tokenizer.enable_truncation(limit, strategy=cut)
    tokenizer.encode_special_tokens = not special
    return tokenizer


def open_session(path: Path, threads: int):
    """Open an onnxruntime session on the CPU; threads: 0 for as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------ command


def expand_path(key: str, text: str) -> Path:
    """Return the path of a setting, with the home for ~."""
    path = Path(text)
    if text.startswith("~"):
        home = os.path.expanduser(path.parts[0])
        if not os.path.isdir(home):
            raise Mistake(f"{key}={text}: there is no home folder {home}")
        path = Path(home, *path.parts[1:])
    return path


@contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that is whole or absent; a pipe or a device is written to as it is."""
    target = path.resolve()
    if target.is_dir():
        raise Mistake(f"out={path} is a folder; give the name of a file")
    device = target.exists() and not target.is_file()
    try:
        with target.open("wb") if device else replace_file(target) as file:
            yield file
    except BrokenPipeError:
        raise  # who reads the pipe has seen enough
    except OSError as error:
        raise Mistake(f"out={path} cannot be written: {error.strerror}") from None


@contextmanager
def replace_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which gets the name when it is complete, and the mode of the old one."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def parse_arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the texts, and the settings among the arguments."""
    texts, settings = [], {}
    for argument in arguments:
        if re.match(r"(input|out|top)=", argument):
            key, _, settings[key] = argument.partition("=")
        elif re.fullmatch(r"--[a-z-]+", argument):
            raise Mistake(f"{argument} is not an option; --help shows what there is")
        else:
            texts.append(argument)
    if bool(texts) == ("input" in settings):
        raise Mistake("give a text, or input=FILE, or - for the standard input; --help shows more")
    if not settings.get("top", "5").isdecimal():
        raise Mistake(f"top={shorten(settings['top'])} is no number of words; write top=5")
    return texts, settings


def choose_inputs(texts: list[str], settings: dict[str, str], kind: str) -> Iterable[Text]:
    """Return what the command line asks for, as rows for a model of this kind."""
    if texts not in ([], ["-"]):
        if kind == "MultipleChoice":
            return [(texts[0], choice) for choice in texts[1:]] or [texts[0]]
        return texts if len(texts) == 1 else [tuple(texts)]
    if kind == "MultipleChoice":
        raise Mistake("a model for choices takes a passage and its options as arguments")
    if texts:
        if sys.stdin is None:
            raise Mistake("there is no standard input; give input=FILE")
        return read_lines(sys.stdin.buffer, "the standard input")
    path = expand_path("input", settings["input"])
    if "out" in settings and path.resolve() == expand_path("out", settings["out"]).resolve():
        raise Mistake(f"out={settings['out']} is the input; give another file")
    if path.is_file() and not any(True for _ in read_texts(path)):  # all of it, for its mistakes
        raise Mistake(f"input={path} is empty; put a text on each line")
    return read_texts(path)


def run(arguments: list[str]) -> None:
    """Write the answers that the command line asks for. Raises Mistake for one that is wrong."""
    if {"-h", "--help"} & set(arguments[:1]):
        print(__doc__)
        return
    texts, settings = parse_arguments(arguments)
    model = Model()
    if "top" in settings and model.kind != "MaskedLM":
        raise Mistake("top= is for a masked language model, which this is not; leave it out")
    answers = model.answers(
        choose_inputs(texts, settings, model.kind), int(settings.get("top", "5"))
    )
    if "out" not in settings:
        if sys.stdout is None:
            raise Mistake("there is no standard output; give out=FILE")
        for answer in answers:
            print(to_json_line(answer, sys.stdout.encoding), flush=True)
        return
    count = 0
    with open_output(expand_path("out", settings["out"])) as file:
        for answer in answers:
            file.write(f"{to_json_line(answer, 'utf-8')}\n".encode())
            count += 1
    print(f"{count:,} answer{'s' * (count != 1)}: {settings['out']}")


def main() -> None:
    """Run the command; a mistake is one line, with exit code 1."""
    try:
        run(sys.argv[1:])
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (Mistake, OSError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        line = line if len(line) < 180 else f"{line[:180]}…"
        raise SystemExit(f"predict.py: {line}") from None


if __name__ == "__main__":
    main()
