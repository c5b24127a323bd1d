"""Rows of a pool: the nearest by hand, and a run of Agora that takes them."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bort.agora import recipe as agora_run
from bort.agora.generators import WordSource
from bort.agora.pool import PoolSource, choose_nearest, choose_random
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.tasks.task import Row


@pytest.fixture(scope="module")
def words(encoder) -> WordSource:
    return WordSource(load_masked_lm(encoder), load_tokenizer(encoder))


def make_rows(words: WordSource, count: int) -> list[Row]:
    names = sorted(words.ids)
    random = np.random.default_rng(0)
    return [Row(k, (" ".join(random.choice(names, 4)),)) for k in range(count)]


def compute_mean(words: WordSource, text: str) -> torch.Tensor:
    """The mean of the unit vectors of a text's words, from the weights themselves."""
    weights = words.model.encoder.embeddings.words.weight.detach()
    vectors = [F.normalize(weights[words.ids[word]], dim=0) for word in text.split()]
    return F.normalize(torch.stack(vectors).mean(0), dim=0)


def test_the_nearest_by_hand(words, monkeypatch):
    rows = make_rows(words, 40)
    monkeypatch.setattr("bort.agora.pool.PART", 7)  # parts of the pool are joined
    pool = PoolSource(rows[3:], words)
    near = pool.find_nearest(rows[:3])
    for row, numbers in zip(rows[:3], near, strict=True):
        cosines = [
            float(compute_mean(words, row.texts[0]) @ compute_mean(words, other.texts[0]))
            for other in rows[3:]
        ]
        expected = np.sort(cosines)[::-1][: len(numbers)]
        assert np.allclose([cosines[k] for k in numbers], expected, atol=1e-5)
        assert len(numbers) == 10


def test_what_is_chosen(words):
    rows = make_rows(words, 60)
    pool, random = PoolSource(rows[20:], words), np.random.default_rng(0)
    texts = {row.texts for row in rows[20:]}
    near = pool.find_nearest(rows[:20])
    for chosen, numbers in zip(choose_nearest(rows[:20], random, pool), near, strict=True):
        assert chosen.texts in {rows[20 + k].texts for k in numbers} and chosen.label is None
    drawn = {row.texts for _ in range(30) for row in choose_random(rows[:20], random, pool)}
    assert drawn == texts


def test_a_small_pool_and_unknown_words(words):
    pool = PoolSource([Row(0, ("☃ ☃",)), Row(1, ("the and",))], words)
    assert sorted(pool.find_nearest([Row(2, ("the",))])[0].tolist()) == [0, 1]
    assert torch.equal(pool.vectors[0], torch.zeros_like(pool.vectors[0]))


def test_a_run(run_of, csv, tmp_path):
    """All rows of the rounds and of the control arm are in the pool, and none is a training row."""
    lines = (csv / "train.csv").read_text().splitlines()[1:]
    known = [line.rsplit(",", 1)[0] for line in lines]
    texts = [" ".join([*text.split()[::-1], str(k)]) for k, text in enumerate(known)]
    (tmp_path / "pool.txt").write_text("\n".join(texts + known))
    words = ["agora.generator=pool", f"data.unlabelled={tmp_path / 'pool.txt'}"]
    summary = agora_run.agora(run_of(*words, "agora.labels=soft"), tmp_path / "run")
    paths = [*(tmp_path / "run").glob("rounds/*/rows.jsonl")]
    paths.append(tmp_path / "run" / "random" / "rows.jsonl")
    assert len(paths) >= 2 and "random/val/accuracy" in summary
    for path in paths:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows and {row["texts"][0] for row in rows} <= {*texts}
