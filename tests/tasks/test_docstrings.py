"""The embedded task: its rows give no answer away."""

import os

import pytest

from bort.agora import dataset as agora
from bort.errors import BortError
from bort.tasks.docstrings import read_docstring_task
from bort.text import docstrings
from bort.text.sources import list_python_files, parse_docstrings


@pytest.fixture(scope="module")
def few():
    """Rows of three packages, with the files that they were taken from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docstrings, "CLASSES", ("python", "numpy", "pandas"))
        patch.setattr(docstrings, "ROWS", {"train": 90, "val": 15, "test": 15})
        yield


def test_rows_are_balanced_distinct_and_nameless(few, tmp_path):
    task, rows = read_docstring_task(tmp_path)
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
    task, rows = read_docstring_task(tmp_path)
    files = {
        f"{package}/{os.path.relpath(file, os.path.commonpath(found))}": file
        for package in docstrings.CLASSES
        for found in [list_python_files(package)]
        for file in found
    }
    for row in (row for split in rows.values() for row in split):
        held = parse_docstrings(files[row.group])
        assert row.texts[0] in {docstrings.NAMES.sub("…", t[: docstrings.LONGEST]) for t in held}
        assert row.group.startswith(task.labels[row.label] + "/")
    D, E = agora.split_rows(task, rows["train"], 0.2)
    groups = [{row.group for row in part} for part in (D, E, rows["val"], rows["test"])]
    assert sum(map(len, groups)) == len(set.union(*groups)) > 12 and E


def test_the_second_time_they_come_from_the_cache(few, tmp_path, monkeypatch):
    first = read_docstring_task(tmp_path)
    parse = "bort.tasks.docstrings.parse_docstrings"
    monkeypatch.setattr(parse, lambda file: pytest.fail("parsed again"))
    assert read_docstring_task(tmp_path) == first
    monkeypatch.setattr(docstrings, "LONGEST", 100)
    with pytest.raises(pytest.fail.Exception):
        read_docstring_task(tmp_path)


def test_one_package_is_no_task(tmp_path, monkeypatch):
    monkeypatch.setattr(docstrings, "CLASSES", ("python", "not-installed"))
    with pytest.raises(BortError, match="task=docstrings needs two of python, not-installed"):
        read_docstring_task(tmp_path)


def test_a_damaged_cache_is_made_again(few, tmp_path, capsys):
    first = read_docstring_task(tmp_path)
    (path,) = (tmp_path / "tasks").iterdir()
    content = path.read_bytes()
    for damaged in (content[:-9], bytes(len(content)), b"[" * 100_000, b"{}", b"3", content[::-1]):
        path.write_bytes(damaged)
        assert read_docstring_task(tmp_path) == first
        assert f"{path} is damaged; it is made again" in capsys.readouterr().out
