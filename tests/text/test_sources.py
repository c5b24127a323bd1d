"""Docstrings are read in processes of their own, and text from files however they lie there."""

import ast
import gzip
import json
import lzma
import sys
from types import ModuleType

import pyarrow
import pytest

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.text.sources import list_text_files, open_text, read_docstrings, walk_blocks


def test_a_script_without_a_guard_is_not_run_again(tmp_path, monkeypatch):
    """Spawned processes import the script that started them, unless they are kept from it."""
    script = tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'again')!r}, 'w').close()\n", "utf-8")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    found = read_docstrings(["omegaconf"], lambda line, now=False: None)
    assert any(texts for texts in found["omegaconf"].values())
    assert sys.modules["__main__"] is main and not (tmp_path / "again").exists()


NESTED = """
'm'
class A:
    'a'
    def f(self, x=lambda: 0):
        'f'
        with x:
            async def g():
                'g'
try:
    def h(): 'h'
except E:
    def i(): 'i'
else:
    for _ in range(3):
        def j(): 'j'
    else:
        class K: 'k'
finally:
    match x:
        case 1 if x:
            def l(): 'l'
if x:
    while y:
        def m(): return [n for n in range(3)]
"""


def test_no_statement_is_left_out():
    """All of them, in the order in which `ast.walk` finds them."""
    tree = ast.parse(NESTED)
    kinds = (ast.Module, ast.stmt, ast.excepthandler, ast.match_case)
    expected = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    assert list(walk_blocks(tree)) == expected and len(expected) > 25


def write_zst(path, content: bytes) -> None:
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(content)


def read_texts(path, **settings) -> list[str]:
    return [document.text for document in open_text(text_of(path, **settings)).read()]


def text_of(path, **settings) -> DataConfig:
    return DataConfig(source="text", path=str(path), **settings)


def test_compressed_files_give_the_documents_of_plain_ones(tmp_path):
    """All kinds of text, each as it is and by all three programs."""
    lines = [f"Text number {k} of the file." for k in range(40)]
    plain = "\n\n".join(lines).encode()
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()
    folder = tmp_path / "all"
    folder.mkdir()
    for name, content in (("a.txt", plain), ("b.md", plain), ("c.jsonl", rows)):
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        (folder / f"{name}.XZ").write_bytes(lzma.compress(content))
        write_zst(folder / f"{name}.zst", content)
    expected = read_texts(folder / "c.jsonl")
    assert expected == lines
    for file in folder.iterdir():
        assert read_texts(file, sample_by="paragraph") == lines, file.name
    assert read_texts(folder, sample_by="paragraph") == 12 * lines
    source = open_text(text_of(folder))
    source.read()
    assert source.size == 8 * len(plain) + 4 * len(rows)  # not of the compressed files


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_compressed_file_that_is_cut_is_named(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    content = "".join(f"{k * k * k}\n" for k in range(50_000)).encode()
    if suffix == ".zst":
        write_zst(path, content)
    else:
        path.write_bytes((gzip if suffix == ".gz" else lzma).compress(content))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BortError, match=rf"a\.txt{suffix} is cut: its {suffix}") as error:
        read_texts(path)
    assert "\n" not in str(error.value)


def test_linked_folders_are_read_once(tmp_path):
    """A folder outside, reached by two links; the folder itself; one above; and one beside it."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    for folder in (outside / "deep", root / "sub"):
        folder.mkdir(parents=True)
    (outside / "deep" / "a.txt").write_text("Outside.")
    (root / "sub" / "b.txt").write_text("Inside.")
    (root / "first").symlink_to(outside)
    (root / "second").symlink_to(outside)
    (root / "sub" / "up").symlink_to(root)
    (outside / "deep" / "back").symlink_to(outside)
    (root / "again").symlink_to(root / "sub")
    files, left_out = list_text_files(root)
    names = [file.relative_to(root).as_posix() for file in files]
    assert names == ["first/deep/a.txt", "sub/b.txt"]
    assert left_out == [
        *("again (read already)", "first/deep/back (a loop)", "second (read already)"),
        "sub/up (a loop)",
    ]
    assert read_texts(root) == ["Outside.", "Inside."]


def test_a_link_to_a_folder_that_holds_read_ones_adds_only_its_other_files(tmp_path):
    for name in ("all/texts", "all/more"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "all" / "texts" / "a.txt").write_text("First.")
    (tmp_path / "all" / "more" / "b.txt").write_text("Second.")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "all" / "texts")
    (root / "b").symlink_to(tmp_path / "all")
    files, left_out = list_text_files(root)
    assert [file.relative_to(root).as_posix() for file in files] == ["a/a.txt", "b/more/b.txt"]
    assert not left_out


def test_other_files_are_left_out(tmp_path):
    for name in ("a.txt", "b.tar.gz", "c.gz", "d.parquet.gz", "e.csv", "f.txt.zip"):
        (tmp_path / name).touch()
    files, left_out = list_text_files(tmp_path)
    assert [file.name for file in files] == ["a.txt"]
    assert left_out == ["b.tar.gz", "c.gz", "d.parquet.gz", "e.csv", "f.txt.zip"]
    with pytest.raises(BortError, match=r"b\.tar\.gz: not a kind of file"):
        list_text_files(tmp_path / "b.tar.gz")
