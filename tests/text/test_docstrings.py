"""The embedded corpus and the rows of the embedded task: no near-copies, no names."""

import numpy as np
import pytest

from bort.text import docstrings


@pytest.fixture
def made_up(monkeypatch) -> dict[str, dict[str, list[str]]]:
    """Docstrings of two packages of 60 files; every third is a near-copy of one of another file."""
    monkeypatch.setattr(docstrings, "ROWS", {"train": 40, "val": 20, "test": 20})
    rng = np.random.default_rng(0)
    parsed = {}
    for package in ("python", "numpy"):
        files = {}
        for file in range(60):
            texts = [" ".join(f"w{k}" for k in rng.integers(0, 9_000, 60)) for _ in range(3)]
            if file:
                texts[0] = files[f"/{package}/{file - 1}.py"][1] + f" of {file}"
            files[f"/{package}/{file}.py"] = texts
        parsed[package] = files
    return parsed


def test_rows_of_a_test_set_are_no_near_copies_of_training_rows(made_up):
    files = {package: list(found) for package, found in made_up.items()}
    picks = docstrings.pick_rows(list(made_up), files, docstrings.index_copies(made_up))
    assert [len(found) for found in picks.values()] == [80, 40, 40]
    for split, earlier in (("val", ["train"]), ("test", ["train", "val"])):
        before = {run for name in earlier for pick in picks[name] for run in word_runs(pick.text)}
        for pick in picks[split]:
            held = word_runs(pick.text)
            assert len(held & before) <= 0.1 * len(held)


def test_the_corpus_holds_no_text_of_the_tasks_test_sets(made_up):
    files = {package: list(found) for package, found in made_up.items()}
    picks = docstrings.pick_rows(list(made_up), files, docstrings.index_copies(made_up))
    documents = docstrings.drop_task_rows(made_up)
    whole = "\0".join(document.text for document in documents)
    rows = [pick for split in ("val", "test") for pick in picks[split]]
    assert rows and not any(pick.text in whole for pick in rows)
    assert not {document.group for document in documents} & {pick.file for pick in rows}
    near = {run for document in documents for run in word_runs(document.text)}
    assert max(len(word_runs(p.text) & near) / len(word_runs(p.text)) for p in rows) <= 0.2
    assert any(pick.text in whole for pick in picks["train"])
    count = sum(len(texts) for found in made_up.values() for texts in found.values())
    assert len(documents) > 0.4 * count


def word_runs(text: str) -> set:
    words = text.split()
    return {tuple(words[k : k + 11]) for k in range(len(words) - 10)}


def test_names_are_taken_out():
    text = "Return a numpy.ndarray (NumPy), see np.array, torch.nn, PyTorch; nparts, spam stay."
    assert docstrings.NAMES.sub("…", text) == (
        "Return a ….… (…), see ….array, ….nn, …; nparts, spam stay."
    )
