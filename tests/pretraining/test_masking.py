"""Masking: statistics with stated bounds, and masks that depend on their keys alone."""

import numpy as np
import pytest

from bort.pretraining.masking import compute_row_keys, mask_tokens

V, MASK = 1000, 4
SPECIAL = np.arange(V) < 5


def mask(ids, rate=0.15, seed=0):
    return mask_tokens(ids, rate, SPECIAL, MASK, V, compute_row_keys(seed, np.arange(len(ids))))


def text(length: int, rows: int, seed: int = 0) -> np.ndarray:
    """Rows as packing makes them: <s>, ordinary words, </s>."""
    ids = np.random.default_rng(seed).integers(5, V, (rows, length))
    ids[:, 0], ids[:, -1] = 0, 2
    return ids


@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_masking_statistics(rate):
    """Counts within 5 standard deviations of their binomials; 500 × 510 maskable places."""
    ids = text(512, 500)
    before = ids.copy()
    inputs, positions, labels = mask(ids, rate)
    assert np.array_equal(ids, before)  # the caller's array is not written to
    assert inputs.dtype == positions.dtype == labels.dtype == np.int64

    def close(count, n, p):
        return abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))

    assert np.all(np.diff(positions) > 0)
    assert np.array_equal(labels, ids.ravel()[positions])
    assert not SPECIAL[labels].any()
    assert close(len(positions), 500 * 510, rate)
    untouched = np.ones(ids.size, dtype=bool)
    untouched[positions] = False
    assert np.array_equal(inputs.ravel()[untouched], ids.ravel()[untouched])

    shown, M = inputs.ravel()[positions], len(positions)
    masked, kept = shown == MASK, shown == labels
    other = ~masked & ~kept
    assert close(masked.sum(), M, 0.8)
    chance = 0.1 / (V - 5)  # a random word may be the word itself
    assert close(kept.sum(), M, 0.1 + chance) and close(other.sum(), M, 0.1 - chance)
    assert not SPECIAL[shown[other]].any()
    assert len(np.unique(shown[other])) > 0.9 * (V - 5)
    # places in a row are equally likely: 510 counts of 500 draws each, largest within 5 deviations
    by_place = np.bincount(positions % 512, minlength=512)
    assert by_place[0] == by_place[-1] == 0
    assert np.abs(by_place[1:-1] - 500 * rate).max() < 5 * np.sqrt(500 * rate * (1 - rate))


def test_each_row_has_a_masked_place():
    """Case M1: of rows with 6 places 0.85⁶ = 38% would have none; then one place, each alike."""
    _, positions, _ = mask(text(8, 5000))
    assert len(np.unique(positions // 8)) == 5000
    # expected per row: 6 · 0.15 + 0.85⁶ = 1.277, standard deviation below 1
    assert abs(len(positions) / 5000 - (0.9 + 0.85**6)) < 5 / np.sqrt(5000)
    _, positions, _ = mask(text(8, 6000), rate=1e-12)
    assert np.array_equal(positions // 8, np.arange(6000))
    counts = np.bincount(positions % 8, minlength=8)
    assert counts[[0, 7]].sum() == 0 and np.abs(counts[1:7] - 1000).max() < 5 * np.sqrt(
        1000 * 5 / 6
    )


def test_rows_without_ordinary_words():
    ids = np.zeros((3, 8), dtype=np.int64)
    ids[1, 3] = 77
    inputs, positions, labels = mask(ids)
    assert positions.tolist() == [11] and labels.tolist() == [77]
    assert np.array_equal(inputs.ravel()[np.arange(24) != 11], ids.ravel()[np.arange(24) != 11])


def test_masks_depend_on_the_keys_alone():
    ids = text(64, 8)
    assert all(
        np.array_equal(a, b) for a, b in zip(mask(ids, seed=3), mask(ids, seed=3), strict=True)
    )
    assert not np.array_equal(mask(ids, seed=3)[0], mask(ids, seed=4)[0])
    keys = compute_row_keys(3, np.arange(8))
    for row in range(8):  # a row alone is as it is among others
        alone = mask_tokens(ids[row : row + 1], 0.15, SPECIAL, MASK, V, keys[row : row + 1])
        assert np.array_equal(alone[0][0], mask(ids, seed=3)[0][row])


def test_masks_of_neighbours_are_independent():
    """Of places side by side, rows, and keys that follow each other, both are masked at rate²."""
    ids, rate = text(514, 400), 0.3
    chosen = []
    for seed in (7, 8):
        places = np.zeros(ids.size, dtype=bool)
        places[mask(ids, rate, seed)[1]] = True
        chosen.append(places.reshape(ids.shape)[:, 1:-1])
    first, second = chosen
    pairs = [
        (first[:, 1:], first[:, :-1]),
        (first[1:], first[:-1]),
        (first[1:, 1:], first[:-1, :-1]),
        (first[1:, :-1], first[:-1, 1:]),
        (first, second),
    ]
    for a, b in pairs:
        deviation = np.sqrt(a.size * rate**2 * (1 - rate**2) * 2)  # pairs share places
        assert abs((a & b).sum() - a.size * rate**2) < 5 * deviation
