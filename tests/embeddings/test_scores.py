"""Scores of embeddings against SciPy, scikit-learn and counts by hand."""

import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import cosine_similarity

from bort.embeddings.scores import (
    RetrievalSet,
    SimilaritySet,
    build_retrieval_set,
    compare_cosines,
    compute_spearman,
    find_doubt,
    list_texts,
    read_sets,
    score_sets,
    score_tfidf,
)
from bort.errors import BortError
from bort.runs.baselines import Baseline
from bort.tasks.task import Row


def embed_by(table: dict):
    return lambda texts: np.array([table[text] for text in texts], dtype=float)


def test_spearman_is_scipys():
    """With ties, which labels from 0 to 5 always have."""
    random = np.random.default_rng(0)
    for _ in range(20):
        answers, labels = random.normal(size=30).round(1), random.integers(0, 6, 30) / 2
        expected = spearmanr(answers, labels).statistic
        assert compute_spearman(answers, labels) == pytest.approx(expected, abs=1e-12)
    assert compute_spearman(np.ones(4), np.arange(4)) is None


def test_pairs_are_scored_by_their_cosines():
    random = np.random.default_rng(1)
    first, second = [f"a{k}" for k in range(20)], [f"b{k}" for k in range(20)]
    table = {text: random.normal(size=3) * random.uniform(0.1, 9) for text in (*first, *second)}
    labels = random.integers(0, 6, 20).astype(float)
    part = SimilaritySet(first, second, labels)
    rows = zip(first, second, strict=True)
    cosines = [cosine_similarity([table[a]], [table[b]])[0, 0] for a, b in rows]
    assert part.score(embed_by(table)) == pytest.approx(spearmanr(cosines, labels).statistic)
    assert list_texts([part]) == first + second


def test_the_agreement_of_two_models_is_that_of_their_cosines():
    random = np.random.default_rng(2)
    student, teacher = random.normal(size=(9, 4)), random.normal(size=(9, 6))
    above = np.triu_indices(9, 1)
    expected = spearmanr(cosine_similarity(student)[above], cosine_similarity(teacher)[above])
    assert compare_cosines(student, teacher) == pytest.approx(expected.statistic, abs=1e-6)
    assert compare_cosines(student, 3 * student) == pytest.approx(1)
    assert compare_cosines(student, np.ones((9, 6))) is None


def test_retrieval_by_hand():
    """Eleven passages on a quarter of a circle: a question finds those beside it."""
    angles = {f"p{k}": k / 11 for k in range(12)} | {"q0": 0.0, "q1": 1.0, "q2": 0.5}
    table = {text: [np.cos(angle), np.sin(angle)] for text, angle in angles.items()}
    passages = [f"p{k}" for k in range(12)]
    # For q0, p9 is the tenth nearest and p10 the eleventh; likewise p2 and p1 for q1.
    for answers, expected in (
        ([9, 2, 5], 1.0),
        ([10, 2, 5], 2 / 3),
        ([10, 1, 0], 0.0),
    ):
        part = RetrievalSet(["q0", "q1", "q2"], passages, np.array(answers))
        assert part.score(embed_by(table)) == pytest.approx(expected)
    assert RetrievalSet([], [], np.zeros(0, dtype=int)).score(embed_by(table)) is None


def test_questions_and_distinct_passages_are_cut_from_pairs():
    pairs = [("q1", "p1", 0), ("q2", "p1", 0), ("q3", "p2", 1), ("q4", "p3", 0), ("q1", "p3", 1)]
    part = build_retrieval_set([Row(k, (a, b), label) for k, (a, b, label) in enumerate(pairs)])
    assert (part.questions, part.passages) == (["q1", "q2", "q4"], ["p1", "p3"])
    assert part.answers.tolist() == [0, 0, 1]


def test_the_sets_of_a_folder(scored, tmp_path):
    assert read_sets(None) == []
    similarity, retrieval = read_sets(str(scored))
    assert len(similarity.first) == 12 and similarity.labels.tolist()[:7] == [0, 1, 2, 3, 4, 5, 0]
    assert len(retrieval.questions) == len(retrieval.passages) == 9
    (tmp_path / "QNLI").symlink_to(scored / "QNLI")
    assert [part.name for part in read_sets(str(tmp_path))] == ["val_qnli/recall_at_10"]
    with pytest.raises(BortError, match="has no STS-B/dev.tsv and no QNLI/dev.tsv"):
        read_sets(str(tmp_path / "QNLI"))


def test_a_score_below_a_simple_one_is_doubted():
    """The key is that of summary.json; what is equal, or not defined, is not doubted."""
    start = Baseline("start", {"val_stsb/spearman": 0.65, "val_qnli/recall_at_10": 0.5}, "")
    words = Baseline("words", {"val_stsb/spearman": 0.75, "val_qnli/recall_at_10": None}, "")
    scores = {"val_stsb/spearman": 0.7, "val_qnli/recall_at_10": 0.5}
    doubt = "val_stsb/spearman 0.7000 is below 0.7500 of the cosine of TF-IDF"
    assert find_doubt(scores, [start, words]) == {"doubt": doubt}
    assert find_doubt(scores, [start]) == {}


def test_word_counts_stand_beside(scored, monkeypatch):
    sets = read_sets(str(scored))
    baseline = score_tfidf(sets)
    assert set(baseline.scores) == {"val_stsb/spearman", "val_qnli/recall_at_10"}
    assert baseline.scores["val_qnli/recall_at_10"] == 1.0  # nine passages are all among ten
    assert set(score_sets(sets, lambda texts: np.eye(len(texts)))) == set(baseline.scores)
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    assert "pip install scikit-learn" in score_tfidf(sets).describe()
