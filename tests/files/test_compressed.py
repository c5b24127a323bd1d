"""Compressed text is streamed with little memory, and a file that is cut is named."""

import gzip
import lzma
import random
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pyarrow
import pytest

from bort.errors import BortError
from bort.files.compressed import estimate_text_size, open_text_stream, split_suffixes
from bort.files.json_lines import read_json_lines
from bort.files.tables import read_table

KINDS = (".gz", ".xz", ".zst")


def write(path: Path, content: bytes) -> Path:
    """Write a file as its name says, by other means than those that read it where there are any."""
    if path.suffix == ".zst" and shutil.which("zstd"):
        path.with_suffix("").write_bytes(content)
        subprocess.run(["zstd", "-q", "--rm", str(path.with_suffix(""))], check=True)
    elif path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    else:
        path.write_bytes(
            gzip.compress(content) if path.suffix == ".gz" else lzma.compress(content, preset=1)
        )
    return path


def read(path: Path) -> bytes:
    with open_text_stream(path) as stream:
        return stream.read()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", (".txt", "")),
        ("a.JSONL.GZ", (".jsonl", ".gz")),
        ("a.tar.xz", (".tar", ".xz")),
        ("a.zst", ("", ".zst")),
        ("a", ("", "")),
    ],
)
def test_names_say_what_a_file_holds(name, expected):
    assert split_suffixes(Path(name)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_were_joined_are_one_text(tmp_path, kind):
    """As `cat a.gz b.gz` joins them."""
    first, second = write(tmp_path / f"a{kind}", b"one\n"), write(tmp_path / f"b{kind}", b"two\n")
    (tmp_path / f"both{kind}").write_bytes(first.read_bytes() + second.read_bytes())
    assert read(tmp_path / f"both{kind}") == b"one\ntwo\n"


@pytest.mark.parametrize("kind", KINDS)
def test_each_cut_is_noticed(tmp_path, kind):
    content = random.Random(0).randbytes(30_000).hex().encode()
    whole = write(tmp_path / f"a.txt{kind}", content).read_bytes()
    assert read(tmp_path / f"a.txt{kind}") == content
    path = tmp_path / f"cut.txt{kind}"
    for size in (0, 1, 5, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:size])
        reason = "is cut" if size > 100 else "is (cut|empty|damaged)"
        with pytest.raises(BortError, match=rf"cut\.txt{kind} {reason}.*get it again") as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) <= 60 + len(str(path))
    path.write_bytes(b"Plain words, whatever the name says. " * 9)
    with pytest.raises(BortError, match=f"is damaged, or no {kind} file at all"):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    numbers = random.Random(0)
    lines = [f'{{"text": "{numbers.randbytes(500).hex() * 9}"}}\n' for _ in range(1_000)]
    content = "".join(lines).encode()  # 9 MB
    path = write(tmp_path / f"a.jsonl{kind}", content)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_json_lines(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1_000 and peak < 2e6
    assert estimate_text_size(path) == pytest.approx(len(content), rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_text_needs_no_estimate(tmp_path, kind):
    assert estimate_text_size(write(tmp_path / f"a.txt{kind}", b"words " * 999)) == 5_994


def test_a_broken_beginning_is_no_size(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    assert estimate_text_size(tmp_path / "a.txt.gz") == 7


def test_a_mistake_of_the_reader_is_no_damage(tmp_path):
    path = write(tmp_path / "a.txt.gz", b"words")
    with pytest.raises(FileNotFoundError), open_text_stream(path):
        open(tmp_path / "absent")
    with pytest.raises(IsADirectoryError), open_text_stream(tmp_path):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_read_alike(tmp_path, kind):
    path = write(tmp_path / f"rows.csv{kind}", b'text,label\n"a, b",yes\nc,no\n')
    table = read_table(path, ["text", "label"], ["text", "label"])
    assert [record for record, _ in table] == [
        *({"text": "a, b", "label": "yes"}, {"text": "c", "label": "no"})
    ]
