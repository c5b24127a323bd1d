"""A fine-tuned model as a judge of rows: its answers are those of transformers."""

import json
from inspect import signature

import numpy as np
import pytest
import torch
from teacher_folders import make_folder
from tiny_runs import add_head
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.errors import BortError
from bort.finetuning.heads import arrange_texts, describe_outputs
from bort.finetuning.judge import load_fine_tuned, open_judge
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


# ------------------------------------------------------------------------------ other families

PAIRS = [("Line 3 the cube", "of 3 is 27"), ("27", "Line 5: the cube of 5 is 125 and " * 6)]
PAIRS += [("the cube of 4 is 64 and " * 5, "Line 7: the cube of 7 is 343, " * 5), ("a", "is 1")]
FAMILIES = ["distilbert", "electra", "albert", "mpnet", "deberta-v2", "xlm-roberta", "modernbert"]


def add_types(folder):
    """Have a tokenizer mark the second text by its type, as those of BERT do; return it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a", "b")["token_type_ids"][-1] == 1
    return tokenizer


def make_classifier(folder, kind: str, **more):
    """A fine-tuned model whose answers to two texts are far apart."""
    model = make_folder(folder, kind, AutoModelForSequenceClassification, **more)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    model.save_pretrained(folder)
    return model


def ask_transformers(model, tokenizer, texts: list[tuple], limit: int) -> torch.Tensor:
    """The logits of transformers to texts or pairs, in one padded batch."""
    columns = [list(part) for part in zip(*texts, strict=True)]
    batch = tokenizer(
        *columns, padding=True, truncation=True, max_length=limit, return_tensors="pt"
    )
    taken = signature(model.forward).parameters
    with torch.no_grad():
        return model(**{name: x for name, x in batch.items() if name in taken}).logits


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_of_another_family_answers_as_in_transformers(kind, tmp_path):
    """Padding, pairs with their types, and texts beyond its positions; its own tokenizer."""
    names = {0: "no", 1: "maybe", 2: "yes"}
    more = {"id2label": names, "label2id": {name: k for k, name in names.items()}}
    if kind in ("electra", "albert"):
        more["type_vocab_size"] = 2
    model = make_classifier(tmp_path, kind, **more)
    has_types = kind in ("electra", "albert")
    tokenizer = add_types(tmp_path) if has_types else AutoTokenizer.from_pretrained(tmp_path)
    limit = 38 if kind in ("mpnet", "xlm-roberta") else 40
    for texts in (PAIRS, [pair[1:] for pair in PAIRS]):
        columns = ("first", "second")[: len(texts[0])]
        task = define_task("custom", "classes", columns, ("yes", "no", "maybe"))
        rows = [Row(k, tuple(text)) for k, text in enumerate(texts)]
        judge = open_judge(task, str(tmp_path), 512, "cpu")
        assert judge.length == limit
        expected = ask_transformers(model, tokenizer, texts, limit)[:, [2, 0, 1]]
        torch.testing.assert_close(judge.answer(rows), expected, atol=1e-5, rtol=1e-5)
        short = open_judge(task, str(tmp_path), 12, "cpu")  # as the student's rows are cut
        expected = ask_transformers(model, tokenizer, texts, 12)[:, [2, 0, 1]]
        torch.testing.assert_close(short.answer(rows), expected, atol=1e-5, rtol=1e-5)
        assert expected.std(0).max() > 1e-3  # a hundred times what is allowed


def test_numbers_and_several_labels_of_another_family(tmp_path):
    rows = [Row(k, (pair[0],)) for k, pair in enumerate(PAIRS)]
    texts = [row.texts for row in rows]
    number = make_classifier(tmp_path / "number", "distilbert", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "number")
    task = define_task("custom", "regression", ("text",), ("0", "5"))
    judge = open_judge(task, str(tmp_path / "number"), 64, "cpu")
    expected = ask_transformers(number, tokenizer, texts, 40)
    np.testing.assert_allclose(judge(rows), expected, atol=1e-5)
    facts = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    facts["problem_type"] = "multi_label_classification"
    several = make_classifier(tmp_path / "several", "mpnet", **facts)
    labels = define_task("custom", "labels", ("text",), ("b", "a"))
    judge = open_judge(labels, str(tmp_path / "several"), 64, "cpu")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "several")
    expected = ask_transformers(several, tokenizer, texts, 38)[:, [1, 0]].sigmoid()
    np.testing.assert_allclose(judge(rows), expected, atol=1e-5)
    classes = define_task("custom", "classes", ("text",), ("a", "b"))
    with pytest.raises(BortError, match="gives any number of labels a row, custom needs one"):
        open_judge(classes, str(tmp_path / "several"), 64, "cpu")
    with pytest.raises(BortError, match="has several outputs, custom needs one"):
        open_judge(task, str(tmp_path / "several"), 64, "cpu")


def test_another_family_without_a_fine_tuned_head_is_refused(tmp_path):
    make_folder(tmp_path, "mpnet")
    task = define_task("custom", "classes", ("text",), ("a", "b"))
    line = "teacher.name=.* is MPNet without a fine-tuned head, and bort trains none on this family"
    with pytest.raises(BortError, match=line) as error:
        load_fine_tuned(str(tmp_path), "teacher.name")
    assert len(str(error.value)) < 200 + len(str(tmp_path))
    with pytest.raises(BortError, match="agora.teacher=.* is MPNet without a fine-tuned head"):
        open_judge(task, str(tmp_path), 64, "cpu")


def test_texts_that_the_student_reads_apart_have_room_in_one_sequence(tmp_path):
    """Each may have as many tokens as the student reads of it."""
    make_folder(tmp_path, "distilbert", AutoModelForSequenceClassification, num_labels=1)
    task = define_task("custom", "regression", ("a", "b"), ("0", "1"))
    for head, length in (("towers", 20), ("linear", 10)):
        assert open_judge(arrange_texts(task, head), str(tmp_path), 10, "cpu").length == length
    assert open_judge(arrange_texts(task, "towers"), str(tmp_path), 64, "cpu").length == 40
