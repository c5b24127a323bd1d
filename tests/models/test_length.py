"""A model says at which length it was trained, and every reader of it cuts its input there."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import log_lines
from transformers import AutoConfig, AutoTokenizer, pipeline

import bort
from bort.errors import BortError
from bort.export import run as export
from bort.export import standalone as onnx_predict
from bort.export.standalone import Model
from bort.finetuning import recipe as finetune
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.models.initialization import build_classifier, build_model
from bort.pretraining.recipe import build_student, prepare, pretrain
from bort.tasks.registry import TASKS
from bort.text.tokenizer import train_tokenizer

WORDS = ["river", "stone", "lamp", "good", "bad", "tree", "cloud", "seven"]


def quiet(line: str) -> None:
    """Says nothing."""


def sentence(number: int, words: int) -> str:
    random = np.random.default_rng(number)
    return " ".join(random.choice(WORDS, words))


@pytest.fixture(scope="module")
def masked(settings_of, tmp_path_factory) -> Path:
    """A pre-training at 16 tokens."""
    folder = tmp_path_factory.mktemp("masked") / "run"
    pretrain(settings_of("trainer.max_steps=2"), folder)
    return folder


def tuned(settings_of, masked: Path, folder: Path, pairs: bool) -> tuple[Path, list[str]]:
    """A fine-tuning at 24 tokens on rows of 1 to 90 words, and what it said."""
    for name, count in (("train", 40), ("val", 24)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = [("a", "b", "label")]
            rows += [
                (sentence(k, 1 + 7 * k % 90), sentence(k + 99, 1 + 11 * k % 60), "xy"[k % 2])
                for k in range(count)
            ]
            csv.writer(file).writerows(rows)
    given = [f"data.{name}={folder}/{name}.csv" for name in ("train", "val")]
    text = "data.text=[a,b]" if pairs else "data.text=a"
    run = settings_of(
        *("task=custom", f"model={masked}", *given, text, "data.label=label", "data=docstrings"),
        *("data.length=24", "trainer.max_steps=30", "trainer.max_epochs=-1", "optim.lr=0.05"),
        "trainer.check_val_every_n_epoch=1",
        experiment="finetune",
    )
    said = log_lines()
    finetune.finetune(run, folder / "run")
    return folder / "run", said


@pytest.fixture(scope="module", params=[False, True], ids=["texts", "pairs"])
def fine_tuned(request, settings_of, masked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return *tuned(settings_of, masked, folder, request.param), request.param


def test_a_pre_training_says_its_length(masked):
    stated = json.loads((masked / "model" / "config.json").read_text())
    assert (stated["bort_length"], stated["max_position_embeddings"]) == (16, 512)
    assert AutoConfig.from_pretrained(masked / "model").bort_length == 16
    assert AutoTokenizer.from_pretrained(masked / "model").model_max_length == 16
    config = load_masked_lm(masked).config
    assert (config.limit, config.positions) == (16, 512)
    (answer,) = bort.load(masked).predict(["a <mask> " + "stone " * 60])
    assert len(answer["words"]) == 1
    with pytest.raises(BortError, match="16 tokens"):
        bort.load(masked).predict(["stone " * 60 + "<mask>"])


def test_longer_rows_than_the_pre_training_are_told(fine_tuned, masked):
    _, said, _ = fine_tuned
    (line,) = [line for line in said if "was trained at" in line]
    assert line.startswith(f"warning: model={masked} was trained at 16 tokens, data.length=24")
    assert "of 40 rows reach positions that it never saw" in line


def test_every_reader_gives_the_answers_of_the_run(fine_tuned, tmp_path):
    folder, _, pairs = fine_tuned
    with (folder.parent / "val.csv").open(newline="") as file:
        rows = [(row["a"], row["b"]) if pairs else row["a"] for row in csv.DictReader(file)]
    answers = [json.loads(x) for x in (folder / "predictions/val.jsonl").read_text().splitlines()]
    expected = [row["scores"]["x"] for row in answers]
    assert np.std(expected) > 1e-3 and max(row["tokens"] for row in answers) == 24
    assert json.loads((folder / "model/config.json").read_text())["bort_length"] == 24
    export.export(str(folder), "onnx", tmp_path / "onnx")
    assert "longest input | 24 tokens" in (tmp_path / "onnx" / "README.md").read_text()
    readers = {"bort": bort.load(folder).predict, "predict.py": Model(tmp_path / "onnx").predict}
    for name, read in readers.items():
        found = [row["scores"]["x"] for row in read(rows)]
        assert found == pytest.approx(expected, abs=2e-5), name
    theirs = pipeline("text-classification", model=str(folder / "model"), top_k=None)
    given = [{"text": a, "text_pair": b} for a, b in rows] if pairs else rows
    for texts, value in zip(given, expected, strict=True):
        scores = {row["label"]: row["score"] for row in theirs([texts], truncation=True)[0]}
        assert scores["x"] == pytest.approx(value, abs=2e-5)


def test_a_teacher_is_not_asked_beyond_its_length(settings_of, masked):
    given = [f"teacher.name={masked}", "data.length=32"]
    with pytest.raises(BortError, match="data.length=32 is longer than the 16 tokens of the tea"):
        prepare(settings_of(*given, experiment="kd_pretrain"))
    run = settings_of(*given, "init=teacher", "distill.w_kd=0", "distill.w_mlm=1")
    assert prepare(run)[1] is not None  # its rows can be copied all the same


def test_models_of_others_keep_their_own_limit(shared, tmp_path):
    folder = shared / "cases/models/roberta-tiny"
    model, tokenizer = load_masked_lm(folder), load_tokenizer(folder)
    assert model.config.length is None and model.config.limit == 32
    save_model(model, tokenizer, tmp_path / "again")
    assert "bort_length" not in json.loads((tmp_path / "again/config.json").read_text())


@pytest.mark.parametrize("name", ["glue/qnli", "superglue/boolq", "glue/mrpc"])
def test_a_pair_is_cut_where_its_task_cuts_it(name, tmp_path, monkeypatch):
    """Predictors cut the text that the task cuts; where the other is too long alone, both."""
    from bort.finetuning.heads import describe_outputs
    from bort.tasks.encoding import encode_rows
    from bort.tasks.task import Row

    task = TASKS[name]
    tokenizer = train_tokenizer([sentence(k, 9) for k in range(40)], 280)
    sizes = {"depth": 1, "heads": 1, "hidden": 8, "intermediate": 8}
    body = build_model(ModelConfig(**sizes, vocab_size=280, length=20))
    save_model(build_classifier(body, 2), tokenizer, tmp_path / "model", describe_outputs(task))
    predictor = bort.load(tmp_path / "model")
    rows = [(sentence(1, 30), sentence(2, 3)), (sentence(3, 3), sentence(4, 30))]
    fits = [row for k, row in enumerate(rows) if task.cut in (None, k)]
    given = [Row(index=0, texts=row, label=0) for row in fits]
    expected = encode_rows(task, given, tokenizer, 20).input_ids
    for row, (ids,) in zip(fits, expected, strict=True):
        (encoded,) = predictor.tokenize(row)
        assert encoded["input_ids"] == ids.tolist()
    for row in rows:
        (encoded,) = predictor.tokenize(row)
        assert len(encoded["input_ids"]) == 20
    monkeypatch.setattr(onnx_predict, "open_session", lambda path, threads: None)
    standalone = Model(tmp_path / "model")
    found = standalone.tokenize(rows)
    assert [row.ids for row in found] == [predictor.tokenize(row)[0]["input_ids"] for row in rows]
    for encode in (
        lambda row: standalone.tokenize([row])[0].ids,
        lambda row: predictor.tokenize(row)[0]["input_ids"],
    ):  # threads may share a predictor, whatever their rows
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(encode, rows * 200))
        assert answers == [row.ids for row in found] * 200


def test_a_student_that_starts_as_its_teacher_is_its_teacher(shared, settings_of):
    """All that both have is copied, also of a teacher with few positions, and with token types."""
    import torch

    from bort.pretraining.losses import kd_loss

    for name in ("roberta-tiny", "bert-tiny"):
        folder = shared / "cases/models" / name
        teacher = load_masked_lm(folder).eval()
        own = {k: getattr(teacher.config, k) for k in ("depth", "heads", "hidden", "intermediate")}
        arch = "{" + ", ".join(f"{k}: {v}" for k, v in own.items()) + "}"
        run = settings_of(f"teacher.name={folder}", "init=teacher", f"arch={arch}")
        corpus, taught = prepare(run)
        student = build_student(run, corpus, taught).eval()
        ids = torch.tensor([[0, 5, 6, 7, 8, 9, 10, 2]])
        with torch.no_grad():
            logits, expected = student(ids), teacher(ids)
        torch.testing.assert_close(logits, expected, atol=2e-6, rtol=1e-5)
        assert float(kd_loss(logits[0], expected[0], 1.0)) < 1e-6
