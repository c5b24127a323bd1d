"""The predict.py of an ONNX folder: answers and refusals of `bort.load`, memory, command line."""

import itertools
import json
import subprocess
import sys

import pytest

import bort
from bort.errors import BortError
from bort.export import rules
from bort.export import run as export
from bort.export.standalone import Model
from bort.files.delimited import Mistake

LONG = "river stone lamp " * 200


REFUSED = [
    ("one", "a text", r"predict takes a list of texts; write predict\(\[text\]\)"),
    ("one", None, r"predict takes a list of texts; write predict\(\[text\]\)"),
    ("one", [3], "3 is no text and no pair of texts"),
    ("one", [{"text": "a"}], "is no text and no pair of texts"),
    ("one", [("a", "b", "c")], "3 texts are given, it takes one or two"),
    ("one", [("a", "b")], "the model was fine-tuned on one text"),
    ("one", ["fine", "\ud83d"], "row 2: '.ud83d' has half a character"),
    ("pairs", ["a"], "the model was fine-tuned on pairs of texts"),
    ("towers", [("a", "b"), "a"], "row 2: the model was fine-tuned on pairs of texts"),
    ("towers", [("a", "\ud83d")], "'.ud83d' has half a character"),
    ("mlm", ["no mask"], "'no mask' has no <mask> to fill"),
    ("mlm", ["a <mask>", LONG], "row 2: 'river .*'… has no <mask> to fill"),
    ("mlm", [f"{LONG}a <mask> here"], "the mask lies beyond the 512 tokens that fit: 'river"),
    ("mlm", [f"<mask> {LONG}a <mask> here"], "the mask lies beyond the 512 tokens that fit"),
    ("mlm", [(LONG, f"{LONG}<mask>")], "the mask lies beyond the 512 tokens that fit"),
]


@pytest.mark.parametrize(("name", "texts", "message"), REFUSED)
def test_both_predictors_refuse_the_same_in_one_short_line(shipped, name, texts, message):
    lines = []
    for predict, kind in (
        (bort.load(shipped / name).predict, BortError),
        (Model(shipped / f"{name}.onnx").predict, Mistake),
    ):
        with pytest.raises(kind, match=message) as error:
            predict(texts)
        lines.append(str(error.value))
    assert lines[0] == lines[1] and "\n" not in lines[0] and len(lines[0]) < 180


@pytest.mark.parametrize("name", ["mlm", "one", "pairs", "towers"])
def test_both_predictors_answer_the_same(shipped, name):
    """In order, whatever the lengths, and nothing to nothing."""
    both = bort.load(shipped / name), Model(shipped / f"{name}.onnx")
    texts = [f"{k} <mask> of the river" + LONG[: k * k * 3] for k in range(37)]
    if name == "towers":  # each text is cut by itself, beside a longer or a shorter one
        texts = [(text, LONG[:k] * (k % 3)) for k, text in enumerate(texts)] + [("", LONG * 3)]
    if name == "pairs":  # one with an empty text is a pair too
        texts = [(text, "and so on") for text in texts] + [("a river", ""), ("", "")]
    ours, theirs = (predictor.predict(texts) for predictor in both)
    for mine, other in zip(ours, theirs, strict=True):
        if name == "mlm":
            scores = [[w["score"] for w in a["words"][0]] for a in (mine, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        else:
            assert mine["label"] == other["label"]
            assert mine["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert len({json.dumps(answer) for answer in ours}) > 30
    assert [predictor.predict([]) for predictor in both] == [[], []]
    assert [len(list(p.predict(iter(texts[:2])))) for p in both] == [2, 2]


def test_texts_without_an_end_are_answered_as_they_come(shipped):
    """Neither predictor reads further ahead than one block."""
    for predictor in (bort.load(shipped / "one"), Model(shipped / "one.onnx")):
        read = itertools.count()
        answers = predictor.answers(f"line {next(read)}" for _ in itertools.count())
        assert len(list(itertools.islice(answers, 3))) == 3
        assert next(read) <= rules.BLOCK


MEMORY = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("standalone", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.Model()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = peak()
texts = [f"{k} <mask> " + "river stone lamp " * 176 for k in range(400)]
assert len(model.predict(texts)) == 400
assert len(model.predict([f"{k} <mask>" for k in range(4000)])) == 4000
print(peak() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_memory_of_the_standalone_predictor_stays_flat(shipped):
    """400 rows of 3,000 characters; all their logits at once would be 1.7 GB."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(shipped / "mlm.onnx" / "predict.py")],
        **dict(capture_output=True, text=True, timeout=400),
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 300


def test_several_labels_of_one_text(shared, tmp_path):
    """Sigmoids, as transformers' pipeline has them for problem_type multi_label_classification."""
    source = shared / "cases" / "N" / "N07-multilabel" / "model"
    export.export(str(source), "onnx", tmp_path / "out")
    settings = json.loads((source / "config.json").read_text())
    assert settings["problem_type"] == "multi_label_classification"
    (answer,) = Model(tmp_path / "out").predict(["river stone"])
    expected = {"money": 0.688, "sport": 0.477, "art": 0.463}
    assert answer["scores"] == pytest.approx(expected, abs=1e-3) and answer["label"] == "money"


def test_a_damaged_folder_is_one_line(shipped, tmp_path):
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        for source in (shipped / "one.onnx").iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        (tmp_path / name).write_bytes(b"{")
        with pytest.raises(Mistake, match="cannot be"):
            Model(tmp_path)
