"""The training of a classifier: what it returns is what it has saved."""

import pytest
import torch

from bort.finetuning.examples import encode_examples
from bort.finetuning.fitting import train_classifier
from bort.finetuning.heads import build_task_classifier
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.runs.folder import RunFolder
from bort.tasks.custom import define_task
from bort.tasks.task import Row


def test_the_best_model_is_returned_and_saved(run_of, model, tmp_path):
    task = define_task("custom", "classes", ("text",), ("cat", "dog"))
    rows = [Row(k, (f"the {('cat', 'dog')[k % 2]} of line {k}",), k % 2) for k in range(40)]
    parts = {"train": rows[:30], "val": rows[30:]}
    examples = encode_examples(task, parts, load_tokenizer(model), 16)
    start = build_task_classifier(load_masked_lm(model, head_required=False), examples)
    run = run_of("docstrings", None, "optim.lr=1e-2", "trainer.precision=32-true")
    RunFolder(tmp_path).begin(run, None)
    RunFolder(tmp_path).check_inputs({"digest": "0", "source": task.name})
    best, record = train_classifier(run, tmp_path, start, examples)
    assert (record.steps, record.lr, record.metric) == (2, 1e-2, "val/accuracy")
    assert record.to_json()["parameters"] == sum(weight.numel() for weight in best.parameters())
    assert record.tokens_per_s == pytest.approx(record.tokens / record.seconds)
    saved, labels = load_classifier(tmp_path / "model")
    assert labels == {0: "cat", 1: "dog"}
    for ours, theirs in zip(best.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs)
