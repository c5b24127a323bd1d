"""Texts that are learnt: each once, none that is scored later, some of them held out."""

import pytest

from bort.embeddings.texts import TEXTS, make_rows, read_texts, split_texts
from bort.errors import BortError


def test_texts_of_files(compose_run, tmp_path, teacher):
    """A table with two columns gives both; a text that is scored is in none of them."""
    lines = ["first,second", *(f"one cat {k},two dogs {k}" for k in range(6)), "one cat 1,a fox"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    words = ["experiment=kd_finetune", "task=embed", f"teacher.name={teacher}"]
    words += [f"data.unlabelled={tmp_path / 'pairs.csv'}", "data.text=[first,second]"]
    texts, pool = read_texts(compose_run(*words).data)
    assert len(texts) == 13 and len(set(texts)) == 13 and pool.documents == 7
    long = [f"this is a rather long sentence about number {k}" for k in range(20)]
    (tmp_path / "long.txt").write_text("\n".join(long))
    words[3:] = [f"data.unlabelled={tmp_path / 'long.txt'}"]
    texts, pool = read_texts(compose_run(*words).data, [long[3].upper()])
    assert set(texts) == set(long) - {long[3]} and pool.holders == 1
    (tmp_path / "long.txt").write_text("\n".join(long[:7]))
    with pytest.raises(BortError, match="has 7 texts; give 8 at least"):
        read_texts(compose_run(*words).data)


def test_some_are_held_out_whatever_their_order():
    texts = [f"text {k}" for k in range(300)]
    learnt, held = split_texts(texts)
    assert len(held) == 6 and sorted([*learnt, *held]) == sorted(texts)
    assert set(split_texts(texts[::-1])[1]) == set(held)
    assert len(split_texts(texts[:8])[1]) == 4


def test_rows():
    (row,) = make_rows(["a text"])
    assert row.texts == ("a text",) and row.label is None
    assert TEXTS.columns == ("text",) and not TEXTS.apart
