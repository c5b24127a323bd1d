"""Kept files are read back as they were written, and not at all after any change."""

import json

import numpy as np
import pytest

from bort.files.digests import hash_file, read_array, read_sealed, write_array, write_sealed


def test_the_digest_is_the_published_one(tmp_path):
    """XXH3 with 128 bits of the empty input, from the vectors of its specification."""
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert hash_file(path) == "99aa06d3014798d86001c324468d497f"
    path.write_bytes(b"x")
    assert hash_file(path) != "99aa06d3014798d86001c324468d497f"


def test_sealed_json_is_read_until_a_value_changes(tmp_path):
    path = tmp_path / "a.json"
    assert read_sealed(path) is None
    write_sealed(path, {"steps": 7, "name": "ö"})
    assert read_sealed(path) == {"steps": 7, "name": "ö"}
    sealed = json.loads(path.read_text())
    path.write_text(json.dumps(sealed))  # other spaces, the same content
    assert read_sealed(path) == {"steps": 7, "name": "ö"}
    sealed["content"]["steps"] = 8
    path.write_text(json.dumps(sealed))
    assert read_sealed(path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"content": {}}', b"\xff", b"[" * 100_000])
def test_what_is_no_sealed_json_is_none(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_sealed(tmp_path / "a.json") is None


def test_an_array_is_read_until_a_byte_changes(tmp_path):
    path, array = tmp_path / "a.npy", np.arange(6, dtype=np.uint16).reshape(2, 3)
    assert read_array(path) is None
    write_array(path, array)
    for values in (read_array(path), np.load(path)):
        assert values.dtype == np.uint16 and values.tolist() == [[0, 1, 2], [3, 4, 5]]
    content = path.read_bytes()
    for place in (0, len(content) - 20, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert read_array(path) is None
    for size in (0, 10, len(content) - 1):
        path.write_bytes(content[:size])
        assert read_array(path) is None
