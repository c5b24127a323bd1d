"""The corpus of a small text, as tests of several files build it."""

import pytest
from tiny_runs import log_lines

from bort.config.data import DataConfig
from bort.pretraining.corpus import Corpus, build_corpus


@pytest.fixture
def make(tmp_path):
    """build() of a text with small defaults; what it says is in make.said."""

    def run(path, tokenizer=None, **settings) -> Corpus:
        defaults = {"length": 6, "val_fraction": 0.0}
        if tokenizer is None:  # an existing one would be trimmed to it
            defaults["vocab_size"] = 300
        data = DataConfig(source="text", path=str(path), **(defaults | settings))
        run.said.clear()
        return build_corpus(data, tmp_path / "cache", tokenizer)

    run.said = log_lines()
    return run
