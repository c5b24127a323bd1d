"""A table of candidates; `test_table_optimum.py` has the mistakes in one, through its command."""

import pytest

from bort.errors import BortError
from bort.models.arch import Arch
from bort.search.candidate_table import read_candidates
from bort.search.coefficient import Scale

HEADER = "depth,heads,hidden,intermediate,parameters,latency,error,status\n"


def test_a_table_has_points_errors_and_the_scale_of_t(tmp_path):
    path = tmp_path / "candidates.csv"
    lines = ["4,4,64,128,1000,20,2.0,teacher", "1,1,16,32,100,2,4.0,trained"]
    lines += ["2,3,16,32,,,,invalid", "2,2,16,32,300,4,,pruned", "2,2,32,32,500,5,,diverged"]
    path.write_text(HEADER + "\n".join(lines))
    table = read_candidates(path)
    assert table.scale == Scale(1000, 20, 2.0)
    assert table.points == {
        Arch(1, 1, 16, 32): (100, 2),
        Arch(2, 2, 16, 32): (300, 4),
        Arch(2, 2, 32, 32): (500, 5),
    }
    assert table.errors == {Arch(1, 1, 16, 32): 4.0}
    assert table.diverged == {Arch(2, 2, 32, 32)}


def test_what_is_no_table(tmp_path):
    with pytest.raises(BortError, match="nothing.csv does not exist"):
        read_candidates(tmp_path / "nothing.csv")
    with pytest.raises(BortError, match="is no file"):
        read_candidates(tmp_path)
