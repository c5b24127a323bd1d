"""W and its bound by hand."""

import math

import pytest

from bort.errors import BortError
from bort.objectives.coefficient import Scale, format_upper, w_coefficient


def test_w_by_hand():
    scale = Scale(100, 10, 2.0)
    assert w_coefficient(25, 5, 4.0, scale) == pytest.approx(0.75 * 0.5 * 0.5)
    assert scale.compute_bound(25, 5) == 0.375
    assert w_coefficient(50, 9, 8.0, Scale(100, 10, 2.0, (2, 0, 0.5))) == pytest.approx(0.25 * 0.5)
    assert w_coefficient(0, 0, 2.5, Scale(100, 10, 2.0, error="perplexity")) == pytest.approx(
        math.exp(-0.5)
    )
    assert w_coefficient(100, 10, 2.0, scale) == 0 and scale.compute_quality(2.0) == 1
    assert scale.compute_quality(2.0 - 1e-5) == 1  # rounding alone
    assert Scale(100, 10, 1e-4).compute_quality(1e-4 - 5e-6) == 1
    with pytest.raises(BortError, match="below the entropy 2 of the maximum point"):
        scale.compute_quality(1.9)


def test_the_quality_of_a_cosine():
    """T's own error is 0; the quality falls as the error rises, below 0 for opposite states."""
    scale = Scale(100, 10, 0.0, (0, 0, 1), "cosine")
    assert [scale.compute_quality(e) for e in (0.0, 0.25, 1.5)] == [1.0, 0.75, -0.5]
    assert w_coefficient(50, 5, 1.5, scale) == -0.5 and scale.compute_bound(50, 5) == 1
    assert scale.compute_quality(-1e-6) == 1  # rounding alone
    with pytest.raises(BortError, match="an error of -0.1 is below"):
        scale.compute_quality(-0.1)
    for e, kind in ((0.0, "ratio"), (0.0, "perplexity"), (0.5, "cosine")):
        with pytest.raises(BortError, match="the maximum point needs p, i and e above 0"):
            Scale(100, 10, e, error=kind)


def test_what_is_proven_is_rounded_up():
    assert format_upper(0.0) == "0.0000" and format_upper(0.25) == "0.2500"
    assert format_upper(0.00001) == "0.0001" and format_upper(0.38333) == "0.3834"
