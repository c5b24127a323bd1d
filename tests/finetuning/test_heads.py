"""Heads: matched by the names of their outputs, and the scale of a regression."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bort import predictor
from bort.errors import BortError
from bort.finetuning.heads import match_outputs
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.initialization import build_classifier, build_model
from bort.tasks.registry import TASKS


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
