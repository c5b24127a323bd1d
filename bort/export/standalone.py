"""An exported model.onnx that answers texts by numpy, onnxruntime and tokenizers alone.

This file becomes a part of the predict.py that is shipped; `command.py` has its command line.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bort.export.rules import (
    BATCH,
    TOKENS,
    Text,
    check_list,
    check_masks,
    check_one_text,
    check_top,
    describe_labels,
    describe_scores,
    divide_row,
    form_batches,
    name_row,
    remove_marks,
    shorten,
    split_blocks,
    split_row,
)
from bort.files.delimited import Mistake

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
LOGITS = 1 << 22  # of a batch of a masked language model: 16 MB
EMBEDDING = "Embedding"  # the kind of a model that turns texts into vectors


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
        self.columns = read_columns(folder / "export.json")  # of the texts in a table
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


def read_columns(path: Path) -> tuple[str, ...] | None:
    """Read which columns of a table the model was trained on; None where nothing says so."""
    columns = read_json(path).get("columns") if path.is_file() else None
    is_list = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    return tuple(columns) if columns and is_list else None


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
