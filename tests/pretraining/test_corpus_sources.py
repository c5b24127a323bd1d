"""What a corpus reads: files, folders and the hub, or the docstrings of installed packages."""

import importlib
import importlib.metadata
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
from pretraining_helpers import documents, left_behind, words
from tiny_runs import log_lines

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.files.text_files import read_parquet_rows
from bort.pretraining import corpus as module
from bort.pretraining.corpus import build_corpus
from bort.text import docstrings, sources, splits

# ------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("name", ["docs.txt", "docs.jsonl"])
def test_only_line_feeds_end_a_record(shared, make, name):
    """Case D3."""
    path = shared / "cases" / "D3-line-separators" / name
    rows = path.read_bytes().removesuffix(b"\n").split(b"\n")
    texts = [json.loads(r)["text"] if name.endswith("l") else r.decode() for r in rows]
    corpus = make(path, length=16)
    assert len(texts) == corpus.info.documents == 4
    assert documents(corpus) == texts
    assert {"\u2028", "\u2029", "\x85", "\x0c", "\x1f"} <= set("".join(documents(corpus)))


def test_windows_line_ends_and_byte_order_mark_belong_to_no_text(tmp_path, make):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffFirst line of it.\r\n\r\nSecond\rline, with return.\r\r\n".encode())
    assert documents(make(path)) == ["First line of it.", "Second\rline, with return.\r"]


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", ["One one one.", "two two two", "  three three"]),
        ("paragraph", ["One one one.\ntwo two two", "  three three"]),
        ("file", ["One one one.\ntwo two two\n\n \t\n  three three\n"]),
    ],
)
def test_documents_of_a_plain_file(tmp_path, make, sample_by, expected):
    path = tmp_path / "a.md"
    path.write_text("One one one.\ntwo two two\n\n \t\n  three three\n")
    found = documents(make(path, sample_by=sample_by))
    assert [text.rstrip("\n") for text in found] == [text.rstrip("\n") for text in expected]


def test_parquet_is_read_by_row_groups(tmp_path, make):
    texts = [f"Row number {k} of the table." for k in range(50)]
    table = pa.table({"body": texts, "n": list(range(50))})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    assert documents(make(tmp_path / "a.parquet", text="body")) == texts


def test_parquet_mistakes_are_one_line(tmp_path, make):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"texts": ["first", None]}), path)
    with pytest.raises(BortError, match=r"a.parquet: no key 'text' .*did you mean 'texts'"):
        make(path)
    with pytest.raises(BortError, match="a.parquet, row 2: 'texts' is null"):
        make(path, text="texts")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BortError, match="not a whole parquet file"):
        make(path)
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("badutf", r"badutf\.parquet, row 8: b'caf\\xe9 au lait' is not UTF-8"),
        ("page", r"page\.parquet: damaged after row 0"),
        ("struct", r"struct\.parquet, row 1: 'text' is an object, not text"),
    ],
)
def test_damaged_parquet_is_one_line(shared, make, name, message):
    with pytest.raises(BortError, match=message):
        make(shared / "cases" / "N" / "N09-parquet-utf8" / f"{name}.parquet")


def test_equal_rows_of_parquet_are_one_text_in_memory(tmp_path):
    """A million rows of 3,000 characters in 20 kB."""
    path, text = tmp_path / "a.parquet", "river stone lamp " * 180
    pa.parquet.write_table(pa.table({"text": [text] * 1000}), path)
    rows = [row for (row,) in read_parquet_rows(path, ["text"])]
    assert rows == [text] * 1000 and len({id(row) for row in rows}) == 1


def test_what_a_folder_holds_and_is_not_read_is_told(shared, tmp_path, make):
    make(shared / "cases" / "N" / "N10-symlinked-folder" / "texts")
    assert make.said[0].startswith("corpus: not read in texts: c.csv, e.json, link; read are .txt")
    folder = tmp_path / "texts"
    folder.mkdir()
    words(folder)
    (folder / "linked").symlink_to(folder)  # a loop
    for k in range(9):
        (folder / f"{k}-{'x' * 100}.pdf").touch()
    assert make(folder).info.documents == 200
    assert "and 6 more" in make.said[0] and len(make.said[0]) <= 200
    assert "linked (a loop)" in sources.list_text_files(folder)[1]
    (folder / "words.txt").unlink()
    with pytest.raises(BortError, match="no text in it, only 0-xxx"):
        make(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(tmp_path, make, encoding):
    (tmp_path / "a.txt").write_bytes("Plain letters.\n".encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(BortError, match=rf"a\.txt: {name}, not UTF-8; convert .*iconv -f {name}"):
        make(tmp_path / "a.txt")


def test_folder_is_read_whole_and_blank_files_are_skipped(shared, make):
    """Case D5, good."""
    folder = shared / "cases" / "D5-file-folder" / "good"
    corpus = make(folder)
    expected = [*folder.glob("a.txt"), *folder.glob("sub/b.txt")]
    lines = [line for file in expected for line in file.read_text().split("\n") if line.strip()]
    assert len(expected) == 2
    assert documents(corpus) == list(dict.fromkeys(lines))


def test_hidden_and_other_files_are_left_alone(tmp_path, make):
    words(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_text("hidden words")
    (tmp_path / ".b.txt").write_text("hidden words")
    (tmp_path / "image.png").write_bytes(b"\xff\xfe")
    assert make(tmp_path).info.documents == 200


def test_mistakes_in_a_folder_are_one_line(shared, make, tmp_path):
    """Case D5, the others."""
    cases = shared / "cases" / "D5-file-folder"
    with pytest.raises(BortError, match=r"cafe\.txt: not UTF-8 at byte 6"):
        make(cases / "latin")
    with pytest.raises(BortError, match=r"no text in it"):
        make(cases / "nothing")
    with pytest.raises(BortError, match=r"no text in it"):
        make(tmp_path)  # holds no file at all
    with pytest.raises(BortError, match=r"short: (\d+) tokens for training, .*=128 needs 126"):
        make(cases / "short", length=128)
    assert not left_behind(tmp_path)


def test_byte_offset_counts_from_the_start_of_the_file(tmp_path, make):
    (tmp_path / "a.txt").write_bytes(b"first line\r\nsecond\ncaf\xe9\n")
    with pytest.raises(BortError, match=r"not UTF-8 at byte 22; convert the file \(line 3\)"):
        make(tmp_path)


def test_each_bad_row_is_named(shared, make, tmp_path):
    """Case D5, badrows: line 2, then what was line 3, then what was line 4."""
    path = shared / "cases" / "D5-file-folder" / "badrows" / "docs.jsonl"
    with pytest.raises(BortError, match=r"docs\.jsonl, line 2: not JSON"):
        make(path)
    lines = path.read_text().split("\n")
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join([lines[0], "", *lines[2:]]))
    with pytest.raises(BortError, match=r"docs\.jsonl, line 3: no key 'text' \(it has body\)"):
        make(path)
    path.write_text("\n".join([lines[0], "", "", *lines[3:]]))
    with pytest.raises(BortError, match=r"docs\.jsonl, line 4: 'text' is null"):
        make(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'["text"]', "line 1: a list, not an object"),
        (b'{"text": 3}', "line 1: 'text' is a whole number, not text"),
        (b'{"text": {"a": 3}}', "line 1: 'text' is an object, not text"),
        (b'{"text": null}', "line 1: 'text' is null, not text"),
        (b"3", "line 1: a whole number, not an object"),
        (b'{"text": "\\ud83d"}', "line 1: 'text' has half a character"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
    ],
)
def test_rows_that_are_not_text(tmp_path, make, row, message):
    (tmp_path / "a.jsonl").write_bytes(row + b"\n")
    with pytest.raises(BortError, match=message) as caught:
        make(tmp_path / "a.jsonl")
    assert "\n" not in str(caught.value)


def test_missing_path_is_not_looked_up_on_the_hub(tmp_path, make, monkeypatch):
    monkeypatch.setattr(sources, "is_hub_reachable", lambda: pytest.fail("asked the hub"))
    path = words(tmp_path)
    with pytest.raises(BortError, match=r"no such file or folder; did you mean 'words\.txt'"):
        make(tmp_path / "wrds.txt")
    with pytest.raises(BortError, match="no such file or folder"):
        make("nowhere/else/text")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("wikitext", "docs/mine", "owner/name.jsonl", "../owner", "./a"):
        with pytest.raises(BortError, match="no such file or folder"):
            make(name)
    with pytest.raises(BortError, match="not a kind of file"):
        make(path.rename(path.with_suffix(".doc")))


def test_hub_name(make, monkeypatch):
    import datasets

    monkeypatch.setattr(sources, "is_hub_reachable", lambda: False)
    with pytest.raises(BortError, match="owner/name: .*hub cannot be reached"):
        make("owner/name")
    asked = []

    def load(name, subset, split, streaming, revision):
        asked.append((name, subset, split, streaming, revision))
        return iter([{"text": f"Row {k} of the hub's data set."} for k in range(9)])

    monkeypatch.setattr(sources, "is_hub_reachable", lambda: True)
    monkeypatch.setattr(sources, "find_revision", lambda name: "a1")
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert documents(make("owner/name:part"))[8] == "Row 8 of the hub's data set."
    assert set(asked) == {("owner/name", "part", "train", True, "a1")}


def test_a_data_set_of_the_hub_that_changed_is_another_corpus(make, monkeypatch):
    """Without a network the last revision that was seen is opened."""
    import datasets
    import huggingface_hub

    revisions, online = ["a1"], [True]
    monkeypatch.setattr(sources, "is_hub_reachable", lambda: online[0])
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "dataset_info",
        lambda self, name, timeout: SimpleNamespace(sha=revisions[0]),
    )

    def load(name, subset, split, streaming, revision):
        return iter([{"text": f"Row {k} of revision {revision}."} for k in range(9)])

    monkeypatch.setattr(datasets, "load_dataset", load)
    first = make("owner/changing")
    revisions[0] = "b2"
    assert documents(make("owner/changing"))[0] == "Row 0 of revision b2."
    online[0] = False
    assert documents(make("owner/changing"))[0] == "Row 0 of revision b2."
    online[0], revisions[0] = True, "a1"
    assert make("owner/changing").folder == first.folder


# ------------------------------------------------------------------------------------ docstrings


def test_docstrings_are_those_that_python_sees():
    """Against inspect on the imported modules, an independent reading of the same source."""
    for name in ("json", "textwrap", "json.decoder"):
        imported = importlib.import_module(name)
        holders = [imported]
        for _, item in inspect.getmembers(imported):
            if getattr(item, "__module__", None) == name:
                holders.append(item)
                holders += [m for _, m in inspect.getmembers(item, inspect.isfunction)]
        texts = {inspect.cleandoc(h.__doc__) for h in holders if h.__doc__}
        expected = {text for text in texts if len(text) > 200}
        assert expected and expected <= set(sources.parse_docstrings(imported.__file__))
    topics = importlib.import_module("pydoc_data.topics")
    found = sources.parse_docstrings(topics.__file__)
    assert {t for t in topics.topics.values() if len(t) > 200} == set(found) and len(found) > 50


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """A standard library of two modules and a package that must never be imported."""
    library, site = tmp_path / "library", tmp_path / "site"
    library.mkdir()
    for name in ("textwrap", "difflib"):
        shutil.copy(importlib.import_module(name).__file__, library)
    package = site / "bortfake"
    (package / "tests").mkdir(parents=True)
    (site / "bortfake-1.5.dist-info").mkdir()
    (site / "bortfake-1.5.dist-info" / "METADATA").write_text("Name: bortfake\nVersion: 1.5\n")
    long = "A docstring of the fake package that is long enough to be taken. " * 5
    other = "Another docstring with \\d an escape that Python warns about. " * 5
    (package / "__init__.py").write_text(f'"""{long}"""\nraise SystemExit("was imported")\n')
    (package / "b.py").write_text(f'class A:\n    "{other}"\n    def f(self):\n        "Short."\n')
    (package / "copy.py").write_text(f'"""{long}"""\n')
    (package / "broken.py").write_text(f'"""{long}""" is not Python\n')
    (package / "tests" / "c.py").write_text(f'"""Of a test: {long}"""\n')
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sources.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(docstrings, "PACKAGES", ("bortabsent", "bortfake"))
    return long.strip(), other.strip().replace("\\\\", "\\")


def test_docstrings_of_a_file_are_in_one_split(installation, tmp_path):
    source = docstrings.make_docstring_source(lambda *a, **k: None)
    groups = {document.group for document in source.read()}
    assert {"bortfake/b.py", "python/difflib.py"} <= groups
    for group in groups:
        of_it = [document for document in source.read() if document.group == group]
        assert len({splits.split_document(document, 0.5)[0].split for document in of_it}) == 1


def test_docstring_corpus(installation, tmp_path):
    said, data = log_lines(), DataConfig(length=16, vocab_size=300, val_fraction=0.0)
    corpus = build_corpus(data, tmp_path / "cache")
    texts = [text.strip() for text in documents(corpus)]
    assert set(installation) <= set(texts) and corpus.info.duplicates == 1
    import difflib

    assert inspect.getdoc(difflib.SequenceMatcher) in texts
    assert not any("Of a test" in text for text in texts)
    assert corpus.info.packages == {"bortfake": "1.5"}
    assert "docstrings of 2 packages" in said[0]
    source = docstrings.make_docstring_source(lambda *a, **k: None)
    assert source.size == 0 and source.read() is source.read()  # parsed once
    assert source.size == sum(len(document.text) for document in source.read()) > 1000


def test_a_new_version_is_a_new_corpus(installation, tmp_path):
    data = DataConfig(length=16, vocab_size=300, val_fraction=0.0)
    first = build_corpus(data, tmp_path / "cache")
    old = tmp_path / "site" / "bortfake-1.5.dist-info"
    (old / "METADATA").write_text("Name: bortfake\nVersion: 1.6\n")
    second = build_corpus(data, tmp_path / "cache")
    assert second.info.packages == {"bortfake": "1.6"}
    assert first.folder != second.folder


def test_reading_workers_import_nothing_heavy():
    code = "import sys, bort.pretraining.corpus; print(*sys.modules)"
    root = Path(module.__file__).parents[1]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    heavy = {"torch", "transformers", "tokenizers", "lightning", "datasets", "pandas", "pyarrow"}
    modules = set(loaded.stdout.split())
    assert "bort.pretraining.corpus" in modules and not heavy & modules
