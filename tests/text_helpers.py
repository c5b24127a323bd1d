"""What several test files of one package share."""

import numpy as np


def sentence(rng: np.random.Generator, size: int) -> str:
    return " ".join(f"word{k}" for k in rng.integers(0, 5_000, size))
