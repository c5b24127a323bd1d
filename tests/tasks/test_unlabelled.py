"""Rows without labels: what is read of each kind of file, what is left out, and mistakes."""

import gzip
import json

import pytest
from tiny_runs import log_lines

from bort.config.data import DataConfig
from bort.errors import BortError
from bort.tasks.custom import define_task
from bort.tasks.registry import TASKS
from bort.tasks.task import Row
from bort.tasks.unlabelled import HeldTexts, read_pool, split_sentences

SINGLE = define_task("custom", "classes", ("review",), ("no", "yes"))
PAIR = define_task("custom", "classes", ("first", "second"), ("no", "yes"))
KNOWN = [Row(0, ("It's a charming and often affecting journey .",), 1), Row(1, ("very good",), 1)]


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def read(path, task=SINGLE, known=KNOWN, **settings):
    return read_pool(task, DataConfig(unlabelled=str(path), **settings), known)


def list_texts(pool) -> list[tuple[str, ...]]:
    return [row.texts for row in pool.rows]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    texts = ["a dull film", "a fine film"]
    lines = "".join(json.dumps({"review": text}) + "\n" for text in texts)
    files = {
        "a.csv": "review,stars\na dull film,1\na fine film,5\n",
        "a.tsv": "stars\treview\n1\ta dull film\n5\ta fine film\n",
        "a.jsonl": lines,
        "a.txt": "a dull film\na fine film\n",
    }
    for name, text in files.items():
        pool = read(write(tmp_path / name, text))
        assert list_texts(pool) == [(text,) for text in texts]
        assert all(row.label is None for row in pool.rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert list_texts(read(tmp_path / "a.jsonl.gz")) == [(text,) for text in texts]


def test_a_folder_and_another_column(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "a.txt", "one two three")
    write(tmp_path / "more" / "b.jsonl", json.dumps({"body": "four five six"}))
    pool = read(tmp_path, text="body")
    assert list_texts(pool) == [("one two three",), ("four five six",)] and pool.documents == 2


def test_the_texts_of_a_collection_are_its_column_text(tmp_path):
    """The user's table has reviews, the collection `text`; a pair has no such column."""
    path = write(tmp_path / "a.csv", "text,stars\na film,1\n")
    lines = log_lines()
    assert list_texts(read(path, text="review")) == [("a film",)]
    assert lines == ["data: a.csv has no review; its texts are those of text"]
    with pytest.raises(BortError, match="no column 'first' .it has 'text, stars'."):
        read(path, PAIR)


def test_pairs(tmp_path):
    path = write(tmp_path / "a.csv", "second,first\nb,a\nd,c\nd,c\n")
    pool = read(path, PAIR, [Row(0, ("A", " b"), 0)])
    assert list_texts(pool) == [("c", "d")] and pool.repeated == 2


def test_documents_that_hold_a_labelled_text_are_left_out(tmp_path):
    """Whatever its case, spaces and marks; a short one only keeps out what is equal to it."""
    path = tmp_path / "a.txt"
    write(
        path,
        "Some say: IT'S A  CHARMING, and often affecting journey! I agree.\n"
        "It is a charming and often affecting journey.\n"
        "The film is very good.\n"
        "Very Good!\n",
    )
    pool = read(path)
    assert list_texts(pool) == [
        ("It is a charming and often affecting journey.",),
        ("The film is very good.",),
    ]
    assert (pool.documents, pool.holders, pool.repeated) == (4, 1, 1)
    assert pool.describe() == (
        "2 rows without labels of 4 documents (1 left out, because it holds a labelled text; 1 row "
        "repeated)"
    )


def test_a_document_is_left_out_before_it_is_divided(tmp_path):
    text = "It's a charming and often affecting journey. Its second sentence goes with it. Bye bye."
    path = write(tmp_path / "a.txt", f"{text}\nAnother text has stayed. It has two sentences!")
    pool = read(path, split_sentences=True)
    assert list_texts(pool) == [("Another text has stayed.",), ("It has two sentences!",)]


def test_held_texts_begin_with_a_word():
    held = HeldTexts(["arts of the first and of the second kind"])
    assert held.is_in("All the arts of the first, and of the second kind")
    assert not held.is_in("The parts of the first and of the second kind")
    assert not HeldTexts(["short text"]).is_in("a short text")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It ends here. And begins again!", ["It ends here.", "And begins again!"]),
        ('He said "it is so." Then he left.', ['He said "it is so."', "Then he left."]),
        ("It cost 3.50 euros, e.g. in Rome now.", ["It cost 3.50 euros, e.g. in Rome now."]),
        ("The first part<br /><br />the second part", ["The first part", "the second part"]),
        (
            "One line goes\non here.\n\nA new one begins",
            ["One line goes on here.", "A new one begins"],
        ),
        ("Too short. No.", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_the_rows_that_are_taken_do_not_depend_on_their_order(tmp_path):
    lines = [f"text of number {k}" for k in range(50)]
    pools = [
        read(write(tmp_path / "a.txt", "\n".join(order)), unlabelled_rows=7)
        for order in (lines, lines[::-1])
    ]
    assert list_texts(pools[0]) == list_texts(pools[1]) and pools[0].left == 43
    assert len(read(tmp_path / "a.txt", unlabelled_rows=99).rows) == 50


def test_mistakes(tmp_path):
    path = write(tmp_path / "a.csv", "body,stars\na film,1\n")
    with pytest.raises(BortError, match="no column 'review' .it has 'body, stars'."):
        read(path, text="review")
    assert list_texts(read(path, text="body")) == [("a film",)]  # data.text names it
    with pytest.raises(BortError, match="is plain text, and task=custom takes pairs; give a table"):
        read(write(tmp_path / "a.txt", "a film"), PAIR)
    with pytest.raises(BortError, match="no row is left of 2 documents .1 hold a labelled"):
        read(write(tmp_path / "b.txt", f"{KNOWN[0].texts[0]}\nvery good"))
    with pytest.raises(BortError, match="absent.txt is not there"):
        read(tmp_path / "absent.txt")
    with pytest.raises(BortError, match="a.pdf is none of .csv .tsv .txt"):
        read(write(tmp_path / "a.pdf", "x"))
    with pytest.raises(BortError, match="for tasks of one text or two; task=superglue/copa has ch"):
        read(path, TASKS["superglue/copa"])
    with pytest.raises(BortError, match="a pair is not divided"):
        read(path, PAIR, split_sentences=True)
