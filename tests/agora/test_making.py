"""The rows that a run makes: from mistakes, and found nowhere else."""

import json
import math
import shutil

import pytest
from safetensors.torch import load_file, save_file

from bort.agora import recipe as agora_run
from bort.agora.dataset import split_rows
from bort.errors import BortError
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import encode_examples
from bort.models.huggingface import load_classifier, load_tokenizer
from bort.tasks.reading import load_task


def test_generated_rows_are_nowhere_else(whole, csv):
    folder, _, _ = whole
    files = "".join((csv / f"{name}.csv").read_text() for name in ("train", "val"))
    official = {" ".join(line.split(",")[0].split()).lower() for line in files.splitlines()}
    paths = [*folder.glob("rounds/*/rows.jsonl"), folder / "random" / "rows.jsonl"]
    assert len(paths) == 2
    for path in paths:
        texts = [json.loads(line)["texts"][0] for line in path.read_text().splitlines()]
        assert len(texts) == len(set(texts)) == 20
        assert not {" ".join(text.split()).lower() for text in texts} & official


def test_sources_are_mistakes_or_else_hard(whole, run_of):
    """Rows of round 2 come from what the best model of round 1 gets wrong, counted outside."""
    folder, _, lines = whole
    task, rows = load_task("custom", run_of().data)
    D, E = split_rows(task, rows["train"], 0.2)
    model, _ = load_classifier(next(folder.glob("rounds/1/*/model")))
    found = answer_split(model, encode_examples(task, {"D": D}, load_tokenizer(folder), 64), "D")
    wrong = [row for row, answer in zip(D, found, strict=True) if answer != row.label]
    most = max(len(wrong), math.ceil(0.1 * len(D)))
    said = f"round 2: {len(wrong)} mistakes on D; rows are made from the {most} hardest"
    assert said in lines and wrong
    made = [json.loads(x) for x in (folder / "rounds/2/rows.jsonl").read_text().splitlines()]
    sources = {tuple(row["source"]) for row in made}
    assert len(sources) <= most and sources & {row.texts for row in wrong}
    if most == len(wrong):
        assert sources <= {row.texts for row in wrong}
    assert not sources & {row.texts for row in E}


def test_a_generator_without_a_masked_lm(run_of, encoder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {k: v for k, v in weights.items() if not k.startswith("cls.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run = run_of(f"model={folder}", f"teacher.name={folder}")
    with pytest.raises(BortError, match="agora.generator=mlm: .* no masked-LM head; set agora.mlm"):
        agora_run.agora(run, tmp_path / "run")
    run = run_of("teacher.name=null")
    with pytest.raises(BortError, match="does not say who taught it; set agora.teacher="):
        agora_run.agora(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
