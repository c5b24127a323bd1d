"""The cache of corpora: when one is built again, and how a damaged one is found."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pretraining_helpers import documents, left_behind, near_copies, teacher, words

from bort.errors import BortError
from bort.pretraining import corpus as module


def test_built_once(tmp_path, make, monkeypatch):
    path = words(tmp_path)
    first = make(path)
    before = [(f.name, f.stat().st_mtime_ns) for f in left_behind(tmp_path)]
    monkeypatch.setattr(module, "write_corpus", lambda *a: pytest.fail("built again"))
    again = make(path, length=32, batch_size=4, mask_rate=0.15)  # of no concern to the corpus
    assert [(f.name, f.stat().st_mtime_ns) for f in left_behind(tmp_path)] == before
    assert np.array_equal(first.train, again.train) and isinstance(again.train, np.memmap)
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()


def test_what_changes_the_text_changes_the_fingerprint(shared, tmp_path, make):
    path = words(tmp_path)
    prints = [make(path).info.fingerprint]
    for settings in (
        {"vocab_size": 310},
        {"val_fraction": 0.5},
        {"sample_by": "file"},
        {"tokenizer": teacher(shared, "roberta-tiny")},
        {"tokenizer": teacher(shared, "bert-tiny")},
    ):
        tokenizer = settings.pop("tokenizer", None)
        prints.append(make(path, tokenizer, **settings).info.fingerprint)
    os.utime(path, ns=(1, 1))
    prints.append(make(path).info.fingerprint)
    assert len(set(prints)) == 7


def test_text_of_equal_size_and_time_is_another_one(tmp_path, make):
    path = words(tmp_path)
    first, stat = make(path), path.stat()
    path.write_text(path.read_text().replace("Line", "Lime"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert documents(make(path))[0].startswith("Lime") and documents(first)[0].startswith("Line")


def test_streams_change_only_with_the_version_of_the_corpus(tmp_path, make):
    """Where this fails, `corpus.VERSION` must be raised: kept corpora are of older code.

    The digest is of tokenizers 0.23; another version may train another vocabulary.
    """
    if not importlib.metadata.version("tokenizers").startswith("0.23."):
        pytest.skip("another version of tokenizers")
    info = make(near_copies(tmp_path, 1), val_fraction=0.2).info
    assert (module.VERSION, info.digest) == (3, "3714fc8b4892498e")


def damage(path: Path, rng: np.random.Generator) -> None:
    """One of the ways in which a file is no longer what was written; its size may stay."""
    content = bytearray(path.read_bytes())
    kind = rng.integers(7)
    if kind == 0:
        content = content[: rng.integers(len(content))]
    elif kind == 1:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        content = bytearray(len(content))
    elif kind == 3:
        content = bytearray(b"[" * 100_000)
    elif kind == 4:
        content = bytearray(rng.choice([b"[]", b"{}", b"3", b"null", b'"text"', b'{"content": 1}']))
    elif kind == 5:
        content.reverse()
    path.unlink()
    if kind < 6:
        path.write_bytes(content)


def test_a_damaged_folder_is_never_opened(tmp_path, make):
    """A hundred ways, in each file of it."""
    folder, rng = make(words(tmp_path), val_fraction=0.2).folder, np.random.default_rng(0)
    files = sorted(folder.iterdir())
    assert {"info.json", "train.bin", "val.bin", "tokenizer.json"} <= {file.name for file in files}
    info = module.open_corpus(folder, None).info
    for number in range(100):
        file = files[number % len(files)]
        content = file.read_bytes()
        damage(file, rng)
        corpus = module.open_corpus(folder, None)
        # a changed space in info.json is no damage
        assert corpus is None or (file.name == "info.json" and corpus.info == info)
        file.write_bytes(content)
    assert module.open_corpus(folder, None)


@pytest.mark.parametrize("name", ["info.json", "train.bin", "tokenizer.json"])
def test_a_damaged_folder_is_built_again(tmp_path, make, name):
    path = words(tmp_path)
    folder = make(path).folder
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / name).write_bytes(bytes(len(content[name])))
    make(path)
    assert f"{folder} is damaged or incomplete; it is built again" in make.said[0]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == content
    assert left_behind(tmp_path) == [folder]


def test_two_at_once_do_not_clash(tmp_path, make, monkeypatch):
    path, write, inner = words(tmp_path), module.write_streams, []

    def interrupted(*arguments):
        info = write(*arguments)
        if not inner:  # another process builds the same corpus and is done first
            inner.append(True)
            inner.append(make(path))
        return info

    monkeypatch.setattr(module, "write_streams", interrupted)
    corpus = make(path)
    assert corpus.folder == inner[1].folder and np.array_equal(corpus.train, inner[1].train)
    assert left_behind(tmp_path) == [corpus.folder]


def test_builds_of_dead_processes_are_removed(tmp_path, make):
    path = words(tmp_path)
    folder = make(path).folder
    shutil.rmtree(folder)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node()
    digits = "0123456789abcdef"
    names = [f"{dead.pid}-{digits}@{host}", f"{os.getpid()}-{digits}@{host}"]
    names += [f"{dead.pid}-{digits}@another.node", f"{dead.pid}-mine@{host}"]
    for name in names:
        (folder.parent / f".{folder.name}.new-{name}").mkdir()
    make(path)
    kept = [f".{folder.name}.new-{name}" for name in names[1:]]
    assert {f.name for f in left_behind(tmp_path)} == {folder.name, *kept}


def test_text_that_changes_while_it_is_read(tmp_path, make, monkeypatch):
    path, write = words(tmp_path), module.write_streams

    def slow(*arguments):
        os.utime(path, ns=(5, 5))
        return write(*arguments)

    monkeypatch.setattr(module, "write_streams", slow)
    with pytest.raises(BortError, match="changed while it was read"):
        make(path)
    assert not left_behind(tmp_path)


def test_a_full_or_forbidden_disk_is_one_line(tmp_path, make, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(BortError, match="corpus: .*cache.*use another folder"):
        make(words(tmp_path))
    (tmp_path / "cache").unlink()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_streams", full)
    with pytest.raises(BortError, match="No space left on device.*cache"):
        make(words(tmp_path))
    assert not left_behind(tmp_path)
