"""A teacher is trained once, refused before any work, and named by what decides its weights."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from teacher_folders import make_folder
from tiny_runs import log_lines
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.pretraining.recipe import prepare, pretrain
from bort.pretraining.teacher import build_teacher_run, locate_teacher
from bort.runs.folder import RunFolder
from bort.training.module import VERSION


def are_same_weights(one: MaskedLM, other: MaskedLM) -> bool:
    """Equal bit by bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a
    )


def test_teacher_is_trained_once_and_named_ones_need_none(settings_of, cache, tmp_path):
    run = settings_of("teacher.max_steps=3", "seed=4", experiment="kd_pretrain")
    lines = log_lines()
    corpus, teacher = prepare(run)
    assert [line for line in lines if line.startswith("teacher: training ⟨1,2,32,64⟩ for 3 steps")]
    folder = locate_teacher(run, corpus)
    assert (
        folder.is_relative_to(cache / "teachers") and RunFolder(folder).find_summary()["steps"] == 3
    )
    (folder / ".lock").touch()  # of a process that was killed when all but this was done
    lines.clear()
    _, again = prepare(replace(run, seed=5))
    assert not (folder / ".lock").exists()
    assert not [line for line in lines if "training" in line and line.startswith("teacher")]
    assert are_same_weights(teacher.masked_lm, again.masked_lm)
    named = replace(run, teacher=replace(run.teacher, name=str(folder)))
    _, by_name = prepare(named)
    assert are_same_weights(teacher.masked_lm, by_name.masked_lm)
    assert prepare(settings_of())[1] is None


@pytest.mark.parametrize("kind", ["distilbert", "mpnet", "deberta-v2", "camembert"])
def test_teachers_of_other_families_teach_a_run(settings_of, tmp_path, kind):
    """WordPiece and Unigram, with names of their own; the student takes the tokenizer."""
    make_folder(tmp_path / "teacher", kind)
    tokenizer = load_tokenizer(tmp_path / "teacher")
    run = settings_of(
        *(f"teacher.name={tmp_path / 'teacher'}", "trainer.max_steps=40", "data.batch_size=4"),
        *("trainer.val_check_interval=10", "optim.lr=1e-2"),
        experiment="kd_pretrain",
    )
    summary = pretrain(run, tmp_path / "run")
    curve = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    losses = [float(row["val/kd_loss"]) for row in csv.DictReader(curve) if row["val/kd_loss"]]
    assert summary["val/kd_loss"] == losses[-1] < 0.8 * losses[0]
    assert summary["teacher_hidden"] == 16 and summary["teacher_depth"] == 2
    student, folder = load_masked_lm(tmp_path / "run"), tmp_path / "run" / "model"
    assert student.config.vocab_size == len(tokenizer) + 3  # the teacher's rows
    written = AutoTokenizer.from_pretrained(folder)
    text = "Line 7: the <mask> cube [MASK] of 300"
    assert written(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert AutoModelForMaskedLM.from_pretrained(folder).config.model_type == "bert"


@pytest.mark.parametrize("kind", ["mpnet", "electra", "xlm-roberta"])
def test_an_encoder_without_a_head_teaches_its_states(settings_of, tmp_path, kind):
    make_folder(tmp_path / "teacher", kind, AutoModel)
    run = settings_of(
        *(f"teacher.name={tmp_path / 'teacher'}", "trainer.max_steps=40", "data.batch_size=4"),
        *("trainer.val_check_interval=10", "optim.lr=1e-2"),
        experiment="kd_pretrain",
    )
    pretrain(run, tmp_path / "run")
    curve = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    key = "val/hidden_loss"
    losses = [float(row[key]) for row in csv.DictReader(curve) if row[key]]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("gpt2", (), r"\(gpt2\) is a decoder; a teacher is an encoder, such as BERT"),
        ("bart", (), r"\(bart\) is an encoder-decoder; a teacher is an encoder"),
        ("mystery", (), "'mystery', which needs code from its folder; that is never run"),
        ("distilbert", ("data.length=64",), "data.length=64 is longer than the 40 tokens of the"),
        ("distilbert", (), "holds no tokenizer; looked for"),
        ("distilbert", ("data.tokenizer=bpe",), "holds no tokenizer; looked for"),
    ],
)
def test_what_cannot_teach_is_told_before_any_work(settings_of, tmp_path, kind, overrides, message):
    settings = {"model_type": kind, "max_position_embeddings": 40, "auto_map": {"AutoModel": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    run = settings_of(f"teacher.name={tmp_path}", *overrides, experiment="kd_pretrain")
    with pytest.raises(BortError, match=message) as error:
        prepare(run)
    assert "\n" not in str(error.value) and len(str(error.value)) < 100 + len(str(tmp_path)) + 60


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["teacher.name={models}/bert-tiny", "data.tokenizer=bpe", "data.vocab_size=8192"],
            "has a vocabulary of 48, the student's is 8,192",
        ),
        (
            ["teacher.name={models}/bert-tiny", "data.length=33"],
            "data.length=33 is longer than the 32 tokens of the teacher",
        ),
        (["teacher.name={models}/bert-tinny"], "did you mean 'bert-tiny'?"),
        (["teacher.name={models}/bert-tiny-hole"], "attention.self.key.weight"),
        (["teacher.name={models}/expected.json"], "is a file"),
        (["teacher.name={models}/../R4-pickled-weights/model"], "safetensors"),
    ],
)
def test_wrong_teachers_are_refused_before_any_work(
    shared, settings_of, tmp_path, monkeypatch, overrides, message
):
    """Cases C2, P3 and R4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "bort.pretraining.recipe.build_corpus", lambda *_: pytest.fail("work before the refusal")
    )
    models = shared / "cases" / "models"
    overrides = [line.format(models=models) for line in overrides]
    with pytest.raises(BortError) as error:
        pretrain(settings_of(*overrides, experiment="kd_pretrain"), Path("runs/x"))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())  # neither a folder nor pickle-ran.txt


def test_teacher_with_other_words_is_refused(settings_of, cache, tmp_path):
    """As many words, but not the same ones: ids would not mean the same."""
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"Quite unlike wording, piece {k} of {k * 7}" for k in range(60)))
    run = settings_of(f"data.path={other}", experiment="kd_pretrain")
    corpus, _ = prepare(run)
    wrong = settings_of(
        f"teacher.name={locate_teacher(run, corpus)}",
        "data.tokenizer=bpe",
        experiment="kd_pretrain",
    )
    with pytest.raises(BortError, match=r"vocabulary of 280, the student's is 280, and \d+ words"):
        prepare(wrong)


def test_a_kept_teacher_is_named_by_what_decides_its_weights(settings_of, tmp_path):
    """All of that, and nothing else: a key too many trains it again, one too few takes another."""
    run = settings_of(experiment="kd_pretrain")
    corpus, _ = prepare(run)
    first = locate_teacher(run, corpus)
    stop = {"a": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}}
    for same in (
        replace(run, data=replace(run.data, val_sequences=3, workers=2)),
        replace(run, trainer={**run.trainer, "max_steps": 9, "accelerator": "auto"}),
        replace(run, trainer={**run.trainer, "val_check_interval": 3, "max_time": "00:00:01:00"}),
        replace(run, optim=replace(run.optim, lr=1e-3), seed=3, dropout=0.5, callbacks=stop),
    ):
        assert locate_teacher(same, corpus) == first
        assert build_teacher_run(same).callbacks is None  # none that stops half-way
    for other in (
        replace(run, trainer={**run.trainer, "precision": "bf16-mixed"}),
        replace(run, trainer={**run.trainer, "gradient_clip_val": 0.5}),
        replace(run, optim=replace(run.optim, warmup=0.2)),
        replace(run, teacher=replace(run.teacher, lr=1e-3)),
        replace(run, teacher=replace(run.teacher, batch_size=4)),
        replace(run, data=replace(run.data, mask_rate=0.2)),
    ):
        assert locate_teacher(other, corpus) != first
    changed = replace(corpus, info=replace(corpus.info, digest="of other text"))
    assert locate_teacher(run, changed) != first
    renamed = replace(corpus, info=replace(corpus.info, fingerprint="of a copy"))
    assert locate_teacher(run, renamed) == first


def test_a_newer_training_code_trains_the_teacher_again(settings_of, monkeypatch):
    run = settings_of(experiment="kd_pretrain")
    corpus, _ = prepare(run)
    first = locate_teacher(run, corpus)
    monkeypatch.setattr("bort.pretraining.teacher.VERSION", VERSION + 1)
    assert locate_teacher(run, corpus) != first
