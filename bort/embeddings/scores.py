"""What embeddings are worth: pairs of STS-B by their cosine, and passages of QNLI by a question.

No label is learnt from here. Letters: N texts or pairs, E numbers of an embedding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from bort.console import decimal
from bort.errors import BortError
from bort.runs.baselines import Baseline
from bort.tasks.baselines import ABSENT, TOKEN
from bort.tasks.reading import has_files, read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import Row

Embed = Callable[[Sequence[str]], np.ndarray]  # texts → embeddings (N, E)
SIMILARITY, RETRIEVAL = "glue/stsb", "glue/qnli"  # the tasks whose validation rows are scored
NEAREST = 10  # passages among which the right one counts as retrieved
BLOCK = 1024  # questions that are compared with all passages at once


@dataclass(frozen=True)
class SimilaritySet:
    """Pairs of texts, and how alike people find them."""

    first: list[str]
    second: list[str]
    labels: np.ndarray  # (N,)
    name = "val_stsb/spearman"

    def score(self, embed: Embed) -> float | None:
        """Return Spearman's correlation of cosines and labels; None where it is not defined."""
        vectors = embed([*self.first, *self.second])
        first, second = np.split(_scale(vectors), 2)
        return compute_spearman((first * second).sum(1), self.labels)

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return [*self.first, *self.second]


@dataclass(frozen=True)
class RetrievalSet:
    """Questions, distinct passages, and which passage answers each question."""

    questions: list[str]
    passages: list[str]
    answers: np.ndarray  # (N,) places in `passages`
    name = f"val_qnli/recall_at_{NEAREST}"

    def score(self, embed: Embed) -> float | None:
        """Return the share of questions whose passage is among the NEAREST by cosine.

        None where there are no questions.
        """
        if not self.questions:
            return None
        vectors = _scale(embed([*self.questions, *self.passages]))
        questions, passages = np.split(vectors, [len(self.questions)])
        ranks = np.empty(len(questions), dtype=np.int64)
        for start in range(0, len(questions), BLOCK):
            part = slice(start, start + BLOCK)
            cosines = questions[part] @ passages.T
            right = cosines[np.arange(len(cosines)), self.answers[part]]
            ranks[part] = (cosines > right[:, None]).sum(1)
        return float((ranks < NEAREST).mean())

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return [*self.questions, *self.passages]


Sets = Sequence[SimilaritySet | RetrievalSet]


def read_sets(root: str | None) -> list[SimilaritySet | RetrievalSet]:
    """Read the sets whose official files lie below `data.root`; none where there is no root.

    Raises BortError for a root without any of them, and for damaged files.
    """
    if root is None:
        return []
    folder = Path(root).expanduser()
    builders = {SIMILARITY: build_similarity_set, RETRIEVAL: build_retrieval_set}
    sets = []
    for name, build in builders.items():
        task = find_task(name)
        task = replace(task, splits={"val": task.splits["val"]})
        if has_files(task, folder):
            sets.append(build(read_rows(task, folder)["val"]))
    if not sets:
        raise BortError(
            f"data.root={root} has no STS-B/dev.tsv and no QNLI/dev.tsv, on which task=embed is "
            "scored; leave it out, or give the folder above them"
        )
    return sets


def build_similarity_set(rows: Sequence[Row]) -> SimilaritySet:
    """Take the pairs and their labels out of rows."""
    first, second = map(list, zip(*(row.texts for row in rows), strict=True))
    return SimilaritySet(first, second, np.array([row.label for row in rows], dtype=float))


def build_retrieval_set(rows: Sequence[Row]) -> RetrievalSet:
    """Take questions and the passages that answer them out of rows of (question, passage).

    Rows whose passage holds no answer are left out; label 0 is entailment. A passage stands once,
    and so does a question.
    """
    answered = {row.texts[0]: row.texts[1] for row in rows if row.label == 0}
    passages = {passage: place for place, passage in enumerate(dict.fromkeys(answered.values()))}
    answers = np.array([passages[passage] for passage in answered.values()], dtype=np.int64)
    return RetrievalSet(list(answered), list(passages), answers)


def list_texts(sets: Sets) -> list[str]:
    """List all texts of the sets."""
    texts: list[str] = []
    for part in sets:
        texts += part.texts
    return texts


def score_sets(sets: Sets, embed: Embed) -> dict[str, float | None]:
    """Score embeddings on all sets, by the names that summary.json has."""
    return {part.name: part.score(embed) for part in sets}


def compute_spearman(answers: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute Spearman's correlation (N,) × (N,); None where either is the same everywhere."""
    first, second = (rankdata(values) - (len(values) + 1) / 2 for values in (answers, labels))
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale else None


def compare_cosines(student: np.ndarray, teacher: np.ndarray) -> float | None:
    """Compute Spearman's correlation of the cosines of all pairs of N texts.

    student, teacher: embeddings (N, E) of any widths. None where it is not defined.
    """
    above = np.triu_indices(len(student), 1)
    first, second = ((unit @ unit.T)[above] for unit in map(_scale, (student, teacher)))
    return compute_spearman(first, second)


def _scale(vectors: np.ndarray) -> np.ndarray:
    """Scale embeddings (N, E) to a length of 1; zero stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


# ------------------------------------------------------------------------------------ baselines


def describe_start(scores: dict[str, float | None]) -> Baseline:
    """Name the scores of a model before its training."""
    return Baseline("start", scores, "before the training")


def find_doubt(scores: Mapping[str, float | None], baselines: Iterable[Baseline]) -> dict[str, str]:
    """Say as `doubt`, for summary.json, which scores are below a baseline's; {} where none is."""
    lines = [
        f"{key} {decimal(score)} is below {decimal(simple)} of {baseline.title}"
        for baseline in baselines
        for key, simple in baseline.scores.items()
        if simple is not None and (score := scores.get(key)) is not None and score < simple
    ]
    return {"doubt": "; ".join(lines)} if lines else {}


def score_tfidf(sets: Sets) -> Baseline:
    """Score the cosine of TF-IDF vectors, whose words and weights are those of each set.

    Without scikit-learn there are no scores, and the note says what to install.
    """
    try:
        scores = {part.name: part.score(fit_tfidf(part.texts)) for part in sets}
    except ImportError:
        return Baseline("words", {}, ABSENT)
    return Baseline("words", scores, "the cosine of the texts' TF-IDF")


def fit_tfidf(texts: Sequence[str]) -> Embed:
    """Fit TF-IDF on texts; return what turns texts into vectors (N, V), which are dense.

    Raises ImportError without scikit-learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True, dtype=np.float32)
    vectorizer.fit(texts)
    return lambda rows: vectorizer.transform(rows).toarray()
