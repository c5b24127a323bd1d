"""A fine-tuned model as a judge of rows: its answers are those of transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.errors import BortError
from bort.finetuning.judge import open_judge
from bort.finetuning.recipe import finetune
from bort.tasks.custom import define_task
from bort.tasks.task import Row

ROWS = [Row(k, (text,)) for k, text in enumerate(["the cat of line 3", "the dog", "and so on of"])]


@pytest.fixture(scope="module")
def folder(run_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    texts = [f"the {('cat', 'dog')[k % 2]} of line {k}" for k in range(20)]
    lines = [f"{text},{('no', 'yes')[k % 2]}" for k, text in enumerate(texts)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]))
    words = [f"data.train={folder / 'rows.csv'}", f"data.val={folder / 'rows.csv'}"]
    finetune(run_of("custom", None, *words, "data.root=null"), folder / "run")
    return folder / "run" / "model"


def test_its_answers(folder):
    task = define_task("custom", "classes", ("text",), ("yes", "no"))  # in another order
    judge = open_judge(task, str(folder), 64, "cpu")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = torch.cat(
            [model(**tokenizer(row.texts[0], return_tensors="pt")).logits for row in ROWS]
        )
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert torch.allclose(judge.answer(ROWS), logits[:, [1, 0]], atol=1e-5)
    expected = logits[:, [1, 0]].softmax(-1).numpy()
    assert np.allclose(judge(ROWS), expected, atol=1e-5)


def test_another_task(folder):
    task = define_task("custom", "classes", ("text",), ("good", "bad"))
    with pytest.raises(BortError, match="^x.name=.* has the labels no, yes, custom needs "):
        open_judge(task, str(folder), 64, "cpu", "x.name")
