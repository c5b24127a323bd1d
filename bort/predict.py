"""Answers of a saved model: `bort.load(folder).predict([...])`, or by the command line.

    python -m bort.predict model=FOLDER text='one text'
    python -m bort.predict model=FOLDER text='first text' pair='second text'
    python -m bort.predict model=FOLDER input=texts.txt out=answers.jsonl

input= is a .txt file with a text on each line, or .jsonl with {"text": …, "pair": …} on each.
A fine-tuned folder gives classes with probabilities, or a number; a masked-LM folder fills <mask>.
"""

from bort import cli

if __name__ == "__main__":
    cli.starting("bort.predict")  # what follows takes seconds

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bort import hf
from bort.errors import BortError
from bort.files import replacing
from bort.model import Classifier, MaskedLM

Text = str | tuple[str, str]


class Predictor:
    """A model with its tokenizer."""

    def __init__(
        self,
        model: Classifier | MaskedLM,
        tokenizer,
        labels: dict[int, str],
        texts: int | None = None,
    ):
        """texts: how many a row of the model's task has, if that is known."""
        self.model, self.tokenizer, self.labels = model.eval(), tokenizer, labels
        self.texts = texts

    def predict(self, texts: Sequence[Text], batch_size: int = 32, top: int = 5) -> list[dict]:
        """An answer per text, or pair of texts, in their order.

        `label`, `score` (its probability) and `scores` of all labels; of a regression `score`
        alone; of a masked LM `words`, for each mask the `top` most probable. Texts longer
        than the model's limit are cut. Raises BortError for what the model cannot answer.
        """
        if isinstance(texts, str):
            raise BortError("predict takes a list of texts; write predict([text])")
        encoded = [self._encode(text) for text in texts]
        found: list[dict] = [{}] * len(texts)
        by_length = sorted(range(len(texts)), key=lambda k: len(encoded[k]["input_ids"]))
        for start in range(0, len(texts), batch_size):
            rows = by_length[start : start + batch_size]
            inputs = self.tokenizer.pad([encoded[k] for k in rows], return_tensors="pt")
            for row, answer in zip(rows, self._answers(inputs, top), strict=True):
                found[row] = answer
        return found

    def _encode(self, text: Text) -> dict:
        parts = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
            raise BortError(f"{text!r} is no text and no pair of texts")
        if self.texts not in (None, len(parts)):
            wanted = "pairs of texts: give pair=" if self.texts == 2 else "one text: leave pair out"
            raise BortError(f"the model was fine-tuned on {wanted}")
        masked = isinstance(self.model, MaskedLM)
        # words such as <mask> are ordinary text to a classifier, as in its training
        encoded = self.tokenizer(*parts, truncation=True, split_special_tokens=not masked)
        if masked and self.tokenizer.mask_token_id not in encoded["input_ids"]:
            raise BortError(
                f"{text!r} has no {self.tokenizer.mask_token} to fill; the model is a masked "
                "language model, not a fine-tuned one"
            )
        return dict(encoded)

    @torch.no_grad()
    def _answers(self, inputs: dict, top: int) -> Iterator[dict]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if isinstance(self.model, MaskedLM):
            yield from self._fill(ids, mask, inputs.get("token_type_ids"), top)
            return
        outputs = self.model(ids, mask, inputs.get("token_type_ids"))
        if outputs.shape[1] == 1:
            yield from ({"score": float(value)} for value in outputs[:, 0])
            return
        for probabilities in outputs.float().softmax(-1).tolist():
            scores = {self.labels[k]: p for k, p in enumerate(probabilities)}
            label = max(scores, key=scores.get)
            yield {"label": label, "score": scores[label], "scores": scores}

    def _fill(self, ids, mask, types, top: int) -> Iterator[dict]:
        places = (ids == self.tokenizer.mask_token_id).flatten().nonzero().flatten()
        logits = self.model(ids, mask, types, positions=places)
        best = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
        words: list[list[list[dict]]] = [[] for _ in ids]
        for place, scores, numbers in zip(places.tolist(), best.values, best.indices, strict=True):
            words[place // ids.shape[1]].append(
                [
                    {"word": self.tokenizer.decode([number]), "score": score}
                    for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)
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
    return Predictor(model, hf.load_tokenizer(name), labels, hf.settings(name).get("bort_texts"))


def read_texts(path: Path) -> list[Text]:
    """A text per line of a .txt file, or `text` (and `pair`) of each line of a .jsonl file."""
    if path.suffix in (".csv", ".tsv", ".parquet", ".json"):
        raise BortError(
            f"input={path}: give a .txt file with a text per line, or a .jsonl file of "
            '{"text": …} lines; train.py task=custom data.test=FILE answers tables'
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise BortError(f"input={path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BortError(f"input={path} is not UTF-8 at byte {error.start}") from None
    if lines and not lines[-1]:
        lines.pop()
    if path.suffix != ".jsonl":
        return [line.removesuffix("\r") for line in lines]
    texts: list[Text] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            texts.append((row["text"], row["pair"]) if "pair" in row else row["text"])
        except (ValueError, KeyError, TypeError):
            raise BortError(f"input={path} line {number} is no object with the key text") from None
    return texts


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    known = dict.fromkeys(("model", "text", "pair", "input", "out"))
    given = cli.keys(sys.argv[1:], known | {"top": "5"})
    if not given["model"] or bool(given["text"]) == bool(given["input"]):
        raise BortError("give model=FOLDER and either text='…' or input=FILE; --help shows more")
    if given["input"]:
        texts = read_texts(Path(given["input"]))
    else:
        texts = [(given["text"], given["pair"]) if given["pair"] else given["text"]]
    if not given["top"].isdecimal() or int(given["top"]) < 1:
        raise BortError(f"top={given['top']} is no number of words; write top=5")

    def answered() -> str:
        answers = load(given["model"]).predict(texts, top=int(given["top"]))
        return "".join(f"{json.dumps(answer, ensure_ascii=False)}\n" for answer in answers)

    if given["out"]:
        with replacing(Path(given["out"])) as file:  # first: a place that is none shows at once
            file.write(answered().encode())
        cli.say(f"{len(texts):,} answers: {given['out']}")
    else:
        cli.say(answered().removesuffix("\n"))


if __name__ == "__main__":
    cli.run(main, "bort.predict")
