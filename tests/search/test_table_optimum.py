"""`python -m bort.search candidates.csv`: W of numbers of one's own, and what is no table."""

import pytest

from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.coefficient import Scale
from bort.search.table_optimum import TableConfig, main, read_candidates


def optimise(*words: str) -> None:
    main(parse_command(TableConfig, words))


CSV = """depth,heads,hidden,intermediate,parameters,latency,error,status
4,4,64,128,1000,20,2.0,teacher
1,1,16,32,100,2,4.0,trained
2,2,16,32,300,4,2.5,trained
2,3,16,32,,,,invalid
2,4,32,64,700,9,2.2,trained
2,4,64,64,900,19,,pruned
"""


def test_numbers_of_ones_own(tmp_path, capsys):
    """W = 0.9·0.9·0.5 = 0.405, 0.7·0.8·0.8 = 0.448, 0.3·0.55·0.91; the last bound is 0.005."""
    path = tmp_path / "candidates.csv"
    path.write_text("\ufeff" + CSV)
    optimise(str(path))
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["⟨2,2,16,32⟩", *"W 0.4480 p 300 i 4 e 2.5000".split()]
    assert out[-1] == "optimum ⟨2,2,16,32⟩, regret at most 0.0000 (proven)"
    assert out[-2] == "2 pruned, 2 trained"
    optimise(str(path), "exponents=0,0,1")
    out = capsys.readouterr().out.splitlines()
    # the bound of ⟨2,4,64,64⟩ is 1, the best has 2.0 / 2.2
    undecided = "not decided by these records; the best of them ⟨2,4,32,64⟩, "
    assert out[-1] == undecided + "regret at most 0.0910 (proven)"  # 0.09091, rounded up
    assert out[-2] == "1 that could still win have no error in the table"
    # what diverged is no model, and nothing is unknown
    path.write_text(CSV.replace("pruned", "diverged"))
    optimise(str(path), "objective=error")
    assert capsys.readouterr().out.splitlines()[-1].startswith("optimum ⟨2,4,32,64⟩, regret at mo")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("error", "err"), [], "has no column error; found depth"),
        (("teacher", "T"), [], "no row with the status teacher"),
        (("4.0", "four"), [], "line 3: could not convert string to float: 'four'"),
        (("4.0", "1.0"), [], "an error of 1 is below the entropy 2"),
        (("2.5", "1.0"), [], "line 4: an error of 1 is below the entropy 2"),
        (("4.0", "nan"), [], "line 3: error=nan must be a number above 0"),
        (("4.0", "inf"), [], "line 3: error=inf must be"),
        (("100,2,", "-100,2,"), [], "line 3: parameters=-100 must be"),
        (("100,2,", "100,-2,"), [], "line 3: latency=-2 must be"),
        (("100,2,", "100,0,"), [], "line 3: latency=0 must be"),
        (("100,2,", ",2,"), [], "line 3: ⟨1,1,16,32⟩ needs parameters and latency"),
        (("1000,20,", "1000,nan,"), [], "line 2: latency=nan must be"),
        (("2.0,teacher", "0,teacher"), [], "line 2: error=0 must be"),
        (("2.0,teacher", ",teacher"), [], "line 2: the teacher needs an error"),
        (("1,1,16,32", "2,2,16,32"), [], "line 4: ⟨2,2,16,32⟩ stands in the table twice"),
        (("1,1,16,32", "1,0,16,32"), [], "line 3: ⟨1,0,16,32⟩ has a size below 1"),
        (("1,1,16,32", "1,1,16.5,32"), [], "line 3: 1,1,16.5,32 are not four whole numbers"),
        (("4.0,trained", "4.0,teacher"), [], "line 3: a second row has the status teacher"),
        ((CSV[CSV.index("1,1,16") :], ""), [], "has no candidates, only the row of the teacher"),
        ((CSV, ""), [], "has no column depth; found nothing"),
        (("trained", "\x00"), [], "is no text"),
        (("trained", "caf\udce9"), [], "is no text in UTF-8"),
        (("4.0,trained\n2,2,16,32,300,4,2.5", ",\n2,2,16,32,300,4,"), ["epsilon=4"], "none of the"),
        (None, ["exponents=nan,1,1"], "must be three numbers, at least 0"),
        (None, ["exponents=inf,1,1"], "must be three numbers, at least 0"),
        (None, ["objective=x"], "objective=x is unknown; use w or error"),
        (None, ["objective=error", "exponents=1,1,1"], "objective=error has no exponents"),
        (None, ["epsilon=9"], "search.epsilon=9 must be a whole number from 1 to the 4 candidates"),
        (None, ["epsilon=0"], "search.epsilon=0 must"),
        (None, ["epsilon=x"], "epsilon= take numbers"),
        (None, ["exponents=1,1"], r"exponents=\[1.0, 1.0\] must be three numbers"),
        (None, ["exponent=1,1,1"], "exponent=1,1,1 is not a setting; did you mean 'exponents'"),
        (None, ["max_latency_share=0"], "max_latency_share=0.0 must be above 0 and at most 1"),
        (None, ["max_latency_share=1.5"], "max_latency_share=1.5 must be above 0 and at most 1"),
        (None, ["max_latency_share=x"], "max_latency_share=x is no number; 0.25 is a quarter"),
        (None, ["error=kl"], "error=kl is unknown; use ratio or perplexity"),
    ],
)
def test_mistakes(tmp_path, change, arguments, message):
    path = tmp_path / "candidates.csv"
    path.write_text(CSV.replace(*change) if change else CSV, errors="surrogateescape")
    with pytest.raises(BortError, match=message):
        optimise(str(path), *arguments)


def test_a_table_ends_with_three_answers(tmp_path, capsys):
    """The fourth of those with half of T's latency has no error; by W it cannot win."""
    path = tmp_path / "candidates.csv"
    path.write_text(CSV.replace("900,19,,pruned", "800,9.5,,pruned"))
    for words in (["objective=w"], ["objective=error"]):
        optimise(str(path), "max_latency_share=0.5", *words)
        lines = capsys.readouterr().out.splitlines()
        start = lines.index("three answers from the same records")
        within, knee, by_w = lines[start + 1 : start + 4]
        assert "⟨2,4,32,64⟩  e 2.200  W " in within
        assert "not decided by these records; proven: no error is lower by more than 0.2" in within
        assert within.endswith("nats (within 50% of T's latency)")
        assert "⟨2,2,16,32⟩" in knee and knee.endswith("not decided by these records")
        assert "⟨2,2,16,32⟩  e 2.500  W 0.4480  300 parameters  latency 4  proven" in by_w
    optimise(str(path), "max_latency_share=0.05")
    assert "none: no candidate is within 5% of T's latency" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- the table


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
