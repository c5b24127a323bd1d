"""Numbers and names in lines: singular and plural, scores that are not defined, foreign names."""

import logging

from bort.console import counted, data_size, decimal, duration, hide_notes, to_printable


def test_one_is_singular():
    found = [counted(number, "epoch") for number in (0, 1, 2, 2000)]
    assert found == ["0 epochs", "1 epoch", "2 epochs", "2,000 epochs"]
    assert [counted(number, "copy", "copies") for number in (1, 2)] == ["1 copy", "2 copies"]


def test_sizes_have_the_unit_that_fits():
    assert [data_size(x) for x in (1690, 17_476_608)] == ["1.69 kB", "17.5 MB"]
    expected = ["1 GB", "1.5 GB", "2,000 GB", "0.012 kB"]
    assert [data_size(x) for x in (999_900_000, 1.5e9, 2e12, 12)] == expected


def test_durations_have_the_unit_that_fits():
    seconds = (0.0213, 41.2, 59.7, 725, 3599, 11_520, 4.5e6)
    expected = ["0.021 s", "41 s", "1 min", "12 min", "1 hour", "3.2 hours", "1,250 hours"]
    assert [duration(x) for x in seconds] == expected


def test_a_score_that_is_not_defined_is_a_word():
    assert [decimal(0.12345), decimal(None)] == ["0.1235", "undefined"]


def test_foreign_names_stay_in_their_line():
    """Line feeds, control characters and ten thousand letters; other alphabets are as they are."""
    assert to_printable("a\nb\x1b[31m\x00\u2028") == r"a\nb\x1b[31m\x00\u2028"
    assert to_printable("Größe 日本 😀") == "Größe 日本 😀"
    assert to_printable("L" * 10_000, 5) == "LLLLL…" and to_printable(5) == "5"


def test_notes_are_hidden_and_warnings_are_not(caplog):
    caplog.set_level(logging.INFO, "bort")
    logger = logging.getLogger("bort.somewhere")
    with hide_notes():
        logger.info("hidden")
        logger.warning("a warning")
    logger.info("shown")
    assert caplog.messages == ["a warning", "shown"]
