"""The embedded corpus and the user's text, down to bytes on disk."""

import importlib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from tiny_runs import log_lines
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bort.config.data import DataConfig
from bort.console import Progress
from bort.errors import BortError
from bort.files.text_files import read_parquet_rows
from bort.pretraining import corpus as module
from bort.pretraining.corpus import Corpus, build_corpus
from bort.pretraining.token_stream import count_sequences, pack_sequences
from bort.text import docstrings, sources, splits
from bort.text.sources import Document
from bort.text.tokenizer import build_encoder, encode_texts


@pytest.fixture
def make(tmp_path):
    """build() of a text with small defaults; what it says is in make.said."""

    def run(path, tokenizer=None, **settings) -> Corpus:
        defaults = {"length": 6, "vocab_size": 300, "val_fraction": 0.0}
        data = DataConfig(source="text", path=str(path), **(defaults | settings))
        run.said.clear()
        return build_corpus(data, tmp_path / "cache", tokenizer)

    run.said = log_lines()
    return run


def documents(corpus: Corpus, split: str = "train") -> list[str]:
    """The texts of a split, by cutting its stream at separators."""
    stream = getattr(corpus, split)
    if not len(stream):
        return []
    sep = corpus.tokenizer.sep_token_id
    parts = np.split(stream, np.flatnonzero(stream == sep))
    return [corpus.tokenizer.decode(part[part != sep]) for part in parts]


def left_behind(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "cache" / "corpora"
    return sorted(folder.iterdir()) if folder.exists() else []


def words(folder: Path) -> Path:
    """A small text: 200 lines, each another sentence."""
    path = folder / "words.txt"
    path.write_text("".join(f"Line {k} says {k * k} words about {k % 7}.\n" for k in range(200)))
    return path


def teacher(shared: Path, name: str):
    return AutoTokenizer.from_pretrained(shared / "cases" / "models" / name)


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
        ("struct", r"struct\.parquet, row 1: 'text' is a dict, not text"),
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
    assert make.said[0].startswith("corpus: not read in texts: b.txt.gz, c.csv, e.json, link; read")
    folder = tmp_path / "texts"
    folder.mkdir()
    words(folder)
    (folder / "linked").symlink_to(folder)  # a loop
    for k in range(9):
        (folder / f"{k}-{'x' * 100}.pdf").touch()
    assert make(folder).info.documents == 200
    assert "and 6 more" in make.said[0] and len(make.said[0]) <= 200
    assert "linked (a link)" in sources.list_text_files(folder)[1]
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
        (b'{"text": 3}', "line 1: 'text' is a int"),
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


# ------------------------------------------------------------------------------------ splits


def test_duplicates_are_dropped_and_no_text_is_in_both_splits(shared, make, tmp_path):
    """Case D4."""
    path = shared / "cases" / "D4-split-duplicates" / "docs.jsonl"
    texts = {json.loads(line)["text"].strip() for line in path.read_text().splitlines()}
    corpus = make(path, val_fraction=0.3, length=16)
    assert corpus.info.documents == len(texts) == 60
    assert corpus.info.duplicates == 40 and "40 duplicates dropped" in " ".join(make.said)
    train, val = ({t.strip() for t in documents(corpus, split)} for split in ("train", "val"))
    assert train | val == texts and not train & val
    # 60 draws at 0.3: 18 ± 5 × 3.5
    assert 1 <= len(val) <= 36

    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "A new one comes first."}\n' + path.read_text())
    other = make(more, val_fraction=0.3)
    added = {"A new one comes first."}
    assert {t.strip() for t in documents(other)} - added == train
    assert {t.strip() for t in documents(other, "val")} - added == val


def test_share_held_out(tmp_path, make):
    """Binomial: 4,000 documents at 0.1 are 400 ± 5 × 19."""
    (tmp_path / "a.txt").write_text("\n".join(f"document number {k}" for k in range(4000)))
    corpus = make(tmp_path / "a.txt", val_fraction=0.1)
    assert abs(corpus.info.val_documents - 400) < 95
    assert corpus.info.train_documents + corpus.info.val_documents == 4000


def test_without_enough_validation_training_goes_on(tmp_path, make):
    path = words(tmp_path)
    corpus = make(path, val_fraction=0.0)
    assert count_sequences(corpus.val, 16) == 0 and count_sequences(corpus.train, 16) > 100
    assert [line for line in make.said if "no validation" in line]
    assert make(path, val_fraction=0.5) and "no validation" not in " ".join(make.said)


def test_too_short_names_what_validation_took(tmp_path, make):
    path = tmp_path / "a.txt"
    path.write_text("Only one document in it, and it is held out.")
    with pytest.raises(BortError, match=r"0 tokens for training \(\d+ more are held out"):
        make(path, val_fraction=0.999999)
    assert make(path, length=10).info.train_documents == 1
    with pytest.raises(BortError, match="tokens for training, one sequence"):
        make(path, length=500)  # the cached corpus is checked again


def near_copies(folder: Path, copies: int) -> Path:
    """200 texts of 60 random words, and of each some copies with one other word."""
    rng, path = np.random.default_rng(0), folder / "copies.txt"
    lines = []
    for _ in range(200):
        words = [f"w{k}" for k in rng.integers(0, 5_000, 60)]
        lines.append(" ".join(words))
        for place in rng.choice(60, copies, replace=False):
            lines.append(" ".join([*words[:place], "other", *words[place + 1 :]]))
    path.write_text("\n".join(lines))
    return path


def share_of_runs(corpus: Corpus) -> float:
    """Share of the validation text's runs of eleven words that are in training too."""
    found = {}
    for split in ("train", "val"):
        words = [text.split() for text in documents(corpus, split)]
        found[split] = {tuple(w[k : k + 11]) for w in words for k in range(len(w) - 10)}
    return len(found["train"] & found["val"]) / len(found["val"])


def test_near_copies_are_in_one_split(tmp_path, make):
    corpus = make(near_copies(tmp_path, 2), val_fraction=0.2)
    assert share_of_runs(corpus) < 0.02 and corpus.info.val_documents > 30
    left_out = corpus.info.near_copies
    assert 0 < left_out < 120 and corpus.info.documents == 600 - left_out
    assert f"{left_out} near-copies of training text left out" in " ".join(make.said)


def test_text_of_near_copies_only_is_validated_on_them_and_says_so(tmp_path, make):
    path = tmp_path / "log.txt"
    fixed = "request answered by the server after it was read from the queue and checked"
    path.write_text("\n".join(f"{k * 7919} {k % 97} {fixed}" for k in range(400)))
    corpus = make(path, val_fraction=0.5)
    assert corpus.info.val_documents > 0 and not corpus.info.near_copies_dropped
    assert "near-copies of training text and stay" in " ".join(make.said)


def test_one_long_document_is_trained_and_validated_on(tmp_path, make):
    rng = np.random.default_rng(0)
    (tmp_path / "book.txt").write_text(" ".join(f"w{k}" for k in rng.integers(0, 5_000, 20_000)))
    corpus = make(tmp_path / "book.txt", val_fraction=0.1, length=32)
    assert corpus.info.documents == 1 and share_of_runs(corpus) == 0
    share = corpus.info.val_tokens / corpus.info.train_tokens
    assert 0.08 < share < 0.15 and "no validation" not in " ".join(make.said)
    whole = make(tmp_path / "book.txt", val_fraction=0.0, length=32)
    assert documents(whole) == [(tmp_path / "book.txt").read_text()]


def test_set_of_hashes_forgets_nothing(monkeypatch):
    monkeypatch.setattr(splits, "RECENT", 10)
    rng, seen, reference = np.random.default_rng(0), splits.Seen(), set()
    for key in [0, 2**64 - 1, *rng.integers(0, 60, 200).tolist(), 0, 2**64 - 1]:
        assert seen.add(key) == (key not in reference)
        reference.add(key)


# ------------------------------------------------------------------------------------ tokens


def test_packing_edges(shared, make):
    """Case M2: one token per byte, byte b is id 4 + b."""
    path = shared / "cases" / "M2-packing-edges" / "text.txt"
    corpus = make(path, teacher(shared, "roberta-tiny"), length=16)
    text = path.read_bytes().removesuffix(b"\n")
    assert len(text) == 98 and count_sequences(corpus.train, 16) == 7
    rows = pack_sequences(corpus.train, np.arange(7), 16, bos=0, sep=2)
    expected = [[0, *(4 + b for b in text[14 * k : 14 * k + 14]), 2] for k in range(7)]
    assert rows.tolist() == expected


def test_documents_are_joined_by_one_separator(shared, tmp_path, make):
    (tmp_path / "a.txt").write_text("ab\n\ncde\nab\nf")
    corpus = make(tmp_path / "a.txt", teacher(shared, "roberta-tiny"), length=4)
    a = 4 + ord("a")
    assert corpus.train.tolist() == [a, a + 1, 2, a + 2, a + 3, a + 4, 2, a + 5]
    # the rest after the last whole sequence waits for more text
    assert pack_sequences(corpus.train, np.array([3, 0]), 4, 0, 2).tolist() == [
        [0, 2, a + 5, 2],
        [0, a, a + 1, 2],
    ]


@pytest.mark.parametrize("name", [None, "roberta-tiny", "bert-tiny"])
def test_special_words_are_ordinary_text(shared, make, name):
    """Case T1: special ids only where packing puts them; unknown words at worst [UNK]."""
    path = shared / "cases" / "T1-special-words" / "text.txt"
    corpus = make(path, teacher(shared, name) if name else None, length=32)
    tokenizer = corpus.tokenizer
    assert corpus.info.documents == 1
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & set(corpus.train.tolist())
    if name != "bert-tiny":
        assert tokenizer.unk_token_id not in corpus.train
        assert tokenizer.decode(corpus.train) == path.read_text().removesuffix("\n")
    # the tokenizer that is saved with a model still knows its special words
    assert tokenizer.encode(tokenizer.mask_token, add_special_tokens=False) == [
        tokenizer.mask_token_id
    ]


def test_a_tokenizer_that_cuts_or_pads_is_left_as_it_is(shared, tmp_path, make):
    tokenizer = teacher(shared, "roberta-tiny")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    settings = tokenizer.backend_tokenizer.to_str()
    (tmp_path / "a.txt").write_text("longer than three")
    corpus = make(tmp_path / "a.txt", tokenizer)
    assert corpus.tokenizer.decode(corpus.train) == "longer than three"
    assert tokenizer.backend_tokenizer.to_str() == settings


def test_a_special_word_of_the_vocabulary_itself_becomes_unknown(tmp_path, make):
    """A word list (or SentencePiece) can hold "</s>" as a word, which no setting turns off."""
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "<mask>": 3, "end": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    (tmp_path / "a.txt").write_text("end </s> end end\nend <s> <mask>")
    corpus = make(tmp_path / "a.txt", tokenizer, length=4)
    assert corpus.train.tolist() == [4, 2, 4, 4, 1, 4, 2, 2]


def test_large_vocabulary_takes_four_bytes(tmp_path, make):
    names = ["<s>", "</s>", "<unk>", "<mask>", *(f"w{k}" for k in range(70_000))]
    backend = Tokenizer(models.WordLevel({w: k for k, w in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    (tmp_path / "a.txt").write_text("w69999 w0 w65532 w65533")
    corpus = make(tmp_path / "a.txt", tokenizer, length=4)
    assert corpus.train.tolist() == [70_003, 4, 65_536, 65_537]
    assert (corpus.folder / "train.bin").stat().st_size == 16


def test_tokenizers_that_cannot_serve(tmp_path, make):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(BortError, match="lacks a cls, sep or mask token"):
        make(words(tmp_path), PreTrainedTokenizerFast(tokenizer_object=backend))


def test_all_unknown_is_refused(shared, tmp_path, make):
    (tmp_path / "a.txt").write_text("日本語のテキスト " * 20)
    with pytest.raises(BortError, match="every token is unknown"):
        make(tmp_path / "a.txt", teacher(shared, "bert-tiny"))
    (tmp_path / "a.txt").write_text("日 the 日 the 日 the 日 the 日 the 日 the 日 the 日 the")
    make(tmp_path / "a.txt", teacher(shared, "bert-tiny"), length=4)
    assert [line for line in make.said if "50% of the tokens are unknown" in line]


def test_trained_tokenizer_is_lossless_and_reloads(shared, make, tmp_path):
    """Case T2, as far as the corpus goes."""
    strings = json.loads((shared / "cases" / "T2-tokenizer-reload" / "strings.json").read_text())
    assert len(strings) == 24
    tokenizer = make(words(tmp_path)).tokenizer
    reloaded = AutoTokenizer.from_pretrained(make(words(tmp_path)).folder)
    trained = encode_texts(build_encoder(tokenizer), strings)
    for text, ids in zip(strings, trained, strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
        assert reloaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        if "<mask>" not in text:
            assert tokenizer(text)["input_ids"] == [0, *ids, 2]
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}


def test_tokenizer_sample_is_bounded_and_spread(tmp_path, make, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 2000)
    data = DataConfig(source="text", path=str(words(tmp_path)), val_fraction=0.2)
    source = sources.open_text(data)
    sample = list(module.sample_text(source, data, lambda *a, **k: None))
    assert 1000 < sum(map(len, sample)) <= 2000 + max(map(len, sample))
    assert {splits.split_document(Document(text, 0), 0.2)[0].split for text in sample} == {"train"}
    numbers = [int(text.split()[1]) for text in sample]
    assert numbers == sorted(numbers) and numbers[-1] > 100  # from all over the file


def test_tokenizer_sample_of_one_long_document(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 2000)
    monkeypatch.setattr("bort.text.tokenizer.PIECE", 100)
    data = DataConfig(source="text", path=str(words(tmp_path)), sample_by="file", val_fraction=0.0)
    sample = list(module.sample_text(sources.open_text(data), data, lambda *a, **k: None))
    text = words(tmp_path).read_text()
    places = [text.index(piece) for piece in sample]
    assert 1900 < sum(map(len, sample)) < 2300
    assert places[0] == 0 and places[-1] > 0.8 * len(text)
    assert max(np.diff(places)) < 0.3 * len(text)


def test_unigram_baseline_by_hand():
    """Words 2 and 3; training counts 5 and 1 (+1 each: 6/8 and 2/8), validation 1 and 3."""
    special = np.array([True, True, False, False])
    train, val = np.array([90, 9, 5, 1]), np.array([70, 7, 1, 3])
    entropy, accuracy = module.compute_unigram_baseline(train, val, special)
    assert entropy == pytest.approx(-(math.log(6 / 8) + 3 * math.log(2 / 8)) / 4)
    assert accuracy == 0.25
    alone, _ = module.compute_unigram_baseline(train, 0 * val, special)
    assert alone == pytest.approx(-(5 * math.log(6 / 8) + math.log(2 / 8)) / 6)


# ------------------------------------------------------------------------------------ the cache


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


# ------------------------------------------------------------------------------------ progress


def test_progress_lines(tmp_path, monkeypatch):
    now, said = [0.0], log_lines()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ticker = Progress(module.logger, every_s=10)
    progress = module.make_encoding_progress(1000, ticker.tell)
    for second, tokens in ((4, 100_000), (9, 200_000), (10, 250_000), (12, 300_000)):
        now[0] = second
        progress(tokens, 100)
    # 300 of 1,000 bytes gave 250,000 tokens in 10 s
    assert said == [
        "corpus: encoding…",
        "corpus: encoded 0.2 of 0.8 M tokens, 0.0 M tokens/s, 23 s left",
    ]


def test_every_stage_is_announced(tmp_path, make):
    make(words(tmp_path))
    assert ["training a tokenizer" in make.said[0], "encoding" in make.said[1]] == [True, True]
    assert "200 documents" in make.said[2] and all("\n" not in line for line in make.said)


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
