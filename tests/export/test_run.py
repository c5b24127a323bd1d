"""Exports against the model in memory, plain transformers, and onnxruntime without torch."""

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export_models import POOLED, trained
from transformers import AutoTokenizer, pipeline

import bort
from bort.config.command_line import parse_command
from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export import run as export
from bort.export.card import format_example
from bort.export.settings import ExportConfig
from bort.tasks import reading, registry

TASKS = ("glue/sst2", "glue/rte", "glue/stsb", "superglue/copa", "superglue/wic")


NAMES = ("mlm", *(name.replace("/", "-") for name in TASKS), *POOLED)


BLOCKED = "import sys\nfor name in ('torch', 'transformers', 'bort'): sys.modules[name] = None\n"


QUESTIONS = {
    "mlm": (["the <mask> of line"], ["the <mask> of line"]),
    "glue-sst2": (["a cat, and so"], ["a cat, and so"]),
    "glue-rte": (["a cat", "so on"], [("a cat", "so on")]),
    "glue-stsb": (["a cat", "so on"], [("a cat", "so on")]),
    "glue-sst2-mean": (["a cat, and so"], ["a cat, and so"]),
    "glue-rte-towers": (["a cat", "so on, and so on"], [("a cat", "so on, and so on")]),
    "glue-stsb-towers": (["a cat", "so on"], [("a cat", "so on")]),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_predict_py_needs_neither_torch_nor_transformers(folders, exported, name):
    """It gives the answers of `bort.load`."""
    arguments, texts = QUESTIONS[name]
    script = f"{BLOCKED}import runpy\nsys.argv[0] = {str(exported / name / 'predict.py')!r}\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    (expected,) = bort.load(folders / name).predict(texts)
    if name == "mlm":
        found = [(w["word"], w["score"]) for w in found["words"][0]]
        expected = [(w["word"], w["score"]) for w in expected["words"][0]]
        assert [word for word, _ in found] == [word for word, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-4)
    else:
        assert found.get("label") == expected.get("label")
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_predict_py_takes_choices_and_marked_words(exported):
    from bort.export import rules, standalone

    answer = standalone.Model(exported / "superglue-copa").predict([("a cat", "x"), ("a cat", "y")])
    assert len(answer) == 1 and sum(answer[0]["scores"]) == pytest.approx(1.0)
    model = standalone.Model(exported / "superglue-wic")
    one, other = (
        model.predict([("the [[cat]] of line", "the [[dog]] of it")]),
        model.predict([("the cat of [[line]]", "the [[dog]] of it")]),
    )
    assert one[0]["label"] in ("false", "true") and one[0]["scores"] != other[0]["scores"]
    assert rules.remove_marks("A [[cup]] fell. [[It]] broke") == (
        "A cup fell. It broke",
        [(2, 5), (12, 14)],
    )


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("superglue-wic", ("the cat", "the dog"), "mark two words by"),
        ("superglue-copa", ("the cat", "x"), "give a passage, then the options, two at least"),
        ("glue-rte", "the cat", "the model was fine-tuned on pairs of texts"),
        ("glue-sst2", ("the cat", "the dog"), "the model was fine-tuned on one text"),
        ("glue-rte-towers", "the cat", "the model was fine-tuned on pairs of texts"),
        ("glue-sst2", ("a", "b", "c"), "3 texts are given, it takes one or two"),
        ("mlm", "the cat", "'the cat' has no <mask> to fill; the model"),
    ],
)
def test_predict_py_refuses_what_bort_load_refuses(folders, exported, name, given, message):
    model = runpy.run_path(str(exported / name / "predict.py"))["Model"](exported / name)
    with pytest.raises(ValueError, match=message):
        model.predict([given])
    texts = [given] if isinstance(given, str) else list(given)
    command = [sys.executable, str(exported / name / "predict.py"), *texts]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and result.stderr.startswith(f"predict.py: {message}")
    assert result.stderr.count("\n") == 1
    with pytest.raises(BortError):
        bort.load(folders / name).predict([given])


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_an_export_runs(exported, name):
    arguments = shlex.split(format_example(exported / name))
    command = [sys.executable, str(exported / name / "predict.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)


@pytest.fixture(scope="module")
def rte(shared, settings_of, tmp_path_factory):
    return trained("glue/rte", shared, settings_of, tmp_path_factory.mktemp("rte"), 6)


def entailed(answers: list[dict]) -> np.ndarray:
    return np.array([answer["scores"]["entailment"] for answer in answers])


def test_all_of_rte_row_by_row(rte, tmp_path):
    """The run's own answers, those of Hugging Face, and of both ONNX files without torch."""
    rows = reading.read_rows(registry.find_task("glue/rte"), rte)["val"]
    with (rte / "run" / "predictions" / "val.jsonl").open() as file:
        own = [json.loads(line) for line in file]
    labels = np.array([answer["label"] for answer in own])
    assert len(own) == len(rows) == 277
    assert min((labels == name).sum() for name in ("entailment", "not_entailment")) > 20

    pipe = pipeline("text-classification", model=str(rte / "run" / "model"), top_k=None)
    pairs = [{"text": row.texts[0], "text_pair": row.texts[1]} for row in rows]
    theirs = [
        {"scores": {answer["label"]: answer["score"] for answer in found}}
        for found in pipe(pairs, truncation=True)
    ]
    np.testing.assert_allclose(entailed(theirs), entailed(own), rtol=0, atol=1e-4)

    data, found, answers = DataConfig(root=str(rte), length=96), {}, {}
    for form in ("onnx", "onnx-int8"):
        given = {"task": "glue/rte", "data": data, "drop": 0.05}
        found[form] = export.export(str(rte / "run"), form, tmp_path / form, **given)
        model = runpy.run_path(str(tmp_path / form / "predict.py"))["Model"](tmp_path / form)
        answers[form] = [model.predict([row.texts])[0] for row in rows]
    np.testing.assert_allclose(entailed(answers["onnx"]), entailed(own), rtol=0, atol=1e-4)
    assert [answer["label"] for answer in answers["onnx"]] == labels.tolist()
    # int8's scales are those of a whole batch: one row at a time is not quite what was exported.
    int8 = np.array([answer["label"] for answer in answers["onnx-int8"]])
    stated = found["onnx-int8"]
    assert stated.agreement == pytest.approx(np.mean(int8 == labels), abs=3 / 277)
    assert np.abs(entailed(answers["onnx-int8"]) - entailed(own)).max() > 1e-4  # it is int8
    right = np.mean(int8 == [answer["true"] for answer in own])
    assert stated.scores["after/accuracy"] == pytest.approx(right, abs=3 / 277)


@pytest.mark.parametrize("name", NAMES)
def test_hf_folders_open_in_plain_transformers(folders, tmp_path, tokenizer, name):
    """With the ids of training (case T2), and a card."""
    export.export(str(folders / name), "hf", tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("  two  spaces\t", "naïve 日本 \U0001f600", "", "a" * 40):
        assert theirs(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert theirs.model_max_length == 64
    text = (tmp_path / "out" / "README.md").read_text()
    assert "⟨2,2,32,64⟩" in text and "| format | hf, checked" in text
    if name == "glue-sst2":
        answer = pipeline("text-classification", model=str(tmp_path / "out"))("a cat, and so")[0]
        (ours,) = bort.load(folders / name).predict(["a cat, and so"])
        assert answer["label"] == ours["label"]
        assert answer["score"] == pytest.approx(ours["score"], abs=1e-4)


def test_a_second_export_replaces_the_first(folders, tmp_path):
    for form in ("onnx", "hf"):
        export.export(str(folders / "mlm"), form, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def command(*arguments: str, cwd: Path) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "bort.export", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr.strip()


def test_mistakes(folders, tmp_path, monkeypatch, capsys):
    """One line each, nothing left."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    mlm = str(folders / "mlm")
    cases = [
        ([f"model={mlm}"], "give model=FOLDER format=hf|onnx|onnx-int8 out=FOLDER"),
        (
            [f"model={mlm}", "format=onxn", "out=o"],
            "format=onxn is unknown; use hf, onnx, onnx-int8",
        ),
        ([f"model={mlm}", "format=hf", f"out={mlm}/x"], "is inside model="),
        ([f"model={mlm}", "format=hf", "out=mine"], "out=mine exists and is no export of bort"),
        ([f"model={mlm}", "fromat=hf"], "fromat=hf is not a setting; did you mean 'format'?"),
        (
            [f"model={folders / 'encoder'}", "format=hf", "out=o"],
            "is an encoder without a trained head",
        ),
        (["model=mising", "format=hf", "out=o"], "mising"),
        ([f"model={mlm}", "format=hf", "out=o", "drop=x"], "drop=x is not a number"),
        ([f"model={mlm}", "format=hf", "out=o", "task=glue/rte"], "is for a fine-tuned model"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for arguments, message in cases:
        with pytest.raises(BortError) as error:
            export.run_export(parse_command(ExportConfig, arguments))
        assert message in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_pickled_weights_are_not_run(shared, tmp_path):
    """Case R4."""
    model = shared / "cases" / "R4-pickled-weights" / "model"
    code, line = command(f"model={model}", "format=onnx", "out=o", cwd=tmp_path)
    assert code == 1 and "safetensors" in line and len(line.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_upload(folders, tmp_path, monkeypatch):
    """After success only; a refusal of the hub is one line, and the folder stays."""
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append(name)

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            assert {"README.md", "model.safetensors"} <= set(allow_patterns)
            calls.append(Path(folder_path).name)
            if repo_id == "no/token":
                raise OSError("401: log in\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    arguments = [f"model={folders / 'mlm'}", "format=hf", f"out={tmp_path / 'out'}"]
    export.run_export(parse_command(ExportConfig, [*arguments, "push=me/model"]))
    assert calls == ["me/model", "out"]
    with pytest.raises(BortError, match="push=no/token: the hub refuses: 401: log in; .* complete"):
        export.run_export(parse_command(ExportConfig, [*arguments, "push=no/token"]))
