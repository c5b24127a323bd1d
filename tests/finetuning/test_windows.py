"""Texts that are longer than the model, as windows: trained, answered, exported and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from task_rows import few
from tiny_runs import log_lines, stopping

from bort.errors import BortError
from bort.export import run as export
from bort.export.standalone import Model
from bort.files.delimited import Mistake
from bort.finetuning import dry_run as plan
from bort.finetuning import recipe as finetune
from bort.finetuning.datamodule import MOST_WINDOWS, RowBatches, measure_inputs
from bort.finetuning.judge import open_judge
from bort.finetuning.module import WINDOWS_AT_ONCE, compute_batch_outputs
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.predictor import load
from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows
from bort.tasks.task import Row

TASK = replace(define_task("custom", "classes", ("text",), ("cat", "dog")), overlap=4)
LENGTHS = (1, 3, 40, 7, 90, 2)  # words of a text; in windows of 16 tokens some have many


def list_rows(count: int) -> list[dict]:
    """Rows whose words tell their label, at the end of long texts alone."""
    rows = []
    for k in range(count):
        words = ["line", *["of"] * LENGTHS[k % len(LENGTHS)], ("cat", "dog")[k // 3 % 2]]
        rows.append({"text": " ".join(words), "kind": ("cat", "dog")[k // 3 % 2], "size": k % 7})
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> list[str]:
    """Settings of a task of one's own whose texts are longer than `data.length`, in windows."""
    folder, rows = tmp_path_factory.mktemp("table"), list_rows(60)
    for name, part in (("train", rows[:42]), ("val", rows[42:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    files = [f"data.{name}={folder / name}.jsonl" for name in ("train", "val")]
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=2", "optim.lr=1e-2"]
    return [*files, *epochs, "data.length=16", "data.windows=mean", "data.window_stride=5"]


@pytest.fixture(scope="module")
def done(run_of, table, tmp_path_factory):
    """A folder with `run` and its export `onnx`, and the summary."""
    folder = tmp_path_factory.mktemp("done")
    run = run_of("custom", None, *table, "data.label=kind", "dropout=0.1")
    summary = finetune.finetune(run, folder / "run")
    result = export.export(
        str(folder / "run"), "onnx", folder / "onnx", task="custom", data=run.data
    )
    assert result.scores["after/accuracy"] == pytest.approx(summary["val/accuracy"])
    return folder, summary


def check_answers(folder, texts: list) -> None:
    """Check that each predictor that is there answers as the run has."""
    stored = (folder / "run" / "predictions" / "val.jsonl").read_text().splitlines()
    expected = [json.loads(line)["score"] for line in stored]
    predictors = [load(folder / "run")]
    if (folder / "onnx").exists():
        predictors.append(Model(folder / "onnx"))
    for answers in (predictor.predict(texts) for predictor in predictors):
        assert [row["score"] for row in answers] == pytest.approx(expected, abs=1e-4)


def test_classes_are_answered_as_the_run_has_scored(done, run_of, table, tmp_path):
    """Stopped and resumed to the same bits; the folder needs no word about windows."""
    folder, summary = done
    assert (summary["data/train/divided"], summary["data/train/cut"]) == (14, 0)
    run = run_of("custom", None, *table, "data.label=kind", "dropout=0.1")
    lines = log_lines()
    with pytest.raises(SystemExit):
        finetune.finetune(stopping(run, 9), tmp_path / "run")
    assert any("14 divided into" in line for line in lines)
    finetune.finetune(run, tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors", "predictions/val.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()
    check_answers(folder, [row["text"] for row in list_rows(60)[42:]])


def test_numbers_are_answered_as_the_run_has_scored(run_of, table, tmp_path):
    run = run_of("custom", None, *table, "data.label=size", "data.kind=number")
    finetune.finetune(run, tmp_path / "run")
    check_answers(tmp_path, [row["text"] for row in list_rows(60)[42:]])


def test_the_answer_is_that_of_the_mean_of_logits(done):
    """Computed here from each window alone."""
    folder, _ = done
    text = list_rows(5)[4]["text"]
    model, _ = load_classifier(folder / "run")
    tokenizer = load_tokenizer(folder / "run")
    windows = tokenizer(
        text, truncation=True, max_length=16, stride=5, return_overflowing_tokens=True
    )["input_ids"]
    assert len(windows) > MOST_WINDOWS
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([ids])) for ids in windows])
    expected = logits.mean(0).softmax(-1)
    (answer,) = load(folder / "run").predict([text])
    assert list(answer["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    task = define_task("custom", "classes", ("text",), ("cat", "dog"))
    judge = open_judge(task, str(folder / "run"), 512, "cpu")
    assert judge([Row(0, (text,))])[0] == pytest.approx(expected.numpy(), abs=1e-5)
    assert logits.argmax(-1).unique().numel() > 1 or logits.std(0).max() > 1e-3


def test_batches_of_training_have_a_few_windows_of_each_row(model):
    rows = [Row(k, (row["text"],), k // 3 % 2) for k, row in enumerate(list_rows(30))]
    inputs = encode_rows(TASK, rows, load_tokenizer(model), 16)
    assert inputs.windows.max() > MOST_WINDOWS
    batches = RowBatches(inputs, rows, 4, 1, seed=3)
    seen = {}
    for epoch in (0, 1):
        found = [batches[epoch * len(batches) + k] for k in range(len(batches))]
        assert sorted(torch.cat([batch["rows"] for batch in found]).tolist()) == list(range(30))
        for batch in found:
            expected = np.minimum(inputs.windows[batch["rows"]], MOST_WINDOWS)
            assert batch["windows"].tolist() == expected.tolist()
            assert len(batch["input_ids"]) == expected.sum() <= 4 * MOST_WINDOWS
            parts = batch["input_ids"].split(batch["windows"].tolist())
            for row, part in zip(batch["rows"].tolist(), parts, strict=True):
                own = [ids.tolist() for ids in inputs.input_ids[row]]
                drawn = [[n for n in ids.tolist() if n != 1] for ids in part]
                assert [ids for ids in own if ids in drawn] and all(ids in own for ids in drawn)
                seen.setdefault(row, []).append(drawn)
    long = int(inputs.windows.argmax())
    again = RowBatches(inputs, rows, 4, 1, seed=3)
    assert torch.equal(again[3]["input_ids"], batches[3]["input_ids"])
    assert len(seen[long]) == 2


def test_the_tokens_of_an_epoch_are_those_of_the_windows_that_are_drawn(model):
    rows = [Row(0, ("the cat " * 400,), 0), Row(1, ("a dog",), 1)]
    inputs = encode_rows(TASK, rows, load_tokenizer(model), 16)
    tokens, longest = measure_inputs(inputs)
    short = len(inputs.input_ids[1][0])
    assert tokens == pytest.approx(16 * MOST_WINDOWS + short, abs=1) and longest == 16 * 8
    cut = encode_rows(replace(TASK, overlap=None), rows, load_tokenizer(model), 16)
    assert measure_inputs(cut) == (16 + short, 16)


def test_evaluation_reads_all_windows_in_parts_of_bounded_size(model):
    """A document of 100,000 words does not need more memory than WINDOWS_AT_ONCE windows do."""
    rows = [Row(0, ("the cat " * 50_000,), 0), Row(1, ("a dog",), 1), Row(2, ("cat " * 30,), 0)]
    inputs = encode_rows(replace(TASK, overlap=16), rows, load_tokenizer(model), 64)
    assert inputs.windows[0] > 2000 and inputs.windows[1] == 1
    sizes = []

    def answer(input_ids, attention_mask, token_types=None):
        sizes.append(len(input_ids))
        return input_ids.double().mean(1, keepdim=True)

    batches = RowBatches(inputs, rows, 8, 1, None)
    found = []
    with torch.no_grad():
        for batch in batches:
            found += zip(batch["rows"].tolist(), compute_batch_outputs(answer, batch), strict=True)
    assert max(sizes) == WINDOWS_AT_ONCE and sum(sizes) == inputs.windows.sum()
    assert sorted(row for row, _ in found) == [0, 1, 2] and len(batches) == 2
    exact = np.mean([ids.mean() for ids in inputs.input_ids[0][:-1]])
    assert float(dict(found)[0]) == pytest.approx(exact, rel=1e-3)
    train = RowBatches(inputs, rows, 3, 1, seed=0)
    assert len(train[0]["input_ids"]) <= 3 * MOST_WINDOWS


def test_the_shipped_predictor_bounds_its_batches(done):
    folder, _ = done
    shipped, sizes = Model(folder / "onnx"), []
    compute = shipped.compute_logits

    def note(rows):
        sizes.append(sum(row.length for row in rows))
        return compute(rows)

    shipped.compute_logits = note
    texts = ["the cat " * 5_000, "a dog"]
    answers = shipped.predict(texts)
    assert max(sizes) <= 4096 and len(sizes) > 5
    for ours, theirs in zip(load(folder / "run").predict(texts), answers, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    with pytest.raises(Mistake, match="row 2: the model was fine-tuned on one text"):
        shipped.predict(["a", ("a", "b")])


def test_pairs_divide_the_longer_text(run_of, tmp_path):
    rows = [
        {"a": "line of", "b": row["text"], "kind": row["kind"]}
        if k % 2
        else {"a": row["text"], "b": "line of", "kind": row["kind"]}
        for k, row in enumerate(list_rows(40))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = [f"data.train={path}", f"data.val={path}", "data.text=[a,b]", "data.label=kind"]
    words += ["data.length=24", "data.windows=mean", "optim.lr=1e-2"]
    summary = finetune.finetune(run_of("custom", None, *words), tmp_path / "run")
    assert summary["data/train/divided"] > 10 and summary["data/train/cut"] == 0
    check_answers(tmp_path, [(row["a"], row["b"]) for row in rows])


def test_a_diagnostic_set_is_answered_in_windows_too(shared, run_of, tmp_path, monkeypatch):
    """Beside the run of its parent task, and later from its folder."""
    few(monkeypatch, 24, 12)
    root, words = shared / "data" / "glue", ["data.length=32", "data.windows=mean"]
    finetune.finetune(run_of("glue/mnli", root, *words), tmp_path / "mnli")
    settings = json.loads((tmp_path / "mnli" / "model" / "config.json").read_text())
    assert settings["bort_window_stride"] == 8
    beside = (tmp_path / "mnli" / "predictions" / "AX.tsv").read_bytes()
    run = run_of("glue/ax", root, f"model={tmp_path / 'mnli'}", "data.length=32")
    finetune.finetune(run, tmp_path / "ax")
    assert (tmp_path / "ax" / "predictions" / "AX.tsv").read_bytes() == beside


@pytest.mark.parametrize(
    ("task", "words", "line"),
    [
        ("superglue/copa", [], "superglue/copa has choices, which are compared"),
        ("superglue/wic", [], "superglue/wic marks two words, which belong together"),
        ("glue/rte", ["head=towers"], "head=towers encodes each text once; leave it out"),
    ],
)
def test_what_has_no_windows_is_refused_before_anything_is_written(
    run_of, shared, tmp_path, task, words, line
):
    run = run_of(task, shared / "data" / task.split("/")[0], "data.windows=mean", *words)
    for job in (finetune.finetune, plan.show):
        with pytest.raises(BortError, match=f"data.windows=mean: {line}"):
            job(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
