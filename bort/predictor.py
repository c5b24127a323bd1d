"""A saved model that answers texts: `bort.load(folder).predict([...])`."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch

from bort.errors import BortError
from bort.export import standalone
from bort.export.standalone import Mistake, Text
from bort.models import hf_config
from bort.models.bert import Classifier, MaskedLM
from bort.models.huggingface import load_model, load_tokenizer, read_config

MASKS = 64  # masked positions whose words are found at once


@contextmanager
def translate_mistakes() -> Iterator[None]:
    """Raise the mistakes of the rules that are shared with predict.py as BortError."""
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
        self.has_towers = getattr(model, "texts_per_row", 1) == 2
        cut = None if self.has_towers else cut
        self.truncation = True if cut is None else ("only_first", "only_second")[cut]
        self.longest_first = tokenizer if cut is None else copy.deepcopy(tokenizer)
        # The first call sets how a tokenizer cuts; later ones change nothing, so threads may share.
        self._encode_with(self.tokenizer, ("",), self.truncation)
        self._encode_with(self.longest_first, ("",), True)

    @property
    def fills_masks(self) -> bool:
        """Whether the model is a masked language model, not one that was fine-tuned."""
        return isinstance(self.model, MaskedLM)

    def predict(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> list[dict]:
        """Return an answer for each text, or pair of texts, in their order.

        An answer has `label`, `score` (its probability) and `scores` of all labels; of a
        regression `score` alone; of a masked LM `words`, for each mask the `top` most probable.
        Texts that are longer than the model's limit are cut. Raises BortError for what the model
        cannot answer.
        """
        return list(self.answers(texts, batch_size, top))

    def answers(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> Iterator[dict]:
        """Yield what `predict` returns, for any number of texts: memory holds 1,024 of them."""
        with translate_mistakes():
            standalone.check_list(texts)
            standalone.check_top(top)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise BortError(f"batch_size={batch_size} is no number of texts; write batch_size=32")
        first = 1
        for block in standalone.split_blocks(texts, top):
            rows = []
            for number, text in enumerate(block, first):
                is_alone = first == len(block) == 1
                with translate_mistakes(), standalone.name_row(number, is_alone):
                    rows.append(self.tokenize(text))
            yield from self._answer_rows(rows, batch_size, top)
            first += len(block)

    def _answer_rows(self, rows: list[list[dict]], batch_size: int, top: int) -> list[dict]:
        """Answer tokenized rows, those of similar length together."""
        answers: list[dict] = [{}] * len(rows)
        lengths = [max(map(_count_tokens, row)) for row in rows]
        for batch in standalone.form_batches(lengths, batch_size):
            parts = list(chain.from_iterable(rows[k] for k in batch))
            inputs = self.tokenizer.pad(parts, return_tensors="pt")
            for row, answer in zip(batch, self._answer_batch(inputs, top), strict=True):
                answers[row] = answer
        return answers

    def tokenize(self, text: Text) -> list[dict]:
        """Return the tokens of a row: one input, or of towers one for each text.

        Raises Mistake for what the model cannot answer.
        """
        parts = standalone.split_row(text, 2 if self.has_towers else self.texts)
        if self.has_towers:
            return [self._encode_with(self.tokenizer, (part,), True) for part in parts]
        try:
            encoded = self._encode_with(self.tokenizer, parts, self.truncation)
        except Exception:  # tokenizers has no class for it: the other text alone is too long
            encoded = self._encode_with(self.longest_first, parts, True)
        if self.fills_masks:
            count = encoded["input_ids"].count(self.tokenizer.mask_token_id)
            limit = self.tokenizer.model_max_length
            standalone.check_masks(parts, count, self.tokenizer.mask_token, limit)
        return [encoded]

    def _encode_with(self, tokenizer, parts: tuple[str, ...], truncation: bool | str) -> dict:
        """Encode a row as a list of one: a tokenizer that gets it alone loses an empty pair."""
        # words such as <mask> are ordinary text to a classifier, as in its training
        columns = ([part] for part in parts)
        rows = tokenizer(*columns, truncation=truncation, split_special_tokens=not self.fills_masks)
        return {name: values[0] for name, values in rows.items()}

    @torch.no_grad()
    def _answer_batch(self, inputs: dict, top: int) -> Iterator[dict]:
        """Yield the answers to the rows of a batch."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if self.fills_masks:
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
            yield standalone.describe_scores(probabilities, names)

    def _fill(self, ids, mask, types, top: int) -> Iterator[dict]:
        """Yield for each row (B, S) the most probable words of each of its masks."""
        positions = (ids == self.tokenizer.mask_token_id).flatten().nonzero().flatten()
        states = self.model.head_states(ids, mask, types, positions=positions)
        words: list[list[list[dict]]] = [[] for _ in ids]
        parts = zip(positions.split(MASKS), states.split(MASKS), strict=True)
        for part, part_states in parts:
            logits = self.model.decode(part_states).float()
            best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
            rows = zip(part.tolist(), best.values.tolist(), best.indices.tolist(), strict=True)
            for position, scores, numbers in rows:
                words[position // ids.shape[1]].append(self._name_words(numbers, scores))
        yield from ({"words": row} for row in words)

    def _name_words(self, numbers: list[int], scores: list[float]) -> list[dict]:
        """Return the words with these token ids, each with its probability."""
        return [
            {"word": self.tokenizer.decode([number]), "score": score}
            for number, score in zip(numbers, scores, strict=True)
        ]


def _count_tokens(part: dict) -> int:
    return len(part["input_ids"])


def load(name: str | Path) -> Predictor:
    """Open the model of a run folder, a Hugging Face folder or a hub name.

    Raises BortError if there is none, or one that takes more than texts (choices, spans).
    """
    model, labels = load_model(name)
    if isinstance(model, MaskedLM):
        return Predictor(model, load_tokenizer(name), {})
    if model.spans or model.choices:
        kind = "spans" if model.spans else "choices"
        raise BortError(f"{name} answers a task with {kind}; train.py task=… writes its answers")
    labels = labels or {k: f"LABEL_{k}" for k in range(model.out.out_features)}
    settings = read_config(name)
    texts = hf_config.read_texts_per_row(settings)
    multi_label = settings.get("problem_type") == hf_config.MULTI_LABEL
    cut = hf_config.read_text_to_cut(settings)
    return Predictor(model, load_tokenizer(name), labels, texts, multi_label, cut)
