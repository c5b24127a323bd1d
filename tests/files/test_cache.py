"""The folder of what is kept between runs."""

from pathlib import Path

import pytest

from bort.errors import BortError
from bort.files.cache import locate_cache


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BORT_CACHE", str(tmp_path))
    assert locate_cache() == tmp_path
    for unset in (
        lambda: monkeypatch.setenv("BORT_CACHE", ""),
        lambda: monkeypatch.delenv("BORT_CACHE"),
    ):
        unset()
        assert locate_cache() == Path.home() / ".cache" / "bort"


def test_the_cache_is_asked_for_a_home_only_where_it_needs_one(monkeypatch, tmp_path):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setenv("BORT_CACHE", str(tmp_path))
    assert locate_cache() == tmp_path
    monkeypatch.delenv("BORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locate_cache() == tmp_path / "bort"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(BortError, match="no home folder .* set BORT_CACHE=FOLDER"):
        locate_cache()
