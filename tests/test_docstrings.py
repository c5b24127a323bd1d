"""The embedded task: its rows give no answer away."""

import os

import pytest

from bort import agora, docstrings
from bort.errors import BortError


@pytest.fixture(scope="module")
def few():
    """Rows of three packages, with the files that they were taken from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docstrings, "CLASSES", ("python", "numpy", "pandas"))
        patch.setattr(docstrings, "ROWS", {"train": 90, "val": 15, "test": 15})
        yield


def test_rows_are_balanced_distinct_and_nameless(few, tmp_path):
    task, rows = docstrings.read(tmp_path)
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
    task, rows = docstrings.read(tmp_path)
    files = {
        f"{package}/{os.path.relpath(file, os.path.commonpath(found))}": file
        for package in docstrings.CLASSES
        for found in [docstrings.python_files(package)]
        for file in found
    }
    for row in (row for split in rows.values() for row in split):
        held = docstrings.docstrings(files[row.group])
        assert row.texts[0] in {docstrings.NAMES.sub("…", t[: docstrings.LONGEST]) for t in held}
        assert row.group.startswith(task.labels[row.label] + "/")
    D, E = agora.split(task, rows["train"], 0.2)
    groups = [{row.group for row in part} for part in (D, E, rows["val"], rows["test"])]
    assert sum(map(len, groups)) == len(set.union(*groups)) > 12 and E


def test_the_second_time_they_come_from_the_cache(few, tmp_path, monkeypatch):
    first = docstrings.read(tmp_path)
    monkeypatch.setattr(docstrings, "docstrings", lambda file: pytest.fail("parsed again"))
    assert docstrings.read(tmp_path) == first
    monkeypatch.setattr(docstrings, "LONGEST", 100)
    with pytest.raises(pytest.fail.Exception):
        docstrings.read(tmp_path)


def test_one_package_is_no_task(tmp_path, monkeypatch):
    monkeypatch.setattr(docstrings, "CLASSES", ("python", "not-installed"))
    with pytest.raises(BortError, match="task=docstrings needs two of python, not-installed"):
        docstrings.read(tmp_path)


def test_names_are_taken_out():
    text = "Return a numpy.ndarray (NumPy), see np.array, torch.nn, PyTorch; nparts, spam stay."
    assert docstrings.NAMES.sub("…", text) == (
        "Return a ….… (…), see ….array, ….nn, …; nparts, spam stay."
    )
