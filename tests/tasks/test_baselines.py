"""Simple answers against scikit-learn's own, their cost, and what is left out and why."""

import sys
import time

import numpy as np
import pytest
from scipy import sparse
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier

from bort.runs.baselines import Baseline
from bort.tasks.baselines import (
    MOST_CHARACTERS,
    add_baselines,
    choose_rows,
    compute_baselines,
    fit_tfidf,
)
from bort.tasks.custom import define_task
from bort.tasks.metrics import compute_scores
from bort.tasks.reading import read_rows
from bort.tasks.registry import TASKS, find_task
from bort.tasks.task import Row

WORDS = "the a film plot was good bad fine dull long not very and but actor scene 7".split()


def make_rows(labels, texts: int = 1, seed: int = 0) -> list[Row]:
    """Rows of random words, more of them equal to the label's word than by chance."""
    random = np.random.default_rng(seed)
    rows = []
    for number, label in enumerate(labels):
        parts = []
        for _ in range(texts):
            words = [*random.choice(WORDS, 9), *[WORDS[int(label) % len(WORDS)]] * 2]
            parts.append(" ".join(random.permutation(words)))
        rows.append(Row(number, tuple(parts), label))
    return rows


def describe(classes: int = 2, columns: tuple = ("text",)):
    kind = "classes" if classes else "regression"
    labels = tuple(f"class {k}" for k in range(classes)) or ("0", "9")
    return define_task("custom", kind, columns, labels)


def by_name(baselines: list[Baseline]) -> dict[str, Baseline]:
    return {baseline.name: baseline for baseline in baselines}


@pytest.mark.parametrize("labels", [[0, 1, 1], [2, 0, 1, 2], [1, 0]])
def test_the_most_frequent_label(labels):
    """As scikit-learn's dummy has it; of equally frequent labels it is the first."""
    task, train, val = describe(3), make_rows(labels * 8), make_rows([0, 1, 2, 2, 1, 1, 0])
    dummy = DummyClassifier().fit([[0]] * len(train), [row.label for row in train])
    expected = compute_scores(task, val, dummy.predict([[0]] * len(val)))
    baseline = by_name(compute_baselines(task, {"train": train, "val": val}))["majority"]
    assert baseline.scores == {f"val/{name}": value for name, value in expected.items()}
    assert baseline.note == f"'class {dummy.predict([[0]])[0]}' for every row"


def test_the_mean_of_numbers():
    task, train = describe(0), make_rows([1.0, 2.5, 7.0])
    val = make_rows([3.0, 4.5, 0.5, 9.0])
    dummy = DummyRegressor().fit([[0]] * 3, [row.label for row in train])
    expected = compute_scores(task, val, dummy.predict([[0]] * 4))
    baseline = by_name(compute_baselines(task, {"train": train, "val": val}))["mean"]
    assert baseline.scores["val/pearson"] is None and baseline.note == "3.5 for every row"
    assert baseline.scores == {f"val/{name}": value for name, value in expected.items()}


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("texts", [1, 2])
def test_tf_idf_is_that_of_scikit_learn(classes, texts):
    """Written out with its own classes: single texts in word pairs, two texts side by side."""
    task = describe(classes, ("text", "second")[:texts])
    labels = [float(k % 5) if classes == 0 else k % classes for k in range(60)]
    train, val = make_rows(labels, texts), make_rows(labels[:25], texts, seed=1)
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 3 - texts), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
    )
    vectorizer.fit([text for row in train for text in row.texts])

    def build(rows):
        u = vectorizer.transform([row.texts[0] for row in rows])
        if texts == 1:
            return u
        v = vectorizer.transform([row.texts[1] for row in rows])
        cosine = [[float((a @ b.T).toarray()[0, 0])] for a, b in zip(u, v, strict=True)]
        return sparse.hstack([u, v, abs(u - v), sparse.csr_matrix(cosine)])

    model = LogisticRegression(C=10, solver="liblinear")
    model = {0: Ridge(solver="sparse_cg"), 2: model}.get(classes, OneVsRestClassifier(model))
    model.fit(build(train), labels)
    answers = fit_tfidf(task, train)(val)
    np.testing.assert_allclose(answers, model.predict(build(val)), rtol=1e-3)
    assert len(set(answers)) > 1
    expected = compute_scores(task, val, answers)
    baseline = by_name(compute_baselines(task, {"train": train, "val": val}))["tfidf"]
    assert baseline.scores == {f"val/{name}": value for name, value in expected.items()}
    kind = "logistic" if classes else "ridge"
    assert baseline.note == f"TF-IDF, {kind} regression on 60 rows"
    assert compute_baselines(task, {"train": train, "val": val})[1] == baseline


@pytest.mark.parametrize("name", TASKS)
def test_every_task(shared, name):
    """On a few of its rows: pairs and passages have both; choices, spans and entities one."""
    task = find_task(name)
    rows = read_rows(task, shared / "data" / name.split("/")[0])
    rows = {split: part[:60] for split, part in rows.items()}
    baselines = by_name(compute_baselines(task, rows))
    if task.parent:
        assert baselines == {}
        return
    sets = [split for split in rows if split.startswith("val")]
    constant = {"superglue/record": "first", "glue/stsb": "mean"}.get(name, "majority")
    assert list(baselines) == [constant, "tfidf"]
    for metric in task.metrics:
        assert {f"{split}/{metric}" for split in sets} <= set(baselines[constant].scores)
    has_words = task.kind in ("classes", "regression") and name != "superglue/record"
    assert bool(baselines["tfidf"].scores) == has_words
    if not has_words:
        assert baselines["tfidf"].note.startswith("left out: not for a task of ")


def test_pairs_that_say_the_same_are_seen(shared):
    """A linear model of the words of both texts alone is at a correlation of .20 on STS-B."""
    rows = read_rows(find_task("glue/stsb"), shared / "data" / "glue")
    baselines = by_name(compute_baselines(find_task("glue/stsb"), rows))
    assert baselines["tfidf"].scores["val/pearson"] == pytest.approx(0.717, abs=0.01)


def test_long_training_sets_are_cut(shared):
    """At random, the same each time, in their order; many classes cost more and read less."""
    task = describe(2)
    texts = ["long words " * 20_000, "short"]
    rows = [Row(k, (texts[k % 2],), k % 2) for k in range(100)]
    chosen = choose_rows(task, rows)
    size = sum(len(row.texts[0]) for row in chosen)
    assert MOST_CHARACTERS - 220_000 <= size <= MOST_CHARACTERS
    numbers = [row.index for row in chosen]
    assert numbers == sorted(set(numbers)) and choose_rows(task, rows) == chosen
    assert len(choose_rows(describe(200), rows)) < len(chosen) / 8
    assert choose_rows(task, rows[:9]) == rows[:9]
    start = time.process_time()
    note = compute_baselines(task, {"train": rows, "val": rows[1:3]})[1].note
    assert note == f"TF-IDF, logistic regression on {len(chosen)} of 100 rows"
    assert time.process_time() - start < 60


def test_what_has_no_words_or_one_class():
    task = describe(3)
    silent = [Row(k, ("!? …",), k % 3) for k in range(6)]
    baseline = by_name(compute_baselines(task, {"train": silent, "val": silent}))["tfidf"]
    assert baseline == Baseline("tfidf", {}, "left out: there are no words in the training rows")
    alike = make_rows([1] * 6)
    assert set(fit_tfidf(task, alike)(silent)) == {1}
    partly = make_rows([0, 2] * 6)  # held-out rows took the only ones of class 1
    assert set(fit_tfidf(task, partly)(partly)) == {0, 2}


def test_scripts_without_spaces_have_words():
    texts = ["这部电影很好看", "这部电影不好看", "好看极了", "不喜欢这个"]
    rows = [Row(k, (texts[k % 4],), k % 2) for k in range(8)]
    unseen = [Row(0, ("不好",), 1), Row(1, ("很好看",), 0)]
    assert list(fit_tfidf(describe(2), rows)(unseen)) == [1, 0]


def test_without_scikit_learn(monkeypatch):
    """The most frequent label needs nothing; one line says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    rows = make_rows([0, 1] * 5)
    baselines = by_name(compute_baselines(describe(2), {"train": rows, "val": rows}))
    assert baselines["majority"].scores["val/accuracy"] == 0.5
    assert baselines["tfidf"].scores == {}
    assert baselines["tfidf"].note.endswith("it needs scikit-learn (pip install scikit-learn)")


def test_a_model_below_a_baseline_is_doubted():
    """Beside what was doubted before; scores that are equal or undefined are not below."""
    baselines = [
        Baseline("majority", {"val/f1": 0.5}, "x"),
        Baseline("tfidf", {"val/f1": 0.7}, "y"),
    ]
    values = {"val/f1": 0.6, "metric": "val/f1", "doubt": "one answer"}
    below = "val/f1 0.6000 is below 0.7000 of TF-IDF and a linear model"
    assert add_baselines(values, baselines)["doubt"] == f"one answer; {below}"
    both = add_baselines(values | {"val/f1": 0.4}, baselines)
    assert both["doubt"].count("0.4000 is below") == 2 and both["majority/val/f1"] == 0.5
    del values["doubt"]
    assert add_baselines(values, baselines)["doubt"] == below
    for score in (0.7, 0.9, None):
        assert "doubt" not in add_baselines(values | {"val/f1": score}, baselines)
    assert "doubt" not in add_baselines(values, [Baseline("tfidf", {"val/f1": None}, "z")])
    worse = add_baselines(
        {"val/rmse": 2.0, "metric": "val/rmse"}, [Baseline("mean", {"val/rmse": 1.5}, "x")]
    )
    assert worse["doubt"] == "val/rmse 2.0000 is above 1.5000 of the mean of the labels"


def test_several_labels_a_row():
    """The most frequent set, and a logistic regression for each label, as scikit-learn has them."""
    task = define_task("custom", "labels", ("text",), ("good", "long", "never"))
    random, words = np.random.default_rng(0), ["good", "long", "film", "plot", "the"]
    rows = []
    for k in range(60):
        text = random.choice(words, 4)
        rows.append(Row(k, (" ".join(text),), (int("good" in text), int("long" in text), 0)))
    parts = {"train": rows[:40], "val": rows[40:]}
    majority, tfidf = compute_baselines(task, parts)
    sets = [row.label for row in parts["train"]]
    usual = max(set(sets), key=lambda label: (sets.count(label), tuple(-x for x in label)))
    true = np.array([row.label for row in parts["val"]])
    exact = accuracy_score(true, np.tile(usual, (20, 1)))
    assert majority.scores["val/exact_match"] == pytest.approx(exact)
    assert tfidf.scores["val/micro_f1"] > max(0.9, majority.scores["val/micro_f1"])
    assert tfidf.note == "TF-IDF, logistic regression on 40 rows"
    alike = {"train": [Row(0, ("a",), (1, 0, 0)), Row(1, ("b",), (1, 0, 0))], "val": rows[40:]}
    for baseline in compute_baselines(task, alike):
        expected = f1_score(true, np.tile([1, 0, 0], (20, 1)), average="micro")
        assert baseline.scores["val/micro_f1"] == pytest.approx(expected)
