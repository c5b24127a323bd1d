"""The masking of words (BERT's 80, 10 and 10 percent), as a pure function of a key.

Letters: B batch, S sequence, M masked positions of a batch, V vocabulary.
"""

import numpy as np

from bort.text.copies import mix_bits

VAL_RATE = 0.15  # every run is scored at BERT's rate, whatever rate it trains with
GOLDEN = 0x9E3779B97F4A7C15  # the step of SplitMix64, 2⁶⁴ divided by the golden ratio


def compute_row_keys(key: int, rows: np.ndarray) -> np.ndarray:
    """Compute the random keys (B,) of the sequences `rows` (B,) from one key of 64 bits."""
    return mix_bits(rows.astype(np.uint64) * GOLDEN + key)


def mask_tokens(
    ids: np.ndarray,
    rate: float,
    special: np.ndarray,
    mask_id: int,
    vocab_size: int,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens to predict: 80% become `mask_id`, 10% a random word, and 10% stay (BERT).

    ids: (B, S) int64; special: (V,) bool, ids that are neither chosen nor drawn; keys: (B,) uint64,
    each of which decides everything random in its row. Each place is chosen with probability
    `rate`; a row in which none was chosen gets one at random. So every row that can be masked has a
    masked place, and short rows are masked at slightly more than `rate`.
    Returns inputs (B, S), flat positions (M,) in order, labels (M,), all int64.
    """
    steps = np.arange(1, ids.shape[1] + 1, dtype=np.uint64) * GOLDEN
    bits = mix_bits(keys[:, None] + steps)  # (B, S)
    maskable = ~special[ids]
    chosen = (bits < int(rate * 2**64)) & maskable
    for row in np.flatnonzero(~chosen.any(axis=1)):
        columns = np.flatnonzero(maskable[row])
        if len(columns):  # each place is equally likely to hold the lowest random number
            chosen[row, columns[bits[row, columns].argmin()]] = True
    positions = np.flatnonzero(chosen)  # (M,)
    labels = ids.ravel()[positions]
    lot = mix_bits(bits.ravel()[positions])
    words = np.flatnonzero(~special[:vocab_size])
    replaced = np.where(lot < int(0.8 * 2**64), mask_id, labels)
    random = lot >= int(0.9 * 2**64)
    replaced[random] = words[lot[random] % len(words)]
    inputs = ids.copy()
    inputs.ravel()[positions] = replaced
    return inputs, positions, labels
