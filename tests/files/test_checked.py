"""JSON with a check value and arrays with a digest: what was changed is refused."""

import json

import numpy as np
import pytest

from bort.errors import BortError
from bort.files.checked import load_array, read_checked, save_array, write_checked


def test_what_was_written_is_read(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"x": "é"}}
    write_checked(tmp_path / "file.json", content)
    assert read_checked(tmp_path / "file.json", "remove it") == content
    written = json.loads((tmp_path / "file.json").read_text("utf-8"))
    assert written.keys() == {"a", "b", "check"}


@pytest.mark.parametrize("changed", ['{"a": 2}', '{"a": 2, "check": 1}', "[]", "{", "null"])
def test_a_changed_file_is_refused(tmp_path, changed):
    (tmp_path / "file.json").write_text(changed)
    with pytest.raises(BortError, match="file.json was changed, damaged .*; remove it"):
        read_checked(tmp_path / "file.json", "remove it")


def test_an_array_and_its_digest(tmp_path):
    array = np.arange(5.0)
    digest = save_array(tmp_path / "a.npy", array)
    assert np.array_equal(load_array(tmp_path / "a.npy", digest, "remove it"), array)
    np.save(tmp_path / "a.npy", array + 1)
    with pytest.raises(BortError, match="a.npy is missing, changed or damaged; remove it"):
        load_array(tmp_path / "a.npy", digest, "remove it")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(BortError, match="a.npy is missing"):
        load_array(tmp_path / "a.npy", digest, "remove it")
