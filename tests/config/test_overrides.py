"""Settings of Python as words of the command line: Hydra reads the same values out of them."""

import random
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bort.config.overrides import to_overrides, to_word
from bort.errors import BortError
from bort.models.arch import Arch

SIGNS = "ab1.,:=/\\'\"${}[]() ~+-*?%@#ä\t"


def read_back(value):
    """What a setting has in the end that was given as this word."""
    override = OverridesParser.create().parse_override(f"key={to_word(value)}")
    return OmegaConf.create({"key": override.value()})["key"]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -3, 1e-05, 2.5, 1e300, "tiny", "a b", "1", "1e-3", "true", "Null"),
        *("nan", "-inf", "00:12:00:00", "", " ", "it's", "it\\'s", "a\\", "a\\\\'b", "${x}", "$x"),
        *("C:\\rows\\train.csv", "[a,b]", "{a:1}", "a,b", "a=b", "~/x", "../x.csv", "1_000", "ä"),
        *([], [1, 2.5], ["a", "b c", None], ["1", "x'y"]),
    ],
)
def test_what_is_read_is_what_was_given(value):
    assert read_back(value) == value
    assert type(read_back(value)) is type(value) or isinstance(value, list)


def test_no_text_is_read_as_anything_else():
    dice = random.Random(0)
    texts = ["".join(dice.choices(SIGNS, k=dice.randint(1, 8))) for _ in range(1000)]
    for text in texts:
        assert read_back(text) == text, text


def test_words_that_need_no_quotes_have_none():
    assert [to_word(text) for text in ("bort", "runs/a-1", "text.txt")] == [
        *("bort", "runs/a-1", "text.txt"),
    ]


def test_tables_set_each_of_their_keys():
    settings = {
        "arch": Arch(2, 4, 128, 512),
        "trainer": {"max_steps": np.int64(5), "max_time": None},
        "data": {"path": Path("a b.txt"), "text": ("first", "second")},
        "logger": "none",
        "callbacks": {},
    }
    assert to_overrides(settings) == [
        *("arch.depth=2", "arch.heads=4", "arch.hidden=128", "arch.intermediate=512"),
        *("trainer.max_steps=5", "trainer.max_time=null"),
        *("data.path='a b.txt'", "data.text=[first,second]"),
        "logger=none",
    ]
    assert to_word([{"a": 1}]) == "[{a:1}]"


def test_a_value_that_no_setting_has_is_refused():
    with pytest.raises(
        BortError, match="a setting cannot be of type set; give text, numbers or lists"
    ):
        to_overrides({"seed": {1, 2}})
