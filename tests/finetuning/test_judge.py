"""A fine-tuned model as a judge of rows: its answers are those of transformers."""

import numpy as np
import pytest
import torch
from tiny_runs import add_head
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.errors import BortError
from bort.finetuning.heads import arrange_texts, describe_outputs
from bort.finetuning.judge import open_judge
from bort.finetuning.recipe import finetune
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.predictor import load
from bort.tasks.custom import define_task
from bort.tasks.registry import find_task
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


@pytest.mark.parametrize(("head", "of_student"), [("towers", "linear"), ("linear", "towers")])
def test_it_reads_rows_as_its_own_head_does(model, tmp_path, head, of_student):
    """Whatever head the task's rows are arranged for."""
    task = find_task("glue/rte")
    teacher = add_head(load_masked_lm(model, head_required=False), task.name, 64, head)
    generator = torch.Generator().manual_seed(0)
    for weight in teacher.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    facts = describe_outputs(arrange_texts(task, head))
    save_model(teacher, load_tokenizer(model), tmp_path / "s", facts)
    rows = [Row(k, ("the cat of line", row.texts[0])) for k, row in enumerate(ROWS)]
    judge = open_judge(arrange_texts(task, of_student), str(tmp_path / "s"), 64, "cpu")
    answers = load(tmp_path / "s").predict([row.texts for row in rows])
    expected = [[answer["scores"][label] for label in task.labels] for answer in answers]
    assert np.allclose(judge(rows), expected, atol=1e-5) and np.ptp(expected, axis=0).min() > 1e-3
