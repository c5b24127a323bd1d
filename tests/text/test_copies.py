"""Near-copies, against sets of words."""

import numpy as np
import pytest
from text_helpers import sentence

from bort.text import copies
from bort.text.copies import PART, RUN, Overlap, compute_common_key, find_holders, hash_runs


def changed(text: str, place: int) -> str:
    words = text.split()
    words[place] = "another"
    return " ".join(words)


def word_runs(text: str) -> set:
    """The same by tuples of words instead of hashes."""
    words = text.lower().split()
    return {tuple(words[k : k + RUN]) for k in range(max(1, len(words) - RUN + 1))}


def share(text: str, others: list[str]) -> float:
    there = set().union(*map(word_runs, others))
    return len(word_runs(text) & there) / len(word_runs(text))


@pytest.fixture
def texts() -> list[str]:
    """Eighty texts; of the last forty each is a copy of an earlier one with changes."""
    rng = np.random.default_rng(0)
    first = [sentence(rng, size) for size in rng.integers(3, 150, 40)]
    return first + [changed(text, len(text.split()) // 2) for text in first]


@pytest.mark.parametrize("waiting", [1, 100_000])
def test_shares_are_those_of_word_tuples(texts, waiting, monkeypatch):
    monkeypatch.setattr(copies, "WAITING", waiting)
    overlap = Overlap()
    held = [k % 3 == 0 for k in range(len(texts))]
    for text, is_held in zip(texts, held, strict=True):
        overlap.add(hash_runs(text), is_held)
    training = [text for text, is_held in zip(texts, held, strict=True) if not is_held]
    expected = [share(text, training) for text, is_held in zip(texts, held, strict=True) if is_held]
    assert overlap.shares() == pytest.approx(expected) and max(expected) > 0.5 > min(expected)


def test_memory_is_bounded_by_a_sample_of_the_runs(monkeypatch):
    monkeypatch.setattr(copies, "ROOM", 4_000)
    rng, overlap = np.random.default_rng(1), Overlap()
    twice = [sentence(rng, 800) for _ in range(5)]
    for k in range(100):
        overlap.add(hash_runs(twice[k % 5] if k < 5 else sentence(rng, 800)), held=False)
        assert overlap.size <= 4_000
    for text in [*twice, sentence(rng, 800)]:
        overlap.add(hash_runs(text), held=True)
    assert overlap.shares().tolist() == [1, 1, 1, 1, 1, 0]


def test_which_texts_hold_a_part_of_another(texts):
    pieces = [" ".join(text.split()[5:40]) for text in texts[:10]] + ["of nothing else"]
    near = find_holders([hash_runs(text) for text in texts], [hash_runs(piece) for piece in pieces])
    expected = [
        any(len(word_runs(p) & word_runs(text)) > PART * len(word_runs(p)) for p in pieces)
        for text in texts
    ]
    assert near.tolist() == expected and 0 < sum(expected) < len(texts)
    assert not find_holders([hash_runs("a b c")], []).any()


def test_spaces_and_case_make_no_other_text():
    text = sentence(np.random.default_rng(2), 30)
    assert np.array_equal(hash_runs(text), hash_runs(f"  {text.upper()} ".replace(" ", "\n  ")))
    assert len(hash_runs("")) == len(hash_runs("two words")) == 1 and hash_runs(
        "two words"
    ) != hash_runs("to words")


def test_text_without_spaces_has_runs_of_characters():
    """Forty letters without a space: 30 runs, of which a change in the middle leaves 19."""
    text = "".join(chr(0x4E00 + 7 * k) for k in range(40))
    other = text[:20] + "丂" + text[21:]
    assert (
        len(hash_runs(text)) == 30 and np.isin(hash_runs(text), hash_runs(other)).sum() == 30 - RUN
    )


def test_near_copies_share_their_key_as_often_as_their_runs():
    """One word of 100 changed: 79 of 101 different runs in common; 300 draws: ± 4 × 2.4%."""
    rng = np.random.default_rng(3)
    drawn = [sentence(rng, 100) for _ in range(300)]
    same = [
        compute_common_key(hash_runs(t)) == compute_common_key(hash_runs(changed(t, 50)))
        for t in drawn
    ]
    assert abs(np.mean(same) - 79 / 101) < 0.1
    keys = np.array([compute_common_key(hash_runs(text)) for text in drawn], dtype=float) / 2**64
    assert abs(keys.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 300)
