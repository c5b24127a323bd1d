"""Answers of the model.onnx beside this file: numpy, onnxruntime and tokenizers are all it needs.

python predict.py 'a text'                    # classes with probabilities, or a number
python predict.py 'a text' 'a second text'    # of a model for pairs
python predict.py 'Paris is <mask>.'          # of a masked language model
python predict.py 'a passage' 'question option 1' 'question option 2'   # of a model for choices
python predict.py 'A [[cup]] fell. [[It]] broke.'    # of a model for two marked words
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent


def unmark(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text without its [[ ]], and the characters that stood between them."""
    spans, plain = [], ""
    for number, part in enumerate(re.split(r"\[\[(.*?)\]\]", text)):
        if number % 2:
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


class Model:
    """The exported model, its tokenizer and its config.json."""

    def __init__(self, folder: Path = FOLDER, threads: int = 0):
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.tokenizer.enable_truncation(settings["model_max_length"])
        pad = self.config["pad_token_id"]
        self.tokenizer.enable_padding(pad_id=pad, pad_token=self.tokenizer.id_to_token(pad))
        self.kind = self.config["architectures"][0].partition("For")[2]
        # words such as <mask> are ordinary text to all but a masked language model
        self.tokenizer.encode_special_tokens = self.kind != "MaskedLM"
        self.mask = self.tokenizer.token_to_id(str(settings.get("mask_token")))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(folder / "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def logits(self, inputs: list) -> tuple[np.ndarray, np.ndarray]:
        """Ids and logits of texts or pairs of texts, with [[marked words]] where it takes them."""
        marked = [[unmark(text) for text in ([x] if isinstance(x, str) else x)] for x in inputs]
        if self.kind:
            marked = [[(text, []) for text in ([x] if isinstance(x, str) else x)] for x in inputs]
        texts = [tuple(text for text, _ in row) for row in marked]
        rows = self.tokenizer.encode_batch([t if len(t) > 1 else t[0] for t in texts])
        ids = np.array([row.ids for row in rows], dtype=np.int64)
        known = {
            "input_ids": ids,
            "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
            "token_type_ids": np.array([row.type_ids for row in rows], dtype=np.int64),
        }
        if not self.kind:
            known["spans"] = np.array(
                [self.places(row, given) for row, given in zip(rows, marked, strict=True)]
            )
        feed = {x.name: known[x.name] for x in self.session.get_inputs()}
        return ids, self.session.run(None, feed)[0]

    @staticmethod
    def places(row, given: list) -> list[list[int]]:
        """First token of each marked word and the one after its last."""
        found = []
        for number, (_, spans) in enumerate(given):
            for first, end in spans:
                inside = [
                    k
                    for k, (a, b) in enumerate(row.offsets)
                    if row.sequence_ids[k] == number and a < end and b > first
                ]
                found.append([inside[0], inside[-1] + 1])
        return found

    def unfit(self, inputs: list) -> str | None:
        """Why the model cannot answer one of these, if that is so."""
        asked = self.config.get("bort_texts")
        for given in inputs:
            texts = [given] if isinstance(given, str) else list(given)
            if not self.kind and sum(len(unmark(text)[1]) for text in texts) != 2:
                return "mark two words by [[ ]], as in 'A [[cup]] fell. [[It]] broke.'"
            if self.kind == "SequenceClassification" and len(texts) > 2:
                return f"{len(texts)} texts are given, it takes one or two"
            if self.kind == "SequenceClassification" and asked not in (None, len(texts)):
                return (
                    f"the model was fine-tuned on {'pairs of texts' if asked == 2 else 'one text'}"
                )
            if self.kind == "MaskedLM" and not any(
                self.mask in self.tokenizer.encode(text).ids for text in texts
            ):
                return f"no {self.tokenizer.id_to_token(self.mask)} to fill in {texts[0]!r}"
            if self.kind == "MultipleChoice" and len(inputs) < 2:
                return "give a passage, then the options, two at least"
        return None

    def predict(self, inputs: list, top: int = 5) -> list[dict]:
        """An answer per text or pair; of a model for choices, one answer to all of them.

        Raises ValueError for what the model cannot answer.
        """
        if wrong := self.unfit(inputs):
            raise ValueError(wrong)
        ids, logits = self.logits(inputs)
        if self.kind == "MaskedLM":
            return [self.words(row[ids[k] == self.mask], top) for k, row in enumerate(logits)]
        if self.kind == "MultipleChoice":
            scores = softmax(logits[:, 0])
            return [{"choice": int(scores.argmax()), "scores": scores.tolist()}]
        if logits.shape[1] == 1:
            return [{"score": float(value)} for value in logits[:, 0]]
        names = [self.config["id2label"][str(k)] for k in range(logits.shape[1])]
        found = []
        for row in softmax(logits):
            best = int(row.argmax())
            scores = dict(zip(names, row.tolist(), strict=True))
            found.append({"label": names[best], "score": float(row[best]), "scores": scores})
        return found

    def words(self, logits: np.ndarray, top: int) -> dict:
        """For each mask, the most probable words."""
        scores = softmax(logits)
        best = np.argsort(-scores, axis=-1)[:, :top]
        return {
            "words": [
                [
                    {
                        "word": self.tokenizer.decode([int(k)], skip_special_tokens=False),
                        "score": float(row[k]),
                    }
                    for k in numbers
                ]
                for row, numbers in zip(scores, best, strict=True)
            ]
        }


def main() -> None:
    texts = sys.argv[1:]
    if not texts:
        raise SystemExit(__doc__)
    model = Model()
    if model.kind == "MultipleChoice":
        inputs = [(texts[0], choice) for choice in texts[1:]]
    else:
        inputs = [texts[0]] if len(texts) == 1 else [tuple(texts)]
    if wrong := model.unfit(inputs):
        raise SystemExit(f"predict.py: {wrong}")
    for answer in model.predict(inputs):
        print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()
