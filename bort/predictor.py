"""A saved model that answers texts, `bort.load(folder).predict([...])`, or embeds them."""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bort.embeddings.embedder import Embedder, find_embedder, load_embedder_tokenizer
from bort.embeddings.pooling import Pooling, is_sentence_folder, read_pooling
from bort.embeddings.teacher import SentenceTeacher
from bort.errors import BortError
from bort.export import rules, standalone
from bort.export.rules import Text
from bort.files.ownership import MODULES
from bort.files.tables import translate_mistakes
from bort.files.untrusted import read_json
from bort.models import hf_config
from bort.models.bert import Classifier, Encoder, MaskedLM, average_states
from bort.models.hub import WEIGHT_FILES, fetch_folder, fetch_model, find_any
from bort.models.huggingface import load_tokenizer, open_model, read_config
from bort.teachers.opening import is_own_family, open_teacher
from bort.teachers.teacher import Teacher
from bort.text.tokenizer import build_encoder

MASKS = 64  # masked positions whose words are found at once


class Predictor:
    """A model with its tokenizer."""

    def __init__(
        self,
        model: Classifier | MaskedLM | Encoder | Embedder | Teacher | SentenceTeacher,
        tokenizer,
        labels: dict[int, str],
        texts: int | None = None,
        multi_label: bool = False,
        cut: int | None = None,
        overlap: int | None = None,
    ):
        """texts: how many a row of the model's task has, if that is known.

        multi_label: each label of a text is right or wrong by itself, with its own probability.
        cut: which text of a pair is shortened where they are too long; None: the longer one.
        overlap: tokens that neighbouring windows of a long text share, whose outputs are averaged;
        None: a long text is cut.
        """
        if isinstance(model, torch.nn.Module):
            model.eval()
        self.model, self.tokenizer, self.labels = model, tokenizer, labels
        self.texts, self.multi_label = texts, multi_label
        # How the states of a model that embeds texts become an embedding; None: by their mean.
        self.pooling: Pooling | None = getattr(model, "pooling", None)
        self.has_towers = getattr(model, "texts_per_row", 1) == 2
        cut = None if self.has_towers else cut
        self.cut, self.overlap = cut, None if self.has_towers else overlap
        self.uncut = None if self.overlap is None else build_encoder(tokenizer)
        self.truncation = True if cut is None else ("only_first", "only_second")[cut]
        self.longest_first = tokenizer if cut is None else copy.deepcopy(tokenizer)
        # The first call sets how a tokenizer cuts; later ones change nothing, so threads may share.
        self._encode_with(self.tokenizer, ("",), self.truncation)
        self._encode_with(self.longest_first, ("",), True)

    @property
    def fills_masks(self) -> bool:
        """Whether the model is a masked language model, not one that was fine-tuned."""
        return isinstance(self.model, MaskedLM)

    @property
    def outputs(self) -> int | None:
        """How many outputs a fine-tuned model has for a row; None of a model that is none."""
        is_fine_tuned = isinstance(self.model, Classifier)
        return self.model.out.out_features if is_fine_tuned else None

    @property
    def compute_states(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What computes the final states (B, S, H) of ids and an attention mask (B, S)."""
        if isinstance(self.model, torch.nn.Module):
            return getattr(self.model, "encoder", self.model)
        return self.model.compute_states

    def encode(
        self, texts: Iterable[str], batch_size: int = 32, normalize: bool = False
    ) -> np.ndarray:
        """Return the embeddings (N, E) of texts in their order, in float32.

        They are the mean states of the tokens, whatever head the model has; those of a folder of
        sentence-transformers are what its files say. normalize: whether they are scaled to a length
        of 1, so that their products are cosines. Texts that are longer than the model's limit are
        cut. Raises BortError for what is no list of texts.
        """
        with translate_mistakes():
            rules.check_list(texts)
        check_batch_size(batch_size)
        parts = [
            self._embed_rows(rows, batch_size)
            for rows in self._tokenize_blocks(texts, self._tokenize_text, 1)
        ]
        if not parts:
            return self._embed_rows([self._tokenize_text("")], batch_size)[:0]
        embeddings = np.concatenate(parts)
        return scale_rows(embeddings) if normalize else embeddings

    def _tokenize_text(self, text: str) -> dict:
        """Return the tokens of one text; raises Mistake for what is none."""
        rules.check_one_text(text)
        if self.pooling is not None:
            text = self.pooling.prepare(text)
        return self._encode_with(self.longest_first, rules.split_row(text, 1), True)

    @torch.no_grad()
    def _embed_rows(self, rows: list[dict], batch_size: int) -> np.ndarray:
        """Return the embeddings (rows, E) of tokenized texts."""
        parts, order = [], []
        for batch in rules.form_batches(list(map(_count_tokens, rows)), batch_size):
            inputs = self.tokenizer.pad([rows[k] for k in batch], return_tensors="pt")
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            pool = average_states if self.pooling is None else self.pooling.pool
            parts.append(pool(self.compute_states(ids, mask), mask).float().numpy())
            order += batch
        return np.concatenate(parts)[np.argsort(order)]

    def _tokenize_blocks(
        self, texts: Iterable[Text], tokenize: Callable, top: int
    ) -> Iterator[list]:
        """Yield the tokens of texts in lists of at most 1,024; mistakes name the row."""
        first = 1
        for block in rules.split_blocks(texts, top):
            rows = []
            for number, text in enumerate(block, first):
                is_alone = first == len(block) == 1
                with translate_mistakes(), rules.name_row(number, is_alone):
                    rows.append(tokenize(text))
            yield rows
            first += len(block)

    def predict(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> list[dict]:
        """Return an answer for each text, or pair of texts, in their order.

        An answer has `label`, `score` (its probability) and `scores` of all labels; of a
        regression `score` alone; of a masked LM `words`, for each mask the `top` most probable; of
        a model that embeds texts `embedding`, as `encode` returns it.
        Where a text may have several labels, `labels` are those with a probability of at least 1/2.
        Texts that are longer than the model's limit are cut, or divided into windows where the
        model was fine-tuned so. Raises BortError for what the model cannot answer.
        """
        return list(self.answers(texts, batch_size, top))

    def answers(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> Iterator[dict]:
        """Yield what `predict` returns, for any number of texts: memory holds 1,024 of them."""
        check_batch_size(batch_size)
        for rows in self._read_blocks(texts, top):
            yield from self._answer_block(rows, batch_size, top)

    def rehearse(self, texts: Iterable[Text], top: int = 5) -> Iterator[dict]:
        """Yield the answer to the first text for each of them, whose tokens alone are computed.

        It refuses what `answers` refuses, in a small part of the time.
        """
        answer: dict = {}
        for rows in self._read_blocks(texts, top):
            answer = answer or self._answer_block(rows[:1], 1, top)[0]
            yield from repeat(answer, len(rows))

    def _read_blocks(self, texts: Iterable[Text], top: int) -> Iterator[list]:
        """Yield the tokens of texts in lists, after the checks of the model and of the texts."""
        with translate_mistakes():
            rules.check_list(texts)
            rules.check_top(top)
        if self.pooling is not None:
            yield from self._tokenize_blocks(texts, self._tokenize_text, 1)
            return
        if not isinstance(self.model, Classifier | MaskedLM):
            raise BortError(
                "the model is an encoder without a trained head: encode embeds texts by it; "
                "train.py experiment=finetune gives it a head that answers"
            )
        yield from self._tokenize_blocks(texts, self.tokenize, top)

    def _answer_block(self, rows: list, batch_size: int, top: int) -> list[dict]:
        """Answer tokenized rows, or embed them where that is the answer."""
        if self.pooling is None:
            return self._answer_rows(rows, batch_size, top)
        return [{"embedding": vector} for vector in self._embed_rows(rows, batch_size).tolist()]

    def _answer_rows(self, rows: list[list[dict]], batch_size: int, top: int) -> list[dict]:
        """Answer tokenized rows, those of similar length together."""
        if self.overlap is not None:
            return self._answer_windows(rows, batch_size)
        answers: list[dict] = [{}] * len(rows)
        lengths = [max(map(_count_tokens, row)) for row in rows]
        for batch in rules.form_batches(lengths, batch_size):
            parts = list(chain.from_iterable(rows[k] for k in batch))
            inputs = self.tokenizer.pad(parts, return_tensors="pt")
            for row, answer in zip(batch, self._answer_batch(inputs, top), strict=True):
                answers[row] = answer
        return answers

    @torch.no_grad()
    def _answer_windows(self, rows: list[list[dict]], batch_size: int) -> list[dict]:
        """Answer rows in windows, by the means of the windows' outputs."""
        windows = list(chain.from_iterable(rows))
        parts, order = [], []
        for batch in rules.form_batches(list(map(_count_tokens, windows)), batch_size):
            inputs = self.tokenizer.pad([windows[k] for k in batch], return_tensors="pt")
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            parts.append(self.model(ids, mask, inputs.get("token_type_ids")))
            order += batch
        outputs = torch.cat(parts)[torch.tensor(order).argsort()]
        means = [of_row.mean(0) for of_row in outputs.split(list(map(len, rows)))]
        return list(self._describe_outputs(torch.stack(means)))

    def tokenize(self, text: Text) -> list[dict]:
        """Return the tokens of a row: one input, or of towers one for each text, or its windows.

        Raises Mistake for what the model cannot answer.
        """
        parts = rules.split_row(text, 2 if self.has_towers else self.texts)
        if self.has_towers:
            return [self._encode_with(self.tokenizer, (part,), True) for part in parts]
        if self.overlap is not None:
            limit = self.tokenizer.model_max_length
            if windows := rules.divide_row(self.uncut, parts, limit, self.cut, self.overlap):
                return list(map(self._to_inputs, windows))
        try:
            encoded = self._encode_with(self.tokenizer, parts, self.truncation)
        except Exception:  # tokenizers has no class for it: the other text alone is too long
            encoded = self._encode_with(self.longest_first, parts, True)
        if self.fills_masks:
            count = encoded["input_ids"].count(self.tokenizer.mask_token_id)
            limit = self.tokenizer.model_max_length
            rules.check_masks(parts, count, self.tokenizer.mask_token, limit)
        return [encoded]

    def _encode_with(self, tokenizer, parts: tuple[str, ...], truncation: bool | str) -> dict:
        """Encode a row as a list of one: a tokenizer that gets it alone loses an empty pair."""
        # words such as <mask> are ordinary text to a classifier, as in its training
        columns = ([part] for part in parts)
        rows = tokenizer(*columns, truncation=truncation, split_special_tokens=not self.fills_masks)
        return {name: values[0] for name, values in rows.items()}

    def _to_inputs(self, encoding) -> dict[str, np.ndarray]:
        """Return what the model reads of an encoding: arrays, since lists take 8 times as much."""
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        names = self.tokenizer.model_input_names
        return {name: np.array(inputs[name], np.int32) for name in names if name in inputs}

    @torch.no_grad()
    def _answer_batch(self, inputs: dict, top: int) -> Iterator[dict]:
        """Yield the answers to the rows of a batch."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if self.fills_masks:
            yield from self._fill(ids, mask, inputs.get("token_type_ids"), top)
            return
        yield from self._describe_outputs(self.model(ids, mask, inputs.get("token_type_ids")))

    def _describe_outputs(self, outputs: Tensor) -> Iterator[dict]:
        """Yield the answers of the outputs (B, outputs) to rows."""
        if outputs.shape[1] == 1 and not self.multi_label:
            yield from ({"score": float(value)} for value in outputs[:, 0])
            return
        outputs = outputs.float()
        names = [self.labels[k] for k in range(outputs.shape[1])]
        if self.multi_label:
            rows = zip(outputs.sigmoid().tolist(), (outputs >= 0).tolist(), strict=True)
            yield from (rules.describe_labels(row, names, right) for row, right in rows)
            return
        for probabilities in outputs.softmax(-1).tolist():
            yield rules.describe_scores(probabilities, names)

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


def check_batch_size(batch_size: object) -> None:
    """Raise BortError for what is no number of texts."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise BortError(f"batch_size={batch_size} is no number of texts; write batch_size=32")


def _count_tokens(part: dict) -> int:
    return len(part["input_ids"])


class OnnxPredictor:
    """An exported model that embeds texts, run by onnxruntime as its own predict.py does."""

    fills_masks, outputs = False, None

    def __init__(self, model: standalone.Model):
        self.model = model

    def encode(
        self, texts: Iterable[str], batch_size: int = 32, normalize: bool = False
    ) -> np.ndarray:
        """Return the embeddings (N, E) of texts, as `Predictor.encode` does."""
        check_batch_size(batch_size)
        with translate_mistakes():
            embeddings = self.model.encode(texts, batch_size)
        return scale_rows(embeddings) if normalize else embeddings

    def predict(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> list[dict]:
        """Return `embedding` for each text."""
        return list(self.answers(texts, batch_size, top))

    def answers(self, texts: Iterable[Text], batch_size: int = 32, top: int = 5) -> Iterator[dict]:
        """Yield what `predict` returns."""
        check_batch_size(batch_size)
        with translate_mistakes():
            yield from self.model.answers(texts, top)

    def rehearse(self, texts: Iterable[Text], top: int = 5) -> Iterator[dict]:
        """Yield the answer to the first text for each of them, with the checks of `answers`."""
        answer: dict = {}
        for number, text in enumerate(texts, start=1):
            with translate_mistakes(), rules.name_row(number, False):
                rules.check_one_text(text)
            answer = answer or self.predict([text], top=top)[0]
            yield answer


def scale_rows(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings (N, E) to a length of 1; zero stays zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)


def load(name: str | Path) -> Predictor | OnnxPredictor:
    """Open the model of a run folder, a Hugging Face folder or a hub name.

    An encoder without a head, which may be of any family that a student can learn from, embeds
    texts and answers none. Raises BortError if there is no model, or one that takes more than texts
    (choices, spans).
    """
    if (embedding := _load_embedding(name)) is not None:
        return embedding
    folder = fetch_model(name)
    if not is_own_family(folder):
        return _load_encoder(name, folder, open_teacher(name))
    model, labels = open_model(name)
    if isinstance(model, Encoder):
        return _load_encoder(name, folder, model)
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
    overlap = hf_config.read_window_stride(settings)
    return Predictor(model, load_tokenizer(name), labels, texts, multi_label, cut, overlap)


def _load_embedding(name: str | Path) -> Predictor | OnnxPredictor | None:
    """Open a folder that says how its embeddings are made; None for any other.

    Such are folders of sentence-transformers of any family, and exports of models that embed texts.
    """
    folder = fetch_folder(
        find_any(str(name), (MODULES, "config.json")),
        ["*.json", "model*.safetensors"],
        (MODULES, "config.json"),
    )
    if is_onnx_embedding(folder):
        with translate_mistakes():
            return OnnxPredictor(standalone.Model(folder))
    if not is_sentence_folder(folder):
        return None
    if (embedder := find_embedder(str(name))) is not None:
        return Predictor(embedder, load_embedder_tokenizer(embedder), {})
    pooling = read_pooling(folder)
    teacher, tokenizer = open_teacher(pooling.folder), load_tokenizer(pooling.folder)
    limits = [tokenizer.model_max_length, teacher.limit, pooling.length or teacher.limit]
    tokenizer.model_max_length = min(limits)
    return Predictor(SentenceTeacher(teacher, tokenizer, pooling, min(limits)), tokenizer, {})


def is_onnx_embedding(folder: Path) -> bool:
    """Whether a folder is the ONNX export of a model that embeds texts."""
    if not (folder / "model.onnx").is_file() or not (folder / "config.json").is_file():
        return False
    has_weights = any((folder / file).is_file() for file in WEIGHT_FILES)
    return not has_weights and hf_config.is_embedding(read_json(folder / "config.json"))


def _load_encoder(name: str | Path, folder: Path, model: Encoder | Teacher) -> Predictor:
    """Open an encoder that embeds texts, of the length that a folder of sentence-transformers says.

    Raises BortError for a folder whose embeddings are not the mean of the tokens' states.
    """
    tokenizer = load_tokenizer(name)
    limits = [tokenizer.model_max_length, getattr(model, "limit", tokenizer.model_max_length)]
    lengths, pooling = folder / "sentence_bert_config.json", folder / "1_Pooling" / "config.json"
    if lengths.is_file():
        stated = read_json(lengths).get("max_seq_length")
        limits += [stated] if type(stated) is int and stated > 0 else []
    if pooling.is_file() and read_json(pooling).get("pooling_mode_mean_tokens") is False:
        raise BortError(f"{pooling} asks for another embedding than the mean of all tokens' states")
    tokenizer.model_max_length = min(limits)
    return Predictor(model, tokenizer, {})
