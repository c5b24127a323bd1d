"""⟨D, A, H, I⟩: how it is written, read, sorted and checked, and that no torch is needed for it."""

import csv
import io
import itertools
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bort.errors import BortError
from bort.models.arch import Arch

CONF = Path(__file__).resolve().parents[2] / "conf"
BORT = Arch(4, 8, 1024, 768)


def test_it_prints_as_the_paper_writes_it():
    assert str(BORT) == f"{BORT}" == "⟨4,8,1024,768⟩"
    assert f"{BORT:>16}|{BORT:<16}|" == "  ⟨4,8,1024,768⟩|⟨4,8,1024,768⟩  |"


def test_it_sorts_and_counts_as_its_four_numbers_do():
    numbers = list(itertools.product((1, 2), (1, 4), (8, 16), (8, 64)))
    archs = [Arch(*sizes) for sizes in reversed(numbers)]
    assert sorted(archs) == [Arch(*sizes) for sizes in sorted(numbers)]
    assert len({*archs, Arch(1, 1, 8, 8)}) == 16 and Arch(1, 1, 8, 8) != Arch(1, 1, 8, 9)


def test_tables_and_json_give_back_what_they_were_given():
    assert Arch.from_json(json.loads(json.dumps(BORT.to_json()))) == BORT
    assert BORT.to_table() == {"depth": 4, "heads": 8, "hidden": 1024, "intermediate": 768}
    assert Arch.from_table(BORT.to_table("arch.") | {"depth": 1}, "arch.") == BORT
    file = io.StringIO()
    writer = csv.DictWriter(file, ["status", *Arch.KEYS])
    writer.writeheader()
    writer.writerow({"status": "trained"} | BORT.to_table())
    (row,) = csv.DictReader(io.StringIO(file.getvalue()))
    assert Arch.from_table(row) == BORT


@pytest.mark.parametrize("value", [None, "", "four", "4.5", 4.5])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError):
        Arch.from_table(BORT.to_table() | {"depth": value})


def test_every_shipped_architecture_can_be_built():
    files = sorted((CONF / "arch").glob("*.yaml"))
    assert len(files) > 3
    for path in files:
        Arch.from_table(OmegaConf.load(path)).check()


def test_sizes_that_no_model_has_can_be_written_down_but_not_checked():
    wrong = Arch(4, 12, 1024, 768)
    assert not wrong.heads_divide_hidden and BORT.heads_divide_hidden and BORT.check() is BORT
    with pytest.raises(
        BortError, match=r"arch.heads=12 does not divide arch.hidden=1024; use 4, 8"
    ):
        wrong.check()
    with pytest.raises(BortError, match="arch.depth=0 must be at least 1"):
        Arch(0, 1, 8, 8).check()


def test_an_architecture_is_read_from_its_text():
    arch = Arch(4, 8, 1024, 768)
    assert str(arch) == "⟨4,8,1024,768⟩" and Arch.from_text(str(arch)) == arch
    for text in ("⟨4,8,1024⟩", "⟨4,8,x,768⟩", ""):
        with pytest.raises((ValueError, TypeError)):
            Arch.from_text(text)
