"""Baselines: what the most frequent label and word counts score on a task's validation sets.

A model that took an hour should beat a linear model that takes seconds. Letters: N rows.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from scipy import sparse

from bort.console import counted, decimal
from bort.runs.baselines import Baseline
from bort.tasks.encoding import join_texts
from bort.tasks.metrics import compute_scores, is_falling, quote_label
from bort.tasks.task import Row, Task

# Characters of training text that TF-IDF reads, which takes it about five seconds; with many
# classes fewer, since each of them has a linear model of its own.
MOST_CHARACTERS = 5_000_000
MOST_CHARACTERS_TIMES_CLASSES = 60_000_000
# Words, but each sign of a script that writes no spaces alone.
TOKEN = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"
STRENGTH = 10.0  # of the data against the regularisation, in logistic regression
ABSENT = "left out: it needs scikit-learn (pip install scikit-learn)"
Answer = Callable[[list[Row]], np.ndarray]  # answers rows by numbers (N,), several labels (N, L)


def compute_baselines(task: Task, rows: Mapping[str, list[Row]]) -> list[Baseline]:
    """Compute what simple answers score on the validation sets of a task.

    The first baseline gives all rows the most frequent label of the training rows, or the most
    frequent set where a row has several, the mean of their numbers, or, in ReCoRD, the first entity
    of each query. The second is TF-IDF, see
    `fit_tfidf`. The same rows always give the same numbers. A task without training rows has none.
    """
    if "train" not in rows:
        return []
    sets = {name: part for name, part in rows.items() if name.startswith("val")}
    name, answer, note = _choose_constant(task, rows["train"])

    def repeat(part: list[Row]) -> np.ndarray:
        return np.array([answer] * len(part))

    constant = Baseline(name, _score_sets(task, sets, repeat), note)
    if task.kind not in ("classes", "regression", "labels") or task.form == "record":
        kind = "entities" if task.form == "record" else task.kind
        return [constant, Baseline("tfidf", {}, f"left out: not for a task of {kind}")]
    return [constant, _score_tfidf(task, rows["train"], sets)]


def add_baselines(values: dict[str, Any], baselines: Iterable[Baseline]) -> dict[str, Any]:
    """Add baselines to the flat summary of a fine-tuning, and to its doubt those that are better.

    values: with `metric`, the key of the score by which they are compared.
    """
    metric, doubts = values["metric"], [values[key] for key in ("doubt",) if key in values]
    for baseline in baselines:
        values = values | baseline.to_json()
        score, simple = values.get(metric), baseline.scores.get(metric)
        if score is None or simple is None:
            continue
        worse, side = (score > simple, "above") if is_falling(metric) else (score < simple, "below")
        if worse:
            simply = f"{decimal(simple)} of {baseline.title}"
            doubts.append(f"{metric} {decimal(score)} is {side} {simply}")
    return values | ({"doubt": "; ".join(doubts)} if doubts else {})


def _choose_constant(task: Task, train: list[Row]) -> tuple[str, float | tuple, str]:
    """Choose the one answer for all rows; return the baseline's name, the answer and a note."""
    labels = [row.label for row in train]
    if task.form == "record":
        return "first", 0.0, "of equal scores the first counts"
    if task.kind == "regression":
        mean = float(np.mean(labels))
        return "mean", mean, f"{mean:.6g} for every row"
    counts = Counter(labels)
    label = min(counts, key=lambda k: (-counts[k], k))  # the first of equally frequent ones
    return "majority", label, f"{quote_label(task, label)} for every row"


def _score_sets(task: Task, sets: dict[str, list[Row]], answer: Answer) -> dict[str, float | None]:
    """Score answers to the validation sets, by `SPLIT/METRIC`."""
    scores: dict[str, float | None] = {}
    for name, part in sets.items():
        values = compute_scores(task, part, answer(part))
        scores |= {f"{name}/{metric}": value for metric, value in values.items()}
    return scores


# ------------------------------------------------------------------------------------ TF-IDF


def _score_tfidf(task: Task, train: list[Row], sets: dict[str, list[Row]]) -> Baseline:
    """Fit TF-IDF on training rows and score it; without scikit-learn, say what to install."""
    chosen = choose_rows(task, train)
    try:
        answer = fit_tfidf(task, chosen)
    except ImportError:
        return Baseline("tfidf", {}, ABSENT)
    if answer is None:
        return Baseline("tfidf", {}, "left out: there are no words in the training rows")
    model = "ridge" if task.kind == "regression" else "logistic"
    of_all = "" if len(chosen) == len(train) else f"{len(chosen):,} of "
    note = f"TF-IDF, {model} regression on {of_all}{counted(len(train), 'row')}"
    return Baseline("tfidf", _score_sets(task, sets, answer), note)


def choose_rows(task: Task, train: list[Row]) -> list[Row]:
    """Choose the training rows that TF-IDF reads: all, or as many at random as take seconds.

    The choice is the same each time, and in the order of the rows.
    """
    most = MOST_CHARACTERS
    if task.kind != "regression":
        most = min(most, MOST_CHARACTERS_TIMES_CLASSES // len(task.labels))
    sizes = np.array([sum(map(len, row.texts)) for row in train])
    if sizes.sum() <= most:
        return train
    order = np.random.default_rng(0).permutation(len(train))
    count = max(1, int(np.searchsorted(sizes[order].cumsum(), most, side="right")))
    return [train[number] for number in sorted(order[:count])]


def fit_tfidf(task: Task, train: list[Row]) -> Answer | None:
    """Fit a linear model on the TF-IDF of words; None where the rows have no words.

    Single texts are words and pairs of neighbouring words. Rows with two texts (see `join_texts`)
    are the words of the first, those of the second, the differences between both without their
    sign, and the cosine: a linear model of the words of both alone could not tell whether they say
    the same. Classes are told apart by logistic regression, one against all others where there are
    more than two or a row has several; numbers by ridge regression. Raises ImportError without
    scikit-learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    inputs = [join_texts(task, row)[0] for row in train]
    longest = 1 if len(inputs[0]) == 2 else 2  # words of a feature
    vectorizer = TfidfVectorizer(
        token_pattern=TOKEN, ngram_range=(1, longest), sublinear_tf=True, dtype=np.float64
    )
    try:
        vectorizer.fit(chain.from_iterable(inputs))
    except ValueError:  # its word for an empty vocabulary
        return None
    labels = np.array([row.label for row in train])
    if task.kind == "regression":
        model = Ridge(alpha=1.0, solver="sparse_cg", random_state=0)
    elif len(np.unique(labels)) == 1:
        return lambda rows: np.array([labels[0]] * len(rows))
    else:
        model = LogisticRegression(C=STRENGTH, solver="liblinear", random_state=0)
        is_one_of_two = task.kind != "labels" and len(set(labels)) == 2
        model = model if is_one_of_two else OneVsRestClassifier(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that is nearly at its end is good enough here
        model.fit(_build_features(vectorizer, inputs), labels)

    def answer(rows: list[Row]) -> np.ndarray:
        texts = [join_texts(task, row)[0] for row in rows]
        return model.predict(_build_features(vectorizer, texts))

    return answer


def _build_features(vectorizer: Any, inputs: Sequence[tuple[str, ...]]) -> Any:
    """Build the features (N, F) of rows of one or two texts, as a sparse matrix."""
    columns = [vectorizer.transform(texts) for texts in zip(*inputs, strict=True)]
    if len(columns) == 1:
        return columns[0]
    first, second = columns
    cosine = sparse.csr_matrix(first.multiply(second).sum(axis=1))
    return sparse.hstack([first, second, abs(first - second), cosine]).tocsr()
