"""Sequences of one document each (`data.packing=false`): padding counts nowhere."""

import json
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from pretraining_helpers import documents
from tiny_runs import log_lines, open_batches, plan_of, stopping
from torch.nn.functional import cross_entropy, kl_div

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm
from bort.models.initialization import build_model
from bort.pretraining.corpus import build_corpus
from bort.pretraining.datamodule import PackedDataModule
from bort.pretraining.module import DistillationModule
from bort.pretraining.recipe import prepare, pretrain
from bort.pretraining.teacher import build_teacher_run, locate_teacher
from bort.runs.folder import RunFolder
from bort.teachers.states import UnmaskedText

ALL = DistillConfig(w_kd=1.0, w_mlm=1.0, w_hidden=1.0, w_relation=1.0)
UNPACKED = ["data.packing=false", "data.length=16"]


@pytest.fixture
def batches(settings_of, named_model):
    """The batches of a run with all losses whose sequences are documents."""
    weights = [f"distill.w_{name}=1" for name in ("kd", "mlm", "hidden", "relation")]
    run = settings_of(f"teacher.name={named_model}", *weights, *UNPACKED, experiment="kd_pretrain")
    corpus, _ = prepare(run)
    data = PackedDataModule(run.data, corpus=corpus, unmasked=UnmaskedText())
    data.setup()
    return data


def restore(batch: dict) -> torch.Tensor:
    """The ids of a batch before masking."""
    ids = batch["input_ids"].clone()
    ids.view(-1)[batch["positions"]] = batch["labels"]
    return ids


def list_texts(batch: dict) -> list[dict]:
    """Each text of a batch as a batch of its own, without padding."""
    width, texts = batch["input_ids"].shape[1], []
    for row, size in enumerate(batch["attention_mask"].sum(1).tolist()):
        inside = batch["positions"] // width == row
        texts.append(
            {
                "input_ids": batch["input_ids"][row : row + 1, :size],
                "texts": batch["texts"][row : row + 1, :size],
                "positions": batch["positions"][inside] - row * width,
                "labels": batch["labels"][inside],
            }
        )
    return texts


def test_an_epoch_shows_each_document_once(batches):
    train, tokenizer = batches.train, batches.corpus.tokenizer
    assert len(train) > 3 and train.sequences.count == batches.corpus.info.train_documents
    texts = []
    for number in range(len(train)):
        batch = train[number]
        ids, mask = restore(batch), batch["attention_mask"]
        assert torch.equal(ids, batch["texts"]) and torch.equal(mask, batch["text_mask"])
        assert mask.sum(1).max() == ids.shape[1] == 16 and mask[:, 0].all()
        assert (mask.diff(dim=1) <= 0).all()  # padding is at the end alone
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
        assert mask.flatten()[batch["positions"]].all()
        for row, size in zip(ids, mask.sum(1), strict=True):
            assert (row[0], row[size - 1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
            texts.append(row[1 : size - 1].tolist())
    stream = batches.corpus.train
    parts = np.split(stream, np.flatnonzero(stream == tokenizer.sep_token_id))
    parts = [part[part != tokenizer.sep_token_id][:14].tolist() for part in parts]
    assert sorted(texts) == sorted(parts) and len({len(text) for text in texts}) > 2
    assert len(documents(batches.corpus)) == len(texts)


def test_masks_depend_on_the_document_alone(batches):
    """Not on what it is batched with, nor on how far that is padded."""
    data = replace(batches.data, batch_size=1)
    alone = open_batches(batches.corpus, data, 0).train
    masked = {}
    for number in range(len(alone)):
        masked[tuple(restore(alone[number])[0].tolist())] = alone[number]["positions"].tolist()
    together = open_batches(batches.corpus, batches.data, 0).train
    for number in range(len(together)):
        batch = together[number]
        ids, width = restore(batch), batch["input_ids"].shape[1]
        for row, size in enumerate(batch["attention_mask"].sum(1)):
            inside = batch["positions"] // width == row
            found = (batch["positions"][inside] - row * width).tolist()
            assert found == masked[tuple(ids[row, :size].tolist())]


def test_the_documents_of_masked_words(batches):
    val = batches.val
    counts = np.bincount(val.documents(), minlength=val.sequences.count)
    width = [batch["input_ids"].shape[1] for batch in val]
    expected = [
        np.bincount(batch["positions"] // w, minlength=len(batch["input_ids"]))
        for batch, w in zip(val, width, strict=True)
    ]
    assert np.array_equal(counts[val.chosen], np.concatenate(expected))


def test_losses_are_those_of_the_texts_without_padding(batches, named_model):
    """The means over all masked words, and over all texts, by hand from one text at a time."""
    teacher = load_masked_lm(named_model)
    sizes = ModelConfig(**vars(Arch(2, 2, 16, 32)), vocab_size=teacher.config.vocab_size)
    student = build_model(sizes, "paper", 3)
    for parameter in student.parameters():  # or all states would look alike
        parameter.data.mul_(4)
    module = DistillationModule(student, teacher, OptimConfig(), ALL)
    batch = batches.train[0]
    texts = list_texts(batch)
    assert len({text["texts"].shape[1] for text in texts}) > 2
    sums = dict.fromkeys(("mlm", "kd"), 0.0)
    means = {"hidden_loss": 0.0, "relation_loss": 0.0}
    with torch.no_grad():
        for text in texts:
            ours = student(text["input_ids"], positions=text["positions"])
            theirs = teacher(text["input_ids"], positions=text["positions"])
            sums["mlm"] += cross_entropy(ours, text["labels"], reduction="sum").item()
            p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
            sums["kd"] += kl_div(q, p, log_target=True, reduction="sum").item()
            for name, loss in module.compare_texts(text).items():
                means[name] += loss.item() / len(texts)
        logged = {}
        module.count = lambda _, losses: logged.update(losses)
        module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        module.training_step(batch, 0)
    count = len(batch["labels"])
    assert logged["mlm_loss"].item() == pytest.approx(sums["mlm"] / count, rel=1e-5)
    assert logged["kd_loss"].item() == pytest.approx(sums["kd"] / count, rel=1e-4)
    for name, value in means.items():
        assert logged[name].item() == pytest.approx(value, rel=1e-4), name
    assert module.count_tokens(batch) == sum(text["texts"].shape[1] for text in texts)
    assert module.count_targets(batch) == count


def test_the_teacher_itself_loses_nothing(batches, named_model):
    teacher = load_masked_lm(named_model)
    module = DistillationModule(teacher, teacher, OptimConfig(), ALL)
    batch, logged = batches.train[0], {}
    assert (batch["attention_mask"] == 0).any()
    module.count = lambda _, losses: logged.update(losses)
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with torch.no_grad():
        module.eval().training_step(batch, 0)
    for name in ("kd_loss", "hidden_loss", "relation_loss"):
        assert logged[name].item() == pytest.approx(0, abs=1e-5), name


def test_a_stopped_run_resumes_bit_by_bit_with_kept_states(
    settings_of, named_model, tmp_path, monkeypatch
):
    """Also where the teacher's states of padded texts are kept, which end nearly alike."""
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "cache"))
    run = settings_of(
        *(f"teacher.name={named_model}", "distill={w_hidden: 1, w_mlm: 1, w_kd: 1}", *UNPACKED),
        *("trainer.max_steps=14", "trainer.val_check_interval=5", "checkpoint_every=1000"),
        *("data.batch_size=32", "dropout=0.1"),
        experiment="kd_pretrain",
    )
    summary = pretrain(run, tmp_path / "whole")
    assert len(list((tmp_path / "cache/states").glob("*.f16"))) == 2
    with pytest.raises(SystemExit):
        pretrain(stopping(run, 7), tmp_path / "cut")
    pretrain(run, tmp_path / "cut")
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    fresh = replace(run, distill=replace(run.distill, states_gb=0.0))
    other = pretrain(fresh, tmp_path / "fresh")
    for name in ("val/hidden_loss", "val/loss"):
        assert other[name] == pytest.approx(summary[name], rel=0.01)
    assert "<pad>" not in (tmp_path / "whole/samples.txt").read_text()
    record = json.loads(RunFolder(tmp_path / "whole").settings_file.read_text())
    assert record["data.packing"] is False


def test_what_is_said_and_counted(settings_of, named_model, tmp_path):
    lines = log_lines()
    taught = [f"teacher.name={named_model}", "trainer.max_epochs=2", "trainer.max_steps=-1"]
    run = settings_of(*taught, *UNPACKED, experiment="kd_pretrain")
    corpus, _ = prepare(run)
    sizes = np.diff(corpus.locate_documents("train")) - 1
    (line,) = [line for line in lines if "each document is a sequence" in line]
    assert f"; {(sizes > 14).sum():,} of {len(sizes)} are cut at data.length=16" in line
    read = 2 * int((np.minimum(sizes, 14) + 2).sum())
    plan = plan_of(run)["tokens"]
    assert plan.startswith(f"{read:,} in ")
    assert plan.endswith(f" steps, and {2 * 16 * len(sizes) - read:,} of padding")
    assert pretrain(run, tmp_path / "run")["tokens"] == read
    packed = settings_of(*taught, "data.length=16", experiment="kd_pretrain")
    assert "padding" not in plan_of(packed)["tokens"]


def test_a_text_that_is_shorter_than_a_packed_sequence(make, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("one\ntwo three\n")
    with pytest.raises(BortError, match="one sequence of data.length=64 needs 62"):
        make(path, length=64)
    corpus = make(path, length=64, packing=False)
    assert corpus.info.train_documents == 2
    assert any(
        line.endswith("one sequence needs 1; a larger data.val_fraction holds out more")
        for line in make.said
    )


def test_a_teacher_that_is_trained_first_reads_the_same_sequences(settings_of):
    """It is kept apart from one of packed text."""
    packed = settings_of(experiment="kd_pretrain")
    unpacked = settings_of("data.packing=false", experiment="kd_pretrain")
    assert build_teacher_run(unpacked).data.packing is False
    corpus = build_corpus(packed.data, locate_cache())
    assert locate_teacher(packed, corpus) != locate_teacher(unpacked, corpus)
