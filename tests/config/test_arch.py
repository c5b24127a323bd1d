"""Settings of an architecture."""

import pytest

from bort.config.arch import ArchConfig
from bort.errors import BortError

MESSAGES = [
    (lambda: ArchConfig(0, 1, 4, 4), "arch.depth=0 must be at least 1"),
    (lambda: ArchConfig(1, -1, 4, 4), "arch.heads=-1 must be at least 1"),
    (lambda: ArchConfig(1, 1, 0, 4), "arch.hidden=0 must be at least 1"),
    (lambda: ArchConfig(1, 1, 4, 0), "arch.intermediate=0 must be at least 1"),
    (
        lambda: ArchConfig(4, 12, 1024, 768),
        "arch.heads=12 does not divide arch.hidden=1024; use 4, 8 or 16",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message
