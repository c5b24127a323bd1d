"""The embedded task: its rows give no answer away."""

import os

import numpy as np
import pytest

from bort.agora import dataset as agora
from bort.errors import BortError
from bort.tasks import docstrings


@pytest.fixture(scope="module")
def few():
    """Rows of three packages, with the files that they were taken from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docstrings, "CLASSES", ("python", "numpy", "pandas"))
        patch.setattr(docstrings, "ROWS", {"train": 90, "val": 15, "test": 15})
        yield


def test_rows_are_balanced_distinct_and_nameless(few, tmp_path):
    task, rows = docstrings.read_docstring_task(tmp_path)
    assert task.labels == ("python", "numpy", "pandas") and task.kind == "classes"
    for split, count in {"train": 90, "val": 15, "test": 15}.items():
        labels = [row.label for row in rows[split]]
        assert [labels.count(label) for label in range(3)] == [count] * 3
        assert [row.index for row in rows[split]] == list(range(3 * count))
    texts = [row.texts[0] for split in rows.values() for row in split]
    assert len(set(texts)) == len(texts)
    words = {"python", "numpy", "np", "pandas", "pd"}
    for text in texts:
        assert not words & {"".join(c for c in w if c.isalpha()) for w in text.lower().split()}


def test_all_docstrings_of_a_file_are_in_one_split(few, tmp_path):
    """Each row names a file that holds its text; no two splits share a file, nor do D and E."""
    task, rows = docstrings.read_docstring_task(tmp_path)
    files = {
        f"{package}/{os.path.relpath(file, os.path.commonpath(found))}": file
        for package in docstrings.CLASSES
        for found in [docstrings.list_python_files(package)]
        for file in found
    }
    for row in (row for split in rows.values() for row in split):
        held = docstrings.parse_docstrings(files[row.group])
        assert row.texts[0] in {docstrings.NAMES.sub("…", t[: docstrings.LONGEST]) for t in held}
        assert row.group.startswith(task.labels[row.label] + "/")
    D, E = agora.split_rows(task, rows["train"], 0.2)
    groups = [{row.group for row in part} for part in (D, E, rows["val"], rows["test"])]
    assert sum(map(len, groups)) == len(set.union(*groups)) > 12 and E


def test_the_second_time_they_come_from_the_cache(few, tmp_path, monkeypatch):
    first = docstrings.read_docstring_task(tmp_path)
    monkeypatch.setattr(docstrings, "parse_docstrings", lambda file: pytest.fail("parsed again"))
    assert docstrings.read_docstring_task(tmp_path) == first
    monkeypatch.setattr(docstrings, "LONGEST", 100)
    with pytest.raises(pytest.fail.Exception):
        docstrings.read_docstring_task(tmp_path)


def test_one_package_is_no_task(tmp_path, monkeypatch):
    monkeypatch.setattr(docstrings, "CLASSES", ("python", "not-installed"))
    with pytest.raises(BortError, match="task=docstrings needs two of python, not-installed"):
        docstrings.read_docstring_task(tmp_path)


def test_a_damaged_cache_is_made_again(few, tmp_path, capsys):
    first = docstrings.read_docstring_task(tmp_path)
    (path,) = (tmp_path / "tasks").iterdir()
    content = path.read_bytes()
    for damaged in (content[:-9], bytes(len(content)), b"[" * 100_000, b"{}", b"3", content[::-1]):
        path.write_bytes(damaged)
        assert docstrings.read_docstring_task(tmp_path) == first
        assert f"{path} is damaged; it is made again" in capsys.readouterr().out


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
    picks = docstrings._pick_rows(list(made_up), files, docstrings._index_copies(made_up))
    assert [len(found) for found in picks.values()] == [80, 40, 40]
    for split, earlier in (("val", ["train"]), ("test", ["train", "val"])):
        before = {run for name in earlier for pick in picks[name] for run in word_runs(pick.text)}
        for pick in picks[split]:
            held = word_runs(pick.text)
            assert len(held & before) <= 0.1 * len(held)


def test_the_corpus_holds_no_text_of_the_tasks_test_sets(made_up):
    files = {package: list(found) for package, found in made_up.items()}
    picks = docstrings._pick_rows(list(made_up), files, docstrings._index_copies(made_up))
    documents = docstrings._drop_task_rows(made_up)
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
