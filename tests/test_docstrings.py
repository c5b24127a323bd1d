"""The embedded task: its rows give no answer away."""

from pathlib import Path

import pytest

from bort import docstrings
from bort.errors import BortError


@pytest.fixture(scope="module")
def few():
    """Ten rows of three packages, with the files that they were taken from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docstrings, "CLASSES", ("python", "numpy", "pandas"))
        patch.setattr(docstrings, "ROWS", {"train": 12, "val": 4, "test": 4})
        yield


def test_rows_are_balanced_distinct_and_nameless(few, tmp_path):
    task, rows = docstrings.read(tmp_path)
    assert task.labels == ("python", "numpy", "pandas") and task.kind == "classes"
    for split, count in {"train": 12, "val": 4, "test": 4}.items():
        labels = [row.label for row in rows[split]]
        assert [labels.count(label) for label in range(3)] == [count] * 3
        assert [row.index for row in rows[split]] == list(range(3 * count))
    texts = [row.texts[0] for split in rows.values() for row in split]
    assert len(set(texts)) == len(texts)
    words = {"python", "numpy", "np", "pandas", "pd"}
    for text in texts:
        assert not words & {"".join(c for c in w if c.isalpha()) for w in text.lower().split()}


def test_all_docstrings_of_a_file_are_in_one_split(few, tmp_path):
    _, rows = docstrings.read(tmp_path)
    split_of = {row.texts[0]: split for split, found in rows.items() for row in found}
    owners: dict[str, set[str]] = {}
    for package in docstrings.CLASSES:
        for file in docstrings.python_files(package):
            if "…" in file or not Path(file).stat().st_size:
                continue
            for text in docstrings.docstrings(file):
                key = docstrings.NAMES.sub("…", text[: docstrings.LONGEST])
                if key in split_of:
                    owners.setdefault(file, set()).add(split_of[key])
    assert len(owners) > 10
    crossing = [file for file, splits in owners.items() if len(splits) > 1]
    # a text may stand in two files; a file's own rows must not be in two splits
    assert len(crossing) <= 2, crossing


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
