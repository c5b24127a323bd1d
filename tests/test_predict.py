"""`bort.load(...).predict` against plain transformers; the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

import bort
from bort import predict
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_classifier, build_model
from bort.models.huggingface import save_model
from bort.predict import read_texts
from bort.text.tokenizer import train_tokenizer

TEXTS = ["a short one", "a longer text, with many words", "x", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([f"line {k} has words and a mask" for k in range(60)], 300)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=300, positions=32)
    body = build_model(sizes, "paper", 0)
    for parameter in body.parameters():  # or all texts would look alike
        parameter.data.mul_(6)
    save_model(body, tokenizer, root / "masked")
    for name, outputs, options in (
        ("classes", 3, {}),
        ("number", 1, {}),
        ("spans", 2, {"spans": 2}),
        ("choices", 1, {"choices": True}),
    ):
        model = build_classifier(body, outputs, **options)
        model.out.weight.data.mul_(10)
        labels = {str(k): f"class {k}" for k in range(outputs)}
        save_model(model, tokenizer, root / name, {"id2label": labels} if outputs == 3 else None)
    return {path.name: path for path in root.iterdir()}


def test_classes_as_pipeline_has_them(folders):
    found = bort.load(folders["classes"]).predict(TEXTS, batch_size=2)
    theirs = pipeline("text-classification", model=str(folders["classes"]), top_k=None)
    for text, ours in zip(TEXTS, found, strict=True):
        expected = {row["label"]: row["score"] for row in theirs([text])[0]}
        assert ours["scores"] == pytest.approx(expected, abs=1e-5)
        assert ours["label"] == max(expected, key=expected.get)
        assert ours["score"] == ours["scores"][ours["label"]]
    assert len({row["score"] for row in found}) == 4


def test_order_and_batches_change_nothing(folders):
    predictor = bort.load(folders["classes"])
    one = predictor.predict(TEXTS, batch_size=1)
    for row, alone in zip(predictor.predict(TEXTS[::-1], batch_size=3)[::-1], one, strict=True):
        assert row["scores"] == pytest.approx(alone["scores"], abs=1e-6)


def test_masks_are_filled_as_transformers_fills_them(folders):
    predictor = bort.load(folders["masked"])
    text = "line 3 has <mask> and <mask>"
    (found,) = predictor.predict([text], top=3)
    tokenizer = AutoTokenizer.from_pretrained(folders["masked"])
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(folders["masked"])(**inputs).logits[0]
    places = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero().flatten()
    assert len(found["words"]) == len(places) == 2
    for place, words in zip(places, found["words"], strict=True):
        best = logits[place].softmax(-1).topk(3)
        assert [w["score"] for w in words] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert [w["word"] for w in words] == [tokenizer.decode([n]) for n in best.indices.tolist()]


def test_special_words_are_ordinary_text_to_a_classifier(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["classes"])
    encoded = bort.load(folders["classes"]).encode("a <mask> b")
    assert tokenizer.mask_token_id not in encoded["input_ids"]


def test_numbers_and_pairs_and_long_texts(folders):
    found = bort.load(folders["number"]).predict([("one", "two"), "word " * 200])
    assert all(set(row) == {"score"} and isinstance(row["score"], float) for row in found)


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("masked", ["no mask here"], "has no <mask> to fill; the model is a masked language model"),
        ("classes", "a text", r"takes a list of texts; write predict\(\[text\]\)"),
        ("classes", [("a", "b", "c")], "3 texts are given, it takes one or two"),
        ("classes", [{"text": "a"}], "is no text and no pair of texts"),
        ("classes", [3], "is no text|no pair|int"),
        ("spans", ["x"], "answers a task with spans"),
        ("choices", ["x"], "answers a task with choices"),
    ],
)
def test_mistakes(folders, name, texts, message):
    with pytest.raises((BortError, TypeError), match=message):
        bort.load(folders[name]).predict(texts)


def test_more_words_than_there_are(folders):
    (answer,) = bort.load(folders["masked"]).predict(["a <mask>"], top=10**6)
    words = bort.load(folders["masked"]).model.config.vocab_size
    assert len(answer["words"][0]) == words


def test_without_a_standard_output_nothing_is_answered(monkeypatch):
    settings = parse_command(predict.PredictConfig, ["model=absent", "text=a"])
    with monkeypatch.context() as closed, pytest.raises(BortError, match="no standard output"):
        closed.setattr("sys.stdout", None)
        predict.main(settings)


def by_hand(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bort.predict", *arguments],
        **dict(cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120),
    )


def test_by_hand(folders, tmp_path):
    model = f"model={folders['classes']}"
    result = by_hand(model, "text=a short one", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    expected = bort.load(folders["classes"]).predict(["a short one"])[0]
    assert json.loads(result.stdout)["scores"] == pytest.approx(expected["scores"])
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "a", "pair": "b"}\n')
    result = by_hand(model, "input=in.jsonl", "out=out.jsonl", cwd=tmp_path)
    assert result.stdout == "2 answers: out.jsonl\n" and result.stderr == ""
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"].startswith("class") for line in lines] == [True, True]
    result = by_hand(model, "txt=x", cwd=tmp_path)
    line = "bort.predict: txt=x is not a setting; did you mean 'text'?; use model, text"
    assert result.returncode == 1 and result.stderr.startswith(line)
    assert by_hand(model, cwd=tmp_path).returncode == 1
    for wrong, line in {
        "top=x": "bort.predict: top=x is no number of words; write top=5\n",
        "out=in.jsonl/x": "bort.predict: in.jsonl/x cannot be written: ",
        "out=.": "bort.predict: . is a folder; give the name of a file\n",
    }.items():
        result = by_hand(model, "text=a", wrong, cwd=tmp_path)
        assert result.returncode == 1 and result.stderr.startswith(line), result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\n\nfour", ["one", "two", "", "four"]),
        ("a.txt", b"", []),
        ("a.jsonl", b'{"text": "x"}\n', ["x"]),
        ("a.jsonl", b'{"text": "x"}\n{"txt": 1}\n', "line 2 is no object with the key text"),
        ("a.txt", b"ab\xff", "is not UTF-8 at byte 2"),
        ("a.txt", None, "No such file"),
        ("a.csv", b"text\nx\n", "give a .txt file .* data.test=FILE answers tables"),
    ],
)
def test_texts_of_a_file(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert list(read_texts(tmp_path / name)) == expected
    else:
        with pytest.raises(BortError, match=expected):
            list(read_texts(tmp_path / name))
