"""Whole runs on texts that are short, repeated, or full of special words."""

import numpy as np
import pytest
import torch
from pretraining_helpers import rows
from tiny_runs import log_lines

from bort.pretraining.datamodule import TrainBatches
from bort.pretraining.recipe import prepare, pretrain


def test_no_masked_place_is_no_nan(shared, settings_of, tmp_path):
    """Case M1: 6 maskable places a batch, rate 0.15."""
    run = settings_of(
        f"data.path={shared}/cases/M1-nothing-masked/text.txt",
        *("data.length=8", "data.batch_size=1", "data.mask_rate=0.15", "data.val_fraction=0"),
        *("data.vocab_size=261", "trainer.max_steps=200"),
    )
    summary = pretrain(run, tmp_path / "run")
    numbers = [float(value) for row in rows(tmp_path / "run") for value in row.values() if value]
    assert len(rows(tmp_path / "run")) == 200
    assert np.isfinite(numbers).all()
    assert not [value for value in summary.values() if isinstance(value, float) and value != value]


@pytest.mark.parametrize("teacher", [None, "roberta-tiny", "bert-tiny"])
def test_special_words_in_the_text(shared, settings_of, tmp_path, teacher):
    """Case T1: special ids stand first and last in a sequence and nowhere else (one document)."""
    overrides = [
        f"data.path={shared}/cases/T1-special-words/text.txt",
        *("data.length=32", "data.val_fraction=0", "data.mask_rate=0.3"),
    ]
    if teacher:
        overrides.append(f"teacher.name={shared}/cases/models/{teacher}")
    run = settings_of(*overrides, experiment="kd_pretrain" if teacher else "mlm_pretrain")
    assert pretrain(run, tmp_path / "run")["steps"] == 5
    corpus, _ = prepare(run)
    batches = TrainBatches(corpus, run.data, run.seed)
    ids = torch.cat([unmasked(batches[k]) for k in range(len(batches))])
    tokenizer = corpus.tokenizer
    special = torch.isin(ids, torch.tensor(sorted({*tokenizer.all_special_ids})))
    if teacher == "bert-tiny":  # its 48 words do not spell this text
        special &= ids != tokenizer.unk_token_id
    assert special[:, 0].all() and special[:, -1].all() and not special[:, 1:-1].any()
    if teacher != "bert-tiny":
        whole = (shared / "cases" / "T1-special-words" / "text.txt").read_text()
        assert tokenizer.decode(corpus.train).strip() == whole.strip()


def unmasked(batch: dict) -> torch.Tensor:
    ids = batch["input_ids"].clone()
    ids.view(-1)[batch["positions"]] = batch["labels"]
    return ids


def test_packing_edges(shared, settings_of, tmp_path):
    """Case M2: 98 bytes of one token each in sequences of 14."""
    path = shared / "cases" / "M2-packing-edges" / "text.txt"
    run = settings_of(
        *(f"teacher.name={shared}/cases/models/roberta-tiny", f"data.path={path}"),
        *("data.val_fraction=0", "data.batch_size=3", "trainer.max_steps=1"),
        experiment="kd_pretrain",
    )
    lines = log_lines()
    summary = pretrain(run, tmp_path / "run")
    assert "val/loss" not in summary and summary["steps"] == 1
    assert [line for line in lines if "no validation" in line]
    batches = TrainBatches(prepare(run)[0], run.data, run.seed)
    found = sorted(row.tolist() for k in range(len(batches)) for row in unmasked(batches[k]))
    text = path.read_bytes()
    expected = [[0, *(4 + byte for byte in text[14 * k : 14 * k + 14]), 2] for k in range(7)]
    assert found == sorted(expected)


def test_repeated_documents(shared, settings_of, tmp_path):
    """Case D4 through a run: 40 of 100 records are dropped and the run says so."""
    path = shared / "cases" / "D4-split-duplicates" / "docs.jsonl"
    run = settings_of(f"data.path={path}", "trainer.max_steps=2")
    lines = log_lines()
    pretrain(run, tmp_path / "run")
    assert [line for line in lines if "60 documents (40 duplicates dropped)" in line]
    corpus, _ = prepare(run)
    split = [set(corpus.tokenizer.decode(s).split("</s>")) for s in (corpus.train, corpus.val)]
    assert not split[0] & split[1]
    assert len({text.strip() for text in split[0] | split[1]}) == 60
