"""Exports against the model in memory, plain transformers, and onnxruntime without torch."""

import copy
import json
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import add_head, log_lines
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline

import bort
from bort.config.command_line import parse_command
from bort.config.data import DataConfig
from bort.errors import BortError
from bort.export import agreement, checks
from bort.export import run as export
from bort.export.agreement import compare_answers
from bort.export.card import format_example
from bort.export.forms import draw_inputs, run_onnx, run_torch
from bort.export.settings import ExportConfig
from bort.finetuning import recipe as finetune
from bort.finetuning.heads import describe_outputs
from bort.models import onnx
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_model
from bort.models.huggingface import load_model, load_tokenizer, save_model
from bort.tasks import reading, registry
from bort.text.tokenizer import train_tokenizer

WORDS = [f"the {word} of line {k}, and so on." for k, word in enumerate(["cat", "dog"] * 40)]
PAIRED = {"glue/rte": "pair", "superglue/copa": "choices", "superglue/wic": "spans"}
TASKS = ("glue/sst2", "glue/rte", "glue/stsb", "superglue/copa", "superglue/wic")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(WORDS, 320)


def body(seed: int = 0, **sizes):
    """Weights as of a trained model: large enough that answers differ."""
    given = {"depth": 2, "heads": 2, "hidden": 32, "intermediate": 64} | sizes
    positions = given.pop("positions", 64)
    config = ModelConfig(**vars(Arch(**given)), vocab_size=320, positions=positions)
    model = build_model(config, "paper", seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """A masked LM and one fine-tuned folder of each kind."""
    root = tmp_path_factory.mktemp("models")
    save_model(body(), tokenizer, root / "mlm")
    bare = AutoModel.from_pretrained(root / "mlm", add_pooling_layer=False)
    bare.save_pretrained(root / "encoder")
    load_tokenizer(root / "mlm").save_pretrained(root / "encoder")
    for name in TASKS:
        task = registry.find_task(name)
        model = add_head(body(1), name)
        with torch.no_grad():
            model.out.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(2))
        save_model(model, tokenizer, root / name.replace("/", "-"), describe_outputs(task))
    return root


NAMES = ("mlm", *(name.replace("/", "-") for name in TASKS))


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    """Each of them as ONNX."""
    root = tmp_path_factory.mktemp("onnx")
    for name in NAMES:
        export.export(str(folders / name), "onnx", root / name)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_one_file_serves_all_shapes(folders, exported, tokenizer, name):
    """Case E1: batch 1, 2, 8 and every kind of length, with padding."""
    model, _ = load_model(folders / name)
    run, expected = run_onnx(exported / name / "model.onnx"), run_torch(model)
    for seed, (batch, length) in enumerate([(1, 2), (2, 3), (8, 17), (1, 64), (5, 31), (2, 64)]):
        inputs = draw_inputs(model, tokenizer, batch, length, seed)
        mask = inputs["attention_mask"].astype(bool)
        pair = run(inputs), expected(inputs)
        if name == "mlm":
            pair = pair[0][mask], pair[1][mask]
        np.testing.assert_allclose(*pair, atol=1e-4 * max(1, np.abs(pair[1]).max()))


BLOCKED = "import sys\nfor name in ('torch', 'transformers', 'bort'): sys.modules[name] = None\n"
QUESTIONS = {
    "mlm": (["the <mask> of line"], ["the <mask> of line"]),
    "glue-sst2": (["a cat, and so"], ["a cat, and so"]),
    "glue-rte": (["a cat", "so on"], [("a cat", "so on")]),
    "glue-stsb": (["a cat", "so on"], [("a cat", "so on")]),
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
    from bort.export import standalone

    answer = standalone.Model(exported / "superglue-copa").predict([("a cat", "x"), ("a cat", "y")])
    assert len(answer) == 1 and sum(answer[0]["scores"]) == pytest.approx(1.0)
    model = standalone.Model(exported / "superglue-wic")
    one, other = (
        model.predict([("the [[cat]] of line", "the [[dog]] of it")]),
        model.predict([("the cat of [[line]]", "the [[dog]] of it")]),
    )
    assert one[0]["label"] in ("false", "true") and one[0]["scores"] != other[0]["scores"]
    assert standalone.remove_marks("A [[cup]] fell. [[It]] broke") == (
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


# ------------------------------------------------------------------------------------ int8


def spoiled(model):
    """One large weight in some matrices, as case E2 has."""
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.up.weight[3, 5] = 60.0
    return model


def test_matrices_that_int8_would_ruin_stay(tmp_path, tokenizer):
    save_model(spoiled(body()), tokenizer, tmp_path / "bad")
    lines = log_lines()
    found = export.export(str(tmp_path / "bad"), "onnx-int8", tmp_path / "out", agreement=0.9)
    assert found.float32 == ["encoder.layers.0.up", "encoder.layers.1.up"]
    assert any(
        "matrices stay float32: encoder.layers.0.up, encoder.layers.1.up" in x for x in lines
    )
    names = {name for name, _ in onnx.list_matrices(tmp_path / "out" / "model.onnx").values()}
    assert names == {"encoder.layers.0.up", "encoder.layers.1.up"}  # what is float32 in the file


def test_the_printed_agreement_is_what_anybody_finds(folders, tmp_path, tokenizer):
    lines = log_lines()
    found = export.export(str(folders / "mlm"), "onnx-int8", tmp_path / "out", agreement=0.5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    theirs = AutoModelForMaskedLM.from_pretrained(folders / "mlm").eval()
    same = count = 0
    for sample in agreement.draw_samples(load_model(folders / "mlm")[0], tokenizer)[1]:
        (logits,) = session.run(None, sample.inputs)
        with torch.no_grad():
            expected = theirs(**{k: torch.from_numpy(v) for k, v in sample.inputs.items()}).logits
        equal = (logits.argmax(-1) == expected.numpy().argmax(-1)).ravel()[sample.positions]
        same, count = same + equal.sum(), count + len(equal)
    assert found.agreement == pytest.approx(same / count, abs=2e-3) and count > 300
    assert any(
        f"int8: {found.agreement:.1%} of {count:,} top answers are equal" in x for x in lines
    )
    assert found.answers == "masked words of docstrings"
    assert (
        json.loads((tmp_path / "out" / "export.json").read_text())["agreement"] == found.agreement
    )


def test_int8_of_a_masked_model_is_compared_where_words_are_masked(folders, tokenizer):
    """15% of the tokens, most of them hidden: a token that can be read has only to be copied."""
    model, _ = load_model(folders / "mlm")
    name, found = agreement.draw_samples(model, tokenizer)
    assert name == "masked words of docstrings"
    count = sum(len(sample.positions) for sample in found)
    tokens = sum(int(sample.inputs["attention_mask"].sum()) - 2 for sample in found)
    assert count / tokens == pytest.approx(0.15, abs=0.02)
    ids = [sample.inputs["input_ids"].ravel()[sample.positions] for sample in found]
    hidden = np.concatenate(ids) == tokenizer.mask_token_id
    assert hidden.mean() == pytest.approx(0.8, abs=0.05)
    assert found[0].answers(run_torch(model)).shape == (len(found[0].positions), 320)


def test_int8_is_refused_when_it_changes_answers(folders, tmp_path, monkeypatch):
    half = agreement.Agreement(compared=200, largest=1.0, equal=0.5)
    monkeypatch.setattr(checks, "compare_answers", lambda *_: half)
    message = r"int8: 50.0% of 200 top answers are equal, less than agreement=0.95 asks, even with"
    with pytest.raises(BortError, match=message):
        export.export(str(folders / "glue-sst2"), "onnx-int8", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_agreement_by_hand():
    """Two of three classes; of numbers the root mean square difference beside their spread."""
    classes = np.array([[1.0, 2], [3, 1], [0, 5]]), np.array([[1.0, 3], [0, 1], [0, 9]])
    numbers = np.array([[0.0], [1.0], [2.0]]), np.array([[0.1], [1.2], [1.8]])
    error = np.sqrt((0.1**2 + 0.2**2 + 0.2**2) / 3) / np.sqrt(2 / 3)
    for expected, found in (classes, numbers):
        # one row at a time, as texts of different lengths are: the spread is still that of all
        rows = [list(values[:, None]) for values in (expected, found)]
        for result in (
            compare_answers([expected], [found]),
            compare_answers(*rows),
        ):
            assert result.compared == 3
            if expected is classes[0]:
                assert result.kept == result.equal == pytest.approx(2 / 3)
                assert result.largest == 4.0 and result.error is None
                assert str(result) == "66.7% of 3 top answers are equal"
            else:
                assert result.equal is None and result.error == pytest.approx(error)
                assert result.kept == pytest.approx(1 - error)
                assert result.spread == pytest.approx(np.sqrt(2 / 3))
                assert str(result) == "3 answers are 21.2% of their spread 0.816 off"
    alike = [np.full((3, 1), 3.0)]
    assert compare_answers(alike, alike).kept == 1
    assert compare_answers(alike, [alike[0] + 1e-4]).kept < 0  # nothing is left of no spread


# ------------------------------------------------------------------------------------ row by row


def trained(task: str, shared: Path, settings_of, root: Path, epochs: int) -> Path:
    """`run`, an encoder that knows 200 rows of a GLUE task by heart, so that its answers differ."""
    name = Path(registry.find_task(task).folders[0])
    real = shared / "data" / "glue" / name
    (root / name).mkdir()
    shutil.copy(real / "dev.tsv", root / name)
    lines = (real / "train.tsv").read_text().splitlines(keepends=True)[:201]
    (root / name / "train.tsv").write_text("".join(lines))
    tokenizer = train_tokenizer(lines, 1000)
    sizes = ModelConfig(**vars(Arch(2, 4, 64, 128)), vocab_size=1000, positions=96)
    save_model(build_model(sizes, "default", 0), tokenizer, root / "encoder")
    given = [f"task={task}", f"model={root / 'encoder'}", f"data.root={root}", "data.length=96"]
    given += ["dropout=0", "optim.lr=3e-3", "trainer.max_steps=-1", f"trainer.max_epochs={epochs}"]
    once = f"trainer.check_val_every_n_epoch={epochs}"  # the best may be one of equal answers
    finetune.finetune(settings_of(*given, once, experiment="finetune"), root / "run")
    return root


@pytest.fixture(scope="module")
def rte(shared, settings_of, tmp_path_factory):
    return trained("glue/rte", shared, settings_of, tmp_path_factory.mktemp("rte"), 6)


def test_numbers_in_int8(shared, settings_of, tmp_path):
    """STS-B, with its rows and without them."""
    trained("glue/stsb", shared, settings_of, tmp_path, 12)
    data, source = DataConfig(root=str(tmp_path), length=96), str(tmp_path / "run")
    with_rows = {"task": "glue/stsb", "data": data}
    for given in ({}, with_rows):
        found = export.export(source, "onnx-int8", tmp_path / "out", **given)
        assert found.agreement is None and found.largest_difference > 1e-4
        assert 0 < found.error <= 0.05 and found.spread > 0
        text = (tmp_path / "out" / "README.md").read_text()
        assert "of the answers' spread" in text and "top answers" not in text
    session = runpy.run_path(str(tmp_path / "out" / "predict.py"))["Model"](tmp_path / "out")
    rows = reading.read_rows(registry.find_task("glue/stsb"), tmp_path)["val"][
        ::2
    ]  # as the export takes them
    texts = [row.texts for row in rows]
    before = np.array([answer["score"] for answer in bort.load(source).predict(texts)])
    after = np.array([answer["score"] for answer in session.predict(texts)])
    assert found.compared == len(texts) and found.spread == pytest.approx(before.std(), rel=0.01)
    error = np.sqrt(np.mean((before - after) ** 2)) / before.std()
    assert found.error == pytest.approx(error, abs=0.02)


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


# ------------------------------------------------------------------------------------ folders


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


def test_the_score_before_and_after(shared, folders, tmp_path):
    """As counted by hand from the model's answers; a drop beyond the limit is refused."""
    data = DataConfig(root=str(shared / "data" / "glue"), length=64)
    source = str(folders / "glue-rte")
    found = export.export(source, "onnx", tmp_path / "out", task="glue/rte", data=data)
    rows = reading.read_rows(registry.find_task("glue/rte"), shared / "data" / "glue")["val"]
    ours = bort.load(source).predict([row.texts for row in rows])
    labels = registry.find_task("glue/rte").labels
    right = [a["label"] == labels[r.label] for a, r in zip(ours, rows, strict=True)]
    assert found.scores["before/accuracy"] == pytest.approx(np.mean(right), abs=1e-3)
    assert found.scores["after/accuracy"] == found.scores["before/accuracy"]
    with pytest.raises(BortError, match="falls from .* by more than drop=-1"):
        export.export(source, "onnx", tmp_path / "no", drop=-1, task="glue/rte", data=data)
    assert not (tmp_path / "no").exists()


def test_outputs_in_another_order_score_the_same(shared, folders, tmp_path):
    """A hub's model names its outputs in its own order and in capitals; the score goes by names."""
    labels = ["NOT_ENTAILMENT", "ENTAILMENT"]
    shutil.copytree(folders / "glue-rte", tmp_path / "turned")
    settings = json.loads((tmp_path / "turned" / "config.json").read_text())
    settings["id2label"] = dict(enumerate(labels))
    (tmp_path / "turned" / "config.json").write_text(json.dumps(settings))
    weights = load_file(tmp_path / "turned" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, tmp_path / "turned" / "model.safetensors", {"format": "pt"})
    data = DataConfig(root=str(shared / "data" / "glue"), length=64)
    found = [
        export.export(str(place), "onnx", tmp_path / "out", task="glue/rte", data=data)
        for place in (folders / "glue-rte", tmp_path / "turned")
    ]
    assert found[0].scores == found[1].scores and 0.2 < found[0].scores["after/accuracy"] < 0.8


def test_a_task_that_the_model_was_not_made_for(shared, folders, tmp_path):
    """One line before anything is written, never a score of the wrong rows."""
    cases = [
        ("glue-sst2", "glue/rte", "has the labels negative, positive, glue/rte needs entailment"),
        ("glue-sst2", "glue/ax", "task=glue/ax has no rows with labels; use task=glue/mnli"),
        ("glue-stsb", "glue/rte", "has the labels score, glue/rte needs"),
        ("glue-rte", "glue/stsb", "has several outputs, glue/stsb needs one"),
        ("superglue-copa", "glue/stsb", "is no model for a task of regression"),
        ("glue-rte", "superglue/wic", "is no model for a task of spans"),
    ]
    for model, task, message in cases:
        data = DataConfig(root=str(shared / "data" / task.split("/")[0]))
        with pytest.raises(BortError, match=message):
            place = str(folders / model)
            export.export(place, "hf", tmp_path / "out", task=task, data=data)
    assert not list(tmp_path.iterdir())


def test_a_difference_is_an_error(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "run_onnx", lambda path: lambda inputs: np.zeros((1, 1)) + 9.0)
    with pytest.raises(BortError, match="check: at 1 × 2 tokens the export's logits differ by"):
        export.export(str(folders / "glue-stsb"), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mean", "allowed"), [(0, 1e-3), (1e3, 2e-3), (1e4, 1e-2), (1e6, 0.5)])
def test_numbers_far_from_zero_are_compared_by_their_spread(tokenizer, mean, allowed):
    """Answers of 1000 ± 1 that are 0.05 off are wrong; those of float64 agree but for rounding."""
    model = add_head(body(1), "glue/stsb")
    inputs = [draw_inputs(model, tokenizer, 8, 33, seed) for seed in range(4)]
    with torch.no_grad():
        spread = np.std([run_torch(model)(x) for x in inputs])
        model.out.weight /= float(spread)
        model.out.bias.fill_(mean)
    exact = run_torch(copy.deepcopy(model).double())
    run = run_torch(model)
    assert agreement.find_largest_difference(run, exact, model, tokenizer) < allowed / 2
    with pytest.raises(BortError, match=r"the export's logits differ by .*nothing was written"):
        agreement.find_largest_difference(run, lambda x: run(x) + allowed, model, tokenizer)


def test_answers_that_are_all_equal_agree_but_for_rounding(tokenizer):
    """Numbers without a spread: a model whose output layer is 0, and one of small outputs."""
    model = add_head(body(1), "glue/stsb")
    for weight, bias in ((0.0, 3.0), (1e-6, 0.0)):
        with torch.no_grad():
            model.out.weight.fill_(weight)
            model.out.bias.fill_(bias)
        exact = run_torch(copy.deepcopy(model).double())
        agreement.find_largest_difference(run_torch(model), exact, model, tokenizer)


# ------------------------------------------------------------------------------------ mistakes


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


def test_rows_without_labels_are_refused_before_the_work(folders, tmp_path):
    source = str(folders / "glue-sst2")
    (tmp_path / "train.csv").write_text("text,label\n" + "a cat,positive\na dog,negative\n" * 9)
    for content, message in (("a cat,\n", "no 'label'"), ("", "no rows in it")):
        (tmp_path / "val.csv").write_text(f"text,label\n{content}")
        data = DataConfig(train=str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"))
        with pytest.raises(BortError, match=message):
            export.export(source, "hf", tmp_path / "out", task="custom", data=data)
    long = DataConfig(train=str(tmp_path / "train.csv"), length=100)
    with pytest.raises(BortError, match="data.length=100 is longer than the model's 64 tokens"):
        export.export(source, "hf", tmp_path / "out", task="custom", data=long)
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_defined(folders, tmp_path):
    """One label in all validation rows: the score has no value, or one; it is no crash."""
    (tmp_path / "train.csv").write_text("text,label\n" + "a cat,positive\na dog,negative\n" * 9)
    (tmp_path / "val.csv").write_text("text,label\na cat,positive\na dog so on,positive\n")
    data = DataConfig(train=str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"), length=32)
    found = export.export(
        *(str(folders / "glue-sst2"), "hf", tmp_path / "out"), task="custom", data=data
    )
    assert found.scores["before/accuracy"] == found.scores["after/accuracy"]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["scores"] == found.scores


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
