"""Heads: matched by the names of their outputs, and the scale of a regression."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bort import predictor
from bort.errors import BortError
from bort.finetuning.examples import TaskExamples, encode_examples
from bort.finetuning.heads import arrange_texts, build_task_classifier, match_outputs
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_tokenizer
from bort.models.initialization import build_classifier, build_model
from bort.tasks.registry import TASKS
from bort.tasks.task import Row


def test_outputs_by_their_names():
    """In upper or lower case, but for a task that has a label in both."""
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=16)
    three, two = (build_classifier(build_model(sizes, "default", 0), count) for count in (3, 2))
    task = replace(TASKS["glue/sst2"], labels=("A", "a", "b"))
    assert match_outputs(task, three, {0: "b", 1: "A", 2: "a"}, "model=x") == [1, 2, 0]
    names = {0: "Positive", 1: "NEGATIVE"}
    assert match_outputs(TASKS["glue/sst2"], two, names, "model=x") == [1, 0]
    for labels in ({0: "A", 1: "B", 2: "b"}, {0: "a", 1: "b"}, {}):
        with pytest.raises(BortError, match="model=x has the labels .*, glue/sst2 needs A, a, b; "):
            match_outputs(task, three, labels, "model=x")


def texts_of(folder: Path) -> list[str]:
    """The texts that the fine-tuning in a folder of `priced` has read."""
    lines = Path(f"{folder}.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_edited_scales_are_not_believed(priced, tmp_path):
    """What config.json says of the scale counts only where the weights agree with it."""
    folder, _, answers = priced(1.0, 200_000.0)
    texts = texts_of(folder)
    expected = predictor.load(folder).predict(texts[:5])
    for number, scale in enumerate(([1.0, 5.0], [math.nan, 1], "x", [10**400, 1], {"a": 1}, [1])):
        copy = tmp_path / str(number)
        shutil.copytree(folder / "model", copy)
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(settings | {"bort_scale": scale}))
        for a, b in zip(predictor.load(copy).predict(texts[:5]), expected, strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=0.02)  # float32 at 200,000


@pytest.mark.parametrize(
    ("head", "name", "message"),
    [
        ("towers", "glue/sst2", "head=towers compares two texts, and glue/sst2 has one a row; use"),
        (
            "towers",
            "race/high",
            "head=towers compares two texts, and race/high has choices; use",
        ),
        (
            "towers",
            "superglue/copa",
            "head=towers .* superglue/copa has choices; use head=linear",
        ),
        (
            "towers",
            "superglue/wic",
            "head=towers takes no marked words, and superglue/wic marks",
        ),
        ("mean", "superglue/wsc", "head=mean takes no marked words, .* two; use head=linear"),
    ],
)
def test_tasks_that_a_head_cannot_answer(head, name, message):
    with pytest.raises(BortError, match=message) as error:
        arrange_texts(TASKS[name], head)
    assert len(str(error.value)) < 120


def test_which_texts_are_apart():
    for name in ("glue/stsb", "superglue/boolq", "superglue/multirc", "superglue/record"):
        apart = arrange_texts(TASKS[name], "towers")
        assert apart.apart and arrange_texts(apart, "mean") == TASKS[name]
    assert arrange_texts(TASKS["race/high"], "mean") == TASKS["race/high"]


@pytest.mark.parametrize("labels", [(1.0, 4.0, 2.5), (-200.0, -300.0, -210.0)])
def test_cosines_start_at_the_range_of_the_labels(model, labels):
    """A cosine of 0 is the lowest label, and one of 1 the highest."""
    task = arrange_texts(TASKS["glue/stsb"], "towers")
    rows = [Row(k, ("a cat", "a dog"), label) for k, label in enumerate(labels)]
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=16)
    examples = encode_examples(task, {"train": rows}, load_tokenizer(model), 16)
    towers = build_task_classifier(build_model(sizes, "default", 0), examples, "towers")
    offset, factor = towers.scale
    with torch.no_grad():
        low, high = (offset + factor * towers.out(torch.tensor([[0.0], [1.0]]))).flatten().tolist()
    assert (low, high) == pytest.approx((min(labels), max(labels)), rel=1e-5)
    same = replace(examples, rows={"train": [replace(row, label=3.0) for row in rows]})
    still = build_task_classifier(build_model(sizes, "default", 0), same, "towers")
    assert still.out.weight.item() == 1.0 and still.scale == (3.0, 1.0)


def test_rows_that_were_encoded_for_another_head():
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=320, positions=16)
    for head, encoded in (("towers", "linear"), ("mean", "towers")):
        task = arrange_texts(TASKS["glue/rte"], encoded)
        with pytest.raises(BortError, match=f"glue/rte were not encoded for head={head}"):
            build_task_classifier(
                build_model(sizes, "default", 0), TaskExamples(task, None, 16, {}, {}), head
            )
