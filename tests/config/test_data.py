"""Settings of text and rows."""

import pytest

from bort.config.data import DataConfig
from bort.errors import BortError

MESSAGES = [
    (
        lambda: DataConfig(text=["a", "b", "c"]),
        "data.text=['a', 'b', 'c'] must name one column, or two as in [a,b]",
    ),
    (
        lambda: DataConfig(kind="class"),
        "data.kind=class is unknown; use auto, classes, number; did you mean 'classes'?",
    ),
    (
        lambda: DataConfig(path="a.txt"),
        "data.path=a.txt is read with data=text only; add data=text",
    ),
    (
        lambda: DataConfig(source="txt"),
        "data.source=txt is unknown; use docstrings, text; did you mean 'text'?",
    ),
    (
        lambda: DataConfig(sample_by="lines"),
        "data.sample_by=lines is unknown; use line, paragraph, file; did you mean 'line'?",
    ),
    (lambda: DataConfig(length=3), "data.length=3 must be at least 4"),
    (
        lambda: DataConfig(windows="vote"),
        "data.windows=vote is unknown; use mean",
    ),
    (
        lambda: DataConfig(windows="mean", window_stride=-1),
        "data.window_stride=-1 must be at least 0",
    ),
    (
        lambda: DataConfig(windows="mean", window_stride=128),
        "data.window_stride=128 is what two windows share; give at most half of data.length=128",
    ),
    (lambda: DataConfig(batch_size=0), "data.batch_size=0 must be at least 1"),
    (lambda: DataConfig(vocab_size=0), "data.vocab_size=0 must be at least 1"),
    (
        lambda: DataConfig(tokenizer="bpe", vocab_size=260),
        "data.vocab_size=260 must be at least 261",
    ),
    (
        lambda: DataConfig(vocab_size=260).check_bpe_size(),
        "data.vocab_size=260 must be at least 261",
    ),
    (lambda: DataConfig(val_sequences=0), "data.val_sequences=0 must be at least 1"),
    (lambda: DataConfig(unlabelled_rows=0), "data.unlabelled_rows=0 must be at least 1"),
    (lambda: DataConfig(workers=-1), "data.workers=-1 must be at least 0"),
    (lambda: DataConfig(val_fraction=1.0), "data.val_fraction=1 must be at least 0 and below 1"),
    (
        lambda: DataConfig(val_fraction=-0.1),
        "data.val_fraction=-0.1 must be at least 0 and below 1",
    ),
    (lambda: DataConfig(mask_rate=0.0), "data.mask_rate=0 must be above 0 and below 1"),
    (lambda: DataConfig(mask_rate=1.0), "data.mask_rate=1 must be above 0 and below 1"),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message


def test_windows_share_a_quarter_unless_a_stride_is_given():
    assert DataConfig(length=100).overlap is None
    assert DataConfig(length=100, windows="mean").overlap == 25
    settings = DataConfig(length=100, windows="mean", window_stride=40)
    assert settings.overlap == 40 and settings.with_length(50).overlap == 25
