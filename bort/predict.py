"""Answers of a saved model: `bort.load(folder).predict([...])`, or by the command line.

    python -m bort.predict model=FOLDER text='one text'
    python -m bort.predict model=FOLDER text='first text' pair='second text'
    python -m bort.predict model=FOLDER input=texts.txt out=answers.jsonl

input= is a .txt file with a text on each line, or .jsonl with {"text": …, "pair": …} on each.
A fine-tuned folder gives classes with probabilities, or a number; a masked-LM folder fills <mask>.
"""

import logging

from bort import shell
from bort.config import key_values

if __name__ == "__main__":
    shell.starting("bort.predict")  # what follows takes seconds

import copy
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bort.console import counted
from bort.errors import BortError
from bort.export import standalone
from bort.export.standalone import Mistake, Text
from bort.files.locks import check_unread, output
from bort.files.writing import is_stream, user_path, writing
from bort.models import hf_config
from bort.models import huggingface as hf
from bort.models.bert import Classifier, MaskedLM

logger = logging.getLogger("bort.predict")

MASKS = 64  # masked positions whose words are found at once


@contextmanager
def _own_errors() -> Iterator[None]:
    """Mistakes of the rules that are shared with predict.py, as BortError."""
    try:
        yield
    except Mistake as error:
        raise BortError(str(error)) from None


class Predictor:
    """A model with its tokenizer."""

    def __init__(
        self,
        model: Classifier | MaskedLM,
        tokenizer,
        labels: dict[int, str],
        texts: int | None = None,
        multi_label: bool = False,
        cut: int | None = None,
    ):
        """texts: how many a row of the model's task has, if that is known.

        multi_label: each label of a text is right or wrong by itself, with its own probability.
        cut: which text of a pair is shortened where they are too long; None: the longer one.
        """
        self.model, self.tokenizer, self.labels = model.eval(), tokenizer, labels
        self.texts, self.multi_label = texts, multi_label
        self.truncation = True if cut is None else ("only_first", "only_second")[cut]
        self.longest_first = tokenizer if cut is None else copy.deepcopy(tokenizer)
        # The first call sets how a tokenizer cuts; later ones change nothing, so threads may share.
        self._encode_with(self.tokenizer, ("",), self.truncation)
        self._encode_with(self.longest_first, ("",), True)

    def predict(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> list[dict]:
        """An answer per text, or pair of texts, in their order.

        `label`, `score` (its probability) and `scores` of all labels; of a regression `score`
        alone; of a masked LM `words`, for each mask the `top` most probable. Texts longer
        than the model's limit are cut. Raises BortError for what the model cannot answer.
        """
        return list(self.answers(texts, batch_size, top))

    def answers(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> Iterator[dict]:
        """`predict` for any number of texts: memory holds 1,024 of them."""
        with _own_errors():
            standalone.check_list(texts)
            standalone.check_top(top)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise BortError(f"batch_size={batch_size} is no number of texts; write batch_size=32")
        first = 1
        for block in standalone.blocks(texts, top):
            rows = []
            for number, text in enumerate(block, first):
                with _own_errors(), standalone.named_row(number, first == len(block) == 1):
                    rows.append(self._encode(text))
            yield from self._block(rows, batch_size, top)
            first += len(block)

    def _block(self, rows: list[dict], batch_size: int, top: int) -> list[dict]:
        """The answers to encoded rows, those of similar length together."""
        found: list[dict] = [{}] * len(rows)
        for batch in standalone.batches([len(row["input_ids"]) for row in rows], batch_size):
            inputs = self.tokenizer.pad([rows[k] for k in batch], return_tensors="pt")
            for row, answer in zip(batch, self._answers(inputs, top), strict=True):
                found[row] = answer
        return found

    def _encode(self, text: Text) -> dict:
        """The tokens of a row; raises Mistake for what the model cannot answer."""
        parts = standalone.parts_of(text, self.texts)
        masked = isinstance(self.model, MaskedLM)
        try:
            encoded = self._encode_with(self.tokenizer, parts, self.truncation)
        except Exception:  # tokenizers has no class for it: the other text alone is too long
            encoded = self._encode_with(self.longest_first, parts, True)
        if masked:
            count = encoded["input_ids"].count(self.tokenizer.mask_token_id)
            limit = self.tokenizer.model_max_length
            standalone.check_masks(parts, count, self.tokenizer.mask_token, limit)
        return encoded

    def _encode_with(self, tokenizer, parts: tuple[str, ...], truncation: bool | str) -> dict:
        """The tokens of a row, asked for as a list of one: alone, it would lose an empty pair."""
        # words such as <mask> are ordinary text to a classifier, as in its training
        masked = isinstance(self.model, MaskedLM)
        columns = ([part] for part in parts)
        rows = tokenizer(*columns, truncation=truncation, split_special_tokens=not masked)
        return {name: values[0] for name, values in rows.items()}

    @torch.no_grad()
    def _answers(self, inputs: dict, top: int) -> Iterator[dict]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if isinstance(self.model, MaskedLM):
            yield from self._fill(ids, mask, inputs.get("token_type_ids"), top)
            return
        outputs = self.model(ids, mask, inputs.get("token_type_ids"))
        if outputs.shape[1] == 1 and not self.multi_label:
            yield from ({"score": float(value)} for value in outputs[:, 0])
            return
        outputs = outputs.float()
        outputs = outputs.sigmoid() if self.multi_label else outputs.softmax(-1)
        names = [self.labels[k] for k in range(outputs.shape[1])]
        for probabilities in outputs.tolist():
            yield standalone.answer_of(probabilities, names)

    def _fill(self, ids, mask, types, top: int) -> Iterator[dict]:
        places = (ids == self.tokenizer.mask_token_id).flatten().nonzero().flatten()
        states = self.model.head_states(ids, mask, types, positions=places)
        words: list[list[list[dict]]] = [[] for _ in ids]
        for some, of_some in zip(places.split(MASKS), states.split(MASKS), strict=True):
            logits = self.model.decode(of_some).float()
            best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
            rows = zip(some.tolist(), best.values.tolist(), best.indices.tolist(), strict=True)
            for place, scores, numbers in rows:
                words[place // ids.shape[1]].append(
                    [
                        {"word": self.tokenizer.decode([number]), "score": score}
                        for number, score in zip(numbers, scores, strict=True)
                    ]
                )
        yield from ({"words": found} for found in words)


def load(name: str | Path) -> Predictor:
    """The model of a run folder, a Hugging Face folder or a hub name.

    Raises BortError if there is none, or one that takes more than texts (choices, spans).
    """
    model, labels = hf.load(name)
    if isinstance(model, MaskedLM):
        return Predictor(model, hf.load_tokenizer(name), {})
    if model.spans or model.choices:
        kind = "spans" if model.spans else "choices"
        raise BortError(f"{name} answers a task with {kind}; train.py task=… writes its answers")
    labels = labels or {k: f"LABEL_{k}" for k in range(model.out.out_features)}
    settings = hf.settings(name)
    texts = hf_config.texts_of_a_row(settings)
    several = settings.get("problem_type") == hf_config.MULTI_LABEL
    cut = hf_config.text_to_cut(settings)
    return Predictor(model, hf.load_tokenizer(name), labels, texts, several, cut)


def read_texts(path: Path) -> Iterator[Text]:
    """A text per line of a .txt file, or `text` (and `pair`) of each line of a .jsonl file.

    Raises BortError, with the line, for what cannot be read so.
    """
    try:
        yield from standalone.read_texts(path)
    except Mistake as error:
        table = path.suffix.lower() in (".csv", ".tsv", ".parquet")
        hint = "; train.py task=custom data.test=FILE answers tables" if table else ""
        raise BortError(f"{error}{hint}") from None


def _texts(given: dict[str, str | None]) -> Iterable[Text]:
    """What the command line asks for; raises BortError for a file that cannot be read."""
    if given["text"] is not None:
        return [given["text"] if given["pair"] is None else (given["text"], given["pair"])]
    if given["pair"] is not None:
        raise BortError('pair= is for text=; a file has {"text": …, "pair": …} on each line')
    path = user_path("input", given["input"])
    if path.is_file() and not any(True for _ in read_texts(path)):  # all of it, for its mistakes
        raise BortError(f"input={path} is empty; put a text on each line")
    return read_texts(path)


def _check_top(given: dict[str, str | None], predictor: Predictor) -> int:
    if given["top"] is not None and not isinstance(predictor.model, MaskedLM):
        raise BortError("top= is for a masked language model, which this is not; leave it out")
    return int(given["top"] or 5)


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    given = key_values.parse(
        sys.argv[1:], dict.fromkeys(("model", "text", "pair", "input", "out", "top"))
    )
    if not given["model"] or (given["text"] is None) == (not given["input"]):
        raise BortError("give model=FOLDER and either text='…' or input=FILE; --help shows more")
    if given["top"] is not None and not (given["top"].isdecimal() and int(given["top"])):
        raise BortError(f"top={given['top']} is no number of words; write top=5")
    if sys.stdout is None and not given["out"]:  # closed, as by >&-
        raise BortError("there is no standard output; give out=FILE")
    texts = _texts(given)

    def lines(encoding: str | None) -> Iterator[str]:
        predictor = load(given["model"])
        for answer in predictor.answers(texts, top=_check_top(given, predictor)):
            yield standalone.json_line(answer, encoding)

    if given["out"]:
        count, out = 0, user_path("out", given["out"])
        check_unread(out, {"input": given["input"], "model": given["model"]})
        with output(out), writing(out) as file:  # first: a place that is none shows at once
            for line in lines("utf-8"):
                file.write(f"{line}\n".encode())
                count += 1
        if not is_stream(out):
            logger.info(f"{counted(count, 'answer')}: {given['out']}")
    else:
        for line in lines(sys.stdout.encoding):
            logger.info(line)


if __name__ == "__main__":
    shell.run(main, "bort.predict")
