"""Embeddings learnt from pairs with a number."""

import csv

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from tiny_runs import log_lines

import bort
from bort.embeddings.pairs import finetune_embeddings
from bort.errors import BortError
from bort.runs.closing import print_result

KINDS = {"cat": "cat fox elk yak".split(), "bee": "bee ant owl hen".split()}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Texts of one kind are near, those of two kinds far."""
    rows = []
    for a, first in KINDS.items():
        for b, second in KINDS.items():
            score = 4.5 if a == b else 0.5
            end = " of their own" if a == b else ""
            for x in first:
                rows += [(f"the {x} sees", f"a {y}{end}", score) for y in second]
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "score"), *rows])
    return path


@pytest.fixture
def pairs_run(compose_run, pairs, student):
    def make(*overrides: str):
        words = ["experiment=finetune", "task=embed", f"model={student}", f"data.train={pairs}"]
        words += ["data.text=[a,b]", "data.label=score", "trainer.max_epochs=6"]
        return compose_run(*words, *overrides)

    return make


def test_cosines_follow_the_numbers(pairs_run, scored, tmp_path):
    run = pairs_run(f"data.root={scored}")
    assert (run.head, run.data.kind, run.data.metric) == ("towers", "number", "spearman")
    summary = finetune_embeddings(run, tmp_path / "run")
    assert summary.metric == "val/spearman" and summary["val/spearman"] > 0.5
    assert "start/val_stsb/spearman" in summary and "words/val_stsb/spearman" in summary
    model = bort.load(tmp_path / "run")
    texts = ["the cat sees", "a fox of their own", "a bee"]
    first, near, far = np.split(model.encode(texts), 3)
    assert cosine_similarity(first, near) > cosine_similarity(first, far)
    lines = log_lines()
    print_result(run, tmp_path / "run", summary, "finetune")
    assert any("SentenceTransformer opens it" in line for line in lines)
    assert finetune_embeddings(run, tmp_path / "run") == summary


def test_mistakes(compose_run, pairs_run, pairs, student, tmp_path):
    start = ["experiment=finetune", "task=embed", f"model={student}"]
    for words in ([], [f"data.train={pairs}"]):
        with pytest.raises(BortError, match=r"needs data.train=FILE with data.text=\[a,b\]"):
            compose_run(*start, *words)
    with pytest.raises(BortError, match="has no STS-B/dev.tsv"):
        finetune_embeddings(pairs_run(f"data.root={tmp_path}"), tmp_path / "run")
    with pytest.raises(BortError, match="no column 'nothing'|no 'nothing'|'nothing'"):
        finetune_embeddings(pairs_run("data.label=nothing"), tmp_path / "run")
    with pytest.raises(BortError, match="task=embed has no mistakes to learn from"):
        compose_run("experiment=agora", *start[1:])
    assert not (tmp_path / "run").exists()
